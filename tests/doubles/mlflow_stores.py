"""Real MLflow stores for tests, read back through MLflow's own client."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIRST_OPENED = "ignore:The ``noload`` loader strategy is deprecated"
"""A warning of MLflow's own, when it first opens a database."""


def client_of(uri: str) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def stored_runs(uri: str) -> list[Any]:
    client = client_of(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def parents_and_children(uri: str) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return the launches' runs, and below the id of each the runs of its trials."""
    parents = [r for r in stored_runs(uri) if "mlflow.parentRunId" not in r.data.tags]
    children: dict[str, list[Any]] = {parent.info.run_id: [] for parent in parents}
    for run in stored_runs(uri):
        if "mlflow.parentRunId" in run.data.tags:
            children[run.data.tags["mlflow.parentRunId"]].append(run)
    return parents, children


def trial_run(uri: str, name: str) -> Any:
    """Return the run of a trial, and not those of its finalists."""
    named = [r for r in stored_runs(uri) if r.data.tags.get("defectnas.trial") == name]
    [found] = [r for r in named if "defectnas.finalist" not in r.data.tags]
    return found


def finalist_runs(uri: str, trial: Any) -> dict[str, Any]:
    """Return the runs below the run of a trial by their names; every name is there once."""
    below = [r for r in stored_runs(uri) if r.data.tags.get("mlflow.parentRunId") == trial.info.run_id]
    named = {r.info.run_name: r for r in below}
    assert len(named) == len(below)
    return named


def curve(uri: str, run: Any, key: str) -> list[tuple[int, float]]:
    """Return (step, value) of every point that the store has, repetitions included."""
    history = client_of(uri).get_metric_history(run.info.run_id, key)
    return sorted((metric.step, metric.value) for metric in history)


def artifacts(uri: str, run: Any) -> set[str]:
    client = client_of(uri)

    def below(path: str | None) -> Iterator[str]:
        for item in client.list_artifacts(run.info.run_id, path):
            if item.is_dir:
                yield from below(item.path)
            else:
                yield item.path

    return set(below(None))


def artifact_text(uri: str, run: Any, path: str, tmp_path: Path) -> str:
    return Path(client_of(uri).download_artifacts(run.info.run_id, path, str(tmp_path))).read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
