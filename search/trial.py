"""One trial from its folder: choose an architecture, retrain it, test it once. Files in, files out; no Ray, no MLflow.

A trial folder holds `trial.json` (what is asked) and afterwards `architecture.json`, `weights.safetensors`,
`pictures/` and `metrics.json` (the result, written last: a trial with it is done). `ledger.jsonl` tells the course,
`checkpoint/` holds what a killed trial goes on from, `phases.json` the seconds of phases that are finished.
"""

import importlib
import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from models.architecture import CellArchitecture
from models.asdet import ASDetNet
from models.cost import Cost, network_cost
from models.inference import InferenceNet
from search.checkpoint import write_atomically
from search.context import Context, choose_device
from search.data.pack import open_pack
from search.distributed import gather, rank, wait_for_all, world_size
from search.errors import InputError
from search.evaluate import Predictor, classify, evaluate, predict, predict_nothing
from search.ledger import Emit, Ledger
from search.metrics import Confusion, headline, scores
from search.pictures import draw_overlay, pick_shown
from search.retrain import derived_network, retrain
from search.settings import Settings

METHODS = {"asdet": "search.methods.asdet", "random": "search.methods.random_cells"}
"""Method name -> module with `choose_architecture(context)`."""

HYBRID_METHODS = {"autonad": "", "autonad-random": "random"}
"""Method name -> strategy in place of the settings' own, of the methods that `search.hybrid_trial` runs."""


class BadTrial(InputError):
    """A trial folder without a readable trial.json."""


def run_trial(folder: Path, emit: Emit | None = None) -> dict[str, Any]:
    """Run a trial, or go on where it stopped; returns the content of metrics.json.

    In a group of processes (torch.distributed) every member calls this; the first alone writes.

    Args:
        folder: with trial.json in it.
        emit: gets every event of the ledger, for a display.

    Raises:
        InputError: trial.json, the pack or a checkpoint cannot be used.
    """
    done = folder / "metrics.json"
    if done.exists():
        return json.loads(done.read_text())
    trial = read_trial(folder)
    context = open_context(folder, trial, emit)
    context.ledger.write("started", phase="search", **environment(context))
    architecture, stage_seconds = _choose(context, trial["method"])
    network, retrain_seconds = retrain(context, architecture)
    start = time.perf_counter()
    softmax = context.classes > 1 and context.settings.loss.multiclass == "softmax"
    _, tested = test(context, InferenceNet(network), softmax)
    wait_for_all()
    if rank() != 0:
        return {}
    metrics = _metrics(context, trial, architecture, tested) | {
        "search_seconds": sum(stage_seconds),
        "stage_seconds": stage_seconds,
        "retrain_seconds": retrain_seconds,
        "test_seconds": time.perf_counter() - start,
    }
    _save_weights(folder / "weights.safetensors", network, architecture, context)
    write_atomically(done, json.dumps(metrics, indent=1, allow_nan=False).encode())
    seconds = {"search": stage_seconds, "retrain": retrain_seconds, "test": metrics["test_seconds"]}
    context.ledger.write("finished", seconds=seconds, metrics=metrics)
    return metrics


def read_trial(folder: Path) -> dict[str, Any]:
    """Return the content of trial.json.

    Raises:
        BadTrial: it is missing or not what it should be.
    """
    path = folder / "trial.json"
    try:
        trial = json.loads(path.read_text())
        Settings.from_dict(trial["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadTrial(f"{path}: {error}") from error
    allowed = (*METHODS, *HYBRID_METHODS)
    if trial.get("method") not in allowed:
        raise BadTrial(f"{path}: method {trial.get('method')!r}; allowed are {', '.join(allowed)}")
    return trial


def open_context(
    folder: Path, trial: Mapping[str, Any], emit: Emit | None, device: tuple[str, str] | None = None
) -> Context:
    """Return what a trial works with.

    Args:
        folder: of the trial.
        trial: content of its trial.json.
        emit: gets every event of the ledger.
        device: the setting that names another device than the trial's, and its value; None: the trial's.

    Raises:
        InputError: the pack or the device cannot be used.
    """
    settings = Settings.from_dict(trial["settings"])
    setting, name = device or ("runtime.device", settings.runtime.device)
    threads = settings.runtime.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    return Context(
        folder=folder,
        settings=settings,
        pack=open_pack(Path(trial["pack"])),
        device=choose_device(name, setting),
        threads=threads,
        ledger=Ledger(folder / "ledger.jsonl" if rank() == 0 else None, emit),
        forms=Path(trial.get("forms", folder / "forms.json")),
    )


def _choose(context: Context, method: str) -> tuple[CellArchitecture, list[float]]:
    """Return the architecture and the seconds of each stage: read back if the phase is finished, else searched."""
    path, phases = context.folder / "architecture.json", context.folder / "phases.json"
    # The first of a group decides for all: a late member would find what the first has just written.
    if gather(path.exists() and phases.exists())[0]:
        return CellArchitecture.from_json(path.read_text()), json.loads(phases.read_text())["search"]
    architecture, seconds = importlib.import_module(METHODS[method]).choose_architecture(context)
    if rank() == 0:
        cost = _cost(context, architecture)
        context.ledger.write(
            "architecture",
            architecture=architecture.to_dict(),
            digest=architecture.digest(),
            parameters=cost.parameters,
            macs=cost.macs,
        )
        write_atomically(phases, json.dumps({"search": seconds}).encode())
        write_atomically(path, architecture.to_json().encode())
    wait_for_all()
    return architecture, seconds


def test(context: Context, predictor: Predictor, softmax: bool) -> tuple[list[Confusion], dict[str, Any]]:
    """Score the test images once, and draw some of the predictions into `pictures/`.

    Args:
        context: of the trial.
        predictor: images to logits.
        softmax: the logits are K + 1 softmax maps, not K sigmoid maps.

    Returns:
        The confusion matrices of the images, and {"test", "nothing"}: `metrics.scores` of the predictions and of an
        empty one.
    """
    pack, names = context.pack, context.pack.classes
    threshold = context.settings.retrain.test_threshold
    everything = np.arange(len(pack.test.tiles))
    confusions = evaluate(
        predictor, pack, pack.test, everything, softmax=softmax, threshold=threshold, device=context.device
    )
    if rank() == 0:
        folder = context.folder / "pictures"
        folder.mkdir(exist_ok=True)
        shown = dict(pick_shown(confusions, names))
        chosen = np.array([i for i, tile in enumerate(pack.test.tiles) if tile.source in shown])
        for source, probabilities in predict(
            predictor, pack, pack.test, chosen, softmax=softmax, device=context.device
        ):
            name = pack.test.sources[source].name.replace("/", "_")
            prediction = classify(probabilities, softmax, threshold)
            picture, truth = pack.test.picture(source), pack.test.truth(source)
            draw_overlay(folder / f"{name}.png", picture, truth, prediction, shown[source])
    nothing = scores(predict_nothing(pack.test, context.classes), names)
    return confusions, {"test": scores(confusions, names), "nothing": nothing}


def _metrics(
    context: Context, trial: Mapping[str, Any], architecture: CellArchitecture, tested: dict[str, Any]
) -> dict[str, Any]:
    cost = _cost(context, architecture)
    written = _cost(context, architecture, as_written=True)
    return {
        "method": trial["method"],
        "data": trial["name"],
        "seed": context.seed,
        **headline(tested["test"]),
        **tested,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "flops": cost.flops,
        "flops_paper": written.flops_paper,
        "architecture_digest": architecture.digest(),
        "data_digest": context.pack.digest,
        "split": context.pack.split,
        "image_size": context.settings.data.image_size,
    }


def _cost(context: Context, architecture: CellArchitecture, *, as_written: bool = False) -> Cost:
    """Return the cost of one tile through the derived network, or through it as the paper writes the fusion."""
    network = derived_network(context, architecture)
    size = context.settings.data.image_size
    return network_cost(network, (context.pack.colour_channels, size, size), network.as_written if as_written else None)


def _save_weights(path: Path, network: ASDetNet, architecture: CellArchitecture, context: Context) -> None:
    """Write the weights, with what is needed to build the network again as metadata."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    about = {
        "architecture": architecture.to_json(),
        "settings": json.dumps(context.settings.to_dict()),
        "classes": json.dumps(context.pack.classes),
        "mean": json.dumps(context.pack.mean),
        "std": json.dumps(context.pack.std),
    }
    write_atomically(path, save_tensors(tensors, about))


def _versions(*names: str) -> dict[str, str]:
    """Return the versions of those of these packages that are installed; none is imported."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def environment(context: Context) -> dict[str, Any]:
    """Return what the "started" event says of where a trial runs and on what.

    "cuda" is the version that torch was built for, absent from a build for CPUs.
    """
    device = context.device
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": context.threads,
        "workers": world_size(),
        "torch": torch.__version__,
        **({"cuda": torch.version.cuda} if torch.version.cuda else {}),
        **_versions("ray", "mlflow"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "data_digest": context.pack.digest,
        "settings_digest": context.settings.digest(),
    }
