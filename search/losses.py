"""The losses: BCE + Dice at the output and every branch (NAS-ASDet Sec. 3.3, Eq. 16), cross-entropy (AutoNAD)."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search.settings import LossSettings

DICE_SMOOTHING = 1.0


def logit_maps(classes: int, settings: LossSettings) -> int:
    """Return how many logit maps a network needs for this many defect classes."""
    return classes + 1 if classes > 1 and settings.multiclass == "softmax" else classes


def targets(masks: Tensor, maps: int, softmax: bool) -> Tensor:
    """Return one 0/1 map per logit map, (B, K, H, W), of class masks (B, H, W).

    With sigmoid maps, map k is class k + 1; with softmax, map k is class k and map 0 the background.
    """
    first = 0 if softmax else 1
    values = torch.arange(first, first + maps, device=masks.device)
    return (masks[:, None] == values[:, None, None]).float()


def segmentation_loss(logits: Tensor, masks: Tensor, classes: int, settings: LossSettings) -> Tensor:
    """Return the total loss: that of the output plus the weighted ones of the branches, a scalar.

    Source: Eq. 16 and the sentence behind it; the loss of one map is mean BCE plus (1 - Dice), with equal weights.

    Args:
        logits: (1 or 6, B, K, H, W): the output, then the branches.
        masks: (B, H, W) class values, 0 is background.
        classes: defect classes of the data set.
        settings: weights of the terms.
    """
    softmax = classes > 1 and settings.multiclass == "softmax"
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    target = targets(masks, logits.shape[2], softmax).to(logits.dtype).expand_as(logits)
    if softmax:
        probabilities = torch.softmax(logits, dim=2)
        pixel = -(torch.log_softmax(logits, dim=2) * target).sum(2).mean((1, 2, 3))
        dice = _dice(probabilities[:, :, 1:], target[:, :, 1:], settings.dice_over)
    else:
        weight = torch.full((), settings.positive_weight, dtype=logits.dtype, device=logits.device)
        raw = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)
        pixel = raw.mean((1, 2, 3, 4))
        dice = _dice(torch.sigmoid(logits), target, settings.dice_over)
    each = pixel + settings.dice_weight * dice
    return each[0] + settings.branch_weight * each[1:].sum()


def class_weights(masks: Iterable[np.ndarray], classes: int, power: float) -> Tensor:
    """Return a weight for each class, float32 (classes + 1,), so that a rare one is not drowned by the background.

    The weights are the shares of the classes to minus `power`, scaled so that a pixel weighs 1 in the mean; so the
    learning rate keeps its meaning. A class without a pixel has weight 0: there is nothing to weigh.

    Args:
        masks: of all training tiles, uint8 (H, W), 0 is background.
        classes: defect classes.
        power: 0 gives 1 for every class, 1 gives every class the same part of the loss.
    """
    counts = np.zeros(classes + 1, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=classes + 1)
    shares = counts / counts.sum()
    raw = np.where(shares > 0, np.maximum(shares, 1e-12) ** -power, 0.0)
    return torch.tensor(raw / (raw * shares).sum(), dtype=torch.float32)


def weighted_cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over pixels of the weighted cross-entropy, a scalar.

    Over pixels and not over the weights in the batch: so parts of a batch add up to the whole.

    Args:
        logits: (B, K + 1, H, W).
        masks: (B, H, W) class values.
        weights: of the classes, (K + 1,); None: all alike.
    """
    if weights is None:
        return F.cross_entropy(logits, masks)
    return F.cross_entropy(logits, masks, weight=weights, reduction="sum") / masks.numel()


def _dice(probabilities: Tensor, target: Tensor, over: str) -> Tensor:
    """Return 1 - Dice per output, (L,), of (L, B, K, H, W)."""
    dims = (3, 4) if over == "image" else (1, 3, 4)
    overlap = (probabilities * target).sum(dims)
    total = probabilities.sum(dims) + target.sum(dims)
    return (1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).flatten(1).mean(1)
