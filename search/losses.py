"""BCE + Dice at the output and at every branch (NAS-ASDet Sec. 3.3, Eq. 16)."""

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


def _dice(probabilities: Tensor, target: Tensor, over: str) -> Tensor:
    """Return 1 - Dice per output, (L,), of (L, B, K, H, W)."""
    dims = (3, 4) if over == "image" else (1, 3, 4)
    overlap = (probabilities * target).sum(dims)
    total = probabilities.sum(dims) + target.sum(dims)
    return (1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).flatten(1).mean(1)
