"""A searched network that predicts and does not learn: the same function as `ASDetNet`, several times as fast.

Batch norms are folded into the convolutions before them, what several operators read is rectified once, sums are made
in place, three operators have a form of their own (below), and all maps are in channels-last memory order, which pays
everywhere once nothing is kept for backward.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.architecture import NODES
from models.asdet import TAPS, ASDetNet, pad_to_grid
from models.cell import Cell, MixedEdge, ReluConvNorm, edge_name
from models.cell_space import EDGES
from models.operators import DepthwiseSeparable, FactorizedReduce, Pool, SpatialAttention, pool


class InferenceNet(nn.Module):
    """The predicting copy of a searched network, which is left untouched.

    Args (constructor):
        network: one operator per edge, with running statistics in its batch norms.
    """

    def __init__(self, network: ASDetNet) -> None:
        super().__init__()
        source = copy.deepcopy(network).eval()
        self.stem = _folded(source.stem[0], source.stem[1])
        self.cells = nn.ModuleList(InferenceCell(cast(Cell, cell)) for cell in source.cells)
        self.fusion = source.fusion
        self.to(memory_format=torch.channels_last).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K, H, W) of images (B, C, H, W)."""
        height, width = images.shape[2:]
        padded = pad_to_grid(images).contiguous(memory_format=torch.channels_last)
        stem = self.stem(padded)
        # Each map goes with its rectified copy: the next two cells read both.
        before_last = last = (stem, F.relu(stem))
        taps = []
        for index, cell in enumerate(self.cells):
            output = cell(before_last[1], *last)
            before_last, last = last, (output, F.relu(output))
            taps += [output] if index in TAPS else []
        logits = self.fusion(taps, (padded.shape[2], padded.shape[3]), branches=False)
        return logits[0, ..., :height, :width]


class InferenceCell(nn.Module):
    """A cell whose inputs come rectified."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.strided, self.residual = cell.reduction, cell.residual
        self.preprocess0, _ = _convolutions(cell.preprocess0)
        self.preprocess1, _ = _convolutions(cell.preprocess1)
        self.edges = nn.ModuleDict()
        self.incoming: list[list[tuple[int, str, bool]]] = [[] for _ in range(NODES)]
        for (node, source), names in zip(EDGES, cell.candidates, strict=True):
            if names:
                name = edge_name(node, source)
                (operator,) = cast(MixedEdge, cell.edges[name]).operators.values()
                self.edges[name], rectified = _convolutions(operator)
                self.incoming[node].append((source, name, rectified))

    def forward(self, before_last: Tensor, last: Tensor, last_rectified: Tensor) -> Tensor:
        """Return C_k of C_k-2 rectified, C_k-1, and C_k-1 rectified."""
        states = [self.preprocess0(before_last), self.preprocess1(last_rectified)]
        rectified: dict[int, Tensor] = {}
        for incoming in self.incoming:
            values = []
            for source, name, wants_rectified in incoming:
                if wants_rectified and source not in rectified:
                    rectified[source] = F.relu(states[source])
                values.append(self.edges[name](rectified[source] if wants_rectified else states[source]))
            states.append(sum(values[1:], start=values[0]) if values else self._nothing(states[0]))
        return self._plus_residual(_joined(states[2:]), last)

    def _plus_residual(self, output: Tensor, last: Tensor) -> Tensor:
        """Add in place what `Residual.add_to` adds."""
        if not self.residual.reduction:
            return output.add_(last)
        if not self.residual.kind.startswith("pool"):
            return self.residual.add_to(output, last)
        pooled = F.avg_pool2d(last, 2)
        for half in output.chunk(2, dim=1)[: 2 if self.residual.kind == "pool_repeat" else 1]:
            half.add_(pooled)
        return output

    def _nothing(self, state: Tensor) -> Tensor:
        return torch.zeros_like(state[:, :, ::2, ::2] if self.strided else state)


class PairedPixels(nn.Module):
    """A factorized reduction as one grouped 1x1 convolution of the pixels that it reads: half of the map."""

    def __init__(self, reduction: FactorizedReduce) -> None:
        super().__init__()
        even, odd = reduction.even, reduction.odd
        both = nn.Conv2d(2 * even.in_channels, even.out_channels + odd.out_channels, 1, groups=2, bias=False)
        both.weight = nn.Parameter(torch.cat([even.weight, odd.weight]))
        self.conv = _folded(both.eval(), reduction.norm)

    def forward(self, rectified: Tensor) -> Tensor:
        """Return (B, c', H / 2, W / 2) of (B, c, H, W), H and W even."""
        return self.conv(torch.cat([rectified[:, :, ::2, ::2], rectified[:, :, 1::2, 1::2]], dim=1))


class RunningMax(nn.Module):
    """3x3 max pooling of stride 1 by columns, then by rows: PyTorch's own also finds where each maximum lies."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c, H, W)."""
        if x.device.type != "cpu":
            return pool("max", x, 1)
        for dim in (2, 3):
            most, neighbours = x.clone(), x.shape[dim] - 1
            for to, by in ((1, 0), (0, 1)):
                part = most.narrow(dim, to, neighbours)
                torch.maximum(part, x.narrow(dim, by, neighbours), out=part)
            x = most
        return x


class RowwiseAttention(nn.Module):
    """Spatial attention whose k x k convolution to one channel is k convolutions of 1 x k, shifted and summed.

    Convolutions on a CPU work on eight channels out at a time, so one alone costs as much as seven.
    """

    def __init__(self, attention: SpatialAttention) -> None:
        super().__init__()
        self.weight = nn.Parameter(attention.conv.weight[0].transpose(0, 1).unsqueeze(2).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, c, H, W)."""
        side = len(self.weight)
        found = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        rows = F.conv2d(found, self.weight, padding=side // 2)
        of_image, of_row, down, right = rows.stride()
        # Row y of the sum takes row y + r of the map of kernel row r.
        shifted = rows.as_strided((x.shape[0], side, *x.shape[2:]), (of_image, of_row + down, down, right))
        return x * torch.sigmoid(shifted.sum(1, keepdim=True))


def _convolutions(module: nn.Module) -> tuple[nn.Module, bool]:
    """Return a module with its norms folded away, and whether it must be given rectified maps: its own ReLU is gone."""
    if isinstance(module, ReluConvNorm):
        return _folded(module.conv, module.norm), True
    if isinstance(module, DepthwiseSeparable):
        return nn.Sequential(module.depthwise, _folded(module.pointwise, module.norm)), True
    if isinstance(module, FactorizedReduce):
        return PairedPixels(module), True
    if isinstance(module, SpatialAttention):
        return RowwiseAttention(module), False
    if isinstance(module, Pool) and module.kind == "max" and module.stride == 1:
        return RunningMax(), False
    if not isinstance(module, nn.Sequential):
        return module, False
    first, rectified = _convolutions(module[0])
    parts = [first]
    for later in module[1:]:
        part, wants_rectified = _convolutions(later)
        parts += [nn.ReLU(inplace=True), part] if wants_rectified else [part]
    return nn.Sequential(*parts), rectified


def _folded(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    return fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm))


def _joined(nodes: list[Tensor]) -> Tensor:
    """Return what `torch.cat(nodes, dim=1)` returns, which is slow in channels-last memory order on a CPU."""
    first = nodes[0]
    batch, channels, height, width = first.shape
    shape = (batch, channels * len(nodes), height, width)
    joined = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)
    for part, node in zip(joined.split(channels, dim=1), nodes, strict=True):
        part.copy_(node)
    return joined
