"""Convolutions and norms of many operators at once, as the batched cells need them.

Shapes: (B, C, H, W), where C holds the channels of all operators of a batch behind each other.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.operators import BATCH_NORM_EPS


def batch_statistics_norm(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Batch norm by the batch's own statistics, as the supernet's plain operators do, times `scale` per channel."""
    return F.batch_norm(x, None, None, scale, None, training=True, eps=BATCH_NORM_EPS)


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Return the depthwise convolution (padding keeps the size at stride 1) without taps that never meet the map."""
    weight = crop(weight, dilation, x.shape[2], x.shape[3])
    padding = (dilation * (weight.shape[2] // 2), dilation * (weight.shape[3] // 2))
    return F.conv2d(x, weight, None, stride, padding, dilation, groups=x.shape[1])


def pointwise(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return the 1x1 convolution in groups.

    On one CPU thread torch runs an undilated 1x1 convolution group by group, in hundreds of small calls. A dilation
    means nothing to one tap, but leads to the kernel that takes all groups at once, faster at most shapes.
    """
    dilation = 2 if x.device.type == "cpu" and torch.get_num_threads() == 1 else 1
    return F.conv2d(x, weight, groups=groups, dilation=dilation)


def crop(weight: Tensor, dilation: int, height: int, width: int) -> Tensor:
    """Cut the outer taps whose offset is at least the size of the map: they only ever meet padding."""
    half = weight.shape[2] // 2
    rows, columns = (min(half, (size - 1) // dilation) for size in (height, width))
    if rows == half and columns == half:
        return weight
    cut_rows, cut_columns = half - rows, half - columns
    return F.pad(weight, (-cut_columns, -cut_columns, -cut_rows, -cut_rows))


def is_channels_last(x: Tensor) -> bool:
    """Return whether x lies in channels-last order and not in the usual one too."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
