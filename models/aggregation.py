"""The searchable multi-level feature aggregation of AutoNAD (Sec. IV-C): a DAG of ten edges, and the head.

In the shape of FPN and UPerNet: lateral edges bring stages 1-3 to one width, the last stage goes through pyramid
pooling, levels are added from the top down, output edges refine three of the four, and the head fuses all at 1/4 of
the image. Maps are (B, H, W, C).
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from models.hybrid_architecture import POOLS
from models.sliced import SlicedConv, SlicedLinear, Variants

GROUP_CHANNELS = 8
"""Of a group norm: 32 groups at the default width, and enough values to normalise on a pooled map of one pixel."""

KERNELS = {"conv1x1": 1, "conv3x3": 3, "conv5x5": 5, "dilated3x3": 3, "depthwise3x3": 3}

EdgeChoice = tuple[int, str]
"""(channels in, operator)."""


class Edge(nn.Module):
    """One searchable edge: a convolution to a fixed width, group norm, ReLU.

    The standard kernels are centres of one; the depthwise operator owns its depthwise and pointwise weights.

    Args (constructor):
        choices: what it must be able to be.
        outputs: channels out.
    """

    def __init__(self, choices: Sequence[EdgeChoice], outputs: int) -> None:
        super().__init__()
        inputs = max(choice[0] for choice in choices)
        standard = [KERNELS[operator] for _, operator in choices if operator != "depthwise3x3"]
        self.outputs = outputs
        if standard:
            self.conv = SlicedConv(inputs, outputs, max(standard), bias=False)
        if len(standard) < len(choices):
            self.depthwise = SlicedConv(inputs, inputs, 3, depthwise=True, bias=False)
            self.pointwise = SlicedConv(inputs, outputs, 1, bias=False)
        self.norm = _group_norm(outputs)

    def forward(self, x: Tensor, choice: EdgeChoice) -> Tensor:
        """Return (B, H, W, outputs) of x (B, H, W, C)."""
        operator = choice[1]
        if operator == "depthwise3x3":
            y = self.pointwise(self.depthwise(x, x.shape[-1], 3), self.outputs, 1)
        else:
            y = self.conv(x, self.outputs, KERNELS[operator], dilation=2 if operator == "dilated3x3" else 1)
        return F.relu(self.norm(y.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def edge_inputs(widths: Sequence[Sequence[int]], width: int) -> tuple[Sequence[int], ...]:
    """Return per edge the channels in that it may have, from the widths per stage and the width of the levels."""
    return (*widths[:3], *(((width,),) * 3), *((widths[3],) * POOLS))


def edge_outputs(width: int) -> tuple[int, ...]:
    """Return per edge the channels out."""
    return (*((width,) * 6), *((width // POOLS,) * POOLS))


class Aggregation(nn.Module):
    """Four encoder maps to class logits.

    Args (constructor):
        widths: per stage the widths that it may have.
        operators: per edge, in the order of `EDGE_NAMES`, the operators that it may have.
        outputs: K logit maps.
        width: of all levels.
        sharing: one of `sliced.SHARINGS`.
    """

    def __init__(
        self,
        widths: Sequence[Sequence[int]],
        operators: Sequence[Sequence[str]],
        outputs: int,
        width: int,
        sharing: str,
    ) -> None:
        super().__init__()
        self.width = width
        inputs, sizes = edge_inputs(widths, width), edge_outputs(width)
        self.edges = nn.ModuleList(
            Variants(
                sharing,
                [(channels, operator) for channels in choices for operator in names],
                partial(Edge, outputs=size),
                operator=lambda choice: choice[1],
            )
            for choices, names, size in zip(inputs, operators, sizes, strict=True)
        )
        # The columns of the layer behind the concatenation, one part for the stage and one for each branch, so that a
        # narrower stage moves no branch to other columns.
        self.top = Variants(
            sharing, [(w,) for w in widths[3]], lambda m: SlicedLinear(max(w for (w,) in m), width, bias=False)
        )
        self.branches = nn.ModuleList(SlicedLinear(width // POOLS, width, bias=False) for _ in range(POOLS))
        self.top_norm = _group_norm(width)
        self.fuse = nn.ModuleList(SlicedLinear(width, width, bias=False) for _ in range(4))
        self.fuse_norm = _group_norm(width)
        self.classify = SlicedLinear(width, outputs)

    def forward(self, stages: Sequence[Tensor], edges: Sequence[str], pools: Sequence[int]) -> Tensor:
        """Return logits (B, K, H / 4, W / 4).

        Args:
            stages: the maps at 1/4, 1/8, 1/16 and 1/32, (B, H', W', C').
            edges: operator of each edge, in the order of `EDGE_NAMES`.
            pools: output sides of the four pooling branches.
        """
        levels = [self._edge(k, stages[k], edges) for k in range(3)]
        levels.append(self._pyramid(stages[3], edges, pools))
        for k in (2, 1, 0):
            levels[k] = levels[k] + resize(levels[k + 1], levels[k].shape[1:3])
        refined = [self._edge(3 + k, levels[k], edges) for k in range(3)] + [levels[3]]
        # A 1x1 layer commutes with resizing, so each level is fused at its own size and not at 1/4.
        size = refined[0].shape[1:3]
        parts = [resize(layer(x, self.width), size) for layer, x in zip(self.fuse, refined, strict=True)]
        fused = sum(parts[1:], start=parts[0])
        return self.classify(norm_relu(fused, self.fuse_norm), self.classify.weight.shape[0]).permute(0, 3, 1, 2)

    def _edge(self, index: int, x: Tensor, edges: Sequence[str]) -> Tensor:
        choice = (x.shape[-1], edges[index])
        return cast(Variants, self.edges[index]).of(choice)(x, choice)

    def _pyramid(self, x: Tensor, edges: Sequence[str], pools: Sequence[int]) -> Tensor:
        """Pyramid pooling of the last stage (reference [30]) with searchable sizes, fused to the common width."""
        total = self.top.of((x.shape[-1],))(x, self.width)
        for k, side in enumerate(pools):
            pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
            branch = self.branches[k](self._edge(6 + k, pooled, edges), self.width)
            total = total + resize(branch, x.shape[1:3])
        return norm_relu(total, self.top_norm)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP_CHANNELS), channels)


def norm_relu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Return the ReLU of the group norm of x (B, H, W, C)."""
    return F.relu(norm(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return x (B, H, W, C) bilinearly resized to (H', W')."""
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    resized = F.interpolate(x.permute(0, 3, 1, 2), size=tuple(size), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)
