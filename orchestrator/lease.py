"""Who drives a mirrored run: an object that names its writer and beats, read by whoever else wants to drive.

No clock is compared: a holder counts as gone when its beat has stood still for a while under the eyes of the other.

What this cannot guarantee: stores offer no "write only if unchanged" here. Two that begin within the same moment both
write; the one that wrote last holds the run, and the other sees that when it reads back or with its next beat, and
stops mirroring. And a holder that is cut off from the store for long is taken for gone although it still computes; it
too stops mirroring when it finds the object taken. In neither case are states mixed: each is a manifest of its own.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.storage import Store
from search.errors import InputError

NAME = "driver.json"
BEAT_S = 10.0
GONE_S = 35.0
_SETTLE_S = 0.5


class DrivenError(InputError):
    """Another process, maybe on another machine, works on the run."""


@dataclass(frozen=True)
class Pace:
    """Seconds between two beats, without one until a holder counts as gone, and from writing to reading back."""

    beat_s: float = BEAT_S
    gone_s: float = GONE_S
    settle_s: float = _SETTLE_S


PACE = Pace()


@dataclass(frozen=True)
class Beat:
    """What the object says: a name that no other process has, where that is, and how often it has beaten."""

    owner: str
    host: str
    pid: int
    beat: int


def take(
    store: Store, owner: str, previous: str | None, note: Callable[[str], None] = lambda text: None, pace: Pace = PACE
) -> None:
    """Take the lease of a run for a process; may wait `pace.gone_s` to see whether another is alive.

    Args:
        store: place of the run.
        owner: name of this process.
        previous: name of a process that is known to have ended: the one that this run folder was last driven by.
        note: gets a line before a long wait.
        pace: of the beat.

    Raises:
        DrivenError: another process holds it and is alive.
        StorageAwayError, StorageRefusedError: the store cannot be asked.
    """
    held = holder(store)
    if held is not None and held.owner not in (owner, previous):
        note(f"{store.uri}: last driven on {held.host} (pid {held.pid}); seeing for {pace.gone_s:.0f} s if it still is")
        _watch(store, held, pace)
    _write(store, owner, 0)
    time.sleep(pace.settle_s)
    check(store, owner)


def beat(store: Store, owner: str, number: int) -> None:
    """Say that this process is alive.

    Raises:
        DrivenError: another has taken the run.
        StorageAwayError, StorageRefusedError: the store cannot be asked.
    """
    check(store, owner)
    _write(store, owner, number)


def check(store: Store, owner: str) -> None:
    """Check that this process holds the lease.

    Raises:
        DrivenError: another does.
        StorageAwayError, StorageRefusedError: the store cannot be asked.
    """
    held = holder(store)
    if held is not None and held.owner != owner:
        raise _driven(store, held)


def release(store: Store, owner: str) -> None:
    """Give the lease back, if this process holds it."""
    held = holder(store)
    if held is not None and held.owner == owner:
        store.delete(NAME)


def holder(store: Store) -> Beat | None:
    """Return the last beat of who holds the run, None if nobody does."""
    data = store.read(NAME)
    try:
        return None if data is None else Beat(**json.loads(data))
    except (ValueError, TypeError):
        # Cut short by whatever ended its writer.
        return None


def _watch(store: Store, held: Beat, pace: Pace) -> None:
    until = time.monotonic() + pace.gone_s
    while time.monotonic() < until:
        time.sleep(min(2.0, pace.gone_s / 10))
        now = holder(store)
        if now is None:
            return
        if now != held:
            raise _driven(store, now)


def _driven(store: Store, held: Beat) -> DrivenError:
    return DrivenError(f"{store.uri} is driven on host {held.host} (pid {held.pid}); wait for it to end, or stop it")


def _write(store: Store, owner: str, number: int) -> None:
    store.write(NAME, json.dumps(Beat(owner, socket.gethostname(), os.getpid(), number).__dict__).encode())
