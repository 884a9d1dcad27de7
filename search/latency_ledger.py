"""The latencies of a trial, each measured once and written down as it comes; or those of an earlier run, replayed."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.hybrid_architecture import HybridArchitecture
from search.errors import InputError
from search.hybrid_workers import Pool, values_of
from search.latency import Conditions, InvalidConditions, LatencyRecord


class BrokenLatencies(InputError):
    """The file of latencies holds a line that is none."""


class NotRecorded(InputError):
    """Latencies are to be replayed, and there are none to replay."""


@dataclass(frozen=True)
class Found:
    """What became of asking for one latency, as `search.population.Outcome`."""

    index: int
    value: LatencyRecord | None
    error: str | None


class LatencyLedger:
    """Latencies under one set of conditions.

    Args (constructor):
        path: of latencies.jsonl, created with the first measurement. What a killed process left behind the last
            complete line is dropped. What is in it decides the conditions, wherever the search goes on.
        measurers: who measures what is not on file; each value comes with the conditions that the worker measured
            under, since one that takes the place of another may be elsewhere.
        replay: latencies.jsonl of an earlier trial, whose measurements are used first; None: none.

    Raises:
        NotRecorded: there is nothing at `replay`, or it is of other images or another batch.
        BrokenLatencies: a line is no measurement.
    """

    def __init__(self, path: Path, measurers: Pool, replay: Path | None = None) -> None:
        self.path, self._measurers = path, measurers
        self._here: Conditions = values_of(measurers.map([None]))[0]
        if replay is not None:
            self.conditions = _recorded_conditions(replay, self._here)
        else:
            own = [conditions for conditions, _ in _read(path)] if path.exists() else []
            self.conditions = own[-1] if own else self._here
        self._replays = replay is not None
        self.known: dict[str, LatencyRecord] = {}
        for source in (replay, path):
            if source is not None and source.exists():
                for conditions, record in _read(source):
                    if conditions == self.conditions:
                        self.known.setdefault(record.architecture.digest(), record)

    def records(self, architectures: Sequence[HybridArchitecture]) -> Iterator[Found]:
        """Yield the record of every architecture: those on file first, the others as they are measured.

        Raises:
            NotRecorded: one would have to be measured, under other conditions than what is on file was.
        """
        left = []
        for index, architecture in enumerate(architectures):
            record = self.known.get(architecture.digest())
            if record is None:
                left.append(index)
            else:
                yield Found(index, record, None)
        if left:
            self._require(self._here)
        for outcome in self._measurers.map([architectures[index] for index in left]) if left else ():
            record = None
            if outcome.error is None:
                conditions, record = outcome.value
                self._require(conditions)
                self._append(record)
            yield Found(left[outcome.index], record, outcome.error)

    def _require(self, conditions: Conditions) -> None:
        if conditions == self.conditions:
            return
        if self._replays:
            raise NotRecorded(
                f"latency.replay: not all latencies are on file, and measuring here would mix conditions; what is on "
                f"file was measured on {self.conditions}, this is {conditions}"
            )
        raise NotRecorded(
            f"{self.path}: was measured on {self.conditions} with torch {self.conditions.torch_version}, this is "
            f"{conditions} with torch {conditions.torch_version}; go on where the first is (latency.node names it), or "
            "remove latencies.jsonl, candidates.jsonl and random.jsonl there, to choose anew"
        )

    def _append(self, record: LatencyRecord) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"conditions": self.conditions.to_dict(), **record.to_dict()}, allow_nan=False) + "\n"
            )
            file.flush()
            os.fsync(file.fileno())
        self.known[record.architecture.digest()] = record


def _recorded_conditions(replay: Path, here: Conditions) -> Conditions:
    """Return the conditions of what is to be replayed: this machine's if they are among them, else the last ones."""
    if not replay.exists():
        raise NotRecorded(f"latency.replay: {replay} does not exist; give the folder of a run that measured this trial")
    found = [conditions for conditions, _ in _read(replay)]
    fitting = [c for c in found if (c.shape, c.batch, c.precision) == (here.shape, here.batch, here.precision)]
    if not fitting:
        raise NotRecorded(f"latency.replay: {replay} has no latency of {here.batch} x {here.shape}, {here.precision}")
    return here if here in fitting else fitting[-1]


def _read(path: Path) -> Iterable[tuple[Conditions, LatencyRecord]]:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("rb+") as file:
            file.truncate(whole)
    found = []
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
        try:
            values: dict[str, Any] = json.loads(line)
            found.append((Conditions.from_dict(values.pop("conditions")), LatencyRecord.from_dict(values)))
        except (ValueError, KeyError, TypeError, InvalidConditions) as error:
            raise BrokenLatencies(f"{path}, line {number}: not a latency ({error!r})") from error
    return found
