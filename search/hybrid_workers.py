"""The workers of an AutoNAD trial: what each does with one item, made anew in any process from the trial's folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from models.autonad import AutoNADNet
from models.hybrid_architecture import HybridArchitecture
from search.checkpoint import CheckpointDamaged, CheckpointMismatch, write_atomically
from search.context import Context
from search.divergence import Diverged
from search.errors import disk_full, is_disk_full, refuse
from search.finetune import Weights, plain_network, run_job
from search.latency import Conditions, LatencyRecord, conditions_here, measure_architecture
from search.one_shot import division, new_supernet
from search.population import Outcome
from search.scoring import InheritedScore, Scorer
from search.trial import open_context, read_trial

SUPERNET = "supernet.safetensors"

MakeWorker = Callable[[Path], Callable[[Any], Any]]
"""Makes a worker of a trial from the trial's folder, which on another node may be another one."""

Retrained = dict[str, Any] | Diverged | OSError
"""The metrics of a retraining, or what a new attempt would not better: that it diverged, or that the disk is full.

Both are returned and not raised: what is raised is tried again, and reaches who asked as a text.
"""


class Pool(Protocol):
    """Workers that each item is given to one of."""

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield the outcome of every item, in the order of completion."""
        ...


@dataclass(frozen=True)
class Hands:
    """Who does the work.

    Attributes:
        train: trains the supernet of a context, or goes on, and leaves `supernet.safetensors` in its folder.
        pool: opens a pool for "score", "measure" or "retrain"; its workers are made wherever there is room.
        share: puts weights where every worker gets them at little cost; returns a function that fetches them.
    """

    train: Callable[[Context], None]
    pool: Callable[[MakeWorker, str], AbstractContextManager[Pool]]
    share: Callable[[Weights], Callable[[], Weights]]


def values_of(outcomes: Iterator[Outcome]) -> list[Any]:
    """Return the values, in the order of completion.

    Raises:
        Refused, RuntimeError: an item failed, for bad input or for another reason.
    """
    values = []
    for outcome in outcomes:
        refuse(outcome.error)
        if outcome.error is not None:
            raise RuntimeError(outcome.error)
        values.append(outcome.value)
    return values


def make_scorer(folder: Path, weights: Callable[[], Weights]) -> Callable[[HybridArchitecture], InheritedScore]:
    """Return a function that scores subnets with inherited weights; images are decoded here, once."""
    context = open_context(folder, read_trial(folder), None)
    network = new_supernet(context)
    network.load_state_dict({name: torch.tensor(value) for name, value in weights().items()})
    _, validation = division(context)
    return Scorer.on_validation(context, network.eval(), validation).score


Measured = tuple[Conditions, LatencyRecord]


def make_measurer(folder: Path) -> Callable[[HybridArchitecture | None], Measured | Conditions]:
    """Return a function that measures subnets on the device of the settings; given None it says under what conditions.

    Only the worker knows them: it may be on another machine than who asks, or than the worker before it.
    """
    trial = read_trial(folder)
    asked = trial["settings"].get("latency", {}).get("device", "auto")
    context = open_context(folder, trial, None, device=None if asked == "auto" else ("latency.device", asked))
    settings, device = context.settings.latency, context.device
    size = settings.size or context.settings.data.image_size
    shape = (context.pack.colour_channels, size, size)
    conditions = conditions_here(device, shape, settings.batch, context.precision)

    def measured(architecture: HybridArchitecture | None) -> Measured | Conditions:
        if architecture is None:
            return conditions
        # New weights: how long a subnet takes does not depend on their values.
        network = plain_network(context, architecture).to(device)
        record = measure_architecture(
            network, architecture, conditions, device, warmup=settings.warmup, repeats=settings.repeats
        )
        return conditions, record

    return measured


def make_retrainer(folder: Path, weights: Callable[[], Weights]) -> Callable[[Path], Retrained]:
    """Return a function that retrains and tests the subnet of a job; see `Retrained`."""

    def retrain(job: Path) -> Retrained:
        try:
            return run_job(job, folder, weights)
        except Diverged as error:
            return error
        except OSError as error:
            if not is_disk_full(error):
                raise
            return disk_full(error.filename or job)

    return retrain


def save_weights(context: Context, network: AutoNADNet) -> None:
    """Write the trained supernet, whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(context.folder / SUPERNET, save(tensors, {"digest": context.digest}))


def load_weights(context: Context) -> Weights:
    """Return the weights of the trained supernet by name.

    Raises:
        CheckpointDamaged: the file is not whole.
        CheckpointMismatch: it is of another space, other settings or other data.
    """
    path = context.folder / SUPERNET
    try:
        with safe_open(path, "numpy") as file:
            digest = (file.metadata() or {}).get("digest")
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise CheckpointDamaged(f"{path}: damaged ({error}); remove it to train the supernet anew") from error
    if digest != context.digest:
        raise CheckpointMismatch(f"{path} was trained in another space or with other settings or data; remove it")
    return weights
