"""A searched network that predicts and does not learn: the same function as `ASDetNet`, several times as fast.

Batch norms are folded into the convolutions before them, what several operators read is rectified once, sums are made
in place, and all maps are in channels-last memory order, which pays everywhere once nothing is kept for backward.
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
from models.operators import DepthwiseSeparable, FactorizedReduce


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
        return self._plus_residual(torch.cat(states[2:], dim=1), last)

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


def _convolutions(module: nn.Module) -> tuple[nn.Module, bool]:
    """Return a module with its norms folded away, and whether it must be given rectified maps: its own ReLU is gone."""
    if isinstance(module, ReluConvNorm):
        return _folded(module.conv, module.norm), True
    if isinstance(module, DepthwiseSeparable):
        return nn.Sequential(module.depthwise, _folded(module.pointwise, module.norm)), True
    if isinstance(module, FactorizedReduce):
        return _folded(_joined(module.even, module.odd), module.norm), True
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


def _joined(even: nn.Conv2d, odd: nn.Conv2d) -> nn.Conv2d:
    """Return the one 2x2 convolution of stride 2 that two 1x1 ones of stride 2, shifted by a pixel, amount to."""
    joined = nn.Conv2d(even.in_channels, even.out_channels + odd.out_channels, 2, stride=2, bias=False)
    weight = even.weight.new_zeros(joined.weight.shape)
    weight[: even.out_channels, :, 0, 0] = even.weight[:, :, 0, 0]
    weight[even.out_channels :, :, 1, 1] = odd.weight[:, :, 0, 0]
    joined.weight = nn.Parameter(weight)
    return joined.eval()
