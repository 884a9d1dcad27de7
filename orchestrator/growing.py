"""Nodes that a search asks an autoscaled cluster for: until when it waits for them, and what it says."""

from collections.abc import Callable, Mapping

from clusters.connect import Cluster, offer
from clusters.growth import comes, groups, labelled
from orchestrator.placement import SLOT
from orchestrator.resources import TooFewResourcesError, TrialResources

Say = Callable[[str], None]

_LITTLE = 0.01
"""Of a CPU: what waits for a node of some label waits for no more than that."""


class NodesNotComing(TooFewResourcesError):
    """The cluster can grow to what is needed, and did not in the time that was given."""


def await_one(resources: TrialResources, cluster: Cluster, wait_s: float, say: Say) -> None:
    """Wait until a growing cluster has room for one trial; the others are placed as it goes on growing.

    Raises:
        NodesNotComing: it did not come.
    """
    if groups() and (resources.cpus > cluster.node_cpus or resources.gpus > cluster.node_gpus):
        what = f"a node of {resources.cpus} CPUs and {resources.gpus:g} GPUs"
        _await([_amounts(resources.cpus, resources.gpus)], what, wait_s, say)


def await_workers(workers: int, cpus: float, gpus: int, wait_s: float, say: Say, least: int | None = None) -> None:
    """Wait until a growing cluster has room for some workers.

    Args:
        workers: how many.
        cpus: that each holds.
        gpus: that each holds, 0 or 1.
        wait_s: most seconds to wait.
        say: is told that it waits, and for what.
        least: so many are enough once the time is over; None: all are needed.

    Raises:
        NodesNotComing: fewer came.
    """
    if not groups() or _fit(workers, cpus, gpus):
        return
    each = f"{cpus:g} CPUs" if not gpus else f"{gpus} GPU"
    try:
        _await([_amounts(cpus, gpus)] * workers, f"{workers} times {each}", wait_s, say)
    except NodesNotComing:
        if least is None or not _fit(least, cpus, gpus):
            raise


def await_label(label: str, wait_s: float, say: Say) -> None:
    """Wait for the node of a label KEY=VALUE, if a growing cluster can have one and has none; else return at once.

    Raises:
        NodesNotComing: it did not come.
    """
    import ray

    key, _, value = label.partition("=")
    group = labelled(key, value)
    if group is None or any(node["Alive"] and node["Labels"].get(key) == value for node in ray.nodes()):
        return
    # A resource of its own also calls the node where an autoscaler does not look at labels.
    bundle = {SLOT: 1.0} if SLOT in group.resources else {"CPU": _LITTLE}
    _await([bundle], f"a node with the label {label}", wait_s, say, {key: value})


def _await(
    bundles: list[dict[str, float]], what: str, wait_s: float, say: Say, labels: Mapping[str, str] | None = None
) -> None:
    say(f"asked the cluster for {what}; waiting at most {wait_s / 60:g} min")
    if not comes(bundles, wait_s, labels=labels):
        raise NodesNotComing(
            f"the cluster was asked for {what}, and it did not come within resources.wait, {wait_s / 60:g} min"
        )


def _fit(workers: int, cpus: float, gpus: int) -> bool:
    there = offer(None)
    return there.gpus >= workers * gpus and there.cpus >= workers * cpus


def _amounts(cpus: float, gpus: float) -> dict[str, float]:
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
