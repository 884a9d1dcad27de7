"""Where the workers of an AutoNAD trial run: scorers anywhere, who measures on the node of the target device, alone."""

import math
from collections.abc import Sequence
from typing import Any

from search.context import DeviceMissing
from search.errors import InputError

SLOT = "latency_slot"
"""Custom resource of a node that lets one latency be measured on it at a time."""

_SCORERS_SHARE, _PROBES_SHARE = 0.6, 0.4
_DRIVERS = 0.1
"""CPUs left to who drives trials, a little each."""


class NodeMissing(InputError):
    """The cluster does not have the node that latency is to be measured on."""


def gpu_share(measures: bool, scorers: int, gpus: int) -> float:
    """Return the share of a GPU of one actor.

    Who measures finds room beside scorers, which rest meanwhile; of those no two find room on one GPU where there is
    one for each, so that a scorer that waits brings a node of its own.

    Args:
        measures: it is the one that measures latencies, and no scorer.
        scorers: how many there are.
        gpus: of the cluster, at least 1.
    """
    return _PROBES_SHARE if measures else _SCORERS_SHARE / math.ceil(scorers / gpus)


def cpu_share(workers: int, threads: int, cpus: int) -> float:
    """Return the CPUs that one worker holds where all are to run at once, beside who drives the trial.

    As many as it has threads would leave one of them without a place for ever: what drives holds a little of a CPU.

    Args:
        workers: how many there are.
        threads: of each.
        cpus: of all nodes that they may use.
    """
    return min(float(threads), (cpus - _DRIVERS) / workers)


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


def placed(options: dict[str, Any], kept: dict[str, str]) -> dict[str, Any]:
    """Return options of actors that are kept to some nodes besides."""
    if not kept:
        return options
    return {**options, "label_selector": {**options.get("label_selector", {}), **kept}}
