"""Reading the ledger of a trial while it grows, is cut short and is written anew."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What is new in a ledger.

    Attributes:
        events: the events of the lines that were completed since the last reading.
        rewritten: lines that were read before are gone or differ; `events` then begins at the first line.
    """

    events: tuple[dict[str, Any], ...]
    rewritten: bool


class LedgerTail:
    """Reads each complete line of a growing ledger once.

    A last line without its end is being written, or was when the trial was killed: it is left for later. A
    trial that goes on after a kill cuts its ledger back to its checkpoint and writes on; that is noticed by
    the bytes of the last line that was read.
    """

    def __init__(self, path: Path):
        self._path = path
        self._offset = 0
        self._lines = 0
        self._last = b""

    def read(self) -> Reading:
        """Return what was added since the last call; nothing where the file does not exist yet."""
        try:
            file = open(self._path, "rb")
        except FileNotFoundError:
            rewritten = self._offset > 0
            self._offset, self._lines, self._last = 0, 0, b""
            return Reading((), rewritten)
        with file:
            file.seek(self._offset - len(self._last))
            rewritten = file.read(len(self._last)) != self._last
            if rewritten:
                self._offset, self._lines, self._last = 0, 0, b""
                file.seek(0)
            added = file.read()
        return Reading(tuple(self._parse(added)), rewritten)

    def _parse(self, added: bytes) -> list[dict[str, Any]]:
        events = []
        for line in added.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            self._lines += 1
            self._last = line
            try:
                event = json.loads(line)
                events.append({**event, "n": int(event["n"]), "event": str(event["event"])})
            except (ValueError, TypeError, KeyError) as error:
                _log.warning("%s: line %d is not an event and is left out (%r)", self._path, self._lines, error)
        return events


def read_ledger(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the events of all complete lines of a ledger; none where the file does not exist."""
    return LedgerTail(path).read().events
