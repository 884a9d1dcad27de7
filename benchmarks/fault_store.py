"""Whether a tracking store was told all that the files of a trial say, once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.tracking_costs import processor_seconds_of
from orchestrator.tracking_store import FINALIST_TAG, TRIAL_TAG
from orchestrator.tracking_values import epoch_points, generation_points, result_values
from search.ledger import read_events


def missing_in_store(uri: str, trial: Path) -> list[str]:
    """Return what a store lacks, or has twice, of the curves and scores of a finished trial and of its finalists.

    Args:
        uri: of the store.
        trial: its folder.
    """
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{TRIAL_TAG}` = '{trial.name}'")
    folders = {"": trial} | {path.name: path for path in sorted((trial / "finalists").glob("*"))}
    wrong = []
    for name, folder in folders.items():
        of_it = [run for run in runs if run.data.tags.get(FINALIST_TAG, "") == name]
        if len(of_it) != 1:
            wrong.append(f"{folder}: {len(of_it)} runs in the store")
            continue
        if of_it[0].info.status != "FINISHED":
            wrong.append(f"{folder}: {of_it[0].info.status} in the store")
        for key, points in _told(folder).items():
            history = client.get_metric_history(of_it[0].info.run_id, key)
            stored = Counter((point.step, point.value) for point in history)
            if stored != points:
                wrong.append(f"{folder}: {key}: lacks {dict(points - stored)}, has besides {dict(stored - points)}")
    return wrong


def _told(folder: Path) -> dict[str, Counter[tuple[int, float]]]:
    """Return the points (step, value) that the files of a trial or finalist give, by metric."""
    points, started = [], {}
    for event in read_events(folder / "ledger.jsonl"):
        if event["event"] == "started":
            started = event
        elif event["event"] == "epoch":
            points += epoch_points(event)
        elif event["event"] == "generation":
            points += generation_points(event, processor_seconds_of(event, started))
    told: dict[str, Counter[tuple[int, float]]] = {}
    for point in points:
        told.setdefault(point.key, Counter())[(point.step, point.value)] += 1
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return told | {key: Counter({(0, value): 1}) for key, value in result_values(metrics).items()}
