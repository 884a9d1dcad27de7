"""Mixed edges and cells exactly as NAS-ASDet Eq. 1-3 write them: one module per operator, summed one by one.

This plain form is the oracle of the batched form (`models/batched_cell.py`) and the form of retrained networks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import NODES
from models.cell_space import EDGES
from models.operators import OPERATORS, FactorizedReduce, batch_norm

RESIDUALS = ("pool_repeat", "pool_pad", "none", "proj", "factorized")


class ReluConvNorm(nn.Module):
    """ReLU, 1x1 convolution, batch norm: (B, in, H, W) to (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, searching: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = batch_norm(out_channels, searching)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out, H, W)."""
        return self.norm(self.conv(F.relu(x)))


class Residual(nn.Module):
    """res(C_k-1) of Eq. 3: identity in a normal cell; in a reduction cell half the size, twice the channels."""

    def __init__(self, kind: str, channels: int, reduction: bool, searching: bool) -> None:
        super().__init__()
        self.kind, self.reduction = kind, reduction
        self.project: nn.Module | None = None
        if reduction and kind == "proj":
            self.project = nn.Sequential(nn.AvgPool2d(2), ReluConvNorm(channels, 2 * channels, searching))
        elif reduction and kind == "factorized":
            self.project = FactorizedReduce(channels, 2 * channels, searching)
        elif kind not in RESIDUALS:
            raise ValueError(f"residual {kind!r}; allowed are {', '.join(RESIDUALS)}")

    def add_to(self, output: Tensor, previous: Tensor) -> Tensor:
        """Return output (B, c', H', W') plus res(previous)."""
        if not self.reduction:
            return output + previous
        if self.kind == "none":
            return output
        if self.project is not None:
            return output + self.project(previous)
        pooled = F.avg_pool2d(previous, 2)
        second = pooled if self.kind == "pool_repeat" else torch.zeros_like(pooled)
        return output + torch.cat([pooled, second], dim=1)


class MixedEdge(nn.Module):
    """The candidates of one edge, weighted by their softmax shares (Eq. 1)."""

    def __init__(self, candidates: tuple[str, ...], channels: int, stride: int, searching: bool) -> None:
        super().__init__()
        self.operators = nn.ModuleDict({name: OPERATORS[name](channels, stride, searching) for name in candidates})

    def forward(self, x: Tensor, shares: Tensor | None) -> Tensor:
        """Return the weighted sum, (B, c, H / stride, W / stride).

        Args:
            x: (B, c, H, W).
            shares: (candidates,) softmax shares; None for the one operator of a derived network.
        """
        if shares is None:
            (operator,) = self.operators.values()
            return operator(x)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for share, operator in zip(shares.unbind(), self.operators.values(), strict=True):
            total = total + share * operator(x)
        return total


class Cell(nn.Module):
    """One cell in plain form.

    Args (constructor):
        candidates: 14 candidate tuples in the order of `EDGES`.
        before_last, last: channels of C_k-2 and C_k-1.
        channels: width c of a node; the output has 4 c channels.
        reduction: halve the size; edges that leave the two inputs have stride 2.
        shrink_first: C_k-2 is twice as large as C_k-1, because the previous cell reduced.
        residual: one of `RESIDUALS`.
        searching: supernet form of the batch norms (see `operators`).
    """

    def __init__(
        self,
        candidates: tuple[tuple[str, ...], ...],
        *,
        before_last: int,
        last: int,
        channels: int,
        reduction: bool,
        shrink_first: bool,
        residual: str,
        searching: bool,
    ) -> None:
        super().__init__()
        self.candidates, self.channels, self.reduction = candidates, channels, reduction
        first = FactorizedReduce if shrink_first else ReluConvNorm
        self.preprocess0 = first(before_last, channels, searching)
        self.preprocess1 = ReluConvNorm(last, channels, searching)
        self.residual = Residual(residual, last, reduction, searching)
        self.edges = nn.ModuleDict(
            {
                edge_name(node, source): MixedEdge(names, channels, 2 if reduction and source < 2 else 1, searching)
                for (node, source), names in zip(EDGES, candidates, strict=True)
                if names
            }
        )

    def forward(self, before_last: Tensor, last: Tensor, shares: Tensor | None) -> Tensor:
        """Return C_k (Eq. 2-3), (B, 4c, H', W').

        Args:
            before_last: C_k-2. last: C_k-1, (B, C, H, W).
            shares: (14, candidates) softmax shares; None in a derived network.
        """
        states = [self.preprocess0(before_last), self.preprocess1(last)]
        rows = [None] * len(EDGES) if shares is None else shares.unbind()
        for node in range(NODES):
            incoming = [
                self.edges[edge_name(node, source)](states[source], rows[index])
                for index, (target, source) in enumerate(EDGES)
                if target == node and self.candidates[index]
            ]
            states.append(sum(incoming[1:], start=incoming[0]) if incoming else self._nothing(states))
        return self.residual.add_to(torch.cat(states[2:], dim=1), last)

    def _nothing(self, states: list[Tensor]) -> Tensor:
        # Only where zero may win an edge: a node without inputs is zero.
        x = states[0][:, :, ::2, ::2] if self.reduction else states[0]
        return torch.zeros_like(x)


def edge_name(node: int, source: int) -> str:
    """Return the parameter-name part of an edge, "node1_from3"."""
    return f"node{node}_from{source}"
