"""What is seen while trials run: a live table, lines, JSON lines or nothing, all on standard error."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from orchestrator.launch import Trial
from orchestrator.progress import Standing, advance, not_begun

Mode = Literal["auto", "lines", "json-lines", "quiet"]

_COLOURS = {
    "waiting": "dim",
    "search": "cyan",
    "supernet": "cyan",
    "evolve": "yellow",
    "retrain": "blue",
    "test": "magenta",
    "done": "green",
    "failed": "red",
}
_GOING = ("search", "supernet", "evolve", "retrain", "test")
_FIRST_SHOWN = ("failed", *_GOING, "waiting", "done")
_LINES_BESIDE_ROWS = 8


class Watch:
    """Follows the trials of a launch and shows them in one of four ways.

    Standard error is used throughout, so that standard output carries the result alone.
    """

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None):
        """Choose how to show.

        Args:
            mode: auto is a live table on a terminal and lines elsewhere.
            stream: where to, instead of standard error.
        """
        self.console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._mode: Mode | Literal["table"] = mode
        if mode == "auto":
            self._mode = "table" if self.console.is_terminal else "lines"
        self._trials: dict[str, Trial] = {}
        self._progress: dict[str, Standing] = {}
        self._began = time.time()

    def note(self, text: str) -> None:
        """Say one line about the launch as a whole."""
        if self._mode == "json-lines":
            self._json({"event": "note", "time": time.time(), "text": text})
        elif self._mode != "quiet":
            self.console.print(Text(text))

    @contextmanager
    def counting(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """Show how far something before the trials is; yields a function of (done, total)."""
        if self._mode != "table":
            yield lambda done, total: None
            return
        bar = Progress(console=self.console, transient=True)
        with bar:
            task = bar.add_task(text)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def follow(self, trials: Sequence[Trial]) -> AbstractContextManager[Any]:
        """Return a context in which the events of these trials are shown."""
        self._trials = {trial.record.name: trial for trial in trials}
        self._progress = {name: not_begun(trial.settings, trial.record.method) for name, trial in self._trials.items()}
        self._began = time.time()
        shown = ExitStack()
        shown.enter_context(_logged_as_notes(self.note))
        if self._mode == "table":
            shown.enter_context(
                Live(get_renderable=self.table, console=self.console, refresh_per_second=4, transient=True)
            )
        return shown

    def event(self, name: str, event: Mapping[str, Any]) -> None:
        """Take in one event of one trial."""
        before = self._progress[name]
        after = self._progress[name] = advance(before, event, time.time())
        if self._mode == "json-lines":
            self._json({"trial": name, **event})
        elif self._mode == "lines" and (text := _turn(before, after, event)):
            elapsed = duration(time.time() - self._began)
            self.console.print(Text(f"[{elapsed:>8}] {name}: {text}"))

    def table(self) -> Group:
        """Return the table of all trials as they are now."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for label in ("Data", "Seed", "Method", "Phase", "Epoch", "Loss", "IoU %", "Elapsed", "Remaining"):
            table.add_column(label, no_wrap=True, justify="left" if label in ("Data", "Method", "Phase") else "right")
        rows = list(self._progress.items())
        room = max(1, self.console.height - _LINES_BESIDE_ROWS)
        if len(rows) > room:
            rows.sort(key=lambda item: _FIRST_SHOWN.index(item[1].phase))
        for name, progress in rows[:room]:
            table.add_row(*_cells(self._trials[name], progress, time.time()))
        return Group(table, Text(self._counts(hidden=len(rows) - room), style="dim"))

    def _counts(self, hidden: int) -> str:
        phases = [progress.phase for progress in self._progress.values()]
        going = sum(phase in _GOING for phase in phases)
        counts = {"running": going, **{phase: phases.count(phase) for phase in ("waiting", "done", "failed")}}
        said = ", ".join(f"{count} {label}" for label, count in counts.items() if count)
        more = f" ({hidden} not shown)" if hidden > 0 else ""
        return f"{said}{more}; {duration(time.time() - self._began)}; Ctrl-C stops, to be resumed"

    def _json(self, values: Mapping[str, Any]) -> None:
        self.console.file.write(json.dumps(finite(values)) + "\n")
        self.console.file.flush()


@contextmanager
def _logged_as_notes(note: Callable[[str], None]) -> Iterator[None]:
    """Show what our own modules log (a tracking server that is away) in the way of everything else."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: note(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("orchestrator")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def duration(seconds: float) -> str:
    """Return seconds as m:ss, or h:mm:ss from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def finite(value: Any) -> Any:
    """Return the value with what JSON cannot say (NaN, infinity) as None, at any depth."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(trial: Trial, progress: Standing, now: float) -> tuple[str | Text, ...]:
    going = progress.phase in _GOING and progress.phase != "test"
    phase = f"{progress.phase} {progress.stage}/{progress.stages}" if progress.stage and going else progress.phase
    remaining = progress.remaining_s() if going else None
    return (
        trial.record.data,
        str(trial.record.seed),
        trial.record.method,
        Text(phase, style=_COLOURS[progress.phase]),
        f"{progress.epoch}/{progress.epochs}" if progress.epochs and going else "",
        "" if progress.loss is None else f"{progress.loss:.3f}",
        "" if progress.iou is None else f"{100 * progress.iou:.1f}",
        "" if progress.started is None else duration((progress.ended or now) - progress.started),
        "" if remaining is None else f"~{duration(remaining)}",
    )


def _turn(before: Standing, after: Standing, event: Mapping[str, Any]) -> str | None:
    """Return what to say where a trial enters another stage or phase; None where it only goes on."""
    match event["event"]:
        case "stage":
            return f"search stage {event['stage']}/{event['stages']}, {event['candidates']} operators an edge"
        case "latency":
            said = f"{event['records']} subnets measured, {event['mean_ms']:.1f} ms on average"
            return f"{said}; the table is off by {event['residual_ms']:.1f} ms"
        case "generation":
            best = "none feasible" if event["miou"] is None else f"best mIoU {100 * event['miou']:.1f} %"
            said = f"{event['strategy']}, generation {event['generation']}/{event['generations']}"
            return f"{said}: {event['scored']} of {event['candidates']} scored, {best}"
        case "quarantined":
            what = "finalist" if event.get("phase") == "retrain" else "candidate"
            return f"{what} {event['digest'][:8]} left out: {event['error']}"
        case "finalist":
            return f"finalist {event['done']}/{event['of']}: test mIoU {100 * event['miou']:.1f} %"
        case "architecture":
            size = f"{event['parameters'] / 1e6:.3f} M parameters, {event['macs'] / 1e9:.3f} GMACs"
            return f"architecture of {size}; retraining"
        case "resumed":
            return f"resumed in {event.get('phase', 'search')}"
        case "finished":
            return f"done, test IoU {100 * event['metrics']['iou']:.1f} %"
        case "retried":
            return "begun again"
        case "failed":
            return "failed, see error.txt in its folder"
    return "test" if after.phase == "test" and before.phase != "test" else None
