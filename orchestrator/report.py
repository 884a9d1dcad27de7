"""Results read off run folders, as values and JSON."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.live import finite
from orchestrator.runs import (
    FAILURE,
    BrokenRunError,
    State,
    is_running,
    list_runs,
    read_json,
    read_run,
    trial_folder,
    trial_state,
)

SCORES = ("iou", "f1", "pa")
MEAN_SCORES = ("miou", "mf1")
"""Over the classes, the background among them; of trials that have them."""
_RESULT_KEYS = (*SCORES, "parameters", "macs", "search_seconds", "retrain_seconds")


@dataclass(frozen=True)
class TrialResult:
    """One trial with its state and, once it is done, the content of its metrics.json (else empty)."""

    data: str
    seed: int
    method: str
    state: State
    folder: Path
    metrics: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return what `search --json` says of a trial; values of a trial that is not done are None."""
        values = {key: self.metrics.get(key) for key in _RESULT_KEYS}
        head = {"data": self.data, "seed": self.seed, "method": self.method, "state": self.state}
        return finite({**head, **values, "folder": str(self.folder)})


def failure_of(folder: Path) -> tuple[str, bool]:
    """Return why a failed trial failed, in one line, and whether it was for something that the user can mend."""
    told = folder / FAILURE
    if told.is_file():
        values = read_json(told)
        text, final = str(values["error"]), bool(values["final"])
    else:
        # Its process was killed, and whoever found it wrote the text alone.
        text, final = (folder / "error.txt").read_text(encoding="utf-8"), False
    return next(iter(text.splitlines()), ""), final


@dataclass(frozen=True)
class RunResult:
    """A run and its trials, in the order in which they were asked for."""

    run: str
    folder: Path
    created: str
    method: str
    trials: tuple[TrialResult, ...]

    @property
    def failed(self) -> tuple[TrialResult, ...]:
        """The trials that failed."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    @property
    def best(self) -> TrialResult | None:
        """The trial with the highest test IoU; None if none is done."""
        done = [trial for trial in self.trials if trial.state == "done"]
        return max(done, key=lambda trial: trial.metrics["iou"], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of `search --json`."""
        return {"run": self.run, "trials": [trial.to_dict() for trial in self.trials]}


def result_of(run: Path) -> RunResult:
    """Return the result of a run folder as it stands.

    Raises:
        BrokenRunError: run.json or a metrics.json is damaged.
    """
    record, running = read_run(run), is_running(run)
    trials = []
    for trial in record.trials:
        folder = trial_folder(run, trial.name)
        state = trial_state(folder, running)
        metrics = read_json(folder / "metrics.json") if state == "done" else {}
        trials.append(TrialResult(trial.data, trial.seed, trial.method, state, folder, metrics))
    return RunResult(record.id, run, record.created, record.method, tuple(trials))


@dataclass(frozen=True)
class Listing:
    """The results of runs, newest first, and what is wrong with each of those whose files are damaged."""

    results: tuple[RunResult, ...]
    damaged: tuple[str, ...]


def results_in(runs: Path) -> Listing:
    """Return the results of all runs in a folder."""
    results, damaged = [], []
    for run in list_runs(runs):
        try:
            results.append(result_of(run))
        except BrokenRunError as error:
            damaged.append(str(error))
    results.sort(key=lambda result: (str(result.created), result.folder.name), reverse=True)
    return Listing(tuple(results), tuple(damaged))


@dataclass(frozen=True)
class Spread:
    """Scores of one method on one data set over several seeds: (mean, sample standard deviation) by score.

    Of `MEAN_SCORES` those that every trial has.
    """

    data: str
    method: str
    seeds: int
    scores: Mapping[str, tuple[float, float]]


def spreads_over_seeds(trials: Sequence[TrialResult]) -> list[Spread]:
    """Return the spread of every data set and method of which several seeds are done."""
    groups: dict[tuple[str, str], list[TrialResult]] = {}
    for trial in trials:
        if trial.state == "done":
            groups.setdefault((trial.data, trial.method), []).append(trial)

    def spread(group: Sequence[TrialResult], name: str) -> tuple[float, float]:
        values = [trial.metrics[name] for trial in group]
        return statistics.mean(values), statistics.stdev(values)

    def names(group: Sequence[TrialResult]) -> list[str]:
        return [*SCORES, *(name for name in MEAN_SCORES if all(name in trial.metrics for trial in group))]

    return [
        Spread(data, method, len(group), {name: spread(group, name) for name in names(group)})
        for (data, method), group in groups.items()
        if len(group) > 1
    ]


def run_summary(result: RunResult) -> dict[str, Any]:
    """Return what `show --json` says of one run."""
    best = result.best.to_dict() if result.best else dict.fromkeys(_RESULT_KEYS)
    return {
        "run": result.run,
        "created": result.created,
        "method": result.method,
        "data": list(dict.fromkeys(trial.data for trial in result.trials)),
        "states": states_of(result),
        "best_iou": best["iou"],
        "best_f1": best["f1"],
        "parameters": best["parameters"],
        "macs": best["macs"],
        "search_seconds": search_seconds_of(result),
        "folder": str(result.folder),
    }


def search_seconds_of(result: RunResult) -> float | None:
    """Return how long the searches of the trials that are done took together, None if none is."""
    known = [t.metrics["search_seconds"] for t in result.trials if t.metrics.get("search_seconds") is not None]
    return sum(known) if known else None


def states_of(result: RunResult) -> dict[str, int]:
    """Return how many trials of a run are in each state."""
    return dict(Counter(trial.state for trial in result.trials))
