"""The retrained subnets of an AutoNAD trial in the store: one run for each, below the run of the trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.hybrid_architecture import HybridArchitecture
from orchestrator.drawing_hybrid import draw_hybrid
from orchestrator.drawing_style import ONE_AT_A_TIME
from orchestrator.ledger_reader import read_ledger
from orchestrator.runs import read_json
from orchestrator.tracking_costs import processor_seconds
from orchestrator.tracking_store import FINALIST_TAG, PARENT_TAG, Store
from orchestrator.tracking_values import epoch_points, flat_texts, points_at, result_values, time_ms
from search.hybrid_settings import space_of
from search.settings import Settings


def put_finalists(store: Store, run: str, trial: Path, tags: Mapping[str, str]) -> None:
    """Tell a store about the subnets of a trial whose retraining is done; one that it has whole is not told again.

    Args:
        store: that has the run of the trial.
        run: id of that run.
        trial: folder of the trial.
        tags: that every run of the launch has.
    """
    done = sorted(path.parent for path in (trial / "finalists").glob("*/metrics.json"))
    # The oldest first, as with the runs of trials.
    known = {r.tags.get(FINALIST_TAG): r for r in reversed(store.find({PARENT_TAG: run}))} if done else {}
    for folder in done:
        stored = known.get(folder.name)
        if stored is None or stored.status != "FINISHED":
            _put(store, run, stored.id if stored else None, folder, read_json(trial / "trial.json"), tags)


def _put(
    store: Store, parent: str, run: str | None, folder: Path, trial: Mapping[str, Any], tags: Mapping[str, str]
) -> None:
    metrics, events = read_json(folder / "metrics.json"), read_ledger(folder / "ledger.jsonl")
    architecture = HybridArchitecture.from_dict(read_json(folder / "job.json")["architecture"])
    end = (folder / "metrics.json").stat().st_mtime_ns // 1_000_000
    role = "random" if folder.name.startswith("random-") else "finalist"
    # What one looks for and filters by in the UI.
    named = {
        "architecture_digest": str(metrics["architecture_digest"]),
        "latency_on": str(metrics["latency_on"]),
        "role": role,
    }
    own = {**tags, PARENT_TAG: parent, FINALIST_TAG: folder.name, **named}
    if run is None:
        run = store.create(folder.name, own, time_ms(events[0]) if events else end).id
    chosen = {"data_set": trial["name"], "method": trial["method"], "seed": trial["settings"]["seed"], "role": role}
    store.log(run, params=flat_texts({**chosen, "retrain_seed": metrics["seed"]}))
    points = [point for event in events if event["event"] == "epoch" for point in epoch_points(event)]
    processors = processor_seconds([(metrics.get("device"), metrics["retrain_seconds"])], metrics)
    values = result_values(metrics) | {
        "inherited/miou": float(metrics["inherited"]["miou"]),
        "inherited/mf1": float(metrics["inherited"]["mf1"]),
        "validation/miou": float(metrics["validation_miou"]),
        "cost/retrain_seconds": float(metrics["retrain_seconds"]),
        **{f"cost/retrain_{unit}": amount for unit, amount in processors.items()},
    }
    # A store takes a thousand values at once.
    for first in range(0, len(points), 900):
        store.log(run, points=points[first : first + 900])
    store.log(run, points=points_at(values, end))
    store.put_text(run, architecture.to_json(), "architecture.json")
    store.put_file(run, folder / "metrics.json")
    drawing = folder / "drawings" / "architecture.png"
    space = space_of(Settings.from_dict(trial["settings"]).space)
    with ONE_AT_A_TIME:
        draw_hybrid(architecture, drawing, space=space)
    store.put_file(run, drawing, "drawings")
    for picture in sorted((folder / "pictures").glob("*.png")):
        store.put_file(run, picture, "pictures")
    store.set_status(run, "FINISHED", end)
