"""Faults of one trial that this process drives, on a simulated cluster or alone."""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.fault_processes import (
    SCORING,
    TRAINING,
    Missed,
    below_process,
    caught,
    kill,
    node_of,
    processes_named,
    raylet,
    remove,
    wait_for,
)
from benchmarks.fault_trials import (
    NAME,
    Broken,
    Ground,
    Verdict,
    cluster,
    faulty_hands,
    judge,
    recorded_hands,
)

_LAST_EPOCH = 6


class Cut(Exception):
    """Ends a trial in this process."""


@dataclass(frozen=True)
class Scene:
    """Where a fault is made: the trial's folder, the cluster, its nodes but the head, and whether it is too late."""

    folder: Path
    made: Any
    nodes: list[Any]
    over: Callable[[], bool]

    def scored(self, count: int) -> None:
        """Wait until so many candidates have a score."""
        path = self.folder / "candidates.jsonl"
        wait_for(lambda: path.exists() and len(path.read_text().splitlines()) >= count, self.over)


def evaluator_killed(ground: Ground, name: str, generator: Random) -> Verdict:
    """A scorer dies by SIGKILL in the middle of a candidate."""
    count = generator.randint(1, 12)

    def inject(scene: Scene) -> None:
        scene.scored(count)
        with caught(lambda: processes_named(SCORING), generator, title=SCORING, over=scene.over) as pid:
            kill(pid)

    return _on_cluster(ground, name, "latency", 1, "architecture", inject)


def rank_killed(ground: Ground, name: str, generator: Random) -> Verdict:
    """A worker of the supernet's training dies by SIGKILL in the middle of an epoch."""

    def inject(scene: Scene) -> None:
        with caught(lambda: processes_named(TRAINING), generator, over=scene.over) as pid:
            kill(pid)

    return _on_cluster(ground, name, "epoch", generator.randint(1, _LAST_EPOCH - 2), "latency", inject)


_PHASES: dict[str, tuple[str, int, str, str]] = {
    "training": ("epoch", 1, "latency", ""),
    "latency": ("epoch", _LAST_EPOCH, "latency", SCORING),
    "evolution": ("latency", 1, "architecture", SCORING),
    "retraining": ("architecture", 1, "finished", SCORING),
}
"""Of a phase: the event behind which, and how many of it; the event before which; the title of who is at work."""


def node_removed(ground: Ground, name: str, generator: Random, *, phase: str) -> Verdict:
    """A node on which a worker computes goes, with all its processes."""
    event, number, end, title = _PHASES[phase]
    if phase == "training":
        number = generator.randint(1, _LAST_EPOCH - 2)
    count = generator.randint(1, 12)

    def inject(scene: Scene) -> None:
        if phase == "evolution":
            scene.scored(count)

        def at_work() -> list[int]:
            on_nodes = set().union(*(below_process(raylet(node)) for node in scene.nodes))
            return [pid for pid in processes_named(title or TRAINING) if pid in on_nodes]

        with caught(at_work, generator, title=title, over=scene.over) as pid:
            remove(scene.made, node_of(pid, scene.nodes))

    hands, changes = None, {}
    if phase == "latency":
        # What is replayed is not measured. So all is measured, and the other trial's values are told.
        hands = partial(recorded_hands, latencies=ground.whole / "trials" / NAME / "latencies.jsonl")
        changes = {"latency": {"replay": "", "repeats": 20, "node": "defectnas/fault=yes"}}
    return _on_cluster(ground, name, event, number, end, inject, hands, **changes)


def store_full(ground: Ground, name: str, generator: Random) -> Verdict:
    """Others fill Ray's object store, which may not spill to disk, until it takes nothing more."""
    import ray

    from orchestrator.attempt import RUN_HYBRID, TrialFailedError, attempt

    full = (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)
    folder, held, refused = _for_two(ground.trial(name)), list[Any](), 0
    number = generator.randint(2, _LAST_EPOCH)

    def emit(said: Mapping[str, Any]) -> None:
        nonlocal refused
        if said["event"] == "epoch" and said["epoch"] == number and not held:
            for size in (5_000_000, 100_000, 10_000):
                try:
                    while True:
                        held.append(ray.put(np.zeros(size, np.uint8)))
                except full:
                    refused += 1

    no_spilling = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.0}
    with cluster(2, head={"_system_config": no_spilling}, object_store_memory=80_000_000):
        how = "went on,"
        try:
            attempt(folder, RUN_HYBRID, emit)
        except TrialFailedError as error:
            how = "said so and was resumed,"
            said = (folder / "error.txt").read_text().partition("\n")[0]
            if "object store on this node has no room for" not in said:
                raise RuntimeError(f"not a clear line: {said}") from error
            held.clear()
            attempt(folder, RUN_HYBRID, lambda event: None)
        if not refused:
            raise Missed("the object store took everything")
    verdict = judge(ground, folder)
    return Verdict(verdict.survived, verdict.lost, verdict.same, f"{how} full since epoch {number}")


def candidate_hangs(ground: Ground, name: str, generator: Random) -> Verdict:
    """A scorer never ends with a candidate; its time runs out and another scores it."""
    return _faulty(ground, name, generator, "hang")


def candidate_poisonous(ground: Ground, name: str, generator: Random) -> Verdict:
    """A candidate kills every scorer that it is given to; it is left out, and the search goes on and says so."""
    return _faulty(ground, name, generator, "poison")


def retraining_hangs(ground: Ground, name: str, generator: Random) -> Verdict:
    """A retraining is silent for too long; its process ends itself, and another goes on."""
    whole = ground.whole / "trials" / NAME
    digest = generator.choice([path.name[:8] for path in (whole / "finalists").iterdir()])
    changes = {"runtime": {"silence": 40}}
    folder, _ = _with_faulty(ground, name, Broken("hang", digest, "retrain"), changes)
    return judge(ground, folder)


def finalist_poisonous(ground: Ground, name: str, generator: Random) -> Verdict:
    """The winner kills every retrainer that it is given to; the next of the ranking takes its place."""
    best = json.loads((ground.whole / "trials" / NAME / "candidates.json").read_text())["best"]
    folder, said = _with_faulty(ground, name, Broken("poison", best, "retrain"), {})
    metrics = json.loads((folder / "metrics.json").read_text())
    named = [lost["digest"] for lost in metrics["quarantined"]]
    if named != [best] or said.count("quarantined") != 1:
        raise RuntimeError(f"the finalist was not named: {named}")
    verdict = judge(ground, folder)
    return Verdict(verdict.survived and len(metrics["finalists"]) == 2, verdict.lost, False)


def checkpoint_damaged(ground: Ground, name: str, generator: Random, *, how: str) -> Verdict:
    """A training is cut off, and its newest checkpoint is truncated or has one bit turned."""
    from orchestrator.hybrid import serial_hands
    from search.hybrid_trial import run_hybrid_trial

    folder, last = ground.trial(name), generator.randint(2, _LAST_EPOCH - 1)

    def cut(event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == last + 1:
            raise Cut

    try:
        run_hybrid_trial(folder, cut, serial_hands)
    except Cut:
        newest = max((folder / "checkpoint").glob("supernet-*.safetensors"))
        data = bytearray(newest.read_bytes())
        place = generator.randrange(len(data))
        if how == "truncated":
            del data[place:]
        else:
            data[place] ^= 1 << generator.randrange(8)
        newest.write_bytes(data)
    events: list[str] = []
    run_hybrid_trial(folder, lambda event: events.append(event["event"]), serial_hands)
    if "checkpoint_damaged" not in events:
        raise RuntimeError(f"{folder}: the damage was not noticed")
    return judge(ground, folder)


def _for_two(folder: Path) -> Path:
    """Let two workers train the supernet of a trial, and two score."""
    trial = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps({**trial, "supernet_workers": 2, "scorers": 2}))
    return folder


def _on_cluster(
    ground: Ground,
    name: str,
    event: str,
    number: int,
    end: str,
    inject: Callable[[Scene], None],
    hands: Any = None,
    **changes: dict[str, Any],
) -> Verdict:
    """Run a trial on a cluster of three nodes and do something behind the so-many-th event of a kind, beside it.

    Args:
        ground: where.
        name: of the trial.
        event: kind of event.
        number: which of that kind.
        end: kind of event that is too late.
        inject: what to do.
        hands: takes `of`, the hands to change; None: they are left as they are.
        changes: of the settings.

    Raises:
        Missed: it was too late for it.
    """
    from orchestrator.hybrid import ray_hands
    from search.hybrid_trial import run_hybrid_trial

    folder, over, seen = _for_two(ground.trial(name, **changes)), threading.Event(), 0
    done: Future[None] | None = None
    with cluster(2) as (made, nodes), ThreadPoolExecutor(1) as beside:

        def emit(said: Mapping[str, Any]) -> None:
            nonlocal seen, done
            if said["event"] == end:
                over.set()
            seen += said["event"] == event
            if said["event"] == event and seen == number and done is None:
                over.clear()
                done = beside.submit(inject, Scene(folder, made, nodes, over.is_set))

        try:
            run_hybrid_trial(folder, emit, partial(hands, of=ray_hands) if hands else ray_hands)
        finally:
            over.set()
        if done is None:
            raise RuntimeError(f"{folder}: there was no {event} {number}")
        done.result()
    return judge(ground, folder)


def _faulty(ground: Ground, name: str, generator: Random, fault: str) -> Verdict:
    whole = ground.whole / "trials" / NAME
    best = json.loads((whole / "candidates.json").read_text())["best"]
    digests = [json.loads(line)["digest"] for line in (whole / "candidates.jsonl").read_text().splitlines()]
    digest = generator.choice([d for d in digests[:8] if d != best])
    folder, said = _with_faulty(ground, name, Broken(fault, digest), {"evolution": {"timeout": 5}})
    if fault == "poison" and said.count("quarantined") != 1:
        raise RuntimeError("the candidate was not named")
    verdict = judge(ground, folder)
    if fault == "poison":
        # Its own generations follow from it, so other candidates are asked for: all of those must have a score.
        rows = map(json.loads, (folder / "candidates.jsonl").read_text().splitlines())
        verdict = Verdict(verdict.survived, sum(row["score"] is None for row in rows) - 1, False)
    return verdict


def _with_faulty(
    ground: Ground, name: str, broken: Broken, changes: dict[str, dict[str, Any]]
) -> tuple[Path, list[str]]:
    """Run a trial with `faulty_hands` on a cluster; returns its folder and the kinds of its events."""
    from orchestrator.hybrid import ray_hands
    from search.hybrid_trial import run_hybrid_trial

    folder, said = ground.trial(name, **changes), list[str]()
    with cluster(2):
        hands = partial(faulty_hands, of=ray_hands, broken=broken)
        run_hybrid_trial(folder, lambda event: said.append(event["event"]), hands)
    if broken.how == "hang" and not (folder / "fault.mark").exists():
        raise RuntimeError("no worker hung")
    return folder, said
