"""`defectnas cluster check`: whether a cluster can carry a search, found out by doing small versions of what one does.

Nothing here waits for ever: a node that does not answer in time is named, and not asked again.
"""

import dataclasses
import io
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from clusters import check as on_nodes
from clusters.connect import AddressError, ClusterUnreachableError, connected, find_cluster, needs_token, token_file
from clusters.nodes import Crew, Node, crew, living_nodes, lost_nodes, on_node
from clusters.profile import Profile
from orchestrator import cluster_loads
from orchestrator.cluster_storage import check_storage, held_in
from orchestrator.cluster_verdicts import (
    Check,
    access_check,
    broadcast_check,
    clocks_check,
    latency_check,
    nodes_check,
    reduce_check,
    versions_check,
)
from orchestrator.placement import SLOT, NodeMissing, gpu_share, probe_options
from orchestrator.storage import check_uri, is_uri
from search.errors import InputError

_ROUNDS = 10
_START_S = 60.0
"""What a node may take to start a process, which reads the whole program from a file system that may be slow."""
_STEPS, _JOIN_S = 10, 120.0
"""Steps that each may take their time, and what Ray may need to be joined and left."""


class NoClusterError(InputError):
    """There is no cluster to check."""


@dataclass(frozen=True)
class Work:
    """What nodes are asked; tests put something else in the place of one."""

    describe: Callable[[], dict[str, Any]] = on_nodes.describe
    write: Callable[[str, str, int], str] = on_nodes.write_probe
    read: Callable[[str, Sequence[str], float], dict[str, Any]] = on_nodes.read_probes
    held: Callable[[str], bool] = held_in
    clock: Callable[[], float] = on_nodes.clock
    receive: Callable[[Sequence[Any]], tuple[float, int]] = on_nodes.receive
    all_reduce: Callable[..., tuple[bool, float]] = cluster_loads.all_reduce
    probe: Callable[[bool], dict[str, Any]] = cluster_loads.probe_latency


@dataclass(frozen=True)
class Question:
    """What to check.

    Attributes:
        address: HOST:PORT of the head.
        runs: folder or URI of a store that all nodes should share.
        profile: says which nodes should be there; None: nobody knows.
        label: KEY=VALUE of the node that latency is measured on; empty: where there is a latency slot, else a GPU.
        mib: size of what is summed and sent.
        timeout_s: for each step.
        work: what nodes are asked.
    """

    address: str
    runs: str
    profile: Profile | None = None
    label: str = ""
    mib: int = 64
    timeout_s: float = 60.0
    work: Work = dataclasses.field(default_factory=Work)


@dataclass
class Report:
    """What was found so far; it grows while the checks run."""

    address: str
    nodes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(check.state == "failure" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        return {"cluster": self.address, "ok": not self.failed, "nodes": self.nodes, "checks": checks}


def question_of(setting: str, runs: str | None, **more: Any) -> Question:
    """Return the question for a setting of `--cluster`.

    Args:
        setting: HOST:PORT, "auto", or a profile (.toml), which also says which nodes and what folder to expect.
        runs: the folder of runs, or the URI of a store; None: that of the profile, else runs/ here.
        **more: further attributes of `Question`.

    Raises:
        InputError: there is no such profile, cluster or kind of store.
    """
    profile = None
    address: str | None = setting
    if setting.endswith(".toml"):
        # Here and not above: this module is also imported by nodes.
        from orchestrator.profiles import address_of, read_profile

        profile = read_profile(Path(setting).expanduser())
        address = address_of(profile) or find_cluster()
    elif setting == "auto":
        address = find_cluster()
    if address is None:
        raise NoClusterError(
            f"--cluster {setting}: no Ray cluster on this machine; run this on a node, or give HOST:PORT"
        )
    if runs is None:
        runs = "runs" if profile is None else profile.runs
    if is_uri(runs):
        check_uri(runs)
    else:
        runs = str(Path(runs).absolute())
    return Question(address, runs, profile, **more)


def checked(question: Question, give_up: Callable[[Report], None], stream: TextIO) -> Report:
    """Return the report of all checks, showing what is being done.

    Ray's own calls may hang where a node does. After several times the time that all steps may take, `give_up` is
    called with what was found until then, and this process ends with exit code 1.

    Args:
        question: what to check.
        give_up: is called from another thread.
        stream: where progress is shown: a line that changes on a terminal, else a line per step.

    Raises:
        AddressError: the address is none.
    """
    from rich.console import Console

    report = Report(question.address)
    console = Console(file=stream, highlight=False)

    def end() -> None:
        advice = "a node hangs so that Ray itself does; look at its raylet.out and gcs_server.out"
        report.checks.append(Check("all", "failure", "gave up waiting for Ray", advice))
        give_up(report)
        os._exit(1)

    timer = threading.Timer(_STEPS * question.timeout_s + _START_S + _JOIN_S, end)
    timer.daemon = True
    timer.start()
    try:
        # Ray prints; standard output is the result's.
        with redirect_stdout(io.StringIO()):
            if console.is_terminal:
                with console.status("") as status:
                    check_cluster(question, report, lambda text: status.update(f"{text} ..."))
            else:
                check_cluster(question, report, lambda text: console.print(f"{text} ...", markup=False))
    finally:
        timer.cancel()
    return report


def check_cluster(question: Question, report: Report, say: Callable[[str], None] = lambda text: None) -> None:
    """Join the cluster and do all checks, one after the other.

    Args:
        question: what to check.
        report: each check is added to it when it is done.
        say: is told what is being done.

    Raises:
        AddressError: the address is none.
    """
    say("joining")
    try:
        token = needs_token(question.address)
        with connected(question.address):
            _check_all(question, report, token, say)
    except AddressError:
        raise
    except ClusterUnreachableError as error:
        advice = "is Ray up there? run this on a node of the cluster; the port of the head is 6379 as a rule"
        report.checks.append(Check("join", "failure", str(error), advice))


def _check_all(question: Question, report: Report, token: bool, say: Callable[[str], None]) -> None:
    import ray

    work, timeout_s = question.work, question.timeout_s
    wanted = question.profile is not None and question.profile.security.token
    report.checks.append(access_check(token, wanted, _readable_token(), ray._private.worker.get_dashboard_url()))
    nodes = living_nodes()
    own = ray.get_runtime_context().get_node_id()
    with crew([(node, on_node(node)) for node in nodes]) as team:
        say(f"waiting for {len(nodes)} nodes")
        described = team.ask(work.describe, lambda i, node: (), max(timeout_s, _START_S))
        silent = {answer.node.name: str(answer.error) for answer in described if answer.silent}
        facts = {answer.node.id: answer.value for answer in described if answer.error is None}
        report.nodes.extend(_row(node, facts.get(node.id)) for node in nodes)
        report.checks.append(nodes_check(nodes, silent, lost_nodes(), question.profile))
        heard = [answer for answer in described if not answer.silent]
        if not heard:
            return
        report.checks.append(versions_check(on_nodes.describe(), heard))
        say("shared storage")
        report.checks.append(check_storage(question.runs, team, work.write, work.read, work.held, timeout_s))
        say("clocks")
        report.checks.append(clocks_check(team.clock_offsets(work.clock, _ROUNDS, timeout_s)))
        say("broadcast of weights")
        report.checks.append(_broadcast(question, team, own))
        answering = team.nodes
    if answering:
        say("all-reduce")
        report.checks.append(_all_reduce(question, answering))
        say("latency probe")
        report.checks.append(_latency(question, nodes, answering, own))


def _row(node: Node, facts: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is shown of a node; of its GPUs those that it has, also if Ray gives out fewer."""
    return {
        "name": node.name,
        "address": node.address,
        "cpus": node.cpus,
        "gpus": node.gpus,
        "gpu_names": [gpu["name"] for gpu in facts["gpus"]] if facts else [],
        "memory_gib": round(node.memory_gib, 1),
        "labels": dict(node.labels),
        "resources": node.custom,
        "answers": facts is not None,
    }


def _broadcast(question: Question, team: Crew, own: str) -> Check:
    import numpy as np
    import ray

    weights = np.arange(question.mib * 2**20, dtype=np.uint32).astype(np.uint8)
    try:
        reference = ray.put(weights)
    except ray.exceptions.RayError as error:
        text = f"{question.mib} MiB do not fit into the object store ({type(error).__name__})"
        return Check("broadcast", "failure", text, "start Ray with a larger --object-store-memory")
    begun = time.perf_counter()
    answers = team.ask(question.work.receive, lambda i, node: ([reference],), question.timeout_s)
    seconds = time.perf_counter() - begun
    return broadcast_check(answers, int(weights[::4096].sum()), question.mib, seconds, own)


def _all_reduce(question: Question, nodes: Sequence[Node]) -> Check:
    """Sum a tensor over one process per GPU, or one per node where no node has any."""
    gpu = any(node.gpus for node in nodes)
    places = [node for node in nodes for _ in range(node.gpus if gpu else 1)]
    with crew([(node, on_node(node, gpus=int(gpu))) for node in places]) as team:
        ports = team.ask(on_nodes.free_port, lambda i, node: (), question.timeout_s)
        if lacking := [answer for answer in ports if answer.error is not None]:
            return reduce_check(lacking, gpu, question.mib)
        head, port = places[0].address, ports[0].value
        inner_s = 0.8 * question.timeout_s

        def arguments(rank: int, node: Node) -> tuple[Any, ...]:
            return rank, len(places), head, port, question.mib, gpu, inner_s

        return reduce_check(team.ask(question.work.all_reduce, arguments, question.timeout_s), gpu, question.mib)


def _latency(question: Question, nodes: Sequence[Node], answering: Sequence[Node], own: str) -> Check:
    try:
        if question.label:
            probe_options(question.label)
    except NodeMissing as error:
        advice = "start a node with --labels there, or give --node a label that there is"
        return Check("latency probe", "failure", str(error).removeprefix("latency.node: "), advice)
    chosen = _measuring(nodes, question.label, own)
    # As a search does: a share of a GPU that is left beside scorers; the slot, so that nobody else measures there.
    places = [
        (node, {**on_node(node, gpu_share(True, 1, 1) if node.gpus else 0), **_slot(node)})
        for node in chosen
        if node in answering
    ]
    with crew(places) as team:
        answers = team.ask(question.work.probe, lambda i, node: (bool(node.gpus),), question.timeout_s)
    return latency_check(answers, [node for node in chosen if node not in answering])


def _measuring(nodes: Sequence[Node], label: str, own: str) -> list[Node]:
    """Return the nodes that a search would measure latency on: with the label, else a slot, else a GPU, else this."""
    key, _, value = label.partition("=")
    if label:
        return [node for node in nodes if node.labels.get(key) == value]
    slots = [node for node in nodes if SLOT in node.resources]
    return slots or [node for node in nodes if node.gpus][:1] or [node for node in nodes if node.id == own]


def _slot(node: Node) -> dict[str, Any]:
    return {"resources": {SLOT: 1}} if SLOT in node.resources else {}


def _readable_token() -> str | None:
    """Return the user's token file if others may read it."""
    path = token_file()
    if path is None or not path.is_file() or path.stat().st_uid != os.getuid():
        return None
    return str(path) if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) else None
