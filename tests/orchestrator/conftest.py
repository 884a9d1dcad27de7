import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow_stores import client_of

from orchestrator import api
from orchestrator.runs import RunRecord, TrialRecord, create_run
from orchestrator.tracking_uri import embedded_uri
from search.data.synthetic import write_dataset
from search.hybrid_settings import (
    EvolutionSettings,
    FinetuneSettings,
    LatencySettings,
    SpaceSettings,
    SupernetSettings,
)
from search.settings import DataSettings, RuntimeSettings, Settings

TINY = {
    "data": DataSettings(image_size=32, task="multiclass", augment=("hflip",)),
    "space": SpaceSettings(
        widths=((32,), (32, 64), (64,), (64,)), depths=((1, 2),) * 4, ratios=((2.0,),) * 4, decoder_width=32
    ),
    "supernet": SupernetSettings(epochs=3, warmup_epochs=1, batch=4, steps=2, validate_every=2, probes=1),
    "latency": LatencySettings(records=0, repeats=1, warmup=0),
    "evolution": EvolutionSettings(population=3, generations=2, children=2, parents=2, penalty=0.0),
    "finetune": FinetuneSettings(epochs=1, steps=1, batch=4, seeds=1, lr=1e-3),
    "runtime": RuntimeSettings(threads=1, device="cpu"),
}
"""What is measured by a clock decides nothing here."""


@pytest.fixture(scope="session")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small data sets, named so that the stand-in trials of the same name do what they say."""
    root = tmp_path_factory.mktemp("surfaces")
    for name in ("good", "fails", "waits", "dies", "tells"):
        write_dataset(root / name, images=8, size=32)
    return root


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Create a run folder of trials with these data sets' names, seed 0."""

    def make(*data: str, run_id: str = "r", created: str = "2026-01-01T00:00:00+00:00", **trial) -> Path:
        records = tuple(TrialRecord(f"{name}-s0", name, 0, "asdet") for name in data)
        content = {"method": "asdet", "settings": Settings().to_dict(), **trial}
        record = RunRecord(run_id, "asdet", created, "test", "0", records)
        return create_run(tmp_path / "runs", record, "{}\n", {r.name: {**content, "name": r.data} for r in records})

    return make


@pytest.fixture
def finish() -> Callable[..., None]:
    """Write the metrics of a trial of a run."""

    def write(run: Path, name: str, **metrics) -> None:
        values = {"iou": 0.5, "f1": 0.6, "pa": 0.7, "parameters": 1_000_000, "macs": 2_000_000_000, **metrics}
        (run / "trials" / name / "metrics.json").write_text(json.dumps(values))

    return write


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store as MLflow makes it, which takes seconds; tests copy it."""
    folder = tmp_path_factory.mktemp("migrated")
    client_of(embedded_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, migrated_store: Path) -> Path:
    """A folder of runs, with a space in its name, beside whose runs lies an empty embedded store."""
    folder = tmp_path / "my runs"
    folder.mkdir()
    shutil.copy(migrated_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A config of a tiny AutoNAD search, and the metrics of one that nothing happened to."""
    folder = tmp_path_factory.mktemp("searched")
    data = write_dataset(folder / "images", images=16, size=64, seed=0)
    sections = {name: json.loads(json.dumps(dataclasses.asdict(value))) for name, value in TINY.items()}
    rest = {"method": "autonad", "budget": "smoke", "data_sets": [{"path": str(data)}]}
    config = folder / "tiny.yaml"
    off = {"cluster": {"ray": False}, "tracking": {"enabled": False}, "storage": {"every": 0.05}}
    config.write_text(yaml.safe_dump({**rest, **sections, **off}))
    result = api.search(runs=folder / "runs", config=config)
    return config, result.trials[0].metrics
