"""How a setting is written: once, with its default, help text, unit and bounds."""

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    unit: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    multiple_of: int | None = None,
) -> Any:
    """Return a dataclass field that carries its help text, unit and bounds as metadata."""
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt, "multiple_of": multiple_of}
    metadata = {"help": help, "unit": unit, "bounds": {k: v for k, v in bounds.items() if v is not None}}
    return field(default=default, metadata=metadata)
