"""The ledger of a trial: an append-only file of events, one JSON object a line.

It is the truth about what happened; the live display and the tracker only follow it. A checkpoint remembers how long
the ledger was, and a resumed trial cuts it there, so that no event is in it twice.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Emit = Callable[[Mapping[str, Any]], None]


class Ledger:
    """Events of one trial, written line by line and flushed to disk.

    Args (constructor):
        path: of ledger.jsonl, created if absent; None writes nothing (all but the first process of a group).
        listener: gets each event after it is written, for a display; None for no one.
    """

    def __init__(self, path: Path | None, listener: Emit | None = None) -> None:
        self.path, self.listener, self.count = path, listener, 0
        if path is not None:
            path.touch()
            _drop_half_line(path)
            self.count = sum(1 for _ in read_events(path))

    def write(self, event: str, **values: Any) -> dict[str, Any]:
        """Append one event with its running number and the time; returns it.

        Raises:
            ValueError: a value is infinite or not a number, which JSON cannot say.
        """
        record = {"n": self.count, "time": time.time(), "event": event, **values}
        if self.path is None:
            return record
        with self.path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.count += 1
        if self.listener is not None:
            self.listener(record)
        return record

    def write_once(self, event: str, key: tuple[str, ...], **values: Any) -> None:
        """Write an event, unless one with the same values of `key` is there: a resumed trial passes by it again."""
        values = json.loads(json.dumps(values))
        told = (e for e in read_events(self.path) if e["event"] == event) if self.path else ()
        if not any(all(e[name] == values[name] for name in key) for e in told):
            self.write(event, **values)

    def catch_up(self) -> None:
        """Go on behind what another process has written meanwhile; the listener gets what it has not seen."""
        if self.path is None:
            return
        for event in list(read_events(self.path))[self.count :]:
            self.count += 1
            if self.listener is not None:
                self.listener(event)

    def cut_phase(self, phase: str) -> None:
        """Drop the events from the first stage or epoch of a phase on: it begins anew, nothing of it was saved."""
        if self.path is None:
            return
        for event in read_events(self.path):
            if event["event"] in ("stage", "epoch") and event.get("phase") == phase:
                return self.cut(event["n"])

    def cut(self, count: int) -> None:
        """Drop all but the first `count` events; a resumed trial writes them again."""
        if self.path is None:
            return
        with self.path.open("rb+") as file:
            for _ in range(min(count, self.count)):
                file.readline()
            file.truncate(file.tell())
        self.count = min(count, self.count)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete events of a ledger, in order; a half-written last line is left out."""
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _drop_half_line(path: Path) -> None:
    """Cut what a killed process left behind the last complete line."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)
