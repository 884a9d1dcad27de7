"""What each trial gets of a machine or cluster, decided from what is there and what was asked."""

from dataclasses import dataclass

from orchestrator.launch import ResourceSettings
from search.errors import InputError

_CPUS_BESIDE_A_GPU = 4


class TooFewResourcesError(InputError):
    """A trial asks for more than any node has; it would wait for ever."""


@dataclass(frozen=True)
class TrialResources:
    """CPUs and GPUs of one trial, and how many trials run at once."""

    cpus: int
    gpus: float
    parallel: int


def spare(cpus: int) -> int:
    """Return how many of some CPUs to compute on: all but the one that everything else needs.

    Threads wait for each other many times in a step. One that has to share its CPU with this program or any
    other holds all up: on two busy CPUs, two threads were measured to be ten times slower than one.
    """
    return max(1, cpus - 1)


def drive_only(asked: ResourceSettings) -> TrialResources:
    """Return what a trial gets that only drives: its workers ask for what they need themselves.

    One at a time unless asked otherwise: each takes all there is, and measures latencies that a neighbour would spoil.
    """
    return TrialResources(0, 0.0, 1 if asked.parallel == "auto" else asked.parallel)


def check_group(asked: ResourceSettings, device: str, gpus: int) -> None:
    """Check that the workers of a supernet find a GPU each, where there are any and they may be used.

    Args:
        asked: the settings.
        device: the setting `runtime.device`.
        gpus: of the cluster, grown as far as it can.

    Raises:
        TooFewResourcesError: there are fewer GPUs than workers.
    """
    if device != "cpu" and gpus and asked.workers > gpus:
        raise TooFewResourcesError(
            f"resources.workers: {asked.workers} workers with a GPU each; the cluster has {gpus} GPUs at most"
        )


def share_out(
    asked: ResourceSettings, trials: int, *, cpus: int, gpus: int, node_cpus: int, node_gpus: int
) -> TrialResources:
    """Return what each of some trials gets.

    With GPUs each trial gets one per worker of its DDP group, and a share of the CPUs to load data. Without,
    the CPUs but one are divided among the trials that run at once, of which there are at most as many as CPUs.

    Args:
        asked: the settings.
        trials: how many trials there are to run, at least 1.
        cpus: CPUs of all nodes.
        gpus: GPUs of all nodes.
        node_cpus: CPUs of the largest node.
        node_gpus: GPUs of the largest node.

    Raises:
        TooFewResourcesError: no node has what a trial asks for.
    """
    per_gpus = asked.gpus if asked.gpus != "auto" else float(asked.workers if node_gpus else 0)
    most = trials if asked.parallel == "auto" else min(asked.parallel, trials)
    by_gpus = max(1, min(most, int(gpus / per_gpus))) if per_gpus else most
    if asked.cpus != "auto":
        per_cpus = asked.cpus
    elif per_gpus:
        per_cpus = max(1, min(_CPUS_BESIDE_A_GPU * asked.workers, cpus // by_gpus, node_cpus))
    else:
        per_cpus = max(asked.workers, min(spare(cpus) // min(most, cpus), node_cpus))
    if per_cpus > node_cpus or per_gpus > node_gpus:
        raise TooFewResourcesError(
            f"resources: a trial asks for {per_cpus} CPUs and {per_gpus:g} GPUs; "
            f"the largest node has {node_cpus} and {node_gpus}"
        )
    fitting = min(cpus // per_cpus, int(gpus / per_gpus) if per_gpus else most)
    return TrialResources(per_cpus, per_gpus, min(most, fitting))
