"""What a finished AutoNAD search has scored, read off the run's folder: the best candidate under a latency."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.runs import read_run, trial_folder
from search.errors import InputError


class NoCandidates(InputError):
    """The run has scored no candidates, or none that is as fast as asked."""


@dataclass(frozen=True)
class BestCandidate:
    """The best candidate of a trial.

    Attributes:
        data, seed: of the trial.
        digest, architecture: which it is.
        miou: with inherited weights on validation images, in [0, 1].
        latency_ms: measured.
        parameters: of the subnet by itself.
        scored: candidates it was chosen from.
        retrained_miou: on test images, mean over its retrainings; None if it was not retrained.
    """

    data: str
    seed: int
    digest: str
    architecture: Mapping[str, Any]
    miou: float
    latency_ms: float
    parameters: int
    scored: int
    retrained_miou: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def best_of(run: Path, under_ms: float | None, tell: Callable[[str], None] = lambda line: None) -> list[BestCandidate]:
    """Return the best candidate of each trial of a run; see `api.best`.

    Args:
        run: its folder.
        under_ms: slower candidates are left out; None: what the search chose.
        tell: gets the line that says why a trial has none, where another has one.

    Raises:
        NoCandidates: see there.
    """
    record = read_run(run)
    if record.method != "autonad":
        raise NoCandidates(f"{run}: a search by {record.method} scores no candidates; best is for runs of autonad")
    found, missing = [], []
    for trial in record.trials:
        try:
            found.append(_best(trial_folder(run, trial.name), trial.data, trial.seed, under_ms))
        except NoCandidates as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for reason in missing:
        tell(str(reason))
    return found


def _best(folder: Path, data: str, seed: int, under_ms: float | None) -> BestCandidate:
    path, choice = folder / "candidates.jsonl", folder / "candidates.json"
    # What a search that still runs, or was killed, has behind the last complete line is no candidate yet.
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        known = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        scored = [c for c in known if c["feasible"]]
    except (ValueError, KeyError, TypeError) as error:
        raise NoCandidates(f"{path}: not a file of candidates ({error!r})") from error
    go_on = f"go on with: defectnas resume {folder.parents[1].name}"
    if not scored:
        raise NoCandidates(f"{path}: no scored candidates yet; {go_on}")
    if under_ms is None:
        if not choice.is_file():
            raise NoCandidates(f"{choice}: the search has not chosen yet; give --under, or {go_on}")
        wanted = json.loads(choice.read_text(encoding="utf-8"))["best"]
        if wanted is None:
            raise NoCandidates(f"{choice}: no candidate keeps the limits of the search")
        chosen = next(c for c in scored if c["digest"] == wanted)
    else:
        fitting = [c for c in scored if c["latency_ms"] <= under_ms]
        if not fitting:
            fastest = min(c["latency_ms"] for c in scored)
            raise NoCandidates(f"--under {under_ms:g}ms: the fastest candidate of {data} takes {fastest:.1f} ms")
        chosen = max(fitting, key=lambda c: (c["score"]["miou"], -c["number"]))
    return BestCandidate(
        data=data,
        seed=seed,
        digest=chosen["digest"],
        architecture=chosen["architecture"],
        miou=chosen["score"]["miou"],
        latency_ms=chosen["latency_ms"],
        parameters=chosen["parameters"],
        scored=len(scored),
        retrained_miou=_retrained(folder, chosen["digest"]),
    )


def _retrained(folder: Path, digest: str) -> float | None:
    found = [
        json.loads(path.read_text(encoding="utf-8"))["miou"]
        for path in sorted((folder / "finalists").glob(f"{digest[:8]}-s*/metrics.json"))
    ]
    return sum(found) / len(found) if found else None
