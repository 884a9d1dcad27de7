"""The candidate operators of NAS-ASDet Table 1, each a plain module.

Shapes: (B, c, H, W) in, (B, c, H / stride, W / stride) out, with even H and W at stride 2. `searching` builds the
form used in the supernet: batch norm without affine parameters and without running statistics (a supernet is
only ever run on batches), pools followed by batch norm. Otherwise the form of a retrained network.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import OPERATOR_NAMES

BATCH_NORM_EPS = 1e-5
SQUEEZE_REDUCTION = 16
SQUEEZE_FLOOR = 4
"""Fewest hidden units of channel attention: c / 16 is 1 at c = 16, too few to carry anything."""


def batch_norm(channels: int, searching: bool) -> nn.BatchNorm2d:
    """Return the batch norm of a supernet (`searching`) or of a retrained network."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, affine=not searching, track_running_stats=not searching)


class Zero(nn.Module):
    """No connection: zeros on the strided grid."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros, (B, c, H / stride, W / stride)."""
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class FactorizedReduce(nn.Module):
    """ReLU, two stride-2 1x1 convolutions on grids shifted by one pixel, concatenated, batch norm (DARTS)."""

    def __init__(self, in_channels: int, out_channels: int, searching: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, stride=2, bias=False)
        self.norm = batch_norm(out_channels, searching)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H / 2, W / 2)."""
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


class DepthwiseSeparable(nn.Module):
    """ReLU, depthwise k x k, 1x1, batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int, searching: bool) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = batch_norm(channels, searching)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c, H / stride, W / stride)."""
        return self.norm(self.pointwise(self.depthwise(F.relu(x))))


class Pool(nn.Module):
    """3x3 max or average pooling; the average leaves the padding out. Batch norm follows while searching."""

    def __init__(self, kind: str, channels: int, stride: int, searching: bool) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        self.norm = batch_norm(channels, searching) if searching else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c, H / stride, W / stride)."""
        return self.norm(pool(self.kind, x, self.stride))


def pool(kind: str, x: Tensor, stride: int) -> Tensor:
    """Return the 3x3 "max" or "avg" pooling of x (B, c, H, W), padding 1."""
    if kind == "max":
        return F.max_pool2d(x, 3, stride, 1)
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


class ChannelAttention(nn.Module):
    """Squeeze and excitation: x times one gate per channel (reference [45] of the paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // SQUEEZE_REDUCTION, SQUEEZE_FLOOR)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c, H, W)."""
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class SpatialAttention(nn.Module):
    """The spatial half of CBAM: x times one gate per pixel (reference [46] of the paper)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c, H, W)."""
        return x * torch.sigmoid(self.conv(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)))


def _separable(kernel: int) -> Callable[[int, int, bool], nn.Module]:
    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        return nn.Sequential(
            DepthwiseSeparable(channels, kernel, stride, 1, searching),
            DepthwiseSeparable(channels, kernel, 1, 1, searching),
        )

    return build


def _dilated(kernel: int) -> Callable[[int, int, bool], nn.Module]:
    return lambda channels, stride, searching: DepthwiseSeparable(channels, kernel, stride, 2, searching)


def _identity(channels: int, stride: int, searching: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, searching)


def _attention(gate: Callable[[int], nn.Module]) -> Callable[[int, int, bool], nn.Module]:
    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        return nn.Sequential(_identity(channels, stride, searching), gate(channels))

    return build


OPERATORS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "zero": lambda channels, stride, searching: Zero(stride),
    "identity": _identity,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "max_pool_3x3": lambda channels, stride, searching: Pool("max", channels, stride, searching),
    "avg_pool_3x3": lambda channels, stride, searching: Pool("avg", channels, stride, searching),
    "channel_att": _attention(ChannelAttention),
    "spatial_att": _attention(lambda channels: SpatialAttention()),
}
"""Operator name -> builder of (channels, stride, searching). Source: NAS-ASDet Table 1."""

assert tuple(OPERATORS) == OPERATOR_NAMES
