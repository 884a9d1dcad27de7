"""The example profiles as nested values, changed in places, and what is rendered from them."""

import tomllib
from collections.abc import Mapping
from typing import Any

import yaml

from clusters.command import make_job
from clusters.profile import Profile
from clusters.render import render
from orchestrator.profiles import EXAMPLES, KINDS, profile_of

CLOUDS = ("aws", "gcp", "onprem")
RENDERED = tuple(kind for kind in KINDS if kind != "address")
JOB = make_job(["search", "autonad", "--data", "/shared/data/MT"], "night")


def values_of(kind: str) -> dict[str, Any]:
    return tomllib.loads((EXAMPLES / f"{kind}.toml").read_text(encoding="utf-8"))


def changed(values: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Return a copy with one setting replaced; the first of a list where a part of the key is a list."""
    section, _, rest = dotted.partition(".")
    if not rest:
        return {**values, section: value}
    inside = values.get(section, {})
    if isinstance(inside, list):
        return {**values, section: [changed(inside[0], rest, value), *inside[1:]]}
    return {**values, section: changed(inside, rest, value)}


def profile(kind: str, /, **changes: Any) -> Profile:
    """Return the example of a kind with changes; two underscores stand for the dot of a key."""
    values = values_of(kind)
    for key, value in changes.items():
        values = changed(values, key.replace("__", "."), value)
    return profile_of(values)


def manifests(kind: str, /, **changes: Any) -> dict[str, str]:
    return render(profile(kind, **changes), JOB)


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))
