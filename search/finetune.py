"""Retraining one subnet by itself (AutoNAD Sec. V-B), a job in a folder of its own, and testing it once.

`job.json` says which subnet of which trial; afterwards the folder holds `metrics.json` (written last),
`weights.safetensors` and `pictures/`. A job that was cut off goes on from its checkpoint.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from models.autonad import AutoNADNet, Room, extract
from models.cost import Cost, network_cost
from models.hybrid_architecture import HybridArchitecture
from search.candidates import Candidate
from search.checkpoint import pack_module, pack_optimizer, save_checkpoint, unpack, unpack_optimizer, write_atomically
from search.context import Context
from search.data.loaders import seed_of
from search.divergence import check_finite
from search.ledger import Ledger
from search.metrics import headline, mean_scores
from search.one_shot import division, new_supernet, subnet_step, weights_of_classes
from search.preflight import check_memory, step_memory
from search.scoring import Scorer
from search.training import set_learning_rate
from search.trial import open_context, read_trial, test
from search.watchdog import beat

Weights = Mapping[str, np.ndarray]


@dataclass
class Training:
    """A subnet in training; `best` holds the weights of the best validation score, `epoch` counts finished ones."""

    network: AutoNADNet
    optimizer: torch.optim.Adam
    epoch: int = 0
    seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = -1.0


def write_job(folder: Path, candidate: Candidate, seed: int, measured_on: str) -> None:
    """Write the job of retraining a scored candidate into a new or an old folder."""
    assert candidate.score is not None
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "architecture": candidate.architecture.to_dict(),
        "seed": seed,
        "inherited": dataclasses.asdict(candidate.score),
        "latency_ms": candidate.latency_ms,
        "latency_iqr_ms": candidate.latency_iqr_ms,
        "latency_on": measured_on,
    }
    write_atomically(folder / "job.json", json.dumps(job, allow_nan=False).encode())


def run_job(folder: Path, trial: Path, weights: Callable[[], Weights]) -> dict[str, Any]:
    """Retrain and test the subnet of a job, or go on; returns the content of its metrics.json.

    Args:
        folder: of the job.
        trial: folder of the trial that it belongs to.
        weights: returns the supernet's weights by name; only called if they are to be inherited.
    """
    done = folder / "metrics.json"
    if done.exists():
        return json.loads(done.read_text())
    job = json.loads((folder / "job.json").read_text())
    architecture = HybridArchitecture.from_dict(job["architecture"])
    outer = open_context(trial, read_trial(trial), None)
    context = dataclasses.replace(outer, folder=folder, ledger=Ledger(folder / "ledger.jsonl"))
    training = _start(context, architecture, job["seed"], weights)
    step, batch = step_memory(context, [architecture]), context.settings.finetune.batch
    check_memory(context, step, training.network, "finetune", batch, alone=True)
    _train(context, training, architecture, job["seed"])
    if context.settings.finetune.select == "best_val":
        training.network.load_state_dict(training.best)
    network = training.network.eval()
    confusions, tested = test(context, lambda images: network(images, architecture), softmax=True)
    means = mean_scores(np.sum(confusions, axis=0), context.pack.classes)
    cost = cost_of(context, architecture)
    metrics = {
        "seed": job["seed"],
        "architecture_digest": architecture.digest(),
        **headline(tested["test"]),
        **{name: means[name] for name in ("miou", "mf1", "miou_defects", "mf1_defects", "pixel_accuracy", "absent")},
        "classes": means["classes"],
        "inherited": job["inherited"],
        **{name: job[name] for name in ("latency_ms", "latency_iqr_ms", "latency_on")},
        "validation_miou": training.best_score,
        **tested,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "flops": cost.flops,
        "retrain_seconds": training.seconds,
        "device": context.device.type,
        "threads": context.threads,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    about = {
        "architecture": architecture.to_json(),
        "settings": json.dumps(context.settings.to_dict()),
        "classes": json.dumps(context.pack.classes),
        "mean": json.dumps(context.pack.mean),
        "std": json.dumps(context.pack.std),
    }
    write_atomically(folder / "weights.safetensors", save_tensors(tensors, about))
    write_atomically(done, json.dumps(metrics, indent=1, allow_nan=False).encode())
    return metrics


def plain_network(context: Context, architecture: HybridArchitecture) -> AutoNADNet:
    """Return a network of an architecture's size with new weights, on the CPU."""
    return AutoNADNet(
        Room.of_architecture(architecture),
        in_channels=context.pack.colour_channels,
        classes=context.classes,
        width=context.settings.space.decoder_width,
        drop_path=context.settings.supernet.drop_path,
    )


def cost_of(context: Context, architecture: HybridArchitecture) -> Cost:
    """Return parameters and MACs of one tile; nothing is allocated or computed."""
    with torch.device("meta"):
        network = plain_network(context, architecture)
    size = context.settings.data.image_size
    shape = (context.pack.colour_channels, size, size)
    return network_cost(network, shape, lambda images: network(images, architecture))


def _start(context: Context, architecture: HybridArchitecture, seed: int, weights: Callable[[], Weights]) -> Training:
    torch.manual_seed(seed_of(context.seed, "finetune", seed))
    if context.settings.finetune.inherit:
        supernet = new_supernet(context)
        supernet.load_state_dict({name: torch.tensor(value) for name, value in weights().items()})
        network = extract(supernet, architecture)
    else:
        network = plain_network(context, architecture).to(context.device)
    training = Training(network, torch.optim.Adam(network.parameters(), lr=context.settings.finetune.lr))
    checkpoint = context.load("retrain")
    if checkpoint is not None:
        network.load_state_dict(unpack("network", checkpoint.tensors))
        unpack_optimizer("optimizer", checkpoint.tensors, training.optimizer)
        training.best = {k: v.to(context.device) for k, v in unpack("best", checkpoint.tensors).items()}
        training.epoch, training.seconds = checkpoint.state["epoch"], checkpoint.state["seconds"]
        training.best_score = checkpoint.state["best_score"]
    return training


def _train(context: Context, training: Training, architecture: HybridArchitecture, seed: int) -> None:
    settings = context.settings.finetune
    train_indices, validation_indices = division(context)
    weights = weights_of_classes(context)
    scorer = Scorer.on_validation(context, training.network, validation_indices)
    for epoch in range(training.epoch, settings.epochs):
        start = time.perf_counter()
        rate = settings.lr * (1 - epoch / settings.epochs) ** settings.power
        set_learning_rate(training.optimizer, rate)
        stream = context.batches(train_indices, settings.batch, "finetune", seed, epoch)
        training.network.train()
        losses = []
        for step, batch in enumerate(islice(stream, settings.steps or None)):
            torch.manual_seed(seed_of(context.seed, "finetune drop path", seed, epoch, step))
            losses.append(
                subnet_step(
                    training.network,
                    architecture,
                    training.optimizer,
                    batch,
                    weights=weights,
                    precision=context.precision,
                )
            )
        loss = torch.stack(losses).mean()
        check_finite(f"finetuning: epoch {epoch + 1}", [loss], training.network.parameters(), "lower finetune.lr")
        score = scorer.score(architecture)
        if score.miou > training.best_score:
            training.best_score = score.miou
            training.best = {k: v.detach().clone() for k, v in training.network.state_dict().items()}
        training.epoch = epoch + 1
        seconds = time.perf_counter() - start
        training.seconds += seconds
        context.ledger.write(
            "epoch",
            phase="retrain",
            epoch=training.epoch,
            epochs=settings.epochs,
            step=training.epoch,
            steps=settings.epochs,
            loss=float(loss),
            iou=score.miou,
            seconds=seconds,
            lr=rate,
        )
        if training.epoch % context.settings.runtime.checkpoint_every == 0 or training.epoch == settings.epochs:
            tensors = {
                **pack_module("network", training.network),
                **pack_optimizer("optimizer", training.optimizer),
                **{f"best.{k}": v for k, v in training.best.items()},
            }
            state = context.state(epoch=training.epoch, seconds=training.seconds, best_score=training.best_score)
            save_checkpoint(context.folder / "checkpoint", "retrain", training.epoch, tensors, state)
        beat()
