"""Ledgers and run folders of made-up trials, as a search writes them, for what reads them."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.architecture import CELL_KINDS, OPERATOR_NAMES, CellArchitecture
from models.hybrid_architecture import HybridArchitecture
from search.hybrid_settings import SpaceSettings, space_of
from search.settings import Settings

EDGES = 14
Event = dict[str, Any]

SMALL = SpaceSettings(
    widths=((32,), (32, 64), (64, 96), (96,)), depths=((1, 2),) * 4, ratios=((2.0, 3.0),) * 4, decoder_width=32
)
"""A space of AutoNAD whose architectures are drawn in little time."""


@dataclass(frozen=True)
class Retraining:
    """One retraining of a subnet, as an AutoNAD trial leaves it; scores in [0, 1]."""

    architecture: HybridArchitecture
    miou: float
    seed: int = 0
    role: str = "finalist"
    inherited: float = 0.5
    validation: float = 0.6
    latency_ms: float = 5.0
    latency_on: str = "a CPU, 1×3×32×32, float32"
    macs: int = 400_000_000

    @property
    def name(self) -> str:
        """Of its folder."""
        prefix = "random-" if self.role == "random" else ""
        return f"{prefix}{self.architecture.digest()[:8]}-s{self.seed}"

    def metrics(self) -> dict[str, Any]:
        """Return the content of its metrics.json."""
        digest = self.architecture.digest()
        return {
            "seed": self.seed, "architecture_digest": digest, "iou": self.miou - 0.1, "f1": 0.7, "pa": 0.8,
            "miou": self.miou, "mf1": self.miou + 0.05, "classes": {"background": {"iou": 0.9, "f1": 0.95}},
            "inherited": {"digest": digest, "miou": self.inherited, "mf1": self.inherited + 0.05, "seconds": 0.1},
            "latency_ms": self.latency_ms, "latency_iqr_ms": 0.25, "latency_on": self.latency_on,
            "validation_miou": self.validation, "test": {"iou_image": self.miou - 0.1},
            "nothing": {"iou_image": 0.1}, "parameters": 2_000_000, "macs": self.macs, "flops": 2 * self.macs,
            "retrain_seconds": 12.5,
        }  # fmt: skip


def random_architecture(seed: int) -> CellArchitecture:
    """Return an architecture with two edges per node."""
    rng = random.Random(seed)

    def cell() -> list[list[tuple[int, str]]]:
        return [[(s, rng.choice(OPERATOR_NAMES[1:])) for s in rng.sample(range(n + 2), 2)] for n in range(4)]

    return CellArchitecture.of(cell(), cell())


def make_events(seed: int = 0, *, epochs: int = 3, keep: Sequence[int] = (7, 4, 2, 1), retrain: int = 4) -> list[Event]:
    """Return the events of a whole trial, one second apart, without the last ("finished")."""
    rng = random.Random(seed)
    events: list[Event] = []

    def add(event: str, **values: Any) -> None:
        events.append({"n": len(events), "time": 1_700_000_000.5 + len(events), "event": event, **values})

    strengths = {k: [{o: rng.gauss(0, 1) for o in OPERATOR_NAMES} for _ in range(EDGES)] for k in CELL_KINDS}
    candidates = {k: [list(OPERATOR_NAMES) for _ in range(EDGES)] for k in CELL_KINDS}
    environment = {"device": "cpu", "threads": 2, "torch": "2.15.0", "python": "3.11.9"}
    add("started", phase="search", **environment, data_digest="cd" * 32, settings_digest="ef" * 32)
    for stage, kept_number in enumerate(keep, start=1):
        count = len(candidates["normal"][0])
        add(
            "stage",
            phase="search",
            stage=stage,
            stages=len(keep),
            candidates=count,
            epochs=epochs,
            form="batched",
        )
        for epoch in range(1, epochs + 1):
            alphas = {
                k: [_softmax([strengths[k][i][o] * epoch / epochs for o in row]) for i, row in enumerate(rows)]
                for k, rows in candidates.items()
            }
            step = (stage - 1) * epochs + epoch
            add(
                "epoch", phase="search", stage=stage, stages=len(keep), epoch=epoch, epochs=epochs, step=step,
                steps=len(keep) * epochs, loss=3 / step, alpha_loss=None if epoch == 1 else 3.5 / step,
                iou=1 - 1 / (1 + step), seconds=1.5, lr=0.005, alphas=alphas, candidates=candidates,
                entropy={k: _entropy(rows) for k, rows in alphas.items()},
                share={k: _shares(candidates[k], rows) for k, rows in alphas.items()},
            )  # fmt: skip
        kept = {
            k: [sorted(row, key=lambda o: -strengths[k][i][o])[:kept_number] for i, row in enumerate(rows)]
            for k, rows in candidates.items()
        }
        removed = {k: [sorted(set(row) - set(kept[k][i])) for i, row in enumerate(candidates[k])] for k in CELL_KINDS}
        add("pruned", stage=stage, kept=kept, removed=removed)
        candidates = kept
    architecture = random_architecture(seed)
    add(
        "architecture",
        architecture=architecture.to_dict(),
        digest=architecture.digest(),
        parameters=123456,
        macs=789,
    )
    for step in range(1, retrain + 1):
        add(
            "epoch", phase="retrain", epoch=step, epochs=retrain, step=step, steps=retrain, loss=2 / step,
            iou=0.5, seconds=0.5, lr=0.005,
        )  # fmt: skip
    return events


def make_run(
    runs: Path,
    name: str = "20261121-120000-asdet",
    trials: Sequence[tuple[str, int]] = (("KSDD", 0), ("MT", 0)),
    *,
    method: str = "asdet",
    settings: Settings | None = None,
    created: str = "2026-11-21T12:00:00.123456+00:00",
    command: str = "defectnas search asdet",
    config: str = "seed: 0\n",
) -> Path:
    """Create the folder of a run whose trials have not begun, and return it."""
    run = runs / name
    records = [{"name": f"{d}-s{s}", "data": d, "seed": s, "method": method} for d, s in trials]
    for record in records:
        folder = run / "trials" / record["name"]
        folder.mkdir(parents=True)
        own = replace(settings or Settings(), seed=record["seed"]).to_dict()
        trial = {"method": method, "data": f"/data/{record['data']}", "name": record["data"], "settings": own}
        (folder / "trial.json").write_text(json.dumps(trial))
    launch = {"id": name, "method": method, "created": created, "command": command, "version": "0.1.0"}
    (run / "run.json").write_text(json.dumps({**launch, "trials": records}))
    (run / "config.yaml").write_text(config)
    return run


def write_ledger(folder: Path, events: Iterable[Event]) -> None:
    """Write the ledger anew."""
    (folder / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def append_ledger(folder: Path, events: Iterable[Event]) -> None:
    """Add lines to the ledger, which may not exist yet."""
    with open(folder / "ledger.jsonl", "a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def finish_trial(
    folder: Path,
    events: Sequence[Event],
    *,
    iou: float = 0.61,
    architecture: CellArchitecture | None = None,
    **more: Any,
) -> None:
    """Write the whole ledger and the results of a trial that came to its end; `more` goes to its metrics."""
    digest = architecture.digest() if architecture else events[-1].get("digest", "a" * 64)
    metrics = {
        "method": "asdet", "data": folder.name, "seed": 0, "iou": iou, "f1": 0.72, "pa": 0.8,
        "test": {"iou_image": iou, "pixel_accuracy": 0.99, "classes": {"a crack!": {"iou": 0.6}}},
        "nothing": {"iou_image": 0.1}, "parameters": 123456, "macs": 789, "flops": 1578, "flops_paper": 1600,
        "search_seconds": 18.0, "retrain_seconds": 2.0, "stage_seconds": [4.5, 4.5, 4.5, 4.5],
        "architecture_digest": digest, "data_digest": "cd" * 32, "image_size": 64, **more,
    }  # fmt: skip
    last = {"n": events[-1]["n"] + 1, "time": events[-1]["time"] + 1, "event": "finished"}
    write_ledger(folder, [*events, {**last, "seconds": {"search": [4.5] * 4, "retrain": 2.0, "test": 1.5}}])
    (folder / "architecture.json").write_text((architecture or random_architecture(0)).to_json())
    _write_picture(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def subnet(seed: int) -> HybridArchitecture:
    """Return an architecture of the space `SMALL`."""
    return space_of(SMALL).sample(random.Random(seed))


def finish_retraining(trial: Path, one: Retraining, *, epochs: int = 2) -> None:
    """Write the folder of a retraining that came to its end into that of its AutoNAD trial."""
    folder = trial / "finalists" / one.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"architecture": one.architecture.to_dict(), "seed": one.seed}))
    epoch = {"event": "epoch", "phase": "retrain", "epochs": epochs, "steps": epochs, "seconds": 6.0, "lr": 1e-3}
    steps = [{"epoch": k, "step": k, "loss": 2 / k, "iou": one.validation * k / epochs} for k in range(1, epochs + 1)]
    write_ledger(folder, [{"n": n, "time": 1_700_000_100.5 + n, **epoch, **step} for n, step in enumerate(steps)])
    _write_picture(folder)
    (folder / "metrics.json").write_text(json.dumps(one.metrics()))


def hybrid_events(retrained: Sequence[Retraining]) -> list[Event]:
    """Return the events of an AutoNAD trial, one second apart, without those that take long to draw."""
    scores = [{"architecture_digest": r.architecture.digest(), "seed": r.seed, "miou": r.miou} for r in retrained]
    events = [
        {"event": "started", "phase": "supernet", "device": "cpu", "threads": 2, "data_digest": "cd" * 32},
        *({"event": "finalist", "phase": "retrain", "done": k, **score} for k, score in enumerate(scores, start=1)),
        {"event": "finished", "seconds": {"supernet": 20.0, "evolve": 10.0}},
    ]
    return [{"n": n, "time": 1_700_000_000.5 + n, **event} for n, event in enumerate(events)]


def finish_hybrid_trial(folder: Path, retrained: Sequence[Retraining], **more: Any) -> None:
    """Write the whole ledger and the results of an AutoNAD trial, the best first; `more` goes to its metrics."""
    for one in retrained:
        finish_retraining(folder, one)
    write_ledger(folder, hybrid_events(retrained))
    (folder / "architecture.json").write_text(retrained[0].architecture.to_json())
    _write_picture(folder)
    metrics = {
        **retrained[0].metrics(), "method": "autonad", "search_seconds": 30.0,
        "retrain_seconds": 12.5 * len(retrained),
        "finalists": [{**one.metrics(), "folder": one.name, "role": one.role} for one in retrained], **more,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _write_picture(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "part_1.png")


def _softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def _entropy(rows: Sequence[Sequence[float]]) -> float:
    return sum(-sum(p * math.log(p) for p in row) for row in rows) / len(rows)


def _shares(candidates: Sequence[Sequence[str]], alphas: Sequence[Sequence[float]]) -> dict[str, float]:
    pairs = [pair for names, row in zip(candidates, alphas, strict=True) for pair in zip(names, row, strict=True)]
    return {o: sum(p for n, p in pairs if n == o) / EDGES for o in OPERATOR_NAMES if any(n == o for n, _ in pairs)}
