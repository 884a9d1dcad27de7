"""Scored candidates as values, and the append-only file that they are written to as results arrive."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.hybrid_architecture import HybridArchitecture
from search.errors import InputError
from search.scoring import InheritedScore
from search.secret_texts import without_secrets


class BrokenCandidates(InputError):
    """The file of candidates holds a line that is none."""


class WrongCandidate(RuntimeError):
    """A worker evaluated another architecture than it was given."""


@dataclass(frozen=True)
class Candidate:
    """One candidate and all that was found out about it.

    Attributes:
        architecture: what it is.
        generation, number: when it was asked for, both from 0; `number` counts over the generations.
        parameters: of the subnet by itself.
        macs: of one tile; None where they were not counted.
        latency_ms, latency_iqr_ms: measured; None where measuring failed.
        score: with inherited weights; None where it was not scored.
        feasible: keeps every limit and has a score.
        error: why it could not be scored, None if it could or was not to be.
    """

    architecture: HybridArchitecture
    generation: int
    number: int
    parameters: int
    macs: int | None
    latency_ms: float | None
    latency_iqr_ms: float | None
    score: InheritedScore | None
    feasible: bool
    error: str | None = None

    def __post_init__(self) -> None:
        if self.error is not None:
            # What broke may show an address with its password, and candidates are written down.
            object.__setattr__(self, "error", without_secrets(self.error))

    @property
    def digest(self) -> str:
        """Of the architecture."""
        return self.architecture.digest()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **values,
            "digest": self.digest,
            "architecture": self.architecture.to_dict(),
            "score": asdict(self.score) if self.score else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Candidate":
        """Rebuild what `to_dict` gave."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        score = known["score"] and InheritedScore(**{**known["score"], "absent": tuple(known["score"]["absent"])})
        return cls(**{**known, "architecture": HybridArchitecture.from_dict(known["architecture"]), "score": score})


class CandidateLedger:
    """The candidates of a search, each written once, flushed to disk line by line.

    Args (constructor):
        path: of candidates.jsonl, created with the first candidate. What a killed process left behind the last complete
            line is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Candidate] = {c.digest: c for c in _read(path)}

    def append(self, candidate: Candidate) -> None:
        """Write a candidate, unless it is known."""
        if candidate.digest in self.known:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(candidate.to_dict(), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.known[candidate.digest] = candidate


def _read(path: Path) -> Iterator[Candidate]:
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            yield Candidate.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenCandidates(f"{path}, line {number}: not a candidate ({error!r})") from error


def write_table(path: Path, candidates: Iterable[Candidate], points: Mapping[str, float]) -> None:
    """Write candidates as one Parquet table, in the order in which they were asked for.

    Args:
        path: of the file; replaced as a whole.
        candidates: of a search.
        points: by digest what the search ranked by, in mIoU points; absent where there is none.
    """
    rows = [_row(candidate, points.get(candidate.digest)) for candidate in sorted(candidates, key=lambda c: c.number)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


SCHEMA = pa.schema(
    [
        ("number", pa.int32()),
        ("generation", pa.int32()),
        ("digest", pa.string()),
        ("architecture", pa.string()),
        ("miou", pa.float64()),
        ("mf1", pa.float64()),
        ("miou_defects", pa.float64()),
        ("latency_ms", pa.float64()),
        ("latency_iqr_ms", pa.float64()),
        ("parameters", pa.int64()),
        ("macs", pa.int64()),
        ("points", pa.float64()),
        ("feasible", pa.bool_()),
        ("score_seconds", pa.float64()),
        ("error", pa.string()),
    ]
)
"""Columns of candidates.parquet; scores in [0, 1], `points` in mIoU points."""


def _row(candidate: Candidate, points: float | None) -> dict[str, Any]:
    score = candidate.score
    return {
        **{name: getattr(candidate, name) for name in SCHEMA.names if hasattr(candidate, name)},
        "architecture": candidate.architecture.to_json(),
        "miou": score.miou if score else None,
        "mf1": score.mf1 if score else None,
        "miou_defects": score.miou_defects if score else None,
        "score_seconds": score.seconds if score else None,
        "points": points,
    }
