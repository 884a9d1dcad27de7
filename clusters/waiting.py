"""Wait for the nodes of a cluster that is just starting: a search divides itself by those that it finds."""

import time
from collections.abc import Callable

from clusters.connect import ClusterUnreachableError, connected, find_cluster, needs_token

_PAUSE_S = 2.0


class TooFewNodesError(TimeoutError):
    """The cluster has fewer nodes than are needed, and none came for the time that was given."""


def wait_for_nodes(address: str, nodes: int, timeout_s: float, say: Callable[[str], None] = lambda text: None) -> int:
    """Return the number of living nodes, once there are as many as asked.

    Args:
        address: HOST:PORT, or "auto": RAY_ADDRESS or a cluster begun with `ray start` on this machine.
        nodes: how many are needed, the head included.
        timeout_s: seconds to wait, for the head and for the others together.
        say: is told how many there are, whenever that changes.

    Raises:
        ClusterUnreachableError: no Ray answered in time.
        TooFewNodesError: Ray answered, and nodes were missing.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            joined = _answering(address)
            break
        except ClusterUnreachableError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
    with connected(joined):
        return _counted(nodes, until, timeout_s, say)


def _answering(address: str) -> str:
    joined = find_cluster() if address == "auto" else address
    if joined is None:
        raise ClusterUnreachableError("no Ray cluster on this machine; RAY_ADDRESS names one elsewhere")
    needs_token(joined)
    return joined


def _counted(nodes: int, until: float, timeout_s: float, say: Callable[[str], None]) -> int:
    import ray

    last = 0
    while (alive := sum(node["Alive"] for node in ray.nodes())) < nodes:
        if alive != last:
            say(f"{alive} of {nodes} nodes are there")
            last = alive
        if time.monotonic() > until:
            raise TooFewNodesError(
                f"{alive} of {nodes} nodes are there after {timeout_s:g} s; the cluster is too small"
            )
        time.sleep(_PAUSE_S)
    return alive
