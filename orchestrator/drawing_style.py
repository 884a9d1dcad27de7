"""What all drawings share: colours of the operator families, names of edges, and how a file is written.

Figures are built without pyplot, which keeps global state and is not safe in the threads that draw here, and
matplotlib is imported when something is drawn, because the command line must start fast.
"""

import os
import threading
from pathlib import Path
from typing import Any

FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "separable convolution": ("#2563c9", ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7")),
    "dilated convolution": ("#8a3ab9", ("dil_conv_3x3", "dil_conv_5x5")),
    "pooling": ("#c96a08", ("max_pool_3x3", "avg_pool_3x3")),
    "attention": ("#16803c", ("channel_att", "spatial_att")),
    "identity": ("#5b6472", ("identity",)),
    "zero": ("#a9afb8", ("zero",)),
}
"""Family of operators: its colour and its members."""

ONE_AT_A_TIME = threading.RLock()
"""Held while a trial is drawn: matplotlib is not made for several threads, and a tracker draws beside the trials."""

INK = "#1f2430"
"""Colour of text and outlines."""

FAINT = "#9aa1ad"
"""Colour of secondary lines and of text that is not the point."""

INPUT_NAMES = ("$c_{k-2}$", "$c_{k-1}$")
OUTPUT_NAME = "$c_{k}$"


def family_of(operator: str) -> str:
    """Return the name of the operator's family; an operator that is not known is its own family."""
    return next((name for name, (_, members) in FAMILIES.items() if operator in members), operator)


def colour_of(operator: str) -> str:
    """Return the colour of the operator's family."""
    return FAMILIES.get(family_of(operator), (INK, ()))[0]


def tint(colour: str, strength: float) -> tuple[float, float, float]:
    """Return the colour mixed with white; strength 1 is the colour itself, 0 is white."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (1 - strength * (1 - part) for part in parts)
    return red, green, blue


def source_name(source: int) -> str:
    """Return what source 0, 1, 2, .. of a cell is called in drawings: the two inputs, then node 0, 1, .."""
    return INPUT_NAMES[source] if source < len(INPUT_NAMES) else str(source - len(INPUT_NAMES))


def edge_places(edges: int) -> list[tuple[int, int]]:
    """Return (node, source) of each edge of a full cell, in the order of the ledger: by node, then source."""
    places: list[tuple[int, int]] = []
    node = 0
    while len(places) < edges:
        places += [(node, source) for source in range(node + len(INPUT_NAMES))]
        node += 1
    return places[:edges]


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def write_png(figure: Any, path: Path, dpi: int = 150) -> Path:
    """Write the figure as PNG in one step, so that a reader never sees half a file; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(unfinished, format="png", dpi=dpi)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
