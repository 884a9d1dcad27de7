"""Parameters of a subnet by itself without building it, for searches that price thousands.

Each place of a network has the parameters of its choice, whatever the other places chose: they are counted once per
choice, on a module without memory, and then added up.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from models.aggregation import Aggregation, Edge, edge_inputs, edge_outputs
from models.autonad import KERNELS, REDUCTIONS, choices_of
from models.hybrid_architecture import EDGE_NAMES, STAGES, HybridArchitecture
from models.hybrid_block import HybridBlock
from models.sliced import SlicedConv, SlicedNorm


def parameters_of(architecture: HybridArchitecture, *, in_channels: int, classes: int, width: int = 256) -> int:
    """Return the parameters of `AutoNADNet` over the room of one architecture.

    Args:
        architecture: of the subnet.
        in_channels: of the images.
        classes: defect classes, without the background.
        width: of the levels of the feature aggregation.
    """
    widths = architecture.widths
    embeddings = zip((in_channels, *widths[:3]), widths, KERNELS, strict=True)
    blocks = zip(choices_of(architecture), REDUCTIONS, strict=True)
    inputs = edge_inputs([(w,) for w in widths], width)
    edges = zip(inputs, architecture.edges, edge_outputs(width), strict=True)
    return (
        sum(_parameters(SlicedConv, *embedding) for embedding in embeddings)
        # Behind the embedding, and at the end of the stage.
        + sum(2 * _parameters(SlicedNorm, w) for w in widths)
        + sum(_parameters(HybridBlock, (choice,), reduction, 0.0) for row, reduction in blocks for choice in row)
        + sum(_parameters(Edge, ((channels, name),), size) for (channels,), name, size in edges)
        + _head_parameters(widths[-1], classes + 1, width)
    )


@cache
def _parameters(build: Callable[..., nn.Module], *arguments: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(*arguments).parameters())


@cache
def _head_parameters(last: int, outputs: int, width: int) -> int:
    """Return those of the feature aggregation that are in none of its edges."""
    with torch.device("meta"):
        whole = Aggregation([(last,)] * STAGES, [("conv1x1",)] * len(EDGE_NAMES), outputs, width, "cross")
    return sum(p.numel() for name, p in whole.named_parameters() if not name.startswith("edges."))
