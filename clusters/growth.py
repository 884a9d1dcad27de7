"""What an autoscaled cluster can grow to, and asking it to.

Ray's autoscaler adds nodes for what waits for room, and tells nobody how many it may add. The manifests of a profile
therefore tell the nodes, in an environment variable. What asks here is a placement group: its demand ends with the
program that made it, so that no node is kept for a search that has died.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clusters.command import decode, encode
from clusters.connect import Cluster, ClusterUnreachableError
from clusters.profile import Profile

VARIABLE = "DEFECTNAS_GROUPS"
"""Environment variable of the nodes: the groups as JSON, in the letters of `command.encode`."""

_LOOK_S = 2


class GroupsError(ClusterUnreachableError):
    """The environment variable does not hold what a manifest writes there."""


@dataclass(frozen=True)
class Group:
    """Equal nodes that the cluster has or can have.

    Attributes:
        nodes: most of them.
        cpus: of a node.
        gpus: of a node.
        labels: Ray labels of a node.
        resources: custom Ray resources of a node.
    """

    nodes: int
    cpus: int
    gpus: int
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


def environment_of(profile: Profile) -> dict[str, str]:
    """Return the environment variables that tell the nodes of a profile what it can grow to; none where it cannot."""
    if profile.fixed:
        return {}
    head = Group(1, profile.head.ray_cpus, 0, profile.head.labels, profile.head.resources)
    groups = [Group(g.max, g.cpus, g.gpus, g.labels, g.resources) for g in profile.workers]
    return {VARIABLE: encode(json.dumps([dataclasses.asdict(group) for group in (head, *groups)]))}


def groups() -> tuple[Group, ...]:
    """Return what the cluster of this process can grow to, by its environment; nothing where that is not known.

    Raises:
        GroupsError: the environment variable cannot be read.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        return tuple(Group(**values) for values in json.loads(decode(text))) if text else ()
    except (ValueError, TypeError) as error:
        raise GroupsError(f"{VARIABLE}: not what the manifests of a profile hold ({error})") from error


def reach(cluster: Cluster) -> Cluster:
    """Return what a cluster offers once it has grown as far as it can; the same where it cannot grow.

    Raises:
        GroupsError: see `groups`.
    """
    able = groups()
    return Cluster(
        cluster.address,
        max(cluster.cpus, sum(group.nodes * group.cpus for group in able)),
        max(cluster.gpus, sum(group.nodes * group.gpus for group in able)),
        max([cluster.node_cpus, *(group.cpus for group in able)]),
        max([cluster.node_gpus, *(group.gpus for group in able)]),
    )


def labelled(key: str, value: str) -> Group | None:
    """Return the group whose nodes have a label, None where the cluster cannot have such a node."""
    return next((group for group in groups() if group.labels.get(key) == value), None)


def comes(bundles: Sequence[Mapping[str, float]], limit_s: float, *, labels: Mapping[str, str] | None = None) -> bool:
    """Ask the connected cluster for room and wait for it; returns whether it came. Nothing stays set aside.

    Args:
        bundles: amounts by resource, each on one node, all at once.
        limit_s: most seconds to wait.
        labels: of the nodes.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    where = {"bundle_label_selector": [dict(labels)] * len(bundles)} if labels else {}
    asked = placement_group([dict(bundle) for bundle in bundles], **where)
    until = time.monotonic() + limit_s
    try:
        # In short steps: a wait within Ray hears no Ctrl-C.
        while not asked.wait(_LOOK_S):
            if time.monotonic() > until:
                return False
        return True
    finally:
        remove_placement_group(asked)
