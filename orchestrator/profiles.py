"""Cluster profiles read from TOML: checked like all settings, completed with the versions that run here."""

import dataclasses
import json
import platform
import re
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clusters.profile import Profile
from clusters.profile_checks import contradictions
from orchestrator.schema import InvalidSettingsError, Problem, rebuild, validate
from search.errors import InputError

EXAMPLES = Path(__file__).resolve().parents[1] / "clusters" / "profiles"
"""Folder of a commented example per kind."""

KINDS = ("address", "kuberay", "slurm", "aws", "gcp", "onprem")


class ProfileError(InputError):
    """A cluster profile cannot be used; a line for each thing wrong, naming file and key."""


def read_profile(path: Path) -> Profile:
    """Return the profile of a TOML file, checked and complete.

    Raises:
        ProfileError: the file cannot be read, or something in it is unknown, missing, out of bounds or at odds.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProfileError(f"{path}: cannot be read as a cluster profile ({reason})") from error
    try:
        return profile_of(values)
    except InvalidSettingsError as error:
        lines = (": ".join(filter(None, [str(path), ".".join(p.key), p.text])) for p in error.problems)
        raise ProfileError("\n".join(lines)) from error


def profile_of(values: Mapping[str, Any]) -> Profile:
    """Return the profile of nested values, as TOML gives them.

    Raises:
        InvalidSettingsError: something in them is unknown, missing, out of bounds or at odds.
    """
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        text = f"holds a date, a time or a number that is none ({error}); allowed are texts, numbers and booleans"
        raise InvalidSettingsError([Problem((), text)]) from error
    profile = rebuild(Profile, validate(Profile, values))
    problems = [
        Problem((kind,), f"belongs to kind {kind}, and this is kind {profile.kind}")
        for kind in KINDS
        if kind in values and kind not in (profile.kind, "address")
    ]
    ray = profile.ray
    # Ray's own programs refuse each other across versions; what is known beforehand is said beforehand.
    if ray.version and _minor(ray.version) != _minor(version("ray")):
        problems.append(Problem(("ray", "version"), f"{ray.version} is not that of this program ({version('ray')})"))
    if ray.python and ray.python != _python():
        problems.append(Problem(("ray", "python"), f"{ray.python} is not that of this program ({_python()})"))
    problems += [Problem(key, text) for key, text in contradictions(profile)]
    if problems:
        raise InvalidSettingsError(problems)
    whole = dataclasses.replace(ray, version=ray.version or version("ray"), python=ray.python or _python())
    return dataclasses.replace(profile, ray=whole)


def resolve_address(setting: str, folder: Path | None = None) -> str:
    """Return the setting `cluster.address`, with the address of a profile where it names one.

    Args:
        setting: HOST:PORT, "auto", "none", or a file that ends in .toml.
        folder: where a relative file is looked for; None: here.

    Raises:
        ProfileError: there is no such profile, it cannot be used, or it has no address.
    """
    if not setting.endswith(".toml"):
        return setting
    path = (folder or Path()) / Path(setting).expanduser()
    if address := address_of(read_profile(path)):
        return address
    raise ProfileError(
        f"{path}: address: missing; give that of a cluster that runs, or submit instead: "
        f"defectnas cluster submit --cluster {setting} -- search ..."
    )


def address_of(profile: Profile) -> str | None:
    """Return HOST:PORT of the head of a profile's cluster, None where only the cluster itself knows it."""
    if profile.kind == "onprem":
        return profile.address or f"{profile.onprem.head}:{profile.ray.port}"
    return profile.address or None


def _minor(text: str) -> str:
    return re.sub(r"\.\d+$", "", text)


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
