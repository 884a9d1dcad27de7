"""The space of cells: candidate operators per edge, and how it shrinks to one architecture.

Source: NAS-ASDet Sec. 3.2.1 (the space), Eq. 12-15 (progressive pruning, the final two edges per node).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.architecture import CELL_KINDS, NODES, OPERATOR_NAMES, CellArchitecture

EDGES: tuple[tuple[int, int], ...] = tuple((node, source) for node in range(NODES) for source in range(node + 2))
"""(node, source) of each of the 14 edges of a cell; sources 0 and 1 are C_k-2 and C_k-1, 2.. are earlier nodes."""

Strengths = Mapping[str, Sequence[Sequence[float]]]
"""Per cell kind and edge one probability per candidate, in the order of the candidates."""


class InvalidSpace(ValueError):
    """Candidates or strengths that do not fit this space."""


@dataclass(frozen=True)
class CellSpace:
    """Candidate operators of every edge of the normal and of the reduction cell.

    Attributes:
        normal: 14 tuples of operator names, in the order of `EDGES`; an empty tuple is an absent edge.
        reduction: the same for the reduction cell.
    """

    normal: tuple[tuple[str, ...], ...]
    reduction: tuple[tuple[str, ...], ...]

    @classmethod
    def full(cls, operators: Sequence[str] = OPERATOR_NAMES) -> "CellSpace":
        """Return the space in which every edge has all `operators`.

        Raises:
            InvalidSpace: an operator is unknown or named twice, or none is left beside zero.
        """
        unknown = [name for name in operators if name not in OPERATOR_NAMES]
        if unknown:
            raise InvalidSpace(f"unknown operator {unknown[0]!r}; allowed are {', '.join(OPERATOR_NAMES)}")
        if len(set(operators)) != len(operators) or not set(operators) - {"zero"}:
            raise InvalidSpace(f"operators {list(operators)}: each once, and at least one beside zero")
        edge = tuple(operators)
        return cls((edge,) * len(EDGES), (edge,) * len(EDGES))

    @classmethod
    def of_architecture(cls, architecture: CellArchitecture) -> "CellSpace":
        """Return the space with this architecture as its one element; all other edges are absent."""

        def edges(kind: str) -> tuple[tuple[str, ...], ...]:
            kept = {(n, e.source): e.operator for n, node in enumerate(getattr(architecture, kind)) for e in node}
            return tuple((kept[edge],) if edge in kept else () for edge in EDGES)

        return cls(edges("normal"), edges("reduction"))

    def candidates(self, kind: str) -> tuple[tuple[str, ...], ...]:
        """Return the 14 candidate tuples of the "normal" or "reduction" cell."""
        return self.reduction if kind == "reduction" else self.normal

    @property
    def width(self) -> int:
        """The largest number of candidates of any edge."""
        return max(len(edge) for kind in CELL_KINDS for edge in self.candidates(kind))

    def prune(self, strengths: Strengths, keep: int, *, zero_can_win: bool = False) -> "CellSpace":
        """Return the space that keeps the strongest operators of every edge.

        Source: NAS-ASDet Eq. 12-13. When one operator is kept, zero leaves first unless `zero_can_win`: an
        edge that ends on zero could not be compared with others by Eq. 14.

        Args:
            strengths: see `Strengths`; unitless.
            keep: operators left per edge, at least 1 and at most the candidates there are.
            zero_can_win: let zero compete in the last pruning too.

        Raises:
            InvalidSpace: strengths of another shape or not finite, or keep out of range.
        """
        return CellSpace(
            *(
                tuple(
                    _strongest(candidates, strength, keep, zero_can_win or keep > 1)
                    for candidates, strength in zip(self.candidates(kind), self._checked(strengths, kind), strict=True)
                )
                for kind in CELL_KINDS
            )
        )

    def derive(self, strengths: Strengths, ranked_in: "CellSpace") -> CellArchitecture:
        """Return the architecture of a space with one operator per edge: the two strongest edges of every node.

        Source: NAS-ASDet Eq. 14 and the sentence before it. Once one operator is left every softmax is 1, so edges
        are compared by the probability that their operator had in an earlier space. Equal scores: lower source.

        Args:
            strengths: probabilities in `ranked_in`.
            ranked_in: the space in which edges are ranked, one that still has several candidates.

        Raises:
            InvalidSpace: this space has an edge with several candidates, or strengths do not fit `ranked_in` or are not
                finite.
        """
        if self.width != 1:
            raise InvalidSpace(f"edges have up to {self.width} candidates; prune to 1 before deriving")
        cells = []
        # DEPARTURE(edges-by-last-stage): Eq. 14 ranks by the softmax of the space it prunes to, which is 1 everywhere.
        for kind in CELL_KINDS:
            scores = ranked_in._checked(strengths, kind)
            nodes: list[list[tuple[float, int, str]]] = [[] for _ in range(NODES)]
            for index, ((node, source), kept) in enumerate(zip(EDGES, self.candidates(kind), strict=True)):
                if kept and kept[0] != "zero":
                    score = scores[index][ranked_in.candidates(kind)[index].index(kept[0])]
                    nodes[node].append((-score, source, kept[0]))
            cells.append([[(source, name) for _, source, name in sorted(node)[:2]] for node in nodes])
        return CellArchitecture.of(*cells)

    def to_dict(self) -> dict[str, Any]:
        """Return {"normal": [[names], ...], "reduction": ...}."""
        return {kind: [list(edge) for edge in self.candidates(kind)] for kind in CELL_KINDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CellSpace":
        """Rebuild what `to_dict` gave.

        Raises:
            InvalidSpace: a cell is missing or has not 14 edges.
        """
        cells = [tuple(tuple(edge) for edge in values.get(kind, ())) for kind in CELL_KINDS]
        if any(len(cell) != len(EDGES) for cell in cells):
            raise InvalidSpace(f"a cell has {len(EDGES)} edges; given were {[len(cell) for cell in cells]}")
        return cls(*cells)

    def _checked(self, strengths: Strengths, kind: str) -> Sequence[Sequence[float]]:
        given = [len(edge) for edge in strengths[kind]]
        wanted = [len(edge) for edge in self.candidates(kind)]
        if given != wanted:
            raise InvalidSpace(f"strengths of the {kind} cell have lengths {given}; the candidates have {wanted}")
        if not all(math.isfinite(strength) for edge in strengths[kind] for strength in edge):
            raise InvalidSpace(f"strengths of the {kind} cell are not all finite; they cannot be ranked")
        return strengths[kind]


def _strongest(
    candidates: tuple[str, ...], strength: Sequence[float], keep: int, zero_competes: bool
) -> tuple[str, ...]:
    if not 1 <= keep <= len(candidates):
        raise InvalidSpace(f"keep {keep} of {len(candidates)} candidates; allowed are 1 to {len(candidates)}")
    # DEPARTURE(zero-leaves-last): Eq. 12 lets zero compete to the end; such an edge Eq. 14 cannot rank.
    competing = [i for i, name in enumerate(candidates) if zero_competes or name != "zero"]
    ranked = sorted(competing, key=lambda i: (-strength[i], i))[:keep]
    return tuple(candidates[i] for i in sorted(ranked))
