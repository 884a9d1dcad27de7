"""Architectures of the hybrid space as frozen values: what an AutoNAD search finds, apart from the networks.

Source: AutoNAD Sec. IV, Table I. As with cells there is one canonical form: the same network is always the same
value, the same JSON and the same digest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from models.architecture import InvalidArchitecture
from models.canonical import digest_of, from_text, to_text

BLOCK_OPERATORS = ("attention", "convolution", "mlp")
"""What a block of the encoder may do between its two steps (Eq. 24-26)."""

EDGE_OPERATORS = ("conv1x1", "conv3x3", "conv5x5", "dilated3x3", "depthwise3x3")
"""What an edge of the feature aggregation may do (Sec. IV-C)."""

STAGES = 4
POOLS = 4
EDGE_NAMES = (
    *(f"lateral{k}" for k in (1, 2, 3)),
    *(f"output{k}" for k in (1, 2, 3)),
    *(f"pool{k}" for k in (1, 2, 3, 4)),
)
"""The searchable edges: from stages 1-3 into the pyramid, from its levels to the head, and one per pooling branch."""


@dataclass(frozen=True, order=True)
class HybridBlock:
    """One block: its operator, the hidden over the input width of its FFN, and the kernel of a convolution, else 0."""

    operator: str
    ratio: float
    kernel: int = 0


@dataclass(frozen=True)
class HybridStage:
    """One stage of the encoder: the width of all its blocks, and the blocks."""

    width: int
    blocks: tuple[HybridBlock, ...]

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)


@dataclass(frozen=True)
class HybridArchitecture:
    """An encoder of four stages and its feature aggregation. Construct it with `of`, which checks.

    Attributes:
        stages: at 1/4, 1/8, 1/16 and 1/32 of the image.
        edges: operator of each of `EDGE_NAMES`.
        pools: output sides of the four pooling branches, not decreasing.
    """

    stages: tuple[HybridStage, ...]
    edges: tuple[str, ...]
    pools: tuple[int, ...]

    @classmethod
    def of(
        cls,
        stages: Sequence[tuple[int, Sequence[tuple[str, float, int]]]],
        edges: Sequence[str],
        pools: Sequence[int],
    ) -> "HybridArchitecture":
        """Return the canonical architecture of (width, [(operator, ratio, kernel), ...]) per stage, edges and pools.

        Raises:
            InvalidArchitecture: a count, operator, width, ratio, kernel or pool size that no such network has.
        """
        if len(stages) != STAGES:
            raise InvalidArchitecture(f"{len(stages)} stages; {STAGES} are needed")
        if len(edges) != len(EDGE_NAMES) or len(pools) != POOLS:
            raise InvalidArchitecture(f"{len(edges)} edges, {len(pools)} pools; {len(EDGE_NAMES)} and {POOLS} needed")
        for name, operator in zip(EDGE_NAMES, edges, strict=True):
            if operator not in EDGE_OPERATORS:
                raise InvalidArchitecture(f"edge {name}: {operator!r}; allowed are {', '.join(EDGE_OPERATORS)}")
        if min(pools) < 1:
            raise InvalidArchitecture(f"pools {list(pools)}: sizes begin at 1")
        built = tuple(_stage(number, width, blocks) for number, (width, blocks) in enumerate(stages, start=1))
        # Which branch has which size means nothing: they are concatenated, and each has weights of its own.
        return cls(built, tuple(edges), tuple(sorted(pools)))

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each stage."""
        return tuple(stage.width for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "hybrid", "stages": [{"width", "blocks": [[operator, ratio, kernel]]}], "edges", "pools"}."""
        stages = [
            {"width": stage.width, "blocks": [[b.operator, b.ratio, b.kernel] for b in stage.blocks]}
            for stage in self.stages
        ]
        return {"kind": "hybrid", "stages": stages, "edges": list(self.edges), "pools": list(self.pools)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HybridArchitecture":
        """Rebuild what `to_dict` gave.

        Raises:
            InvalidArchitecture: as `of`, and for another kind or a missing part.
        """
        if values.get("kind") != "hybrid":
            raise InvalidArchitecture(f"architecture of kind {values.get('kind')!r}; 'hybrid' is needed here")
        try:
            stages = [
                (int(s["width"]), [(str(o), float(ratio), int(kernel)) for o, ratio, kernel in s["blocks"]])
                for s in values["stages"]
            ]
            edges, pools = [str(e) for e in values["edges"]], [int(p) for p in values["pools"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArchitecture(f"not a hybrid architecture: {error!r}") from error
        return cls.of(stages, edges, pools)

    def __getstate__(self) -> dict[str, Any]:
        # Not the digest that is kept: a worker that tells the digest of what it scored must have computed it itself.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def to_json(self) -> str:
        """Return the canonical JSON text."""
        return to_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "HybridArchitecture":
        """Rebuild from JSON text.

        Raises:
            InvalidArchitecture: the text is not JSON or not an architecture.
        """
        return cls.from_dict(from_text(text, InvalidArchitecture, "hybrid architecture"))

    def digest(self) -> str:
        """Return the sha256 (hex) of the canonical JSON."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # A search asks for it dozens of times.
        return digest_of(self.to_json())


def _stage(number: int, width: int, blocks: Sequence[tuple[str, float, int]]) -> HybridStage:
    if width < 1 or not blocks:
        raise InvalidArchitecture(f"stage {number}: width {width} and {len(blocks)} blocks; at least 1 of each")
    built = []
    for index, (operator, ratio, kernel) in enumerate(blocks, start=1):
        where = f"stage {number}, block {index}"
        if operator not in BLOCK_OPERATORS:
            raise InvalidArchitecture(f"{where}: operator {operator!r}; allowed are {', '.join(BLOCK_OPERATORS)}")
        if not ratio > 0:
            raise InvalidArchitecture(f"{where}: ratio {ratio}; it must be above 0")
        if operator == "convolution" and (kernel < 1 or kernel % 2 == 0):
            raise InvalidArchitecture(f"{where}: kernel {kernel}; a convolution has an odd one")
        if operator != "convolution" and kernel:
            raise InvalidArchitecture(f"{where}: kernel {kernel}; only a convolution has one, others have 0")
        built.append(HybridBlock(operator, float(ratio), kernel))
    return HybridStage(width, tuple(built))
