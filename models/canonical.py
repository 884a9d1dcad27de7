"""The one JSON text of a value, by which values are stored, compared and named."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def to_text(values: Mapping[str, Any]) -> str:
    """Return the canonical JSON text: keys sorted, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_text(text: str, error: type[ValueError], what: str) -> dict[str, Any]:
    """Return the object of a JSON text.

    Args:
        text: canonical or not.
        error: is raised where it holds none.
        what: the object is, for the message, as "cell architecture".
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as damage:
        raise error(f"not JSON: {damage}") from damage
    if not isinstance(values, dict):
        raise error(f"no {what}: a JSON object is needed")
    return values


def digest_of(text: str) -> str:
    """Return the sha256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
