"""What the benchmarks of orchestration work on: the real search over made-up scores and latencies.

`autonad.evolve` drives it, with its ledgers, table and prices; only workers are stand-ins, and what they return follows
from the digest of the candidate, so that every run with the same settings is the same search.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from models.hybrid_architecture import HybridArchitecture
from search.context import Context
from search.hybrid_settings import EvolutionSettings, space_of
from search.latency import Conditions, LatencyRecord
from search.latency_ledger import LatencyLedger
from search.ledger import Ledger
from search.methods import autonad
from search.population import Limits, Outcome, Search
from search.scoring import InheritedScore
from search.settings import Settings

MIB = 2**20
SUPERNET_BYTES = 4 * 15_113_026
"""Of the published space, float32."""
CONDITIONS = Conditions("cpu", "made up", 1, "none", (1, 200, 200), 1, "float32")


class Pool(Protocol):
    """Workers that each item is given to one of."""

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield the outcome of every item, in the order of completion."""
        ...


def share_of(digest: str, place: int) -> float:
    """Return a number in [0, 1) that follows from a digest; other places of it give other numbers."""
    return int(digest[8 * place : 8 * place + 8], 16) / 16**8


@dataclasses.dataclass(frozen=True)
class Scorers:
    """A pool whose workers return anything; each outcome without an error gets a made-up score."""

    pool: Pool

    def map(self, items: Sequence[HybridArchitecture]) -> Iterator[Outcome]:
        """Yield the outcomes of the pool, with scores."""
        for outcome in self.pool.map(items):
            yield Told(outcome.index, _score(items[outcome.index]) if outcome.error is None else None, outcome.error)


@dataclasses.dataclass(frozen=True)
class Measurers:
    """A pool whose workers return anything; each outcome without an error gets a made-up latency."""

    pool: Pool | None

    def map(self, items: Sequence[HybridArchitecture | None]) -> Iterator[Outcome]:
        """Yield the outcomes of the pool, with latencies; without a pool all at once."""
        for index, item in enumerate(items if self.pool is None or list(items) == [None] else ()):
            yield Told(index, CONDITIONS if item is None else (CONDITIONS, _latency(item)), None)
        if self.pool is not None and list(items) != [None]:
            for outcome in self.pool.map(items):
                item = items[outcome.index]
                assert item is not None
                yield Told(
                    outcome.index, (CONDITIONS, _latency(item)) if outcome.error is None else None, outcome.error
                )


@dataclasses.dataclass(frozen=True)
class Told:
    """An outcome, see `search.population.Outcome`."""

    index: int
    value: Any
    error: str | None


def evolve(folder: Path, settings: EvolutionSettings, measurers: Pool, scorers: Pool, seed: int = 0) -> Search:
    """Run the search of a trial in a folder, with all that it writes there.

    Args:
        folder: that exists; a search that was begun in it goes on.
        settings: of the search.
        measurers: see `Measurers`.
        scorers: see `Scorers`.
        seed: of the search.
    """
    context = Context(
        folder,
        Settings(seed=seed, evolution=settings),
        SimpleNamespace(colour_channels=1, classes=("a", "b", "c")),  # type: ignore[arg-type]
        torch.device("cpu"),
        1,
        Ledger(folder / "ledger.jsonl"),
        folder,
    )
    latencies = LatencyLedger(folder / autonad.LATENCIES, measurers)
    space = space_of(context.settings.space)
    return autonad.evolve(context, space, Limits(), None, latencies, scorers, settings, "candidates")


def _score(architecture: HybridArchitecture) -> InheritedScore:
    digest = architecture.digest()
    miou = 0.3 + 0.6 * share_of(digest, 0)
    return InheritedScore(digest, miou, miou, miou, miou, (), 0.0)


def _latency(architecture: HybridArchitecture) -> LatencyRecord:
    return LatencyRecord(architecture, sum(architecture.widths) / 100 + share_of(architecture.digest(), 1), 0.1)


def rss_mib() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB
