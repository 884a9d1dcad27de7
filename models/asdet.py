"""The NAS-ASDet network over a space: stem, eight cells, adaptive fusion, branch heads.

One class for the supernet and for the searched network, which is this class on a space with one element left.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adaptive_fusion import AdaptiveFusion
from models.architecture import CELL_KINDS
from models.batched_cell import BatchedCell
from models.cell import Cell
from models.cell_space import EDGES, CellSpace
from models.operators import BATCH_NORM_EPS

CELLS = ("normal", "reduction") * 4
"""Eq. 4, Sec. 4.1.5."""

STRIDES = (2, 4, 4, 8, 8, 16, 16, 32)
"""Of the cells' outputs; the input has stride 1."""

TAPS = (0, 2, 4, 6, 7)
"""Cells whose outputs are Fea_1..Fea_5: the last of each level."""

DIVISOR = 32
"""Heights and widths are padded to a multiple of this."""

CHANNELS_LAST_SIDE = 8

Shares = Mapping[str, Tensor]
"""Per cell kind the softmax of its alphas, (14, candidates)."""


class ASDetNet(nn.Module):
    """The network of a space.

    Args (constructor):
        space: candidates per edge; with one candidate per edge `shares` is None in `forward`.
        in_channels: of the images.
        classes: K logit maps.
        channels: width C of the first cell's nodes; doubles at every reduction.
        stem_multiplier: the stem has this many times C channels.
        residual, fusion, fusion_reduction: see `cell.Residual` and `AdaptiveFusion`.
        searching: build the supernet form of the batch norms.
    """

    def __init__(
        self,
        space: CellSpace,
        *,
        in_channels: int,
        classes: int,
        channels: int = 16,
        stem_multiplier: int = 4,
        residual: str = "pool_repeat",
        fusion: str = "adaptive",
        fusion_reduction: int = 16,
        searching: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.classes = space, classes
        stem = stem_multiplier * channels
        # The stem's norm keeps its affine parameters while searching, as in DARTS: no alpha scales it.
        norm = nn.BatchNorm2d(stem, eps=BATCH_NORM_EPS, track_running_stats=not searching)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False), norm)
        self.cells = nn.ModuleList()
        before_last, last, width, shrink = stem, stem, channels, False
        taps = []
        for index, kind in enumerate(CELLS):
            reduction = kind == "reduction"
            width *= 2 if reduction else 1
            self.cells.append(
                Cell(
                    space.candidates(kind),
                    before_last=before_last,
                    last=last,
                    channels=width,
                    reduction=reduction,
                    shrink_first=shrink,
                    residual=residual,
                    searching=searching,
                )
            )
            before_last, last, shrink = last, 4 * width, reduction
            taps += [last] if index in TAPS else []
        self.fusion = AdaptiveFusion(tuple(taps), classes, fusion_reduction, fusion)
        self.form = "plain"
        self.layouts = [torch.contiguous_format] * len(CELLS)

    def batch_edges(self) -> "ASDetNet":
        """Turn the cells of a supernet into their batched form, in place; weights are kept. Returns self."""
        self.cells = nn.ModuleList(BatchedCell(cast(Cell, cell)) for cell in self.cells)
        self.form = "batched"
        return self

    def plain_state(self) -> dict[str, Tensor]:
        """Return the parameters under the names of the plain form, whichever form this is."""
        state = {k: v.detach() for k, v in self.named_parameters() if not k.startswith("cells.")}
        for index, cell in enumerate(self.cells):
            own = cell.plain_state() if isinstance(cell, BatchedCell) else dict(cell.named_parameters())
            state.update({f"cells.{index}.{k}": v.detach() for k, v in own.items()})
        return state

    def lay_out(self, image_size: int, device_type: str) -> "ASDetNet":
        """Use channels-last memory order in the cells where it pays, in place. Returns self.

        On CPU: normal cells on maps of 8 px and more, where a batched cell's step is up to 1.4 times as fast.
        On smaller maps and at stride 2 it is slower. On a GPU: all.
        """
        for index, (kind, cell) in enumerate(zip(CELLS, self.cells, strict=True)):
            side = image_size // STRIDES[index]
            if device_type != "cpu" or (kind == "normal" and side >= CHANNELS_LAST_SIDE):
                self.layouts[index] = torch.channels_last
                cell.to(memory_format=torch.channels_last)
        return self

    def features(self, images: Tensor, shares: Shares | None) -> list[Tensor]:
        """Return Fea_1..Fea_5 of images (B, C, H, W), H and W multiples of 32."""
        stem = self.stem(images)
        before_last, last, taps = stem, stem, []
        weights = self.prepare(shares)
        for index, (kind, cell) in enumerate(zip(CELLS, self.cells, strict=True)):
            layout = self.layouts[index]
            before_last, last = before_last.contiguous(memory_format=layout), last.contiguous(memory_format=layout)
            before_last, last = last, cell(before_last, last, weights[kind])
            if index in TAPS:
                taps.append(last)
        return taps

    def prepare(self, shares: Shares | None) -> Mapping[str, object]:
        """Return per cell kind what its cells take as shares; the batched form gathers them once for all four."""
        if shares is None:
            return dict.fromkeys(CELL_KINDS)
        if self.form == "plain":
            return shares
        first = {kind: cast(BatchedCell, self.cells[CELLS.index(kind)]) for kind in CELL_KINDS}
        return {kind: first[kind].gather(shares[kind]) for kind in CELL_KINDS}

    def forward(self, images: Tensor, shares: Shares | None = None, *, branches: bool = False) -> Tensor:
        """Return logits (1, B, K, H, W), or (6, B, K, H, W) with the five branches behind the output.

        Args:
            images: (B, C, H, W); padded here to multiples of 32 and the logits cropped.
            shares: see `Shares`; None for a network with one operator per edge.
            branches: also compute the branch heads.
        """
        height, width = images.shape[2:]
        padded = pad_to_grid(images)
        logits = self.fusion(self.features(padded, shares), _size(padded), branches)
        return logits[..., :height, :width]

    def as_written(self, images: Tensor, shares: Shares | None = None, *, branches: bool = False) -> Tensor:
        """Return what `forward` returns with the fusion in the paper's order (see `AdaptiveFusion.as_written`)."""
        height, width = images.shape[2:]
        padded = pad_to_grid(images)
        logits = self.fusion.as_written(self.features(padded, shares), _size(padded), branches)
        return logits[..., :height, :width]


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


def pad_to_grid(images: Tensor) -> Tensor:
    """Return images padded below and at the right, edge pixels repeated, to multiples of 32."""
    bottom, right = (-images.shape[2]) % DIVISOR, (-images.shape[3]) % DIVISOR
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


def initial_alphas(space: CellSpace, scale: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return one alpha table per cell kind, (14, candidates), drawn from N(0, scale^2) on the CPU."""
    return {kind: scale * torch.randn(len(EDGES), space.width, generator=generator) for kind in CELL_KINDS}


def softmax_shares(alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the softmax of each edge's alphas (Eq. 1)."""
    return {kind: torch.softmax(alphas[kind], dim=-1) for kind in CELL_KINDS}
