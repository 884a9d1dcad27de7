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
            complete line is dropped; measurements under other conditions stay in it and are not used.
        measurers: who measures what is not on file.
        replay: latencies.jsonl of an earlier trial, whose measurements are used first; None: none.

    Raises:
        NotRecorded: there is nothing at `replay`, or it is of other images or another batch.
        BrokenLatencies: a line is no measurement.
    """

    def __init__(self, path: Path, measurers: Pool, replay: Path | None = None) -> None:
        self.path, self._measurers = path, measurers
        here: Conditions = values_of(measurers.map([None]))[0]
        self.conditions = here if replay is None else _recorded_conditions(replay, here)
        self._may_measure = self.conditions == here
        self.known: dict[str, LatencyRecord] = {}
        for source in (replay, path):
            if source is not None and source.exists():
                for conditions, record in _read(source):
                    if conditions == self.conditions:
                        self.known.setdefault(record.architecture.digest(), record)

    def records(self, architectures: Sequence[HybridArchitecture]) -> Iterator[Found]:
        """Yield the record of every architecture: those on file first, the others as they are measured.

        Raises:
            NotRecorded: one would have to be measured, under other conditions than what is replayed was.
        """
        left = []
        for index, architecture in enumerate(architectures):
            record = self.known.get(architecture.digest())
            if record is None:
                left.append(index)
            else:
                yield Found(index, record, None)
        if left and not self._may_measure:
            raise NotRecorded(
                f"latency.replay: no latency of {architectures[left[0]].digest()[:12]} is on file, and measuring it "
                f"here would mix conditions; what is on file was measured on {self.conditions.device_name}"
            )
        for outcome in self._measurers.map([architectures[index] for index in left]) if left else ():
            if outcome.error is None:
                self._append(outcome.value)
            yield Found(left[outcome.index], outcome.value, outcome.error)

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
