"""Ends a process that works for somebody who has died, where its cluster does not.

Ray ends what a dead driver has begun, if it hears of that. Where the head itself is lost, what runs on other nodes goes
on for a minute, and would write into the folder that a resumed run works in, and hold its GPUs.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from orchestrator.files import is_held

_LOOK_S = 1.0
_LOOKS = 2
"""That must find the holder gone, one after the other: a file system of the network may be away for one."""


def end_with(lock: Path) -> bool:
    """End this process (exit code 1, a line on standard error) soon after the holder of a lock file is gone.

    Args:
        lock: that `files.hold` holds, in a process that lives as long as the work of this one is wanted.

    Returns:
        Whether that will be: not if the lock is not seen to be held, as on a node without the disk that it is on, or
        with a file system that keeps locks to one host.
    """
    holder = _holder(lock)
    if not holder:
        return False
    threading.Thread(target=_look, args=(lock, holder), daemon=True).start()
    return True


def _look(lock: Path, holder: str) -> None:
    missed = 0
    while missed < _LOOKS:
        time.sleep(_LOOK_S)
        # An error of the file system says nothing about the holder.
        with suppress(OSError):
            missed = 0 if _holder(lock) == holder else missed + 1
    print(f"ended: who held {lock} is gone, so nobody waits for this process", file=sys.stderr, flush=True)
    os._exit(1)


def _holder(lock: Path) -> str:
    """Return what the holder of a lock file wrote into it, empty if nobody holds it."""
    return lock.read_text(encoding="utf-8") if is_held(lock) else ""
