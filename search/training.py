"""The only weight-training step, shared by the search and by retraining, and what counts how it goes."""

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.asdet import ASDetNet, Shares
from search.distributed import average_gradients, rank, world_size
from search.losses import segmentation_loss
from search.settings import LossSettings


@dataclass(frozen=True)
class Problem:
    """What the loss of a network needs besides the network: classes, loss settings, arithmetic."""

    classes: int
    loss: LossSettings
    device: torch.device
    precision: str = "float32"
    branches: bool = True

    def loss_of(self, network: ASDetNet, images: Tensor, masks: Tensor, shares: Shares | None) -> tuple[Tensor, Tensor]:
        """Return (loss, output logits): a scalar and (B, K, H, W)."""
        with self._autocast():
            logits = network(images, shares, branches=self.branches)
        return segmentation_loss(logits, masks, self.classes, self.loss), logits[0]

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass
class Progress:
    """Sums over an epoch, kept on the device so that no step waits for the host."""

    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """Add detached scalars."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()

    def add_overlap(self, logits: Tensor, masks: Tensor) -> None:
        """Count the overlap of logits above 0 (B, K, H, W) with any defect, for the training IoU."""
        predicted, true = (logits.detach() > 0).any(1), masks > 0
        self.add(hit=(predicted & true).sum(), union=(predicted | true).sum())

    def mean(self, name: str, count: int) -> float | None:
        """Return a sum over a count, None where nothing was added."""
        return float(self.sums[name]) / count if name in self.sums and count else None

    def iou(self) -> float:
        """Return the pooled defect IoU of the epoch's training batches, 1 where nothing was to find."""
        union = float(self.sums["union"])
        return float(self.sums["hit"]) / union if union else 1.0


def weight_step(
    network: ASDetNet,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    problem: Problem,
    *,
    shares: Shares | None = None,
    clip: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Do one step of the weights; returns (loss, logits), detached.

    Args:
        batch: images (B, C, H, W), masks (B, H, W); in a group of processes each takes its part of it.
        shares: detached softmax shares of a supernet, None for a searched network.
        clip: largest norm of the gradient, 0 for none.
    """
    images, masks = own_part(batch)
    optimizer.zero_grad(set_to_none=True)
    loss, logits = problem.loss_of(network, images, masks, shares)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average_gradients(parameters)
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return loss.detach(), logits.detach()


def own_part(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return this process's share of a batch, every world_size-th image.

    A batch that the group does not divide is filled up with its first images, so that no process is left without.
    """
    images, masks = batch
    each = -(-len(images) // world_size())
    own = (rank() + world_size() * torch.arange(each, device=images.device)) % len(images)
    return images[own], masks[own]


def learning_rate(base: float, schedule: str, epoch: int, epochs: int) -> float:
    """Return the rate of an epoch (from 0): constant, or a cosine from base to 0 over the epochs."""
    return base if schedule == "constant" else 0.5 * base * (1 + math.cos(math.pi * epoch / epochs))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def sgd(parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Return the optimiser of the weights (Sec. 4.1.5)."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, foreach=True)


def detached(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return shares that no gradient flows into: a weight step needs none."""
    return {kind: share.detach() for kind, share in shares.items()}
