"""A search of thousands of candidates on 1 to 1,024 GPUs that are not there: what of their time would be used?

`python -m benchmarks.simulator [--gpus 1,4,16,64,256,1024] [--shapes ...] [--seconds S] [--json FILE]`

The real search, ledgers and pool of actors run; the calls of workers take virtual time (`benchmarks.virtual`). What
the driver takes of it is set by measured costs, so that the same seed gives the same result on every machine. Beside
it stands what the driver's own code really took here, without what the simulation took.

Simulated are measuring and scoring, which a population needs for each of its thousands. The training of the supernet,
retraining, Tune, MLflow and the mirror are not. Traffic of the object store is the weights, once per node: candidates
and scores are a few kB, which Ray sends inside of its messages.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_up import MIB, SUPERNET_BYTES, Measurers, Pool, Scorers, evolve, rss_mib
from benchmarks.result import give
from benchmarks.virtual import Chances, Costs, Fate, Simulation, VirtualBackend, Weights
from clusters.dispatch import ActorPool
from models.hybrid_architecture import HybridArchitecture
from search.hybrid_settings import EvolutionSettings
from search.population import Outcome

SHAPES: dict[str, dict[str, Any]] = {
    "at once": {"population": 10_000, "generations": 1},
    "1,000 each": {"population": 1_000, "generations": 10, "children": 1_000},
    "100, then 20": {"population": 100, "generations": 496, "children": 20},
}
"""Three ways to 10,000 candidates; the last is the published one, gone on with."""


@dataclasses.dataclass(frozen=True)
class Driver:
    """What the driver takes besides its pools, in seconds.

    Attributes:
        plan_s: per candidate asked for: drawing, pricing, telling.
        note_s: per outcome: the line of the ledger, flushed to disk.
    """

    plan_s: float = 0.0
    note_s: float = 0.0


NO_COSTS, NO_DRIVER, ALL_EQUAL = Costs(), Driver(), Chances()


@dataclasses.dataclass(frozen=True)
class Setup:
    """A cluster and the work on it.

    Attributes:
        gpus: with one scorer each.
        costs, driver: of the overhead.
        chances: of scoring a candidate.
        measure_s: that measuring the latency of one takes, on one actor before scoring; 0: it is on file.
        weights: bytes that every node fetches.
        per_node: GPUs on one node.
        retries, timeout_s: of the pool.
        seed: of search and chances.
    """

    gpus: int
    costs: Costs = NO_COSTS
    driver: Driver = NO_DRIVER
    chances: Chances = ALL_EQUAL
    measure_s: float = 0.0
    weights: int = SUPERNET_BYTES
    per_node: int = 8
    retries: int = 2
    timeout_s: float | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """What a simulated search came to; virtual seconds, but for the driver.

    Attributes:
        candidates, failed: asked for, and those of them without a score.
        makespan_s: from asking for actors to the last outcome noted.
        ideal_s: the seconds of all calls that gave a score over the GPUs.
        efficiency: ideal over makespan.
        measuring_s: of the makespan, while GPUs rest.
        calls: of actors, starts and greetings included.
        weights_mib: through the object store, to all nodes.
        driver_cpu_ms: real CPU time of this process per candidate, without the simulation's.
        rss_mib: real memory of this process at the end.
    """

    candidates: int
    failed: int
    makespan_s: float
    ideal_s: float
    efficiency: float
    measuring_s: float
    calls: int
    weights_mib: float
    driver_cpu_ms: float
    rss_mib: float


class Metered:
    """A backend that notes the CPU time that another one takes, which is none of the driver's."""

    def __init__(self, backend: VirtualBackend):
        self.cpu_s = 0.0
        self.now = backend.now
        self.new_actor = self._noting(backend.new_actor)
        self.start = self._noting(backend.start)
        self.answer = self._noting(backend.answer)
        self.call = self._noting(backend.call)
        self.wait = self._noting(backend.wait)
        self.reply = self._noting(backend.reply)
        self.kill = self._noting(backend.kill)

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.cpu_s += time.thread_time() - start

        return noting


@dataclasses.dataclass
class Charged:
    """A pool whose caller takes virtual time: before a map for each item, and for each outcome."""

    pool: Pool
    simulation: Simulation
    driver: Driver
    seconds: float = 0.0

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield the outcomes of the pool."""
        start = self.simulation.now
        self.simulation.pass_s(self.driver.plan_s * len(items))
        for outcome in self.pool.map(items):
            self.simulation.pass_s(self.driver.note_s)
            yield outcome
        self.seconds += self.simulation.now - start


def simulate(setup: Setup, settings: EvolutionSettings, folder: Path) -> Report:
    """Run a search on a virtual cluster.

    Args:
        setup: of the cluster.
        settings: of the search.
        folder: that exists and is empty.
    """
    simulation = Simulation()
    weights = Weights(simulation, setup.weights, setup.costs.bytes_per_s)
    fates = setup.chances.fates(setup.seed)
    gpus = VirtualBackend(
        fates, simulation=simulation, costs=setup.costs, weights=weights, per_node=setup.per_node, key=_digest
    )
    probe = VirtualBackend(
        lambda key, tries: Fate(setup.measure_s), simulation=simulation, costs=setup.costs, key=_digest
    )
    metered = [Metered(gpus), Metered(probe)]
    pools = [ActorPool(backend, setup.retries, setup.timeout_s) for backend in metered]
    start_s = time.process_time()
    pools[0].start(setup.gpus)
    pools[1].start(1)
    measurers = Charged(pools[1], simulation, setup.driver) if setup.measure_s else None
    scorers = Charged(pools[0], simulation, setup.driver)
    search = evolve(folder, settings, Measurers(measurers), Scorers(scorers), setup.seed)
    spent_s = time.process_time() - start_s - sum(backend.cpu_s for backend in metered)
    makespan_s = simulation.now
    for pool in pools:
        pool.close()
    ideal_s = gpus.done_s / setup.gpus
    return Report(
        candidates=len(search.candidates),
        failed=sum(candidate.error is not None for candidate in search.candidates.values()),
        makespan_s=makespan_s,
        ideal_s=ideal_s,
        efficiency=ideal_s / makespan_s,
        measuring_s=measurers.seconds if measurers else 0.0,
        calls=gpus.calls + probe.calls,
        weights_mib=weights.bytes_sent / MIB,
        driver_cpu_ms=1e3 * spent_s / len(search.candidates),
        rss_mib=rss_mib(),
    )


def _digest(architecture: HybridArchitecture) -> str:
    return architecture.digest()


MEASURED_COSTS = Costs(
    submit_s=1.5e-4,
    reply_s=2e-5,
    wait_s=3.2e-4,
    wait_each_s=6e-7,
    way_s=2.5e-4,
    actor_s=2.0,
    worker_s=5.0,
    bytes_per_s=1.25e9,
)
"""Of the driver on Ray 2.60, two busy cores; the last three are assumed, the network 10 Gbit/s."""
MEASURED_DRIVER = Driver(plan_s=5e-4, note_s=3.5e-3)
"""The second is nearly all waiting for the disk."""
CHANCES = Chances(spread=0.26, straggling=0.01, raising=0.001, dying=0.001, hanging=0.0002)
WITHOUT: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "nothing left out": lambda setup: {},
    "driver and ledger": lambda setup: {
        "driver": NO_DRIVER,
        "costs": dataclasses.replace(setup.costs, submit_s=0.0, reply_s=0.0, wait_s=0.0, wait_each_s=0.0),
    },
    "starts and weights": lambda setup: {
        "costs": dataclasses.replace(setup.costs, actor_s=0.0, worker_s=0.0, bytes_per_s=math.inf)
    },
    "stragglers": lambda setup: {"chances": dataclasses.replace(setup.chances, straggling=0.0)},
    "failures": lambda setup: {"chances": dataclasses.replace(setup.chances, raising=0.0, dying=0.0, hanging=0.0)},
    "spread": lambda setup: {"chances": dataclasses.replace(setup.chances, spread=0.0)},
}
"""What can be taken away from a setup, one by one, to see what it costs."""


def table_of(rows: Mapping[str, Report]) -> str:
    """Return rows as text."""
    columns = {
        "makespan s": "makespan_s",
        "ideal s": "ideal_s",
        "driver ms": "driver_cpu_ms",
        "RSS MiB": "rss_mib",
        "weights MiB": "weights_mib",
        "calls": "calls",
        "failed": "failed",
    }
    lines = [" " * 22 + "used" + "".join(f"{name:>13}" for name in columns)]
    for name, row in rows.items():
        cells = "".join(f"{getattr(row, attribute):13,.1f}" for attribute in columns.values())
        lines.append(f"{name:>18} {100 * row.efficiency:6.1f}%{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__)
    parser.add_argument("--gpus", default="1,4,16,64,256,1024", help="how many, default %(default)s")
    parser.add_argument("--shapes", default=";".join(SHAPES), help="default %(default)s")
    parser.add_argument("--strategy", default="evolution", help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="median of scoring one candidate, default 1")
    parser.add_argument("--durations", type=Path, help="JSON list of measured seconds to draw from instead")
    parser.add_argument("--measure-seconds", type=float, default=0.0, help="of measuring one, default 0: on file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", action="store_true", help="also leave out one cost after the other, most GPUs")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    seconds = (arguments.seconds,)
    chances = dataclasses.replace(CHANCES, seconds=seconds)
    if arguments.durations:
        chances = dataclasses.replace(CHANCES, seconds=tuple(json.loads(arguments.durations.read_text())), spread=0.0)
    longest_s = 20 * max(chances.seconds)
    found: dict[str, dict[str, Report]] = {}

    def run(group: str, name: str, shape: str, setup: Setup) -> None:
        settings = EvolutionSettings(strategy=arguments.strategy, **SHAPES[shape])
        with tempfile.TemporaryDirectory() as folder:
            found.setdefault(group, {})[name] = simulate(setup, settings, Path(folder))

    setup = Setup(
        1, MEASURED_COSTS, MEASURED_DRIVER, chances, arguments.measure_seconds, timeout_s=longest_s, seed=arguments.seed
    )
    counts = [int(count) for count in arguments.gpus.split(",")]
    for shape in arguments.shapes.split(";"):
        for count in counts:
            run(shape, f"{count} GPUs", shape, dataclasses.replace(setup, gpus=count))
        if arguments.without:
            most = dataclasses.replace(setup, gpus=max(counts))
            for name, change in WITHOUT.items():
                run(f"{shape}, without", name, shape, dataclasses.replace(most, **change(most)))
    for group, rows in found.items():
        print(f"\n{group}\n{table_of(rows)}", file=sys.stderr)
    values = {group: {name: dataclasses.asdict(row) for name, row in rows.items()} for group, rows in found.items()}
    give({"setup": dataclasses.asdict(setup), **values}, arguments.json)


if __name__ == "__main__":
    main()
