"""Training the shared weights of a hybrid supernet, one sampled subnet a step (AutoNAD Sec. V-B).

The subnet of a step, the order of the tiles and what stochastic depth drops are functions of the trial's seed, the
epoch and the step. So every process of a group trains the same subnet without being told, and a training that was cut
off between two epochs goes on with the same numbers and needs no state of a generator.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from models.autonad import AutoNADNet, Room
from models.hybrid_architecture import HybridArchitecture
from models.hybrid_space import HybridSpace
from search.checkpoint import pack_module, pack_optimizer, save_checkpoint, unpack, unpack_optimizer
from search.context import Context
from search.data.loaders import divide, seed_of
from search.distributed import average_gradients, rank, save_together, world_size
from search.divergence import check_finite
from search.hybrid_settings import SupernetSettings, space_of
from search.losses import class_weights, weighted_cross_entropy
from search.preflight import check_supernet
from search.scoring import Scorer
from search.training import own_part, set_learning_rate

BASE_BATCH = 8
"""`supernet.linear_scaling` multiplies the learning rate by the batch over this."""


@dataclass
class Training:
    """A supernet in training and how far it is; `epoch` counts finished ones, `seconds` over all attempts."""

    network: AutoNADNet
    optimizer: torch.optim.AdamW
    epoch: int = 0
    seconds: float = 0.0


def new_supernet(context: Context) -> AutoNADNet:
    """Return a supernet with new weights on the trial's device; they follow from the trial's seed."""
    settings = context.settings
    torch.manual_seed(seed_of(context.seed, "supernet"))
    network = AutoNADNet(
        Room.of_space(space_of(settings.space)),
        in_channels=context.pack.colour_channels,
        classes=context.classes,
        width=settings.space.decoder_width,
        sharing=settings.space.sharing,
        drop_path=settings.supernet.drop_path,
    )
    return network.to(context.device)


def train_supernet(context: Context, after_epoch: Callable[[int], None] = lambda epoch: None) -> AutoNADNet:
    """Train a supernet, or go on; returns it trained.

    Args:
        context: of the trial; in a group of processes each has its own, and only the first's ledger writes.
        after_epoch: called with the number of finished epochs, behind the checkpoint.

    Raises:
        InputError: it does not fit into memory, the processes of the group disagree, or the training diverges; all
            raise the same.
        OSError: the disk is full; all raise the same.
    """
    settings = context.settings.supernet
    training = _start(context)
    if training.epoch < settings.epochs:
        check_supernet(context, training.network, space_of(context.settings.space), training.epoch)
    train_indices, validation_indices = division(context)
    weights = weights_of_classes(context)
    scorer = Scorer.on_validation(context, training.network, validation_indices) if rank() == 0 else None
    for epoch in range(training.epoch, settings.epochs):
        start = time.perf_counter()
        rate = learning_rate(settings, epoch)
        set_learning_rate(training.optimizer, rate)
        loss, steps = _epoch(context, training, epoch, train_indices, weights)
        check_finite(
            f"supernet: epoch {epoch + 1}",
            [loss],
            training.network.parameters(),
            "lower supernet.lr, or set supernet.clip",
        )
        training.epoch = epoch + 1
        seconds = time.perf_counter() - start
        training.seconds += seconds
        last = training.epoch == settings.epochs
        probed = _probe(context, scorer) if last or training.epoch % settings.validate_every == 0 else None
        save_together(partial(_record, context, training, rate, seconds, (loss, steps), probed), context.folder)
        after_epoch(training.epoch)
    return training.network


def division(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return the training tiles that the weights learn from and those that candidates are scored on."""
    fraction = context.settings.supernet.validation_fraction
    return divide(context.pack.train, fraction, seed_of(context.seed, "validation"))


def weights_of_classes(context: Context) -> Tensor | None:
    """Return the weights of the classes by the tiles that the weights learn from, on the trial's device, or None."""
    power = context.settings.loss.class_power
    if power == 0:
        return None
    indices, _ = division(context)
    masks = (context.pack.train.masks[index] for index in np.sort(indices))
    return class_weights(masks, context.classes, power).to(context.device)


def sampled_subnet(space: HybridSpace, seed: int, epoch: int, step: int) -> HybridArchitecture:
    """Return the subnet of a step, uniformly drawn (Sec. V-B); a function of its arguments alone."""
    return space.sample(random.Random(f"{seed}/subnet/{epoch}/{step}"))


def learning_rate(settings: SupernetSettings, epoch: int) -> float:
    """Return the rate of an epoch (from 0): rising linearly through the warm-up, then a cosine to 0."""
    base = settings.lr * (settings.batch / BASE_BATCH if settings.linear_scaling else 1.0)
    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    if epoch < warmup:
        return base * (epoch + 1) / (warmup + 1)
    return 0.5 * base * (1 + math.cos(math.pi * (epoch - warmup) / (settings.epochs - warmup)))


def optimizer_of(network: nn.Module, settings: SupernetSettings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on all but norms and biases."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    free = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, foreach=True)


def subnet_step(
    network: AutoNADNet,
    architecture: HybridArchitecture,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    *,
    weights: Tensor | None = None,
    accumulate: int = 1,
    clip: float = 0.0,
    precision: str = "float32",
) -> Tensor:
    """Do one step of the weights that a subnet uses; returns its mean cross-entropy, detached.

    Weights that it does not use have no gradient and stay as they are; as all processes of a group step the same
    subnet, their gradients are averaged over the same ones.

    Args:
        network: the supernet, or a subnet on its own.
        architecture: which subnet.
        optimizer: of the network.
        batch: images (B, C, H, W) and masks (B, H, W); in a group each process takes its part of it.
        weights: of the classes, see `weights_of_classes`; None: all alike.
        accumulate: parts that it is passed in; the gradient is that of the whole.
        clip: largest norm of the gradient, 0 for none.
        precision: "float32" or "bfloat16" (autocast).
    """
    images, masks = own_part(batch)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=images.device)
    for some_images, some_masks in zip(images.chunk(accumulate), masks.chunk(accumulate), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(some_images, architecture)
        loss = weighted_cross_entropy(logits.float(), some_masks, weights) * (len(some_images) / len(images))
        loss.backward()
        total += loss.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average_gradients(parameters)
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return total


def _start(context: Context) -> Training:
    network = new_supernet(context)
    training = Training(network, optimizer_of(network, context.settings.supernet))
    checkpoint = context.load("supernet")
    if checkpoint is not None:
        network.load_state_dict(unpack("network", checkpoint.tensors))
        unpack_optimizer("optimizer", checkpoint.tensors, training.optimizer)
        training.epoch, training.seconds = checkpoint.state["epoch"], checkpoint.state["seconds"]
        context.ledger.write("resumed", phase="supernet", epoch=training.epoch)
    return training


def _epoch(
    context: Context, training: Training, epoch: int, indices: np.ndarray, weights: Tensor | None
) -> tuple[Tensor, int]:
    """Pass once over the tiles; returns the mean loss and the steps."""
    settings = context.settings.supernet
    space = space_of(context.settings.space)
    stream = context.batches(indices, settings.batch, "supernet", epoch)
    training.network.train()
    losses = []
    for step, batch in enumerate(islice(stream, settings.steps or None)):
        torch.manual_seed(seed_of(context.seed, "drop path", epoch, step, rank()))
        losses.append(
            subnet_step(
                training.network,
                sampled_subnet(space, context.seed, epoch, step),
                training.optimizer,
                batch,
                weights=weights,
                accumulate=settings.accumulate,
                clip=settings.clip,
                precision=context.precision,
            )
        )
    return torch.stack(losses).mean(), len(losses)


def _probe(context: Context, scorer: Scorer | None) -> list[dict[str, float]] | None:
    """Score the fixed probe subnets with the weights as they are (Fig. 6)."""
    if scorer is None:
        return None
    probes = probe_subnets(space_of(context.settings.space), context.settings.supernet.probes, context.seed)
    found = [scorer.score(architecture) for architecture in probes]
    return [{"miou": score.miou, "mf1": score.mf1} for score in found]


def probe_subnets(space: HybridSpace, count: int, seed: int) -> list[HybridArchitecture]:
    """Return the smallest, the largest and so many fixed random subnets."""
    drawn = [space.sample(random.Random(f"{seed}/probe/{k}")) for k in range(count)]
    return [space.smallest(), space.largest(), *drawn]


def _record(
    context: Context,
    training: Training,
    rate: float,
    seconds: float,
    progress: tuple[Tensor, int],
    probed: list[dict[str, float]] | None,
) -> None:
    """Write what an epoch came to, and now and then a checkpoint."""
    settings, (loss, steps) = context.settings, progress
    context.ledger.write(
        "epoch",
        phase="supernet",
        epoch=training.epoch,
        epochs=settings.supernet.epochs,
        step=training.epoch,
        steps=settings.supernet.epochs,
        loss=float(loss),
        iou=None,
        seconds=seconds,
        lr=rate,
        updates=steps,
        workers=world_size(),
        device=context.device.type,
        threads=context.threads,
        **({"probes": probed} if probed else {}),
    )
    if training.epoch == settings.supernet.epochs or training.epoch % settings.runtime.checkpoint_every == 0:
        _save(context, training)


def _save(context: Context, training: Training) -> None:
    if rank() != 0:
        return
    tensors = {**pack_module("network", training.network), **pack_optimizer("optimizer", training.optimizer)}
    state = context.state(epoch=training.epoch, seconds=training.seconds)
    save_checkpoint(context.folder / "checkpoint", "supernet", training.epoch, tensors, state)
