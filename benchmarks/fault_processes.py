"""Processes that are to be killed: found, frozen, and seen to compute before anything is done to them."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LONGEST_S = 120.0
SCORING = "ray::_Host.call"
"""Title of an actor of a pool while it is at an item; before and after the title ends with `_Host`."""
TRAINING = "ray::RayTrainWorker"
POOL = "ray::_Host"
"""Title of an actor of a pool, whether at an item or not."""

_LOOK_S = 0.1


class Missed(Exception):
    """The fault came too late or met nobody at work; it is drawn again."""


def processes_named(name: str) -> list[int]:
    """Return the processes begun below this one whose title has a text in it, as Ray's workers have."""
    titles = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            titles[int(process.name)] = _title(int(process.name))
    below = below_process(os.getpid())
    return sorted(pid for pid, title in titles.items() if name in title and pid in below)


def below_process(ancestor: int) -> set[int]:
    """Return all processes that a process began, and those that they began."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(process.name)] = int(_stat(int(process.name))[1])

    def is_below(pid: int) -> bool:
        while pid in parents and pid != ancestor:
            pid = parents[pid]
        return pid == ancestor

    return {pid for pid in parents if pid != ancestor and is_below(pid)}


@contextmanager
def caught(
    pids: Callable[[], list[int]], generator: Any, *, title: str = "", over: Callable[[], bool] = lambda: False
) -> Iterator[int]:
    """Freeze one of some processes while it computes, for the time of a with-block; it goes on after, if it lives.

    Args:
        pids: returns the processes there are now; one of them is drawn, until one computes.
        generator: draws.
        title: that the frozen process must have; without one, it must have used the CPU just before.
        over: whether it is too late.

    Raises:
        Missed: it was too late, or none computed within two minutes.
    """
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until and not over():
        found = pids()
        if not found:
            time.sleep(0.01)
            continue
        pid = generator.choice(found)
        try:
            used = _ticks(pid)
            if not title:
                time.sleep(_LOOK_S)
            os.kill(pid, signal.SIGSTOP)
        except (OSError, IndexError):
            continue
        try:
            if _is_frozen(pid) and not over() and (title in _title(pid) if title else _ticks(pid) > used):
                yield pid
                return
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)
    raise Missed("nobody was at work any more")


def wait_for(seen: Callable[[], bool], over: Callable[[], bool]) -> None:
    """Wait until something is seen.

    Raises:
        Missed: it was over before, or was not seen within four minutes.
    """
    until = time.monotonic() + 2 * LONGEST_S
    while not seen():
        if over() or time.monotonic() > until:
            raise Missed("the moment never came")
        time.sleep(0.02)


def kill(pid: int) -> None:
    """Kill a process that is there."""
    os.kill(pid, signal.SIGKILL)


def node_of(pid: int, nodes: list[Any]) -> Any:
    """Return the node of a simulated cluster that a process runs on.

    Raises:
        Missed: it runs on none of these.
    """
    for node in nodes:
        if pid in below_process(raylet(node)):
            return node
    raise Missed("it computed on the head, which the driver needs")


def remove(made: Any, node: Any) -> None:
    """Take a node away as a power cut does: with every process on it, and without a word."""
    on_it = below_process(raylet(node))
    made.remove_node(node, allow_graceful=False)
    for pid in on_it:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def raylet(node: Any) -> int:
    """Return the process below which all others of a node of a simulated cluster run."""
    return int(node.all_processes["raylet"][0].process.pid)


def still_there(pids: Collection[int], within_s: float) -> list[int]:
    """Return those of some processes that have not ended within a time."""
    until = time.monotonic() + within_s
    while (left := [pid for pid in pids if _title(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def gcs_and_raylet(head: Any) -> list[int]:
    """Return the processes by which the head of a simulated cluster hears of the others."""
    return [int(head.all_processes[name][0].process.pid) for name in ("gcs_server", "raylet")]


def _is_frozen(pid: int) -> bool:
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        with suppress(OSError):
            if _stat(pid)[0] == "T":
                return True
    return False


def _ticks(pid: int) -> int:
    """Return for how many ticks of the clock a process has computed."""
    return sum(map(int, _stat(pid)[11:13]))


def _title(pid: int) -> str:
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return ""


def _stat(pid: int) -> list[str]:
    """Return the state of a process, its parent and so on."""
    # PID (COMMAND) STATE PARENT ...
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
