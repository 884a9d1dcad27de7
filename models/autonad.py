"""The AutoNAD network over a space: four stages of blocks and the feature aggregation; supernet and subnet alike.

The architecture is an argument of `forward`, never state of the network (Sec. IV-B). A subnet on its own is this class
with room for one architecture, its weights taken over by `extract`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.aggregation import Aggregation
from models.hybrid_architecture import EDGE_NAMES, HybridArchitecture
from models.hybrid_block import BlockChoice, HybridBlock
from models.hybrid_space import HybridSpace
from models.sliced import SlicedConv, SlicedNorm, Variants, centre

REDUCTIONS = (8, 4, 2, 1)
"""Per stage, of the sides of keys and values in attention (Sec. IV-A)."""

KERNELS, STRIDES = (7, 3, 3, 3), (4, 2, 2, 2)
"""Of the patch embeddings."""


@dataclass(frozen=True)
class Room:
    """What a network must be able to be.

    Attributes:
        widths: per stage the widths.
        blocks: per stage and block the choices.
        edges: per edge of the aggregation the operators.
    """

    widths: tuple[tuple[int, ...], ...]
    blocks: tuple[tuple[tuple[BlockChoice, ...], ...], ...]
    edges: tuple[tuple[str, ...], ...]

    @classmethod
    def of_space(cls, space: HybridSpace) -> "Room":
        """Return the room for every architecture of a space."""
        blocks = []
        for widths, depths, ratios in zip(space.widths, space.depths, space.ratios, strict=True):
            choices = tuple((w, o, float(r), k) for w in widths for o, k in space.blocks for r in ratios)
            blocks.append((choices,) * max(depths))
        return cls(space.widths, tuple(blocks), (space.edge_operators,) * len(EDGE_NAMES))

    @classmethod
    def of_architecture(cls, architecture: HybridArchitecture) -> "Room":
        """Return the room for one architecture."""
        blocks = tuple(tuple((choice,) for choice in row) for row in choices_of(architecture))
        return cls(
            tuple((width,) for width in architecture.widths), blocks, tuple((name,) for name in architecture.edges)
        )


def choices_of(architecture: HybridArchitecture) -> list[list[BlockChoice]]:
    """Return per stage the choice of each block."""
    return [[(s.width, b.operator, b.ratio, b.kernel) for b in s.blocks] for s in architecture.stages]


class AutoNADNet(nn.Module):
    """The network over a room.

    Args (constructor):
        room: see `Room`.
        in_channels: of the images.
        classes: defect classes; the background is logit map 0.
        width: of the levels of the feature aggregation.
        sharing: one of `sliced.SHARINGS`.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    def __init__(
        self,
        room: Room,
        *,
        in_channels: int,
        classes: int,
        width: int = 256,
        sharing: str = "cross",
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.room, self.in_channels, self.classes, self.width = room, in_channels, classes, width
        last = max(1, sum(len(row) for row in room.blocks) - 1)
        numbers = count()
        self.embeddings, self.embedding_norms = nn.ModuleList(), nn.ModuleList()
        self.stages, self.norms = nn.ModuleList(), nn.ModuleList()
        before: tuple[int, ...] = (in_channels,)
        for stage, (widths, row) in enumerate(zip(room.widths, room.blocks, strict=True)):
            pairs, singles = [(a, b) for a in before for b in widths], [(w,) for w in widths]
            self.embeddings.append(Variants(sharing, pairs, partial(_embedding, KERNELS[stage])))
            self.embedding_norms.append(Variants(sharing, singles, _norm))
            blocks = nn.ModuleList()
            for choices in row:
                build = partial(HybridBlock, reduction=REDUCTIONS[stage], drop_path=drop_path * next(numbers) / last)
                blocks.append(Variants(sharing, choices, build, _operator))
            self.stages.append(blocks)
            self.norms.append(Variants(sharing, singles, _norm))
            before = widths
        self.aggregation = Aggregation(room.widths, room.edges, classes + 1, width, sharing)

    def forward(self, images: Tensor, architecture: HybridArchitecture) -> Tensor:
        """Return logits (B, classes + 1, H, W) of images (B, C, H, W), by the subnet of an architecture."""
        stages = self.features(images, architecture)
        logits = self.aggregation(stages, architecture.edges, architecture.pools)
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    def features(self, images: Tensor, architecture: HybridArchitecture) -> list[Tensor]:
        """Return the maps of the four stages, (B, H', W', C')."""
        x = images.permute(0, 2, 3, 1)
        found = []
        for index, choices in enumerate(choices_of(architecture)):
            width = choices[0][0]
            embed = _place(self.embeddings, index).of((x.shape[-1], width))
            x = embed(x, width, KERNELS[index], stride=STRIDES[index])
            x = _place(self.embedding_norms, index).of((width,))(x)
            for block, choice in enumerate(choices):
                x = _place(self.stages[index], block).of(choice)(x, choice)
            x = _place(self.norms, index).of((width,))(x)
            found.append(x)
        return found


def _place(places: nn.Module, index: int) -> Variants:
    return cast(Variants, cast(nn.ModuleList, places)[index])


def _embedding(kernel: int, pairs: Sequence[tuple[int, int]]) -> SlicedConv:
    return SlicedConv(max(a for a, _ in pairs), max(b for _, b in pairs), kernel)


def _norm(widths: Sequence[tuple[int]]) -> SlicedNorm:
    return SlicedNorm(max(width for (width,) in widths))


def _operator(choice: BlockChoice) -> str:
    return choice[1]


def extract(network: AutoNADNet, architecture: HybridArchitecture) -> AutoNADNet:
    """Return a network of just one architecture's size with the weights that it has in a supernet."""
    drop = max((m.drop_path for m in network.modules() if isinstance(m, HybridBlock)), default=0.0)
    plain = AutoNADNet(
        Room.of_architecture(architecture),
        in_channels=network.in_channels,
        classes=network.classes,
        width=network.width,
        drop_path=drop,
    )
    first = next(network.parameters())
    plain = plain.to(device=first.device, dtype=first.dtype).train(network.training)
    with torch.no_grad():
        for target, source in _pairs(plain, network, architecture):
            for name, parameter in target.named_parameters():
                parameter.copy_(inherited(source.get_parameter(name), parameter.shape))
    return plain


def inherited(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the part of a weight that a smaller layer uses: leading entries, the centre of a kernel (Eq. 27, 28)."""
    if weight.dim() >= 4:
        weight = centre(weight, shape[-1])
    return weight[tuple(slice(0, size) for size in shape)]


def _pairs(
    plain: AutoNADNet, network: AutoNADNet, architecture: HybridArchitecture
) -> list[tuple[nn.Module, nn.Module]]:
    """Return the modules of a plain network with those of a supernet whose weights they get."""
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def places(name: str, choices: Sequence[tuple[object, ...]]) -> None:
        own, other = plain.get_submodule(name), network.get_submodule(name)
        pairs.extend((_place(own, k).of(choice), _place(other, k).of(choice)) for k, choice in enumerate(choices))

    widths = architecture.widths
    places("embeddings", list(zip((network.in_channels, *widths[:3]), widths, strict=True)))
    places("embedding_norms", [(width,) for width in widths])
    places("norms", [(width,) for width in widths])
    for stage, choices in enumerate(choices_of(architecture)):
        places(f"stages.{stage}", choices)
    inputs = (*widths[:3], *((network.width,) * 3), *((widths[3],) * 4))
    places("aggregation.edges", list(zip(inputs, architecture.edges, strict=True)))
    own, other = plain.aggregation, network.aggregation
    pairs.append((own.top.of((widths[3],)), other.top.of((widths[3],))))
    for name in ("branches", "top_norm", "fuse", "fuse_norm", "classify"):
        pairs.append((own.get_submodule(name), other.get_submodule(name)))
    return pairs
