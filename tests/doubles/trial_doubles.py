"""Trials that need no network and no image, run by real workers in place of search.trial.run_trial."""

import json
import os
import signal
import time
from pathlib import Path

from search.errors import InputError


def quick(folder: Path, emit=None) -> dict:
    """Two stages and a retraining, in no time."""
    _say(folder, emit, {"event": "started", "phase": "search", "pid": os.getpid()})
    for stage in (1, 2):
        _say(
            folder,
            emit,
            {"event": "stage", "phase": "search", "stage": stage, "stages": 2, "candidates": 11, "epochs": 1},
        )
        _say(folder, emit, _epoch("search", stage, stage=stage, stages=2))
    _say(folder, emit, {"event": "architecture", "parameters": 1_234_567, "macs": 89_000_000})
    _say(folder, emit, _epoch("retrain", 1))
    return _finish(folder, emit)


def chosen(folder: Path, emit=None) -> dict:
    """What the name of the data set says: fails-, bad-, tells-, dies-, waits-, hangs-, full-..., else quick."""
    kind = folder.name.partition("-")[0]
    if kind == "fails":
        quick_start(folder, emit)
        raise RuntimeError("the trial broke")
    if kind == "bad":
        raise InputError("image kos01: truncated")
    if kind == "tells":
        key = os.environ["AWS_SECRET_ACCESS_KEY"]
        raise RuntimeError(f"http://ann:{key}@proxy is away, and the key is {key}")
    if kind == "full":
        raise OSError(28, "No space left on device", str(folder / "checkpoint"))
    if kind == "dies" and not _marked(folder, "died"):
        quick_start(folder, emit)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hangs" and not _marked(folder, "hung"):
        quick_start(folder, emit)
        time.sleep(10_000)
    if kind == "lost":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "waits":
        quick_start(folder, emit)
        while not (folder / "go").exists():
            time.sleep(0.05)
    return quick(folder, emit)


def quick_start(folder: Path, emit) -> None:
    _say(folder, emit, {"event": "started", "phase": "search", "pid": os.getpid()})
    _say(
        folder,
        emit,
        {"event": "stage", "phase": "search", "stage": 1, "stages": 2, "candidates": 11, "epochs": 1},
    )


def _epoch(phase: str, step: int, **more) -> dict:
    return {
        "event": "epoch",
        "phase": phase,
        "epoch": 1,
        "epochs": 1,
        "step": step,
        "steps": 2,
        "loss": 0.5,
        "iou": 0.25,
        "seconds": 0.01,
        **more,
    }


def _finish(folder: Path, emit) -> dict:
    trial = json.loads((folder / "trial.json").read_text())
    metrics = {
        "method": trial["method"], "data": trial["name"], "seed": trial["settings"]["seed"],
        "iou": 0.5, "f1": 0.6, "pa": 0.7, "parameters": 1_234_567, "macs": 89_000_000, "flops": 178_000_000,
        "search_seconds": 61.0, "retrain_seconds": 3.5, "nothing": {"iou_image": 0.1},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    _say(folder, emit, {"event": "finished", "seconds": {}, "metrics": metrics})
    return metrics


def _marked(folder: Path, name: str) -> bool:
    if (folder / name).exists():
        return True
    (folder / name).touch()
    return False


def _say(folder: Path, emit, event: dict) -> None:
    with open(folder / "ledger.jsonl", "a+") as file:
        file.seek(0)
        event = {"n": len(file.readlines()), "time": time.time(), **event}
        file.write(json.dumps(event) + "\n")
    if emit is not None:
        emit(event)


def together(folder: Path, emit=None) -> dict:
    """Every member adds its rank; the first writes the sum. The second dies once where the folder says so."""
    import torch
    import torch.distributed as dist

    rank = dist.get_rank()
    if rank == 1 and folder.name.startswith("dies") and not _marked(folder, "died"):
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    if rank == 0:
        (folder / "sum.txt").write_text(str(total.item()))
        return _finish(folder, emit)
    return {}
