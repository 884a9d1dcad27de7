"""Speed of AutoNAD: steps and scoring against fcn_resnet50 of torchvision in the same run; dispatching candidates.

`python -m benchmarks.autonad [--rounds N] [--threads N] [--only steps,scoring,dispatch,scaling] [--json FILE]`

Absolute times do not carry over from machine to machine; what counts are the ratios. Variants are timed in turn.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torchvision.models.segmentation import fcn_resnet50

from benchmarks import harness
from benchmarks.harness import interleaved
from models.autonad import AutoNADNet, Room
from models.hybrid_architecture import HybridArchitecture
from models.hybrid_space import HybridSpace
from search.hybrid_settings import SupernetSettings
from search.one_shot import optimizer_of, subnet_step
from search.scoring import Scorer

BATCH, SIZE, CLASSES = 4, 200, 3
RANDOM_PARAMETERS = 5.5e6
"""The random subnet is the one of some drawn whose parameters come nearest to this."""
VALIDATION_IMAGES = 90
SLEEP_S = 0.2
SCALED = 16


def subnets() -> dict[str, HybridArchitecture]:
    """Return the smallest, the largest and a random subnet of the published space."""
    space = HybridSpace()
    drawn = [space.sample(random.Random(seed)) for seed in range(40)]
    nearest = min(drawn, key=lambda a: abs(parameters(a) - RANDOM_PARAMETERS))
    return {"smallest": space.smallest(), "largest": space.largest(), "random": nearest}


def parameters(architecture: HybridArchitecture) -> int:
    with torch.device("meta"):
        network = AutoNADNet(Room.of_architecture(architecture), in_channels=3, classes=CLASSES)
    return sum(parameter.numel() for parameter in network.parameters())


def steps(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time training steps (forward, backward, optimiser) and evaluation passes of subnets in the supernet."""
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
    masks = torch.randint(0, CLASSES + 1, (BATCH, SIZE, SIZE), device=device)
    supernet = AutoNADNet(Room.of_space(HybridSpace()), in_channels=3, classes=CLASSES).to(device)
    optimizer = optimizer_of(supernet, SupernetSettings())
    rival = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES + 1).to(device)
    rival_optimizer = torch.optim.AdamW(rival.parameters(), lr=1e-4, foreach=True)

    def rival_step() -> None:
        rival.train()
        rival_optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(rival(images)["out"], masks).backward()
        rival_optimizer.step()

    def own_step(architecture: HybridArchitecture) -> Callable[[], None]:
        def run() -> None:
            supernet.train()
            subnet_step(supernet, architecture, optimizer, (images, masks))

        return run

    def evaluation(run: Callable[[], Any], network: torch.nn.Module) -> Callable[[], None]:
        def once() -> None:
            network.eval()
            with torch.inference_mode():
                run()

        return once

    chosen = subnets()
    training = {"fcn_resnet50": rival_step, **{name: own_step(a) for name, a in chosen.items()}}
    evaluating = {"fcn_resnet50": evaluation(lambda: rival(images), rival)}
    for name, architecture in chosen.items():
        evaluating[name] = evaluation(lambda a=architecture: supernet(images, a), supernet)  # type: ignore[misc]
    found = {"training": interleaved(training, arguments.rounds, device)}
    found["evaluation"] = interleaved(evaluating, arguments.rounds, device)
    for rows in found.values():
        for row in rows.values():
            row["over_fcn_resnet50"] = row["median_ms"] / rows["fcn_resnet50"]["median_ms"]
    for name, architecture in chosen.items():
        found["training"][name]["parameters_m"] = parameters(architecture) / 1e6
    return found


def scoring(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time a whole scored candidate over its bare forward passes, on as many images as validation has."""
    torch.manual_seed(0)
    supernet = AutoNADNet(Room.of_space(HybridSpace()), in_channels=1, classes=CLASSES).to(device).eval()
    tiles = [
        (torch.randn(n, 1, SIZE, SIZE, device=device), torch.randint(0, CLASSES + 1, (n, SIZE, SIZE), device=device))
        for n in [8] * (VALIDATION_IMAGES // 8) + [VALIDATION_IMAGES % 8]
    ]
    scorer = Scorer(supernet, tiles, ("a", "b", "c"))
    architecture = subnets()["random"]

    def bare() -> None:
        with torch.inference_mode():
            for images, _ in tiles:
                supernet(images, architecture)

    rows = interleaved({"bare forward": bare, "scored": lambda: scorer.score(architecture)}, arguments.rounds, device)
    for row in rows.values():
        row["over_bare"] = row["median_ms"] / rows["bare forward"]["median_ms"]
    return {f"{VALIDATION_IMAGES} images": rows}


def dispatch(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Score candidates that only sleep, by 1, 2, 4 and 8 actors: what is lost is the cost of dispatching."""
    from clusters.connect import connected
    from clusters.executor import ray_pool

    def make() -> Callable[[float], int]:
        def work(seconds: float) -> int:
            time.sleep(seconds)
            return os.getpid()

        return work

    rows: dict[str, dict[str, float]] = {}
    with connected("none", cpus=8):
        for actors in (1, 2, 4, 8):
            efficiencies = []
            with ray_pool(make, actors=actors, cpus=0.25) as pool:
                ready: set[int] = set()
                while len(ready) < actors:
                    ready |= {outcome.value for outcome in pool.map([0.02] * 4 * actors)}
                for _ in range(arguments.rounds):
                    count = 12 * actors
                    start = time.perf_counter()
                    list(pool.map([SLEEP_S] * count))
                    efficiencies.append(count * SLEEP_S / actors / (time.perf_counter() - start))
            rows[f"{actors} actors"] = {
                "median_percent": 100 * statistics.median(efficiencies),
                "min_percent": 100 * min(efficiencies),
                "max_percent": 100 * max(efficiencies),
            }
    return {f"candidates of {SLEEP_S} s": rows}


def scaling(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Score random subnets by one actor and by one for each core, of one thread each: candidates per second.

    What the machine itself gives to as many processes is told by Python's own pool of processes, in the same run.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from clusters.connect import connected
    from clusters.executor import ray_pool

    cores = len(os.sched_getaffinity(0))
    seconds: dict[str, list[float]] = {}

    def time_rounds(label: str, processes: int, score_all: Callable[[Sequence[int]], Collection[int]]) -> None:
        ready: set[int] = set()
        while len(ready) < processes:
            ready |= set(score_all([0] * 2 * processes))
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            score_all(range(SCALED))
            seconds.setdefault(label, []).append(time.perf_counter() - start)

    for processes in sorted({1, cores}):
        with connected("none", cpus=cores), ray_pool(_Scoring, actors=processes, cpus=1, threads=1) as pool:
            time_rounds(f"{processes} actors", processes, lambda items: [one.value for one in pool.map(items)])
        with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin_scoring) as bare:
            time_rounds(f"{processes} processes, no Ray", processes, lambda items: list(bare.map(_score, items)))
    rows = {}
    for label, found in seconds.items():
        alone = statistics.median(seconds[f"1 {label.split(maxsplit=1)[1]}"])
        rows[label] = {
            "candidates_per_s": SCALED / statistics.median(found),
            "min": SCALED / max(found),
            "max": SCALED / min(found),
            "over_one": alone / statistics.median(found),
        }
    return {f"16 images of {SIZE} px, {SCALED} subnets": rows}


class _Scoring:
    """Scores a subnet by its number; gives the process that did it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        space = HybridSpace()
        self.drawn = [space.sample(random.Random(seed)) for seed in range(SCALED)]
        supernet = AutoNADNet(Room.of_space(space), in_channels=1, classes=CLASSES).eval()
        tiles = [(torch.randn(8, 1, SIZE, SIZE), torch.randint(0, CLASSES + 1, (8, SIZE, SIZE)))] * 2
        self.scorer = Scorer(supernet, tiles, ("a", "b", "c"))

    def __call__(self, number: int) -> int:
        self.scorer.score(self.drawn[number])
        return os.getpid()


_scoring: _Scoring


def _begin_scoring() -> None:
    global _scoring
    torch.set_num_threads(1)
    _scoring = _Scoring()


def _score(number: int) -> int:
    return _scoring(number)


PARTS: dict[str, harness.Part] = {"steps": steps, "scoring": scoring, "dispatch": dispatch, "scaling": scaling}


def main() -> None:
    parser = harness.parser_of("benchmarks.autonad", __doc__, PARTS, rounds=5)
    harness.run(parser, PARTS, f"batch {BATCH}, {SIZE} x {SIZE}")


if __name__ == "__main__":
    main()
