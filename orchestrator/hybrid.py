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
from orchestrator.growing import SLOT, await_label, await_workers, gpu_share
from orchestrator.nodes import (
    ReturningPool,
    among,
    issue,
    made_on_node,
    nodes_that_see,
    retrainer_on_node,
)
from orchestrator.resources import TooFewResourcesError
from search.context import Context, DeviceMissing
from search.errors import InputError
from search.finetune import Weights
from search.hybrid_trial import run_hybrid_trial, train_here
from search.hybrid_workers import Hands, MakeWorker, Pool
from search.ledger import Emit
from search.trial import read_trial

_RETRIES = 2
_DRIVERS = 0.1
_SETTLE_S = 60.0
_FETCH_S = 600.0
_ANYWHERE = {"scheduling_strategy": "SPREAD"}
"""Also outside of what Tune set aside for the trial, which only drives."""


class NodeMissing(InputError):
    """The cluster does not have the node that latency is to be measured on."""


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


def ray_hands(context: Context) -> Hands:
    """Return hands that are actors and Ray Train workers of the connected Ray."""
    import ray

    from orchestrator.supernet_trainer import train_with_ray

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
    workers, least = int(trial.get("supernet_workers", 1)), int(trial.get("least_workers", 1))
    everywhere = max(offered.gpus, int(ray.cluster_resources().get("GPU", 0))) - board.gpus
    wait_s = float(trial.get("wait", 0.0))
    if everywhere and gpus and workers > gpus:
        where = f"the nodes that see {context.folder} have" if kept else "the cluster has"
        more = "; give --runs as a folder that all nodes see, or --storage s3://BUCKET/PATH" if kept else ""
        raise TooFewResourcesError(f"resources.workers: {workers} workers with a GPU each; {where} {gpus} GPUs{more}")
    scorers = int(trial.get("scorers") or gpus or max(1, cpus // context.threads))
    computing: list[Workers] = []
    # What drives holds a little of one CPU; a group that asked for all of them would wait for ever.
    each = min(1.0, (cpus - _DRIVERS) / workers)

    def say(text: str) -> None:
        context.ledger.write("waiting", text=text)

    @contextmanager
    def pool(make_worker: MakeWorker, kind: str) -> Iterator[Pool]:
        measures, there = kind == "measure", probe_gpus if kind == "measure" else gpus
        # Scorers are as many as asked for; who retrains has a GPU's memory for itself.
        actors = 1 if measures else gpus or scorers if kind == "retrain" else scorers
        gpus_each = gpu_share(measures, actors, there) if there else 0
        if gpus_each:
            await_workers(1, 0, 1, wait_s, say)
        if measures and latency.node:
            await_label(latency.node, wait_s, say)
        silence_s = context.settings.runtime.silence
        on_node = partial(retrainer_on_node, silence_s=silence_s) if kind == "retrain" else made_on_node
        where = (probe_options if measures and latency.node else apart)(latency.node)
        with ray_pool(
            partial(on_node, ticket, make_worker),
            actors=actors,
            cpus=0 if there or measures else float(min(context.threads, cpus)),
            gpus=gpus_each,
            threads=context.threads,
            retries=_RETRIES,
            # A retraining takes hours; that it goes on is seen by its epochs.
            timeout_s=None if kind == "retrain" else context.settings.evolution.timeout or None,
            options=_placed({**_ANYWHERE, **where}, kept),
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
        if workers == 1 and not gpus:
            train_here(context)
        else:
            if not kept:
                await_workers(workers, each, int(bool(gpus)), wait_s, say, least)
            few, far = min(least, workers), ticket if blind and not kept else None
            near = {**kept, **apart(latency.node).get("label_selector", {})} or None
            train_with_ray(context, workers, least=few, cpus=each, gpu=bool(gpus), near=near, far=far)

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


def gpus_for(setting: str, device: str, there: int) -> int:
    """Return how many of some GPUs a setting's device uses: all, or none.

    Raises:
        DeviceMissing: it names a GPU, and there is none.
    """
    if device.startswith("cuda") and not there:
        raise DeviceMissing(f"{setting}: {device}; the nodes that this search may use have no GPU")
    return 0 if device == "cpu" else there


def apart(node: str) -> dict[str, Any]:
    """Return options that keep what does not measure off the node that does, where that one declares a slot.

    Args:
        node: KEY=VALUE as for `probe_options`; empty: any node measures.
    """
    if not boards(node):
        return {}
    key, _, value = node.partition("=")
    return {"label_selector": {key: f"!{value}"}}


def boards(node: str) -> list[dict[str, Any]]:
    """Return the living nodes of the label KEY=VALUE if they declare a slot for measuring: they are kept for that."""
    there = _labelled(node) if node else []
    return there if _has_slots(there) else []


def probe_options(node: str) -> dict[str, Any]:
    """Return the options of an actor that measures on the node with a label, and there alone if it declares a slot.

    Args:
        node: KEY=VALUE. A node that has the custom resource `latency_slot` lets no second one measure beside it.

    Raises:
        NodeMissing: no node of the connected Ray has the label; an actor would wait for it for ever.
    """
    import ray

    key, _, value = node.partition("=")
    there = _labelled(node)
    if not there:
        labels = [n["Labels"] for n in ray.nodes() if n["Alive"]]
        own = sorted({f"{k}={v}" for one in labels for k, v in one.items() if not k.startswith("ray.io/")})
        raise NodeMissing(
            f"latency.node: no node of the cluster has the label {node}; there are {', '.join(own) or 'no labels'}"
        )
    slot = {"resources": {SLOT: 1}} if _has_slots(there) else {}
    return {"label_selector": {key: value}, **slot}


def _labelled(node: str) -> list[dict[str, Any]]:
    """Return the living nodes of the connected Ray with a label KEY=VALUE."""
    import ray

    key, _, value = node.partition("=")
    return [n for n in ray.nodes() if n["Alive"] and n["Labels"].get(key) == value]


def _has_slots(nodes: Sequence[dict[str, Any]]) -> bool:
    return all(SLOT in node["Resources"] for node in nodes)


def _placed(options: dict[str, Any], kept: dict[str, str]) -> dict[str, Any]:
    """Return options of actors that are kept to some nodes besides."""
    if not kept:
        return options
    return {**options, "label_selector": {**options.get("label_selector", {}), **kept}}


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
