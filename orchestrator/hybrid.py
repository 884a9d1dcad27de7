"""An AutoNAD trial and who works for it: pools of actors and Ray Train where Ray is connected, else this process.

Trials of a launch run one after the other unless `resources.parallel` says otherwise: each takes the whole cluster, and
a latency is measured while nothing else of the launch computes.
"""

import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from clusters.executor import MakeWorker, Pool, ray_pool, serial_pool
from orchestrator.resources import TooFewResourcesError
from search.context import Context
from search.errors import InputError
from search.finetune import Weights
from search.hybrid_trial import run_hybrid_trial, train_here
from search.hybrid_workers import Hands
from search.ledger import Emit
from search.trial import read_trial

_RETRIES = 2
_DRIVERS = 0.1
_SLOT = "latency_slot"
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
    return run_hybrid_trial(folder, emit, ray_hands if _ray_is_connected() else serial_hands)


def serial_hands(context: Context) -> Hands:
    """Return hands that do all in this process, one thing after the other."""

    def pool(make_worker: MakeWorker, kind: str) -> AbstractContextManager[Pool]:
        return serial_pool(make_worker, retries=0)

    return Hands(train_here, pool, lambda weights: lambda: weights)


def ray_hands(context: Context) -> Hands:
    """Return hands that are actors and Ray Train workers of the connected Ray."""
    import ray

    from orchestrator.supernet_trainer import train_with_ray

    trial = read_trial(context.folder)
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    workers, least = int(trial.get("supernet_workers", 1)), int(trial.get("least_workers", 1))
    if gpus and workers > gpus:
        raise TooFewResourcesError(f"resources.workers: {workers} workers with a GPU each; the cluster has {gpus} GPUs")
    scorers = int(trial.get("scorers") or gpus or max(1, cpus // context.threads))

    def pool(make_worker: MakeWorker, kind: str) -> AbstractContextManager[Pool]:
        measures, latency = kind == "measure", context.settings.latency
        # Half a GPU, so that who measures finds room beside scorers; they rest while it measures.
        gpus_each = 0.5 if gpus and not (measures and latency.device == "cpu") else 0
        return ray_pool(
            make_worker,
            actors=1 if measures else scorers,
            cpus=0 if gpus or measures else float(min(context.threads, cpus)),
            gpus=gpus_each,
            threads=context.threads,
            retries=_RETRIES,
            timeout_s=None if kind == "retrain" else context.settings.evolution.timeout or None,
            options=probe_options(latency.node) if measures and latency.node else _ANYWHERE,
        )

    def share(weights: Weights) -> Any:
        reference = ray.put(dict(weights))
        return partial(_fetched, reference)

    def train(context: Context) -> None:
        if workers == 1 and not gpus:
            train_here(context)
        else:
            # What drives holds a little of one CPU; a group that asked for all of them would wait for ever.
            each = min(1.0, (cpus - _DRIVERS) / workers)
            train_with_ray(context, workers, least=min(least, workers), cpus=each, gpu=bool(gpus))

    return Hands(train, pool, share)


def probe_options(node: str) -> dict[str, Any]:
    """Return the options of an actor that measures on the node with a label, and there alone if it declares a slot.

    Args:
        node: KEY=VALUE. A node that has the custom resource `latency_slot` lets no second one measure beside it.

    Raises:
        NodeMissing: no node of the connected Ray has the label; an actor would wait for it for ever.
    """
    import ray

    key, _, value = node.partition("=")
    alive = [n for n in ray.nodes() if n["Alive"]]
    there = [n for n in alive if n["Labels"].get(key) == value]
    if not there:
        own = sorted({f"{k}={v}" for n in alive for k, v in n["Labels"].items() if not k.startswith("ray.io/")})
        raise NodeMissing(
            f"latency.node: no node of the cluster has the label {node}; there are {', '.join(own) or 'no labels'}"
        )
    slot = {"resources": {_SLOT: 1}} if all(_SLOT in n["Resources"] for n in there) else {}
    return {"label_selector": {key: value}, **slot}


def _fetched(reference: Any) -> Weights:
    import ray

    return ray.get(reference)


def _ray_is_connected() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()
