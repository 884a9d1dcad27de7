"""The drawings of a trial, made from its plain files: cells, operator probabilities, pruning and curves.

`draw_trial` writes them into the trial's folder:

    drawings/cells.png            both cells of the architecture
             alphas_stage<k>.png  operator probabilities at the end of stage k
             pruning.png          which operators were removed when
             curves.png           loss, IoU, entropy, shares; of a supernet its loss and the scores of the probes

and of an AutoNAD trial architecture.png, front.png, latency.png and course.png instead of the first three.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.architecture import CellArchitecture
from models.hybrid_architecture import HybridArchitecture
from orchestrator.drawing_alphas import draw_alphas, draw_pruning
from orchestrator.drawing_cells import draw_cells
from orchestrator.drawing_curves import PHASES, draw_curves, epochs_of
from orchestrator.drawing_hybrid import draw_hybrid
from orchestrator.drawing_search import draw_search_course, draw_search_front, draw_search_latency
from orchestrator.drawing_style import ONE_AT_A_TIME
from orchestrator.ledger_reader import read_ledger
from search.hybrid_settings import space_of
from search.settings import Settings

__all__ = ["draw_alphas", "draw_cells", "draw_curves", "draw_pruning", "draw_trial"]


Wanted = tuple[Path, Mapping[str, Any], Callable[[Path], Path]]
"""A drawing: its path, the last event that it shows, and what draws it."""


def draw_trial(folder: Path, *, curves: bool = True) -> tuple[Path, ...]:
    """Draw what the ledger of a trial's folder allows so far; return the drawings' paths.

    A drawing that is newer than what it shows is kept. A trial without any epoch has none.

    Args:
        folder: the trial's folder.
        curves: draw the curves too, which change with every epoch and not only with a stage.
    """
    with ONE_AT_A_TIME:
        wanted = _wanted(folder, curves)
        return tuple(path if _is_newer(path, shown) else draw(path) for path, shown, draw in wanted)


def _wanted(folder: Path, curves: bool) -> list[Wanted]:
    events = read_ledger(folder / "ledger.jsonl")
    drawings = folder / "drawings"
    wanted: list[Wanted] = []
    pruned = [e for e in events if e["event"] == "pruned"]
    search = epochs_of(events, "search")
    for stage in sorted({int(e["stage"]) for e in pruned}):
        last = [e for e in search if e["stage"] == stage][-1:]
        wanted += [(drawings / f"alphas_stage{stage}.png", e, _drawer(draw_alphas, e)) for e in last if "alphas" in e]
    if pruned:
        wanted.append((drawings / "pruning.png", pruned[-1], _drawer(draw_pruning, pruned)))
    for event in [e for e in events if "architecture" in e][-1:]:
        if event["architecture"].get("kind") == "hybrid":
            wanted += _hybrid_drawings(folder, event)
        else:
            architecture = CellArchitecture.from_dict(event["architecture"])
            wanted.append((drawings / "cells.png", event, _drawer(draw_cells, architecture)))
    if curves and any(epochs_of(events, phase) for phase in PHASES):
        wanted.append((drawings / "curves.png", events[-1], _drawer(draw_curves, events)))
    return wanted


def _hybrid_drawings(folder: Path, event: Mapping[str, Any]) -> list[Wanted]:
    """Return what is drawn of an AutoNAD trial: the architecture, the front, the latency table, the course."""
    settings = Settings.from_dict(json.loads((folder / "trial.json").read_text())["settings"])
    space = space_of(settings.space)
    architecture = HybridArchitecture.from_dict(event["architecture"])
    drawings = folder / "drawings"
    wanted: list[Wanted] = [
        (drawings / "architecture.png", event, lambda path: draw_hybrid(architecture, path, space=space)),
        (drawings / "front.png", event, lambda path: draw_search_front(folder, path)),
        (drawings / "course.png", event, lambda path: draw_search_course(folder, path)),
    ]
    if (folder / "latency_table.json").is_file():
        wanted.append((drawings / "latency.png", event, lambda path: draw_search_latency(folder, path)))
    return wanted


def _drawer(draw: Callable[[Any, Path], Path], what: Any) -> Callable[[Path], Path]:
    return lambda path: draw(what, path)


def _is_newer(path: Path, event: Mapping[str, Any]) -> bool:
    """Return whether the drawing was made after the event; a resumed trial gives its events new times."""
    return path.exists() and path.stat().st_mtime > float(event["time"])
