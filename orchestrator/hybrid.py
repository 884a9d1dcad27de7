"""An AutoNAD trial and who works for it: pools of actors and Ray Train where Ray is connected, else this process.

Trials of a launch run one after the other unless `resources.parallel` says otherwise: each takes the whole cluster, and
a latency is measured while nothing else of the launch computes.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clusters.connect import offer
from clusters.executor import Pool as Workers
from clusters.executor import put, ray_pool, serial_pool
from clusters.growth import reach
from orchestrator.growing import await_label, await_workers
from orchestrator.nodes import (
    ReturningPool,
    Ticket,
    among,
    issue,
    made_on_node,
    nodes_that_see,
    retrainer_on_node,
)
from orchestrator.placement import apart, boards, cpu_share, gpu_share, gpus_for, placed, probe_options
from orchestrator.resources import TooFewResourcesError
from search.context import Context
from search.finetune import Weights
from search.hybrid_trial import run_hybrid_trial, train_here
from search.hybrid_workers import Hands, MakeWorker, Pool
from search.ledger import Emit
from search.trial import read_trial

_RETRIES = 2
_SETTLE_S = 60.0
_FETCH_S = 600.0
_ANYWHERE = {"scheduling_strategy": "SPREAD"}
"""Also outside of what Tune set aside for the trial, which only drives."""


def run_trial(folder: Path, emit: Emit | None) -> dict[str, Any]:
    """Run an AutoNAD trial, or go on where it stopped; returns the content of its metrics.json.

    Args:
        folder: of the trial.
        emit: gets every event of the trial.

    Raises:
        InputError: what was asked cannot be done.
    """
    if not _ray_is_connected():
        return run_hybrid_trial(folder, emit, serial_hands)
    # Who drives has no GPU, whatever its workers have.
    return run_hybrid_trial(folder, emit, ray_hands, device=("runtime.device", "cpu"))


def serial_hands(context: Context) -> Hands:
    """Return hands that do all in this process, one thing after the other."""

    def pool(make_worker: MakeWorker, kind: str) -> AbstractContextManager[Pool]:
        return serial_pool(partial(make_worker, context.folder), retries=0)

    return Hands(train_here, pool, lambda weights: lambda: weights)


@dataclass(frozen=True)
class _Room:
    """What a trial may use of the connected Ray.

    Attributes:
        ticket: that a worker on a node without the run's disk needs.
        blind: there are such nodes.
        kept: label selector of the nodes that workers are kept to, as the run has no store; empty: anywhere.
        cpus, gpus: for training and scoring.
        probe_gpus: of those that measure latencies.
        workers, least: of the supernet's training, and the fewest that it goes on with.
        scorers: actors that score candidates.
        wait_s: most seconds to wait for nodes of a growing cluster.
    """

    ticket: Ticket
    blind: bool
    kept: dict[str, str]
    cpus: int
    gpus: int
    probe_gpus: int
    workers: int
    least: int
    scorers: int
    wait_s: float


def _room(context: Context) -> _Room:
    """Return what a trial may use of the connected Ray.

    Raises:
        InputError: a device or node is not there, or there are too few GPUs.
    """
    import ray

    trial = read_trial(context.folder)
    ticket = issue(context.folder)
    seeing, blind = nodes_that_see(context.folder, ticket.token)
    # Workers elsewhere need the store; without one they are kept to the nodes that share the disk.
    kept = among(seeing) if blind and not trial.get("storage") else {}
    # New nodes are not among those that see the folder, where some do not.
    offered = offer(None, seeing) if kept else reach(offer(None))
    latency, device = context.settings.latency, context.settings.runtime.device
    named = device if latency.device == "auto" else latency.device
    probe_gpus = gpus_for("runtime.device" if named == device else "latency.device", named, offered.gpus)
    # A board that only measures computes nothing else.
    board = offer(None, [node["NodeID"] for node in boards(latency.node)])
    cpus = max(1, offered.cpus - board.cpus)
    gpus = gpus_for("runtime.device", device, offered.gpus - board.gpus)
    workers = int(trial.get("supernet_workers", 1))
    everywhere = max(offered.gpus, int(ray.cluster_resources().get("GPU", 0))) - board.gpus
    if everywhere and gpus and workers > gpus:
        where = f"the nodes that see {context.folder} have" if kept else "the cluster has"
        more = "; give --runs as a folder that all nodes see, or --storage s3://BUCKET/PATH" if kept else ""
        raise TooFewResourcesError(f"resources.workers: {workers} workers with a GPU each; {where} {gpus} GPUs{more}")
    return _Room(
        ticket,
        bool(blind),
        kept,
        cpus,
        gpus,
        probe_gpus,
        workers,
        least=min(int(trial.get("least_workers", 1)), workers),
        scorers=int(trial.get("scorers") or gpus or max(1, cpus // context.threads)),
        wait_s=float(trial.get("wait", 0.0)),
    )


def ray_hands(context: Context) -> Hands:
    """Return hands that are actors and Ray Train workers of the connected Ray."""
    from orchestrator.supernet_trainer import train_with_ray

    room, node = _room(context), context.settings.latency.node
    computing: list[Workers] = []

    def say(text: str) -> None:
        context.ledger.write("waiting", text=text)

    @contextmanager
    def pool(make_worker: MakeWorker, kind: str) -> Iterator[Pool]:
        measures = kind == "measure"
        there = room.probe_gpus if measures else room.gpus
        # Scorers are as many as asked for; who retrains has a GPU's memory for itself.
        actors = 1 if measures else room.gpus or room.scorers if kind == "retrain" else room.scorers
        gpus_each = gpu_share(measures, actors, there) if there else 0
        if gpus_each:
            await_workers(1, 0, 1, room.wait_s, say)
        if measures and node:
            await_label(node, room.wait_s, say)
        silence_s = context.settings.runtime.silence
        on_node = partial(retrainer_on_node, silence_s=silence_s) if kind == "retrain" else made_on_node
        where = (probe_options if measures and node else apart)(node)
        with ray_pool(
            partial(on_node, room.ticket, make_worker),
            actors=actors,
            cpus=0 if there or measures else cpu_share(actors, context.threads, room.cpus),
            gpus=gpus_each,
            threads=context.threads,
            retries=_RETRIES,
            # A retraining takes hours; that it goes on is seen by its epochs.
            timeout_s=None if kind == "retrain" else context.settings.evolution.timeout or None,
            options=placed({**_ANYWHERE, **where}, room.kept),
        ) as made:
            if measures:
                yield _Quiet(made, computing)
                return
            computing.append(made)
            try:
                yield ReturningPool(made) if kind == "retrain" else made
            finally:
                computing.remove(made)

    def share(weights: Weights) -> Any:
        megabytes = sum(value.nbytes for value in weights.values()) / 1e6
        return partial(_fetched, put(dict(weights), f"the supernet's weights ({megabytes:.0f} MB)"))

    def train(context: Context) -> None:
        if room.workers == 1 and not room.gpus:
            train_here(context)
            return
        each = cpu_share(room.workers, 1, room.cpus)
        if not room.kept:
            await_workers(room.workers, each, int(bool(room.gpus)), room.wait_s, say, room.least)
        far = room.ticket if room.blind and not room.kept else None
        near = {**room.kept, **apart(node).get("label_selector", {})} or None
        train_with_ray(context, room.workers, least=room.least, cpus=each, gpu=bool(room.gpus), near=near, far=far)

    return Hands(train, pool, share)


@dataclass(frozen=True)
class _Quiet:
    """A pool that measures, and waits until the workers of other pools have started: they would be measured with."""

    workers: Workers
    others: Sequence[Workers]

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        for other in self.others:
            other.settle(_SETTLE_S)
        yield from self.workers.map(items)


def _fetched(reference: Any) -> Weights:
    import ray

    try:
        return ray.get(reference, timeout=_FETCH_S)
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(
            f"the supernet's weights did not reach this node in {_FETCH_S:g} s; its object store may be full"
        ) from error


def _ray_is_connected() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()
