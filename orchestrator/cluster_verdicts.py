"""From what nodes answered to what a person reads: each check passes, warns or fails, and says what to do."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clusters.nodes import Answer, Node
from clusters.profile import Profile

State = Literal["pass", "warning", "failure"]

_SKEW_WARNING_S, _SKEW_FAILURE_S = 1.0, 60.0
_SPACE_WARNING_GIB, _SPACE_FAILURE_GIB = 20.0, 1.0
_UNSTEADY = 0.1
_BUSY_GPU = 0.05
_BUSY_CPUS = 0.5
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was checked.
        state: whether all is well, could be better, or is wrong.
        found: what was found, in words.
        advice: what to do; empty where all is well.
        values: what was found, for programs.
    """

    name: str
    state: State
    found: str
    advice: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def access_check(token: bool, wanted: bool, readable: str | None, dashboard: str | None) -> Check:
    """Return whether strangers are kept out.

    Args:
        token: whether the cluster asks for one.
        wanted: whether its profile says that it does.
        readable: the user's token file if others on this machine may read it, else None.
        dashboard: HOST:PORT that the dashboard listens on; None: there is none.
    """
    host = (dashboard or "").rpartition(":")[0]
    values = {"token": token, "dashboard": dashboard}
    where = "no dashboard" if not dashboard else f"dashboard on {host}"
    if not token:
        text = f"takes commands from whoever reaches it; {where}"
        advice = "start Ray with RAY_AUTH_MODE=token and a token (ray get-auth-token --generate) on every node"
        return Check("access", "failure" if wanted else "warning", text, advice, values)
    if readable:
        text = f"asks for a token; {readable} is readable by other users of this machine"
        return Check("access", "warning", text, f"chmod 600 {readable}", values)
    if dashboard and host not in ("127.0.0.1", "localhost", "::1"):
        advice = "start the head with --dashboard-host=127.0.0.1 unless others have to see it"
        return Check("access", "warning", f"asks for a token; {where}, reachable from other machines", advice, values)
    return Check("access", "pass", f"asks for a token; {where}", values=values)


def nodes_check(
    nodes: Sequence[Node], silent: Mapping[str, str], lost: Sequence[str], profile: Profile | None
) -> Check:
    """Return whether the nodes are there that should be, and answer.

    Args:
        nodes: that Ray says are alive.
        silent: what was waited for in vain, by node name.
        lost: hosts of nodes that died.
        profile: that says which should be there; None: nobody knows.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    values = {"nodes": len(nodes), "cpus": cpus, "gpus": gpus, "silent": sorted(silent), "lost": list(lost)}
    text = f"{count(len(nodes), 'node')}, {count(cpus, 'CPU')}, {count(gpus, 'GPU')}"
    problems = [f"{name}: {why}" for name, why in silent.items()]
    advice = ["look at Ray's logs there (raylet.out), or remove the node"] if silent else []
    if profile and (missing := list(_missing(nodes, profile))):
        problems += missing
        advice.append("start the missing ones, or correct the profile")
    if problems:
        return Check("nodes", "failure", "; ".join([text, *problems]), "; ".join(advice), values)
    if lost:
        gone = ", ".join(sorted(set(lost)))
        advice_lost = "if it should be there, look at its raylet.out and start Ray there again"
        return Check("nodes", "warning", f"{text}; {count(len(lost), 'node')} died ({gone})", advice_lost, values)
    return Check("nodes", "pass", text, values=values)


def versions_check(own: Mapping[str, Any], answers: Sequence[Answer]) -> Check:
    """Return whether the same programs run on every node as here.

    Args:
        own: what `clusters.check.describe` says here.
        answers: what it said on the nodes.
    """
    told = {answer.node.name: answer.value for answer in answers if answer.error is None}
    errors = [f"{answer.node.name}: {answer.error}" for answer in answers if answer.error is not None]
    failures: list[str] = list(errors)
    warnings: list[str] = []
    for name, values in told.items():
        for program in ("python", "ray", "torch", "defectnas", "code"):
            here, there = own[program], values.get(program)
            if here == there:
                continue
            label = "its source files" if program == "code" else program
            line = f"{name}: {label} {there or 'missing'}, here {here}"
            (failures if _matters(program, here, there) else warnings).append(line)
    drivers = {name: sorted({gpu["driver"] for gpu in values["gpus"]}) for name, values in told.items()}
    kinds = {driver for found in drivers.values() for driver in found}
    if len(kinds) > 1:
        by_node = ", ".join(f"{name} {'/'.join(found)}" for name, found in drivers.items() if found)
        warnings.append(f"GPU drivers differ: {by_node}")
    values = {"driver": dict(own), "nodes": told, "cuda_drivers": drivers}
    state: State = "failure" if failures else "warning" if warnings else "pass"
    if state == "pass":
        gpu_driver = f", GPU driver {next(iter(kinds))}" if kinds else ""
        same = f"Python {own['python']}, Ray {own['ray']}, torch {own['torch']}, defectnas {own['defectnas']}"
        return Check("versions", "pass", f"{same}{gpu_driver}, the same everywhere", values=values)
    missing = any("ModuleNotFoundError" in error or "ImportError" in error for error in errors)
    advice = "install the program there" if missing else "install the same versions there: uv sync, or the same image"
    return Check("versions", state, "; ".join([*failures, *warnings]), advice, values)


def storage_check(
    place: str, wrote: Sequence[Answer], read: Sequence[Answer], advice: str, locked: Sequence[Answer] = ()
) -> Check:
    """Return whether all nodes share the place of runs.

    Args:
        place: of runs, a folder or the URI of a store.
        wrote: sha256 of the file that each node wrote.
        read: what each node then saw of all files, as `clusters.check.read_probes` says; free_bytes is None of a store.
        advice: where a node cannot write, read or see them.
        locked: whether each node saw that this one holds a lock there; empty of a store, which has none.
    """
    written = {answer.node.id: answer.value for answer in wrote if answer.error is None}
    names = {answer.node.id: answer.node.name for answer in [*wrote, *read]}
    problems = [f"{a.node.name} cannot write there ({a.error})" for a in wrote if a.error is not None]
    problems += [f"{a.node.name} cannot read there ({a.error})" for a in read if a.error is not None]
    seen = {answer.node.id: answer.value for answer in read if answer.error is None}
    for reader, value in seen.items():
        files = value["files"]
        # Most often all others are missing at once: that is one thing to say.
        unseen = [names[writer] for writer in written if files.get(writer) is None]
        differing = [names[w] for w, digest in written.items() if files.get(w) not in (None, digest)]
        if unseen:
            problems.append(f"{names[reader]} does not see what {', '.join(unseen)} wrote")
        if differing:
            problems.append(f"{names[reader]} reads something else than {', '.join(differing)} wrote")
    free = min((value["free_bytes"] / _GIB for value in seen.values() if value["free_bytes"] is not None), default=None)
    slowest = max((value["seconds"] for value in seen.values()), default=0.0)
    values = {"folder": place, "free_gib": free, "seen_after_seconds": slowest, "problems": problems}
    if problems:
        if any(answer.silent for answer in [*wrote, *read]):
            advice = "the node that does not answer hangs, or its file system does: look at dmesg and mount there"
        return Check("storage", "failure", "; ".join(problems), advice, values)
    text = f"{place}: written and read across {count(len(seen), 'node')}"
    unlocked = [answer.node.name for answer in locked if not answer.value]
    if unlocked:
        text += (
            f"; a lock that is held here is not seen by {', '.join(unlocked)}: two drivers of one run would both go on"
        )
    if free is None:
        return Check("storage", "pass", text, values=values)
    text += f", {free:,.1f} GiB free"
    if free < _SPACE_WARNING_GIB:
        state: State = "failure" if free < _SPACE_FAILURE_GIB else "warning"
        return Check("storage", state, text, f"free some space; a search may need {_SPACE_WARNING_GIB:g} GiB", values)
    if unlocked:
        return Check("storage", "warning", text, "mount it with locks (NFS: without nolock and local_lock)", values)
    return Check("storage", "pass", text, values=values)


def clocks_check(answers: Sequence[Answer]) -> Check:
    """Return whether the nodes' clocks agree with this one's.

    Args:
        answers: (seconds ahead, seconds of uncertainty) of each, as `Crew.clock_offsets` returns them.
    """
    offsets = {a.node.name: a.value for a in answers if a.error is None}
    errors = [f"{a.node.name}: {a.error}" for a in answers if a.error is not None]
    values = {name: {"offset_ms": 1e3 * by, "within_ms": 1e3 * within} for name, (by, within) in offsets.items()}
    # What the round trip cannot tell from an offset is not held against a clock.
    sure = {name: max(0.0, abs(offset) - within) for name, (offset, within) in offsets.items()}
    worst = max(sure.values(), default=0.0)
    advice = "let chrony or ntpd set the clocks"
    off = [f"{name} {1e3 * offsets[name][0]:+,.0f} ms" for name, by in sure.items() if by >= _SKEW_WARNING_S]
    if errors or worst >= _SKEW_FAILURE_S:
        return Check("clocks", "failure", "; ".join([*errors, *off]), advice if off else "see nodes", values)
    if off:
        return Check("clocks", "warning", "; ".join(off), advice, values)
    largest = max((abs(offset) for offset, _ in offsets.values()), default=0.0)
    within = max((within for _, within in offsets.values()), default=0.0)
    text = (
        f"{count(len(offsets), 'node')}: at most {1e3 * largest:.1f} ms from this one (known to {1e3 * within:.1f} ms)"
    )
    return Check("clocks", "pass", text, values={"nodes": values})


def reduce_check(answers: Sequence[Answer], gpu: bool, mib: int) -> Check:
    """Return whether a group of processes across the nodes can sum a tensor.

    Args:
        answers: (whether the sum was right, ms) of each process.
        gpu: whether it was NCCL on GPUs, else gloo on CPUs.
        mib: size of the tensor.
    """
    backend = "NCCL" if gpu else "gloo"
    errors = [f"{a.node.name}: {a.error}" for a in answers if a.error is not None]
    wrong = [f"{a.node.name}: the sum is wrong" for a in answers if a.error is None and not a.value[0]]
    values: dict[str, Any] = {"backend": backend.lower(), "workers": len(answers), "mib": mib}
    if errors or wrong:
        # All members of a group fail when one does: the first says most.
        more = [f"and {len(errors) - 1} more"] if len(errors) > 1 else []
        name = "NCCL_SOCKET_IFNAME" if gpu else "GLOO_SOCKET_IFNAME"
        advice = f"open all ports among the nodes, or name the network they share by {name}=INTERFACE on each"
        if errors and "no answer" in errors[0]:
            advice = f"{'end what holds the GPUs, or ' if gpu else ''}{advice}"
        return Check("all-reduce", "failure", "; ".join([*wrong, *errors[:1], *more]), advice, values)
    milliseconds = max(answer.value[1] for answer in answers)
    values |= {"milliseconds": milliseconds}
    if len(answers) == 1:
        text = f"{backend}, one worker alone: nothing had to cross a network"
        return Check("all-reduce", "pass", text, values=values)
    text = f"{backend}, {len(answers)} workers: right, {milliseconds:,.1f} ms for {mib} MiB"
    return Check("all-reduce", "pass", text, values=values)


def broadcast_check(answers: Sequence[Answer], expected: int, mib: int, seconds: float, own: str) -> Check:
    """Return whether weights reach all nodes through Ray's object store.

    Args:
        answers: (seconds, sum) of each node.
        expected: the sum.
        mib: size of the weights.
        seconds: until all had them.
        own: id of the node that had them from the start.
    """
    problems = [f"{a.node.name}: {a.error}" for a in answers if a.error is not None]
    problems += [
        f"{a.node.name} received other bytes than were sent"
        for a in answers
        if a.error is None and a.value[1] != expected
    ]
    others = {a.node.name: a.value[0] for a in answers if a.error is None and a.node.id != own}
    values: dict[str, Any] = {"mib": mib, "seconds": {name: own_s for name, own_s in others.items()}}
    if problems:
        advice = "open all ports among the nodes; is the object store full? (ray memory --stats-only)"
        return Check("broadcast", "failure", "; ".join(problems), advice, values)
    if not others:
        return Check("broadcast", "pass", "one node alone: nothing had to cross a network", values=values)
    rate = mib * len(others) / seconds
    values |= {"mib_per_second": rate}
    slowest = max(others, key=lambda name: others[name])
    text = f"{rate:,.0f} MiB/s to {count(len(others), 'node')}, {mib} MiB each"
    if len(others) > 1:
        text += f"; the last was {slowest} after {1e3 * others[slowest]:,.0f} ms"
    return Check("broadcast", "pass", text, values=values)


def latency_check(answers: Sequence[Answer], silent: Sequence[Node] = ()) -> Check:
    """Return whether latency can be measured in peace.

    Args:
        answers: what `orchestrator.cluster_loads.probe_latency` said where a search would measure.
        silent: nodes where one would, and that have not answered before.
    """
    problems = [f"{node.name}: has not answered before" for node in silent]
    problems += [f"{a.node.name}: {a.error}" for a in answers if a.error is not None]
    if problems:
        advice = "is the latency slot, or the GPU, held by a search? else see nodes"
        return Check("latency probe", "failure", "; ".join(problems), advice)
    texts, warnings = [], []
    for answer in answers:
        found, name = answer.value, answer.node.name
        spread = found["iqr_ms"] / found["median_ms"]
        texts.append(f"{name}: {found['device']}, median {found['median_ms']:.2f} ms, spread {100 * spread:.0f} %")
        if loaded := _load(found):
            warnings.append(f"{name}: {loaded}")
        elif spread > _UNSTEADY:
            warnings.append(f"{name}: unsteady")
    values = {"nodes": {answer.node.name: answer.value for answer in answers}}
    if warnings:
        advice = "let nothing else run there while a search measures; fix its clock rate if it can be fixed"
        return Check("latency probe", "warning", "; ".join([*texts, *warnings]), advice, values)
    return Check("latency probe", "pass", "; ".join(texts), values=values)


def count(number: int, what: str) -> str:
    """Return a number with its noun: 1 node, 2 nodes."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _load(found: Mapping[str, Any]) -> str:
    """Return what else computes on the device, in words; nothing if it rests."""
    if found["programs"]:
        return f"{count(found['programs'], 'other program')} on this GPU"
    if found["load"] is None:
        return ""
    if found["on"] == "cuda":
        return f"the GPU is {100 * found['load']:.0f} % busy" if found["load"] > _BUSY_GPU else ""
    if found["load"] > _BUSY_CPUS:
        return f"{found['load']:.1f} of {found['cpus']} CPUs are busy with something else"
    return ""


def _missing(nodes: Sequence[Node], profile: Profile) -> Iterable[str]:
    """Yield the groups of a profile that have fewer nodes than they should begin with."""
    taken: set[str] = set()
    if profile.kind not in ("slurm", "address"):
        taken |= {node.id for node in nodes if "node:__internal_head__" in node.resources}
    # Who asks for most chooses first.
    for group in sorted(profile.workers, key=lambda g: -len(g.labels) - len(g.resources) - bool(g.gpus)):
        wanted = group.max if profile.fixed and profile.kind != "slurm" else group.min
        fitting = [
            node
            for node in nodes
            if all(node.labels.get(key) == value for key, value in group.labels.items())
            and all(node.resources.get(name, 0) >= amount for name, amount in group.resources.items())
            and node.gpus >= group.gpus
            and node.id not in taken
        ][:wanted]
        taken |= {node.id for node in fitting}
        if len(fitting) < wanted:
            needs = [f"{key}={value}" for key, value in group.labels.items()]
            needs += [f"{name} {amount}" for name, amount in group.resources.items()]
            needs += [count(group.gpus, "GPU")] if group.gpus else []
            like = f" ({', '.join(needs)})" if needs else ""
            yield f"group {group.name}: {len(fitting)} of {wanted} nodes{like}"


def _matters(program: str, here: Any, there: Any) -> bool:
    """Return whether a difference of versions breaks a search, or is only to be known."""
    if there is None:
        return True
    if program == "python":
        # Ray refuses another minor version; patches work together.
        return re.split(r"\.", here)[:2] != re.split(r"\.", there)[:2]
    if program == "torch":
        # A board has a build of its own, 2.13.0+nv for 2.13.0+cpu.
        return str(here).partition("+")[0] != str(there).partition("+")[0]
    return True
