"""Training a chosen network from new weights (NAS-ASDet Sec. 4.1.5), saved as it goes."""

import time
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from models.architecture import CellArchitecture
from models.asdet import ASDetNet
from models.cell_space import CellSpace
from models.inference import InferenceNet
from search.checkpoint import pack_module, pack_optimizer, save_checkpoint, unpack, unpack_optimizer
from search.context import Context
from search.data.loaders import divide, seed_of
from search.distributed import rank
from search.divergence import check_finite
from search.evaluate import evaluate
from search.metrics import headline, scores
from search.training import Problem, Progress, learning_rate, own_part, set_learning_rate, sgd, weight_step


@dataclass
class Training:
    """A network in training and how far it is.

    Attributes:
        epoch: epochs that are finished.
        averaged: moving average of the weights, empty without one.
        best: weights of the best validation score so far, empty without validation.
        best_score: that score, in [0, 1].
    """

    network: ASDetNet
    optimizer: torch.optim.SGD
    epoch: int = 0
    seconds: float = 0.0
    averaged: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = -1.0


def retrain(context: Context, architecture: CellArchitecture) -> tuple[ASDetNet, float]:
    """Train the network of an architecture, or go on; returns it with its final weights, and the seconds it took.

    Raises:
        Diverged: the loss or the weights are not finite.
    """
    settings = context.settings.retrain
    training = _start(context, architecture)
    train_indices, validation_indices = _divide(context)
    for epoch in range(training.epoch, settings.epochs):
        start = time.perf_counter()
        rate = learning_rate(settings.lr, settings.schedule, epoch, settings.epochs)
        set_learning_rate(training.optimizer, rate)
        progress = _epoch(context, training, epoch, train_indices)
        check_finite(
            f"retraining: epoch {epoch + 1}",
            [progress.sums["loss"]],
            training.network.parameters(),
            "lower retrain.lr, or set retrain.clip",
        )
        score = _validate(context, training, validation_indices)
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
            loss=progress.mean("loss", progress.steps),
            iou=progress.iou(),
            validation_iou=score,
            seconds=seconds,
            lr=rate,
        )
        if training.epoch % context.settings.runtime.checkpoint_every == 0 or training.epoch == settings.epochs:
            _save(context, training)
    _load_final(training, settings.select)
    return training.network, training.seconds


def derived_network(context: Context, architecture: CellArchitecture) -> ASDetNet:
    """Return a new network of an architecture, on the trial's device, in the memory order that pays there."""
    network = context.network(CellSpace.of_architecture(architecture), searching=False).to(context.device)
    if context.settings.runtime.channels_last == "off":
        return network
    return network.lay_out(context.settings.data.image_size, context.device.type)


def _start(context: Context, architecture: CellArchitecture) -> Training:
    settings = context.settings.retrain
    torch.manual_seed(seed_of(context.seed, "retrain"))
    network = derived_network(context, architecture)
    optimizer = sgd(network.parameters(), settings.lr, settings.momentum, settings.weight_decay)
    training = Training(network, optimizer)
    checkpoint = context.load("retrain")
    if checkpoint is not None:
        network.load_state_dict(unpack("network", checkpoint.tensors))
        unpack_optimizer("optimizer", checkpoint.tensors, optimizer)
        training.averaged = _to(unpack("averaged", checkpoint.tensors), context.device)
        training.best = _to(unpack("best", checkpoint.tensors), context.device)
        training.epoch, training.seconds = checkpoint.state["epoch"], checkpoint.state["seconds"]
        training.best_score = checkpoint.state["best_score"]
        context.ledger.write("resumed", phase="retrain", epoch=training.epoch)
    elif settings.ema:
        training.averaged = _copy(network)
    return training


def _divide(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return the tiles to train on and those to validate on, the latter empty unless the settings ask for some."""
    fraction = context.settings.retrain.validation_fraction
    if not fraction:
        return np.arange(len(context.pack.train.tiles)), np.arange(0)
    return divide(context.pack.train, fraction, seed_of(context.seed, "validation"))


def _epoch(context: Context, training: Training, epoch: int, indices: np.ndarray) -> Progress:
    settings = context.settings.retrain
    problem = Problem(
        context.classes,
        context.settings.loss,
        context.device,
        context.precision,
        branches=settings.deep_supervision,
    )
    progress = Progress()
    training.network.train()
    stream = context.batches(indices, settings.batch, "retrain", epoch)
    for batch in islice(stream, settings.steps or None):
        loss, logits = weight_step(training.network, training.optimizer, batch, problem, clip=settings.clip)
        _average(training, settings.ema)
        progress.steps += 1
        progress.add(loss=loss)
        progress.add_overlap(logits, own_part(batch)[1])
    return progress


@torch.no_grad()
def _average(training: Training, decay: float) -> None:
    if not decay:
        return
    for name, value in training.network.state_dict().items():
        if value.is_floating_point():
            training.averaged[name].lerp_(value, 1 - decay)
        else:
            training.averaged[name].copy_(value)


def _validate(context: Context, training: Training, indices: np.ndarray) -> float | None:
    """Return the validation IoU and keep the best weights; None without validation tiles."""
    if not len(indices):
        return None
    settings = context.settings
    confusions = evaluate(
        InferenceNet(training.network),
        context.pack,
        context.pack.train,
        indices,
        softmax=context.classes > 1 and settings.loss.multiclass == "softmax",
        threshold=settings.retrain.test_threshold,
        device=context.device,
    )
    score = headline(scores(confusions, context.pack.classes))["iou"]
    if score > training.best_score:
        training.best_score, training.best = score, _copy(training.network)
    return score


def _load_final(training: Training, select: str) -> None:
    chosen = training.best if select == "best_val" else training.averaged
    if chosen:
        training.network.load_state_dict(chosen)


def _save(context: Context, training: Training) -> None:
    if rank() != 0:
        return
    tensors = {
        **pack_module("network", training.network),
        **pack_optimizer("optimizer", training.optimizer),
        **{f"averaged.{k}": v for k, v in training.averaged.items()},
        **{f"best.{k}": v for k, v in training.best.items()},
    }
    state = context.state(epoch=training.epoch, seconds=training.seconds, best_score=training.best_score)
    save_checkpoint(context.folder / "checkpoint", "retrain", training.epoch, tensors, state)


def _copy(network: ASDetNet) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _to(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tensors.items()}
