"""Results read off run folders, as values, tables and JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.live import duration, finite
from orchestrator.runs import (
    State,
    is_running,
    list_runs,
    read_json,
    read_run,
    trial_folder,
    trial_state,
)

_RESULT_KEYS = ("iou", "f1", "pa", "parameters", "macs", "search_seconds", "retrain_seconds")


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


def results_in(runs: Path) -> list[RunResult]:
    """Return the results of all runs in a folder, newest first."""
    return [result_of(run) for run in list_runs(runs)]


def trials_table(trials: Sequence[TrialResult]) -> Table:
    """Return the table of trials: scores in percent, cost and time, and what they are to be compared with."""
    random = {(trial.data, trial.seed): trial for trial in trials if trial.method == "random"}
    compared = bool(random) and any(trial.method != "random" for trial in trials)
    table = Table(header_style="bold", title_justify="left")
    for label in ("Data", "Seed", "Method", "State"):
        table.add_column(label, justify="right" if label == "Seed" else "left")
    labels = [
        "IoU\n%",
        "F1\n%",
        "PA¹\n%",
        "Parameters\nM",
        "MACs²\nG",
        "FLOPs²\nG",
        "Search\nh:m:s",
        "Retrain\nh:m:s",
    ]
    labels += ["IoU of\nnothing %", *(["IoU of\nrandom %"] if compared else [])]
    for label in labels:
        # As Text: rich takes the :m: of h:m:s for an emoji.
        table.add_column(Text(label), justify="right")
    for trial in trials:
        row = [trial.data, str(trial.seed), trial.method, _coloured(trial.state), *_figures(trial.metrics)]
        rival = random.get((trial.data, trial.seed)) if trial.method != "random" else None
        table.add_row(*row, *([_percent(rival.metrics.get("iou")) if rival else ""] if compared else []))
    table.caption = "¹ two-class mean IoU   ² of one image of the size trained on; FLOPs = 2 x MACs"
    table.caption_justify = "left"
    return table


def runs_table(results: Sequence[RunResult]) -> Table:
    """Return the table of runs, in the order given."""
    table = Table(header_style="bold")
    for label in ("Run", "Created (UTC)", "Method", "Data", "State"):
        table.add_column(label, overflow="fold")
    for label in ("Best IoU\n%", "Parameters\nM", "MACs\nG"):
        table.add_column(label, justify="right")
    for result in results:
        metrics = result.best.metrics if result.best else {}
        table.add_row(
            result.run,
            result.created[:16].replace("T", " "),
            result.method,
            ", ".join(dict.fromkeys(trial.data for trial in result.trials)),
            ", ".join(f"{count} {_coloured(state)}" for state, count in _states(result).items()),
            _percent(metrics.get("iou")),
            _scaled(metrics.get("parameters"), 1e6),
            _scaled(metrics.get("macs"), 1e9),
        )
    return table


def run_summary(result: RunResult) -> dict[str, Any]:
    """Return what `show --json` says of one run."""
    best = result.best.to_dict() if result.best else dict.fromkeys(_RESULT_KEYS)
    return {
        "run": result.run,
        "created": result.created,
        "method": result.method,
        "data": list(dict.fromkeys(trial.data for trial in result.trials)),
        "states": _states(result),
        "best_iou": best["iou"],
        "parameters": best["parameters"],
        "macs": best["macs"],
        "folder": str(result.folder),
    }


def _states(result: RunResult) -> dict[str, int]:
    return dict(Counter(trial.state for trial in result.trials))


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    scores = [_percent(metrics.get(key)) for key in ("iou", "f1", "pa")]
    costs = [
        _scaled(metrics.get(key), unit) for key, unit in (("parameters", 1e6), ("macs", 1e9), ("flops", 1e9))
    ]
    times = [
        duration(metrics[key]) if metrics.get(key) is not None else ""
        for key in ("search_seconds", "retrain_seconds")
    ]
    return [*scores, *costs, *times, _percent(metrics.get("nothing", {}).get("iou_image"))]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.3f}"


def _coloured(state: str) -> str:
    colour = {"done": "green", "failed": "red", "running": "cyan", "stopped": "yellow"}[state]
    return f"[{colour}]{state}[/{colour}]"
