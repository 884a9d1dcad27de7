"""The pictures of an AutoNAD trial's choice, from its plain files: front, latency table, course."""

import json
from pathlib import Path

from orchestrator.drawing_front import Point, draw_front, draw_hypervolume, draw_latency_heat_map
from orchestrator.ledger_reader import read_ledger


def read_points(folder: Path, name: str = "candidates") -> dict[str, Point]:
    """Return by digest the scored candidates of a trial, in the order of their numbers.

    Args:
        folder: of the trial.
        name: "candidates", or "random" for the baseline.
    """
    path = folder / f"{name}.jsonl"
    points = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        candidate = json.loads(line)
        score, latency_ms = candidate["score"], candidate["latency_ms"]
        if score is not None and latency_ms is not None:
            point = Point(latency_ms, score["miou"], candidate["parameters"], candidate["feasible"])
            points[candidate["digest"]] = point
    return points


def draw_search_front(folder: Path, path: Path) -> Path:
    """Draw the scored candidates of a trial and their front; return the path."""
    points = read_points(folder)
    found = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "trial.json").read_text(encoding="utf-8"))["settings"]
    return draw_front(
        list(points.values()),
        [points[digest] for digest in found["front"]],
        path,
        limit_ms=settings["evolution"]["latency_limit_ms"] or None,
        chosen=points.get(found["best"]),
        measured_on=_conditions(folder),
    )


def draw_search_latency(folder: Path, path: Path) -> Path:
    """Draw the latency of each operator at each block (AutoNAD Fig. 5); return the path."""
    stages = json.loads((folder / "latency_table.json").read_text(encoding="utf-8"))["blocks"]
    blocks = [(f"{s}.{b}", row) for s, rows in enumerate(stages, 1) for b, row in enumerate(rows, 1)]
    operators = list(blocks[0][1])
    return draw_latency_heat_map(
        operators,
        [label for label, _ in blocks],
        [[row[operator]["latency_ms"] for _, row in blocks] for operator in operators],
        [[row[operator]["count"] for _, row in blocks] for operator in operators],
        path,
        measured_on=_conditions(folder),
    )


def draw_search_course(folder: Path, path: Path) -> Path:
    """Draw best and mean score and the hypervolume over the generations; return the path."""
    events = [e for e in read_ledger(folder / "ledger.jsonl") if e["event"] == "generation"]
    first = events[0]["strategy"]
    own = [e for e in events if e["strategy"] == first]
    return draw_hypervolume(
        [e["generation"] for e in own],
        [e["hypervolume"] for e in own],
        [_share(e["best"]) for e in own],
        [_share(e["mean"]) for e in own],
        path,
    )


def _share(points: float | None) -> float | None:
    return None if points is None else points / 100


def _conditions(folder: Path) -> str:
    path = folder / "latency_table.json"
    if not path.is_file():
        return ""
    from search.latency import Conditions  # imports torch

    return str(Conditions.from_dict(json.loads(path.read_text(encoding="utf-8"))["conditions"]))
