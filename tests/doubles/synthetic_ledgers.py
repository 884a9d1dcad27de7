"""Ledgers and run folders of made-up trials, as a search writes them, for what reads them."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from models.architecture import CELL_KINDS, OPERATOR_NAMES, CellArchitecture
from search.settings import Settings

EDGES = 14
Event = dict[str, Any]


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
    created: str = "2026-11-21T12:00:00.123456+00:00",
    command: str = "defectnas search asdet",
    config: str = "seed: 0\n",
) -> Path:
    """Create the folder of a run whose trials have not begun, and return it."""
    run = runs / name
    records = [{"name": f"{d}-s{s}", "data": d, "seed": s, "method": "asdet"} for d, s in trials]
    for record in records:
        folder = run / "trials" / record["name"]
        folder.mkdir(parents=True)
        trial = {**record, "data": f"/data/{record['data']}", "pack": "", "settings": Settings().to_dict()}
        (folder / "trial.json").write_text(json.dumps(trial))
    launch = {"id": name, "method": "asdet", "created": created, "command": command, "version": "0.1.0"}
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


def finish_trial(folder: Path, events: Sequence[Event], *, iou: float = 0.61) -> None:
    """Write the whole ledger and the results of a trial that came to its end."""
    from PIL import Image

    metrics = {
        "method": "asdet", "data": folder.name, "seed": 0, "iou": iou, "f1": 0.72, "pa": 0.8,
        "test": {"iou_image": iou, "pixel_accuracy": 0.99, "classes": {"a crack!": {"iou": 0.6}}},
        "nothing": {"iou_image": 0.1}, "parameters": 123456, "macs": 789, "flops": 1578, "flops_paper": 1600,
        "search_seconds": 18.0, "retrain_seconds": 2.0, "stage_seconds": [4.5, 4.5, 4.5, 4.5],
        "architecture_digest": events[-1].get("digest", "a" * 64), "data_digest": "cd" * 32, "image_size": 64,
    }  # fmt: skip
    last = {"n": events[-1]["n"] + 1, "time": events[-1]["time"] + 1, "event": "finished"}
    write_ledger(folder, [*events, {**last, "seconds": {"search": [4.5] * 4, "retrain": 2.0, "test": 1.5}}])
    (folder / "architecture.json").write_text(random_architecture(0).to_json())
    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "part_1.png")
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def _entropy(rows: Sequence[Sequence[float]]) -> float:
    return sum(-sum(p * math.log(p) for p in row) for row in rows) / len(rows)


def _shares(candidates: Sequence[Sequence[str]], alphas: Sequence[Sequence[float]]) -> dict[str, float]:
    pairs = [pair for names, row in zip(candidates, alphas, strict=True) for pair in zip(names, row, strict=True)]
    return {o: sum(p for n, p in pairs if n == o) / EDGES for o in OPERATOR_NAMES if any(n == o for n, _ in pairs)}
