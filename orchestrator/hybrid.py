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
from search.finetune import Weights
from search.hybrid_trial import run_hybrid_trial, train_here
from search.hybrid_workers import Hands
from search.ledger import Emit
from search.trial import read_trial

_RETRIES = 2
_DRIVERS = 0.1
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
        if kind == "measure":
            # Half a GPU, so that it finds room beside scorers; they rest while it measures.
            actors, cpus_each, gpus_each = 1, 0.0, 0.5
        else:
            actors, cpus_each, gpus_each = scorers, float(min(context.threads, cpus)), 0.5
        return ray_pool(
            make_worker,
            actors=actors,
            cpus=0 if gpus else cpus_each,
            gpus=gpus_each if gpus else 0,
            threads=context.threads,
            retries=_RETRIES,
            options=_ANYWHERE,
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


def _fetched(reference: Any) -> Weights:
    import ray

    return ray.get(reference)


def _ray_is_connected() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()
