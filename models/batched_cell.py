"""A cell whose mixed edges are computed in batches, by the groups of states that they leave (`source_group`).

Source: NAS-ASDet Eq. 2-3, computed in another order; equal to the plain cell but for rounding.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.cell import Cell
from models.source_group import GROUPS, SourceGroup


class BatchedCell(nn.Module):
    """A cell that computes what `plain` computes, by source groups; it takes plain's parameters over."""

    def __init__(self, plain: Cell) -> None:
        super().__init__()
        self.candidates, self.channels, self.reduction = plain.candidates, plain.channels, plain.reduction
        self.preprocess0, self.preprocess1 = plain.preprocess0, plain.preprocess1
        self.residual = plain.residual
        self.groups = nn.ModuleList(SourceGroup(plain, sources) for sources in GROUPS)

    def gather(self, shares: Tensor) -> list[dict[str, Tensor]]:
        """Return per group what its `gather` returns of shares (14, candidates); cells of a kind agree in it."""
        return [group.gather(shares) for group in self._groups()]

    def _groups(self) -> list[SourceGroup]:
        return cast(list[SourceGroup], list(self.groups))

    def forward(self, before_last: Tensor, last: Tensor, shares: list[dict[str, Tensor]]) -> Tensor:
        """Return C_k (Eq. 2-3), (B, 4c, H', W').

        Args:
            before_last: C_k-2. last: C_k-1, (B, C, H, W).
            shares: what `gather` returned.
        """
        inputs = [self.preprocess0(before_last), self.preprocess1(last)]
        nodes: list[Tensor] = []
        waiting: list[Tensor] = []
        for position, (group, share) in enumerate(zip(self._groups(), shares, strict=True)):
            added = group(inputs if position == 0 else [nodes[-1]], share)
            waiting = (
                list(added.unbind(1))
                if not waiting
                else [w + a for w, a in zip(waiting[1:], added.unbind(1), strict=True)]
            )
            nodes.append(waiting[0])
        return self.residual.add_to(torch.cat(nodes, dim=1), last)

    def plain_state(self) -> dict[str, Tensor]:
        """Return all parameters under the names that they have in the plain cell."""
        state = {k: v.detach() for k, v in self.named_parameters() if not k.startswith("groups.")}
        for group in self._groups():
            state.update(group.plain_state())
        return state
