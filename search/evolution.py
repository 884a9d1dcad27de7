"""Choosing by evolution, ask and tell: Algorithm 1 of AutoNAD, NSGA-II, and random search of equal cost.

No torch, no files. A strategy is asked for a generation, told the scores of all of it in any order, and asked again.
Its randomness follows from its seed and the number of the generation alone, and it ranks by what it was told, ties
by the order of asking. So the same seed and scores give the same search however many workers scored; and a search
that was cut off is taken up by asking anew and telling what is known already: there is no other state.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from search.pareto import first_front, select

G = TypeVar("G")

ATTEMPTS = 100
"""Draws for one place in a generation; when none gives a new legal one, the place stays empty."""


@dataclass(frozen=True)
class Genetics(Generic[G]):
    """How candidates are made. All functions draw from the generator they are given and from nothing else.

    Attributes:
        sample: returns a random candidate for the first generation.
        mutate: returns a changed copy.
        cross: returns a child of two.
        key: returns what makes a candidate the same as another, its digest.
        legal: returns whether a candidate may be scored at all (limits that need no measuring).
    """

    sample: Callable[[random.Random], G]
    mutate: Callable[[G, random.Random], G]
    cross: Callable[[G, G, random.Random], G]
    key: Callable[[G], str]
    legal: Callable[[G], bool] = lambda candidate: True


@dataclass(frozen=True)
class Score:
    """What is known of a scored candidate.

    Attributes:
        objectives: to be minimised.
        feasible: whether it keeps every limit that had to be measured; others are never parents, never the answer.
    """

    objectives: tuple[float, ...]
    feasible: bool = True


class Strategy(Protocol[G]):
    """What scores are asked for and told to."""

    generation: int

    def ask(self) -> list[G]:
        """Return the candidates of the next generation, each new and legal; empty when nothing new can be found."""
        ...

    def tell(self, scores: Mapping[str, Score | None]) -> None:
        """Take the scores of the generation that was asked for, by key; None for a candidate that cannot be scored."""
        ...


class _Told(Generic[G]):
    """What all strategies share: who was asked for, and what was told of them."""

    def __init__(self, genetics: Genetics[G], seed: int) -> None:
        self.genetics, self.seed = genetics, seed
        self.generation = 0
        self.asked: list[G] = []
        self.scores: dict[str, Score] = {}
        self._keys: dict[str, int] = {}
        self._waiting: tuple[str, ...] | None = None

    def tell(self, scores: Mapping[str, Score | None]) -> None:
        """Take the scores of the generation that was asked for; see `Strategy`.

        Raises:
            ValueError: nothing was asked for, or the keys are not those that were.
        """
        if self._waiting is None:
            raise ValueError("nothing was asked for")
        if set(scores) != set(self._waiting):
            raise ValueError(f"{len(scores)} scores for the {len(self._waiting)} candidates of a generation, or others")
        # In the order of asking, not of arrival.
        told = {key: scores[key] for key in self._waiting}
        self._waiting = None
        self.generation += 1
        self._learn({key: score for key, score in told.items() if score is not None})

    def _learn(self, told: Mapping[str, Score]) -> None:
        self.scores.update(told)

    def _generator(self) -> random.Random:
        if self._waiting is not None:
            raise ValueError("the last generation has not been told yet")
        return random.Random(f"{self.seed}/{self.generation}")

    def _announce(self, candidates: list[G]) -> list[G]:
        self._waiting = tuple(self.genetics.key(candidate) for candidate in candidates)
        return candidates

    def _new(self, draw: Callable[[], G]) -> G | None:
        """Return a drawn candidate that is legal and was never asked for, and note it; None if none turns up."""
        for _ in range(ATTEMPTS):
            candidate = draw()
            key = self.genetics.key(candidate)
            if key not in self._keys and self.genetics.legal(candidate):
                self._keys[key] = len(self.asked)
                self.asked.append(candidate)
                return candidate
        return None

    def _fill(self, count: int, draw: Callable[[], G]) -> list[G]:
        found = (self._new(draw) for _ in range(count))
        return [candidate for candidate in found if candidate is not None]

    def _feasible(self) -> list[str]:
        return [key for key, score in self.scores.items() if score.feasible]

    def candidate(self, key: str) -> G:
        """Return the candidate of a key."""
        return self.asked[self._keys[key]]

    def best(self) -> str | None:
        """Return the key of the feasible candidate with the least first objective, None without one."""
        return min(self._feasible(), key=lambda key: self.scores[key].objectives[0], default=None)

    def front(self) -> list[str]:
        """Return the keys of the feasible candidates that none dominates, in the order of asking."""
        keys = self._feasible()
        return [keys[i] for i in first_front([self.scores[key].objectives for key in keys])]


class Evolution(_Told[G]):
    """Algorithm 1 with a cumulative population; the first objective is the score, negated.

    Args (constructor):
        genetics, seed: see there.
        population: candidates of the first generation.
        children: candidates of every later one.
        parents: the best so many are parents.
        mutation: p_m. crossover: p_c.
        literal: read p_m and p_c as Algorithm 1 is written: chances that a generation has mutants or crossings at all.
    """

    def __init__(
        self,
        genetics: Genetics[G],
        seed: int,
        *,
        population: int,
        children: int,
        parents: int,
        crossover: float,
        mutation: float = 0.0,
        literal: bool = False,
    ) -> None:
        super().__init__(genetics, seed)
        self.population, self.children, self.parents = population, children, parents
        self.crossover, self.mutation, self.literal = crossover, mutation, literal

    def ask(self) -> list[G]:
        """Return the next generation; see `Strategy`."""
        generator = self._generator()
        ranked = sorted(self._feasible(), key=lambda key: self.scores[key].objectives[0])
        parents = [self.candidate(key) for key in ranked[: self.parents]]
        if self.generation == 0 or not parents:
            return self._announce(self._fill(self.population, lambda: self.genetics.sample(generator)))
        mutate, cross = self.genetics.mutate, self.genetics.cross

        def pair() -> tuple[G, G]:
            return generator.choice(parents), generator.choice(parents)

        def child() -> G:
            # DEPARTURE(per-gene-rates): Algorithm 1 draws once per generation whether there are mutants and crossings,
            # which leaves (1 - 0.2)(1 - 0.4) = 48 % of the generations without a child. Here p_c is the chance that a
            # pair is crossed, and p_m, inside `mutate`, the chance that a gene changes.
            first, second = pair()
            return mutate(cross(first, second, generator) if generator.random() < self.crossover else first, generator)

        if not self.literal:
            return self._announce(self._fill(self.children, child))
        mutants = self.children // 2 if generator.random() < self.mutation else 0
        crossings = self.children - self.children // 2 if generator.random() < self.crossover else 0
        found = self._fill(mutants, lambda: mutate(generator.choice(parents), generator))
        return self._announce(found + self._fill(crossings, lambda: cross(*pair(), generator)))


class Nsga2(_Told[G]):
    """NSGA-II: parents by binary tournament on (front, crowding), survivors by `pareto.select`.

    Args (constructor):
        genetics, seed: see there.
        population: candidates of the first generation and survivors of each.
        children: candidates of every later generation.
        crossover: chance that a pair is crossed.
    """

    def __init__(self, genetics: Genetics[G], seed: int, *, population: int, children: int, crossover: float) -> None:
        super().__init__(genetics, seed)
        self.population, self.children, self.crossover = population, children, crossover
        self.survivors: list[str] = []

    def ask(self) -> list[G]:
        """Return the next generation; see `Strategy`."""
        generator = self._generator()
        if self.generation == 0 or not self.survivors:
            return self._announce(self._fill(self.population, lambda: self.genetics.sample(generator)))
        ranks = self._ranks()

        def parent() -> G:
            one, other = generator.choice(self.survivors), generator.choice(self.survivors)
            return self.candidate(min(one, other, key=ranks.__getitem__))

        def child() -> G:
            first, second = parent(), parent()
            crossed = generator.random() < self.crossover
            return self.genetics.mutate(self.genetics.cross(first, second, generator) if crossed else first, generator)

        return self._announce(self._fill(self.children, child))

    def _ranks(self) -> dict[str, int]:
        """Return the place of each survivor: `select` lists them best first."""
        return {key: place for place, key in enumerate(self.survivors)}

    def _learn(self, told: Mapping[str, Score]) -> None:
        super()._learn(told)
        pool = [*self.survivors, *(key for key in told if told[key].feasible)]
        if pool:
            chosen = select([self.scores[key].objectives for key in pool], self.population)
            self.survivors = [pool[i] for i in chosen]


class RandomSearch(_Told[G]):
    """The baseline: as many new random candidates in every generation as the strategy that it is compared with."""

    def __init__(self, genetics: Genetics[G], seed: int, *, population: int, children: int) -> None:
        super().__init__(genetics, seed)
        self.population, self.children = population, children

    def ask(self) -> list[G]:
        """Return the next generation; see `Strategy`."""
        generator = self._generator()
        count = self.children if self.generation else self.population
        return self._announce(self._fill(count, lambda: self.genetics.sample(generator)))


def penalty_per_ms(latencies_ms: list[float], points: float) -> float:
    """Return lambda of Algorithm 1's score, in score points per ms: the mean latency costs so many points.

    Raises:
        ValueError: there is no latency to go by.
    """
    known = [value for value in latencies_ms if math.isfinite(value)]
    if not known:
        raise ValueError("no latency is known")
    return points * len(known) / sum(known)
