"""Architectures as frozen values: what a search finds, apart from the networks built from it.

An architecture has one canonical form: the same network is always the same value, the same JSON and the same
digest. Description and builder are apart (as in NASBench-101), so an architecture can be logged, compared and
stored where torch is not installed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.canonical import digest_of, from_text, to_text

OPERATOR_NAMES = (
    "zero",
    "identity",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "max_pool_3x3",
    "avg_pool_3x3",
    "channel_att",
    "spatial_att",
)
"""The eleven candidate operators in the order of NAS-ASDet Table 1."""

NODES = 4
"""Intermediate nodes of a cell (Sec. 4.1.5)."""

CELL_KINDS = ("normal", "reduction")


class InvalidArchitecture(ValueError):
    """A text or value that is not an architecture of this space."""


@dataclass(frozen=True, order=True)
class CellEdge:
    """One kept edge into a node: `source` 0 is C_k-2, 1 is C_k-1, 2.. are earlier nodes."""

    source: int
    operator: str


Cell = tuple[tuple[CellEdge, ...], ...]
"""Per intermediate node its incoming edges, sorted by source."""


@dataclass(frozen=True)
class CellArchitecture:
    """A normal and a reduction cell, which NAS-ASDet stacks four times each.

    Source: NAS-ASDet Eq. 14-15 and Fig. 6. Construct it with `of`, which sorts and checks.
    """

    normal: Cell
    reduction: Cell

    @classmethod
    def of(
        cls, normal: Sequence[Sequence[tuple[int, str]]], reduction: Sequence[Sequence[tuple[int, str]]]
    ) -> "CellArchitecture":
        """Return the canonical architecture of (source, operator) pairs per node.

        Raises:
            InvalidArchitecture: wrong number of nodes, an unknown or zero operator, a source that is not
                earlier than its node, or two edges from one source.
        """
        return cls(_cell("normal", normal), _cell("reduction", reduction))

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "cell", "normal": [[[source, operator], ...], ...], "reduction": ...}."""
        cells = {k: [[[e.source, e.operator] for e in node] for node in getattr(self, k)] for k in CELL_KINDS}
        return {"kind": "cell", **cells}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CellArchitecture":
        """Rebuild what `to_dict` gave.

        Raises:
            InvalidArchitecture: as `of`, and for another kind or a missing cell.
        """
        if values.get("kind") != "cell":
            raise InvalidArchitecture(f"architecture of kind {values.get('kind')!r}; 'cell' is needed here")
        try:
            normal, reduction = ([[(int(s), str(o)) for s, o in node] for node in values[k]] for k in CELL_KINDS)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArchitecture(f"not a cell architecture: {error!r}") from error
        return cls.of(normal, reduction)

    def to_json(self) -> str:
        """Return the canonical JSON text."""
        return to_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "CellArchitecture":
        """Rebuild from JSON text.

        Raises:
            InvalidArchitecture: the text is not JSON or not an architecture.
        """
        return cls.from_dict(from_text(text, InvalidArchitecture, "cell architecture"))

    def digest(self) -> str:
        """Return the sha256 (hex) of the canonical JSON."""
        return digest_of(self.to_json())


def _cell(kind: str, nodes: Sequence[Sequence[tuple[int, str]]]) -> Cell:
    if len(nodes) != NODES:
        raise InvalidArchitecture(f"the {kind} cell has {len(nodes)} nodes; {NODES} are needed")
    cell = []
    for index, node in enumerate(nodes):
        edges = tuple(sorted(CellEdge(source, operator) for source, operator in node))
        for edge in edges:
            if edge.operator not in OPERATOR_NAMES or edge.operator == "zero":
                allowed = ", ".join(OPERATOR_NAMES[1:])
                raise InvalidArchitecture(f"{kind} node {index}: operator {edge.operator!r}; allowed are {allowed}")
            if not 0 <= edge.source < index + 2:
                raise InvalidArchitecture(f"{kind} node {index}: source {edge.source}; allowed are 0 to {index + 1}")
        if len({edge.source for edge in edges}) != len(edges):
            raise InvalidArchitecture(f"{kind} node {index}: two edges from one source")
        cell.append(edges)
    return tuple(cell)
