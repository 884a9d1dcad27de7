"""Driving a strategy over a population: measure, score, tell, write down, once for every generation.

All that is found out goes to the ledger of candidates as it arrives; a search that was cut off asks its strategy
again from the first generation and tells it from the ledger, so that nothing is measured or scored twice.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.hybrid_architecture import HybridArchitecture
from models.hybrid_space import HybridSpace, OperatorPrior
from search.candidates import Candidate, CandidateLedger, WrongCandidate
from search.errors import refuse
from search.evolution import Evolution, Genetics, Nsga2, RandomSearch, Score, penalty_per_ms
from search.hybrid_settings import EvolutionSettings
from search.latency import LatencyRecord
from search.pareto import first_front, hypervolume


class Outcome(Protocol):
    """What became of one item that a pool was given."""

    @property
    def index(self) -> int:
        """Of the item."""
        ...

    @property
    def value(self) -> Any:
        """What came out; None where there is an error."""
        ...

    @property
    def error(self) -> str | None:
        """Why nothing came out, None if something did."""
        ...


Mapper = Callable[[Sequence[HybridArchitecture]], Iterator[Outcome]]
"""Gives every architecture to a worker; yields outcomes in the order of completion."""


@dataclass(frozen=True)
class Generation:
    """What one generation came to; scores in mIoU points (0-100), less the price of latency for `best` and `mean`.

    Attributes:
        number: from 0.
        candidates: that were asked for.
        scored: of those, with a score.
        best, mean: over all that is feasible so far, and over this generation; None without one.
        miou: of the best so far, in [0, 1].
        hypervolume: that the front so far dominates, see `reference_point`.
        measure_seconds: of this generation, in this attempt.
        score_seconds: of this generation, over all workers and attempts.
        device_seconds: the same by the kind of device that it was done on.
        seconds: wall time.
    """

    number: int
    candidates: int
    scored: int
    best: float | None
    mean: float | None
    miou: float | None
    hypervolume: float
    measure_seconds: float
    score_seconds: float
    device_seconds: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Search:
    """A finished choice: candidates by digest, the digests of the best and of the front, lambda in points per ms."""

    candidates: Mapping[str, Candidate]
    points: Mapping[str, float]
    best: str | None
    front: tuple[str, ...]
    penalty: float


@dataclass(frozen=True)
class Price:
    """Parameters of a subnet by itself, and MACs of one tile where they were counted (it takes most of a second)."""

    parameters: int
    macs: int | None = None


@dataclass(frozen=True)
class Limits:
    """Hard limits; 0 is none. Parameters and MACs are known before scoring, latency is measured."""

    parameters: int = 0
    macs: float = 0.0
    latency_ms: float = 0.0

    def allow(self, price: Price) -> bool:
        """Return whether a price keeps the limits that need no measuring; MACs must be known where they are limited."""
        if self.macs and (price.macs is None or price.macs > self.macs):
            return False
        return not (self.parameters and price.parameters > self.parameters)


def choose(
    space: HybridSpace,
    settings: EvolutionSettings,
    seed: int,
    *,
    prior: OperatorPrior | None,
    limits: Limits,
    price: Callable[[HybridArchitecture], Price],
    measure: Mapper,
    score: Mapper,
    ledger: CandidateLedger,
    after_generation: Callable[[Generation, Search], None],
    elsewhere: Mapping[str, Candidate] | None = None,
) -> Search:
    """Run a strategy to its end, or go on with it; returns what it found.

    Args:
        space: of the candidates.
        settings: strategy, sizes, rates.
        seed: of the strategy.
        prior: probabilities of the operators per block, for the first generation and for mutants; None: uniform.
        limits: see `Limits`.
        price: of a candidate.
        measure: yields `LatencyRecord`s.
        score: yields `InheritedScore`s.
        ledger: of candidates; those in it are not measured or scored again.
        after_generation: called behind each.
        elsewhere: candidates, by digest, of another search within the same limits; those are not scored again either.
    """
    prices: dict[str, Price] = {}

    def price_of(architecture: HybridArchitecture) -> Price:
        digest = architecture.digest()
        if digest not in prices:
            prices[digest] = price(architecture)
        return prices[digest]

    genetics = Genetics(
        sample=lambda generator: space.sample(generator, prior),
        mutate=lambda architecture, generator: space.mutate(architecture, settings.mutation, generator, prior),
        cross=space.crossover,
        key=lambda architecture: architecture.digest(),
        legal=lambda architecture: limits.allow(price_of(architecture)),
    )
    strategy = strategy_of(settings, genetics, seed)
    search = Search({}, {}, None, (), settings.penalty)
    for number in range(settings.generations):
        start = time.perf_counter()
        asked = strategy.ask()
        # Algorithm 1 to the letter has generations without a child, which end nothing.
        if not asked and not settings.literal:
            break
        for place, digest in enumerate(architecture.digest() for architecture in asked):
            if elsewhere and digest in elsewhere:
                ledger.append(_taken_over(elsewhere[digest], number, len(search.candidates) + place))
        measured_s = _examine(asked, number, len(search.candidates), limits, price_of, measure, score, ledger)
        examined = [ledger.known[architecture.digest()] for architecture in asked]
        penalty = search.penalty
        if penalty < 0:
            latencies = [c.latency_ms for c in examined if c.latency_ms is not None]
            penalty = penalty_per_ms(latencies, settings.latency_points) if latencies else 0.0
        strategy.tell({c.digest: _told(c, settings.strategy, penalty) for c in examined})
        search = extended(search, examined, penalty)
        after_generation(_summary(number, examined, search, measured_s, time.perf_counter() - start), search)
    return search


def strategy_of(
    settings: EvolutionSettings, genetics: Genetics[HybridArchitecture], seed: int
) -> Evolution[HybridArchitecture] | Nsga2[HybridArchitecture] | RandomSearch[HybridArchitecture]:
    """Return the strategy that the settings name."""
    sizes = {"population": settings.population, "children": settings.children}
    if settings.strategy == "pareto":
        return Nsga2(genetics, seed, **sizes, crossover=settings.crossover)
    if settings.strategy == "random":
        return RandomSearch(genetics, seed, **sizes)
    return Evolution(
        genetics,
        seed,
        **sizes,
        parents=settings.parents,
        crossover=settings.crossover,
        mutation=settings.mutation,
        literal=settings.literal,
    )


def points_of(candidate: Candidate, penalty: float) -> float | None:
    """Return the score of Algorithm 1 in mIoU points, None without one."""
    if candidate.score is None or candidate.latency_ms is None:
        return None
    return 100 * candidate.score.miou - penalty * candidate.latency_ms


def objectives_of(candidate: Candidate) -> tuple[float, float, float] | None:
    """Return (-mIoU, latency in ms, parameters), to be minimised; None without a score."""
    if candidate.score is None or candidate.latency_ms is None:
        return None
    return -candidate.score.miou, candidate.latency_ms, float(candidate.parameters)


def _examine(
    asked: Sequence[HybridArchitecture],
    generation: int,
    first: int,
    limits: Limits,
    price: Callable[[HybridArchitecture], Price],
    measure: Mapper,
    score: Mapper,
    ledger: CandidateLedger,
) -> float:
    """Find out about the candidates that the ledger does not know; returns the seconds of measuring."""
    numbers = {a.digest(): first + k for k, a in enumerate(asked)}
    new = [a for a in asked if a.digest() not in ledger.known]
    start = time.perf_counter()
    latencies: dict[str, LatencyRecord | str] = {}
    # All are measured before any is scored: workers that compute beside a measurement would be measured with it.
    for outcome in measure(new):
        refuse(outcome.error)
        latencies[new[outcome.index].digest()] = outcome.value if outcome.error is None else outcome.error
    measure_seconds = time.perf_counter() - start

    def candidate(architecture: HybridArchitecture, outcome: Outcome | None) -> Candidate:
        digest = architecture.digest()
        latency, paid = latencies[digest], price(architecture)
        known = latency if isinstance(latency, LatencyRecord) else None
        value = outcome.value if outcome is not None and outcome.error is None else None
        if value is not None and value.digest != digest:
            raise WrongCandidate(f"asked for the score of {digest}, got that of {value.digest}")
        error = latency if isinstance(latency, str) else outcome.error if outcome is not None else None
        return Candidate(
            architecture,
            generation,
            numbers[digest],
            paid.parameters,
            paid.macs,
            known.median_ms if known else None,
            known.iqr_ms if known else None,
            value,
            value is not None,
            error,
        )

    def keeps_limit(architecture: HybridArchitecture) -> bool:
        latency = latencies[architecture.digest()]
        return isinstance(latency, LatencyRecord) and not 0 < limits.latency_ms < latency.median_ms

    for architecture in new:
        if not keeps_limit(architecture):
            ledger.append(candidate(architecture, None))
    scored = [a for a in new if keeps_limit(a)]
    for outcome in score(scored):
        refuse(outcome.error)
        ledger.append(candidate(scored[outcome.index], outcome))
    return measure_seconds


def _taken_over(candidate: Candidate, generation: int, number: int) -> Candidate:
    """Return a candidate of another search as one of this, which it cost nothing to score."""
    score = candidate.score and dataclasses.replace(candidate.score, seconds=0.0)
    return dataclasses.replace(candidate, generation=generation, number=number, score=score)


def _told(candidate: Candidate, strategy: str, penalty: float) -> Score | None:
    points, objectives = points_of(candidate, penalty), objectives_of(candidate)
    if points is None or objectives is None:
        return Score((float("inf"),) * 3, feasible=False) if candidate.error is None else None
    told = objectives if strategy == "pareto" else (-points, *objectives[1:])
    return Score(told, candidate.feasible)


def extended(search: Search, examined: Sequence[Candidate], penalty: float) -> Search:
    """Return a search with one more generation.

    What was dominated stays so: only the front so far and what is new is compared, or a long search would spend most
    of its time here.
    """
    new = {c.digest: c for c in examined}
    candidates = {**search.candidates, **new}
    points = {**search.points, **{k: p for k, c in new.items() if (p := points_of(c, penalty)) is not None}}
    feasible = [k for k, c in new.items() if c.feasible and k in points]
    rivals = feasible if search.best is None else [search.best, *feasible]
    best = max(rivals, key=lambda k: (points[k], -candidates[k].number), default=None)
    front = front_of([candidates[k] for k in (*search.front, *feasible)])
    return Search(candidates, points, best, front, penalty)


def front_of(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the digests of the candidates that none dominates in (mIoU, latency, parameters), by latency."""
    known = [(c, o) for c in candidates if (o := objectives_of(c)) is not None]
    front = [known[i][0] for i in first_front([o for _, o in known])]
    return tuple(c.digest for c in sorted(front, key=lambda c: (c.latency_ms, c.number)))


def reference_point(candidates: Sequence[Candidate]) -> tuple[float, float]:
    """Return where hypervolumes are measured from: no mIoU, and the slowest of the first generation, in ms."""
    slowest = max((c.latency_ms for c in candidates if c.generation == 0 and c.latency_ms), default=1.0)
    return 0.0, slowest


def _summary(
    number: int, examined: Sequence[Candidate], search: Search, measured_s: float, seconds: float
) -> Generation:
    own = [search.points[c.digest] for c in examined if c.digest in search.points]
    best = search.candidates[search.best] if search.best else None
    # Off the candidates: what an attempt before this one scored took its time too.
    scores = [c.score for c in examined if c.score is not None and c.generation == number]
    devices = sorted({s.device for s in scores if s.device is not None})
    reference = reference_point(list(search.candidates.values()))
    front = [objectives_of(search.candidates[digest]) for digest in search.front]
    # In units of the reference: the share of the rectangle between perfect and reference that the front dominates.
    volume = hypervolume([o[:2] for o in front if o is not None], reference) / reference[1] if front else 0.0
    return Generation(
        number=number,
        candidates=len(examined),
        scored=sum(c.score is not None for c in examined),
        best=search.points[search.best] if search.best else None,
        mean=sum(own) / len(own) if own else None,
        miou=best.score.miou if best and best.score else None,
        hypervolume=volume,
        measure_seconds=measured_s,
        score_seconds=sum(s.seconds for s in scores),
        device_seconds={device: sum(s.seconds for s in scores if s.device == device) for device in devices},
        seconds=seconds,
    )


def finalists(search: Search, strategy: str, count: int, spread: bool = False) -> list[Candidate]:
    """Return the candidates to retrain, the best first.

    Args:
        search: finished.
        strategy: with "pareto" they are of the front, by mIoU, else the best by score.
        count: how many; 0 is 1, or the whole front.
        spread: take every so-many-th of the whole ranking instead, from the best to the last.
    """
    if spread:
        ranking = finalists(search, "evolution", len(search.candidates))
        # Rounded positions of equal steps; a search that scored fewer retrains all.
        steps = min(count or 1, len(ranking))
        return [ranking[round(k * (len(ranking) - 1) / max(1, steps - 1))] for k in range(steps)]
    if strategy == "pareto":
        front = [search.candidates[digest] for digest in search.front]
        return sorted(front, key=lambda c: (-(c.score.miou if c.score else 0.0), c.number))[: count or len(front)]
    feasible = [c for c in search.candidates.values() if c.feasible]
    return sorted(feasible, key=lambda c: (-search.points[c.digest], c.number))[: count or 1]
