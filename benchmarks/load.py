"""Load held on real Ray: a search of thousands of candidates by many actors that do next to nothing.

`python -m benchmarks.load [--candidates 10000] [--actors 64] [--sleep-ms 0] [--profile] [--json FILE]`

What is left is the cost of orchestration: the real search with its ledgers, the real pool, real processes. Only scores
and latencies are made up, see `benchmarks.made_up`. Every actor holds the same weights from the object store.
"""

import argparse
import cProfile
import dataclasses
import io
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_up import MIB, SUPERNET_BYTES, Measurers, Pool, Scorers, evolve, rss_mib
from benchmarks.result import give
from clusters.connect import connected
from clusters.executor import ray_pool
from search.hybrid_settings import EvolutionSettings
from search.population import Outcome

CPUS = 8
"""Logical ones; actors share them."""


@dataclasses.dataclass
class Watched:
    """A pool that notes what the driver has taken after every so many outcomes."""

    pool: Pool
    every: int
    done: int = 0
    notes: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield the outcomes of the pool."""
        for outcome in self.pool.map(items):
            self.done += 1
            if self.done % self.every == 0:
                self.note()
            yield outcome

    def note(self) -> None:
        """Note time, CPU time, memory, and what is in the object store."""
        self.notes.append(
            {
                "candidates": self.done,
                "seconds": time.perf_counter(),
                "cpu_s": time.process_time(),
                "rss_mib": rss_mib(),
                "store_mib": stored_mib(),
            }
        )


def stored_mib() -> float:
    """Return what the object store of the connected Ray holds."""
    import ray

    name = "object_store_memory"
    return (ray.cluster_resources()[name] - ray.available_resources().get(name, 0.0)) / MIB


def workers(weights: Any, sleep_s: float, ready: Path) -> Callable[[], Callable[[Any], int]]:
    """Return what makes a worker: it fetches the weights, leaves a file that says so, and sleeps once per item."""

    def make() -> Callable[[Any], int]:
        import ray

        held = ray.get(weights)
        (ready / str(os.getpid())).touch()

        def work(item: Any) -> int:
            time.sleep(sleep_s)
            return len(held)

        return work

    return make


def load(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the search and return what it took.

    Args:
        arguments: of the command line.
        folder: that exists and is empty.
    """
    import numpy as np
    import ray

    generations = max(1, arguments.candidates // arguments.children)
    settings = EvolutionSettings(
        strategy=arguments.strategy,
        population=arguments.children,
        children=arguments.children,
        generations=generations,
    )
    free = available_mib()
    weights = ray.put(np.zeros(SUPERNET_BYTES, dtype=np.uint8))
    start = time.perf_counter()
    ready, trial = folder / "ready", folder / "trial"
    ready.mkdir()
    trial.mkdir()
    make, each = workers(weights, arguments.sleep_ms / 1e3, ready), CPUS / 2 / arguments.actors
    with (
        ray_pool(make, actors=arguments.actors, cpus=each, timeout_s=600) as scorers,
        ray_pool(make, actors=1, cpus=each) as probe,
    ):
        # Not by giving them something to do: that would slow down those which are still starting.
        while len(list(ready.iterdir())) < arguments.actors + 1:
            time.sleep(0.2)
        started_s = time.perf_counter() - start
        taken = free - available_mib()
        watched = Watched(scorers, max(1, arguments.candidates // 20))
        watched.note()
        search = evolve(trial, settings, Measurers(probe if arguments.measure else None), Scorers(watched))
        watched.note()
    first, last = watched.notes[0], watched.notes[-1]
    count, seconds = len(search.candidates), last["seconds"] - first["seconds"]
    ideal_s = count * arguments.sleep_ms / 1e3 / arguments.actors
    return {
        "candidates": count,
        "failed": sum(candidate.error is not None for candidate in search.candidates.values()),
        "best": search.best,
        "actors": arguments.actors,
        "start_s": started_s,
        "actors_mib": taken,
        "seconds": seconds,
        "candidates_per_s": count / seconds,
        "overhead_ms": 1e3 * (seconds - ideal_s) / count,
        "efficiency": ideal_s / seconds,
        "driver_cpu_ms": 1e3 * (last["cpu_s"] - first["cpu_s"]) / count,
        "files_mib": {path.name: path.stat().st_size / MIB for path in sorted(trial.iterdir())},
        "load_average": os.getloadavg()[0],
        "notes": watched.notes,
    }


def available_mib() -> float:
    """Return the memory that this machine has left."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--candidates", type=int, default=10_000, help="default 10000")
    parser.add_argument("--actors", type=int, default=64, help="default 64")
    parser.add_argument("--children", type=int, default=500, help="candidates of a generation, default 500")
    parser.add_argument("--strategy", default="evolution", help="default evolution")
    parser.add_argument("--sleep-ms", type=float, default=0.0, help="that scoring a candidate takes, default 0")
    parser.add_argument("--measure", action="store_true", help="measure latency too, on an actor of its own")
    parser.add_argument("--profile", action="store_true", help="also say in which functions the driver spends its time")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder, connected("none", cpus=CPUS):
        found = profile.runcall(load, arguments, Path(folder)) if arguments.profile else load(arguments, Path(folder))
    if arguments.profile:
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25).sort_stats("cumtime").print_stats(40)
        print(text.getvalue(), file=sys.stderr)
    notes = found["notes"]
    for note in notes[:: max(1, len(notes) // 4)]:
        print(
            f"{note['candidates']:8,} candidates  {note['seconds'] - notes[0]['seconds']:8.1f} s  "
            f"RSS {note['rss_mib']:7.1f} MiB  object store {note['store_mib']:6.1f} MiB",
            file=sys.stderr,
        )
    give(found, arguments.json)


if __name__ == "__main__":
    main()
