"""The hybrid space of AutoNAD: what may be chosen at each place, how many architectures that makes, and drawing them.

Source: AutoNAD Sec. IV-A, IV-C, Table I. The space is data: subsets of operators (Table V), kernels and the other
reading of Table I are values of `HybridSpace`, not code.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, prod
from typing import Any

from models.hybrid_architecture import (
    BLOCK_OPERATORS,
    EDGE_NAMES,
    EDGE_OPERATORS,
    POOLS,
    STAGES,
    HybridArchitecture,
    HybridBlock,
    HybridStage,
)

HEAD_WIDTH = 32
"""Channels of an attention head; every width is a multiple of it (Sec. IV-A)."""

OperatorPrior = Mapping[tuple[int, int], Mapping[str, float]]
"""Per (stage, block), both from 0, a probability for each operator."""


class InvalidSpace(ValueError):
    """Choices that make no space."""


@dataclass(frozen=True)
class HybridSpace:
    """What may be chosen.

    Attributes:
        widths: per stage the widths, each a multiple of 32.
        depths: per stage the numbers of blocks.
        ratios: per stage the hidden over the input width of a block's FFN.
        operators: of a block.
        kernels: of a convolution block, odd.
        edge_operators: of an edge of the feature aggregation.
        pool_sizes: of a pooling branch.
    """

    widths: tuple[tuple[int, ...], ...] = ((32,), (32, 64, 96), (128, 160, 192), (192, 224, 256))
    depths: tuple[tuple[int, ...], ...] = ((1, 2, 3),) * STAGES
    ratios: tuple[tuple[float, ...], ...] = ((7.5, 8.0, 8.5),) * 2 + ((3.5, 4.0, 4.5),) * 2
    operators: tuple[str, ...] = BLOCK_OPERATORS
    kernels: tuple[int, ...] = (3,)
    edge_operators: tuple[str, ...] = EDGE_OPERATORS
    pool_sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6)

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "ratios"):
            rows = getattr(self, name)
            if len(rows) != STAGES:
                raise InvalidSpace(f"{name}: {len(rows)} rows; one for each of the {STAGES} stages is needed")
            for row in rows:
                _check_choices(name, row, lambda value: value > 0, "above 0")
        for row in self.widths:
            _check_choices("widths", row, lambda width: width % HEAD_WIDTH == 0, f"multiples of {HEAD_WIDTH}")
        _check_choices("operators", self.operators, lambda o: o in BLOCK_OPERATORS, ", ".join(BLOCK_OPERATORS))
        _check_choices("kernels", self.kernels, lambda k: k > 0 and k % 2 == 1, "odd and above 0")
        _check_choices("edge_operators", self.edge_operators, lambda o: o in EDGE_OPERATORS, ", ".join(EDGE_OPERATORS))
        _check_choices("pool_sizes", self.pool_sizes, lambda p: p > 0, "above 0")

    @property
    def blocks(self) -> tuple[tuple[str, int], ...]:
        """The (operator, kernel) pairs that a block may have."""
        return tuple(
            (operator, kernel)
            for operator in self.operators
            for kernel in (self.kernels if operator == "convolution" else (0,))
        )

    @property
    def encoders(self) -> int:
        """How many encoders there are."""
        return prod(
            len(widths) * sum((len(ratios) * len(self.blocks)) ** depth for depth in depths)
            for widths, depths, ratios in zip(self.widths, self.depths, self.ratios, strict=True)
        )

    @property
    def size(self) -> int:
        """How many architectures there are."""
        pools = comb(len(self.pool_sizes) + POOLS - 1, POOLS)
        return self.encoders * len(self.edge_operators) ** len(EDGE_NAMES) * pools

    def contains(self, architecture: HybridArchitecture) -> bool:
        """Return whether every choice of an architecture is one of this space."""
        return (
            all(
                stage.width in widths
                and stage.depth in depths
                and all(b.ratio in ratios and (b.operator, b.kernel) in self.blocks for b in stage.blocks)
                for stage, widths, depths, ratios in zip(
                    architecture.stages, self.widths, self.depths, self.ratios, strict=True
                )
            )
            and set(architecture.edges) <= set(self.edge_operators)
            and set(architecture.pools) <= set(self.pool_sizes)
        )

    def smallest(self) -> HybridArchitecture:
        """Return the least of every choice, with the first operators."""
        return self._extreme(min, self.blocks[0], self.edge_operators[0])

    def least(
        self, cost: Callable[[HybridArchitecture], float], edges: Sequence[str] | None = None
    ) -> HybridArchitecture:
        """Return the smallest architecture with the operators that cost least, chosen stage by stage and edge by edge.

        Exact for costs that are sums over stages and edges, as parameters and MACs are.

        Args:
            cost: of an architecture.
            edges: operators of the edges, where they are known to cost least; None: they are chosen too.
        """
        best = self.smallest() if edges is None else dataclasses.replace(self.smallest(), edges=tuple(edges))
        lowest = cost(best)
        for number in range(STAGES):
            for operator, kernel in self.blocks[1:]:
                stages = list(best.stages)
                blocks = tuple(HybridBlock(operator, block.ratio, kernel) for block in stages[number].blocks)
                stages[number] = dataclasses.replace(stages[number], blocks=blocks)
                other = dataclasses.replace(best, stages=tuple(stages))
                if (paid := cost(other)) < lowest:
                    best, lowest = other, paid
        for number in range(len(EDGE_NAMES) if edges is None else 0):
            for operator in self.edge_operators[1:]:
                other = dataclasses.replace(best, edges=(*best.edges[:number], operator, *best.edges[number + 1 :]))
                if (paid := cost(other)) < lowest:
                    best, lowest = other, paid
        return best

    def largest(self) -> HybridArchitecture:
        """Return the most of every choice, with convolutions of 5x5 on the edges where the space has them."""
        kernels = {operator: size for operator, size in (("conv3x3", 1), ("dilated3x3", 1), ("conv5x5", 2))}
        return self._extreme(max, self.blocks[0], max(self.edge_operators, key=lambda name: kernels.get(name, 0)))

    def _extreme(self, pick: Any, block: tuple[str, int], edge: str) -> HybridArchitecture:
        stages = tuple(
            HybridStage(pick(widths), (HybridBlock(block[0], float(pick(ratios)), block[1]),) * pick(depths))
            for widths, depths, ratios in zip(self.widths, self.depths, self.ratios, strict=True)
        )
        return HybridArchitecture(stages, (edge,) * len(EDGE_NAMES), (pick(self.pool_sizes),) * POOLS)

    def sample(self, generator: random.Random, prior: OperatorPrior | None = None) -> HybridArchitecture:
        """Return an architecture whose choices are each drawn uniformly; operators by the prior where one is given."""
        stages = []
        for number, depths in enumerate(self.depths):
            blocks = [self.sample_block(generator, (number, k), prior) for k in range(generator.choice(depths))]
            stages.append(HybridStage(generator.choice(self.widths[number]), tuple(blocks)))
        edges = tuple(generator.choice(self.edge_operators) for _ in EDGE_NAMES)
        pools = tuple(sorted(generator.choice(self.pool_sizes) for _ in range(POOLS)))
        return HybridArchitecture(tuple(stages), edges, pools)

    def sample_block(
        self, generator: random.Random, place: tuple[int, int], prior: OperatorPrior | None = None
    ) -> HybridBlock:
        """Return a random block for a place (stage, block); its operator by the prior where one is given."""
        weights = None if prior is None else [prior[place][name] for name in self.operators]
        (operator,) = generator.choices(self.operators, weights)
        kernel = generator.choice(self.kernels) if operator == "convolution" else 0
        return HybridBlock(operator, float(generator.choice(self.ratios[place[0]])), kernel)

    def mutate(
        self,
        architecture: HybridArchitecture,
        rate: float,
        generator: random.Random,
        prior: OperatorPrior | None = None,
    ) -> HybridArchitecture:
        """Return an architecture in which every gene was drawn anew with probability `rate`.

        Genes are the width and the depth of each stage, each block, each edge and each pool size; operators of new
        blocks follow the prior. Blocks that a smaller depth cuts off are lost, those that a larger one adds are new.
        """

        def chance() -> bool:
            return generator.random() < rate

        stages = []
        for number, stage in enumerate(architecture.stages):
            width = generator.choice(self.widths[number]) if chance() else stage.width
            depth = generator.choice(self.depths[number]) if chance() else stage.depth
            blocks = [
                self.sample_block(generator, (number, k), prior) if k >= stage.depth or chance() else stage.blocks[k]
                for k in range(depth)
            ]
            stages.append(HybridStage(width, tuple(blocks)))
        edges = tuple(generator.choice(self.edge_operators) if chance() else edge for edge in architecture.edges)
        pools = tuple(sorted(generator.choice(self.pool_sizes) if chance() else pool for pool in architecture.pools))
        return HybridArchitecture(tuple(stages), edges, pools)

    def crossover(
        self, first: HybridArchitecture, second: HybridArchitecture, generator: random.Random
    ) -> HybridArchitecture:
        """Return a child that has each stage, each edge and each pool size of one of its two parents."""

        def either(pair: Sequence[Any]) -> Any:
            return generator.choice(pair)

        stages = tuple(either(pair) for pair in zip(first.stages, second.stages, strict=True))
        edges = tuple(either(pair) for pair in zip(first.edges, second.edges, strict=True))
        pools = tuple(sorted(either(pair) for pair in zip(first.pools, second.pools, strict=True)))
        return HybridArchitecture(stages, edges, pools)


def _check_choices(name: str, values: Sequence[Any], allowed: Any, said: str) -> None:
    wrong = [value for value in values if not allowed(value)]
    if wrong:
        raise InvalidSpace(f"{name}: {wrong[0]!r}; allowed are {said}")
    if not values or len(set(values)) != len(values):
        raise InvalidSpace(f"{name}: {list(values)}; at least one, each once")
