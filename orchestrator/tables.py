"""Results as tables for a terminal: scores in percent, cost in M and G, times as h:m:s."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from orchestrator.candidates import BestCandidate
from orchestrator.live import duration
from orchestrator.report import RunResult, Spread, TrialResult, search_seconds_of, states_of

WIDE = 100
"""Columns of a terminal from which on tables are shown in full."""

WIDER = 120
"""The same of the table of runs, whose names are long."""

_COLOURS = {"done": "green", "failed": "red", "running": "cyan", "stopped": "yellow"}


@dataclass(frozen=True)
class Column:
    """A column: its label, the cell of a row, how it is set, and whether a narrow terminal does without it."""

    label: str
    cell: Callable[[Any], str]
    justify: Literal["left", "right"] = "right"
    wide_only: bool = False


def trials_table(trials: Sequence[TrialResult], width: int = WIDE) -> Table:
    """Return the table of trials, with what their scores are to be compared with.

    Args:
        trials: in the order of the rows.
        width: columns of the terminal; below `WIDE` what matters least is left out.
    """
    random = {(trial.data, trial.seed): trial for trial in trials if trial.method == "random"}
    compared = bool(random) and any(trial.method != "random" for trial in trials)

    def rival(trial: TrialResult) -> str:
        found = random.get((trial.data, trial.seed)) if trial.method != "random" else None
        return percent(found.metrics.get("iou")) if found else ""

    def score(name: str) -> Callable[[TrialResult], str]:
        return lambda trial: percent(trial.metrics.get(name))

    notes: list[str] = []

    def noted(label: str, note: str) -> str:
        """Return the label with the mark of a new note where it has a #."""
        mark = "¹²³⁴"[len(notes)]
        notes.append(f"{mark} {note}")
        return label.replace("#", mark)

    if any("miou" in trial.metrics for trial in trials):
        # What AutoNAD is compared by, with the background among the classes; there is no room for all.
        scores = [Column("mIoU\n%", score("miou")), Column("mF1\n%", score("mf1")), Column("IoU\n%", score("iou"))]
    else:
        scores = [Column("IoU\n%", score("iou")), Column("F1\n%", score("f1"))]
        scores.append(Column(noted("PA#\n%", "two-class mean IoU"), score("pa")))
    macs = noted("MACs#\nG", "of one image of the size trained on; FLOPs = 2 x MACs")
    nothing = noted("None#\nIoU %", "of predicting no defect at all")
    columns = [
        Column("Data", lambda trial: trial.data, "left"),
        Column("Seed", lambda trial: str(trial.seed)),
        Column("Method", lambda trial: trial.method, "left"),
        Column("State", lambda trial: _coloured(trial.state), "left"),
        *scores,
        Column("Param.\nM", lambda trial: scaled(trial.metrics.get("parameters"), 1e6)),
        Column(macs, lambda trial: scaled(trial.metrics.get("macs"), 1e9)),
        Column("Search\nh:m:s", lambda trial: _time(trial.metrics.get("search_seconds"))),
        Column("Retrain\nh:m:s", lambda trial: _time(trial.metrics.get("retrain_seconds")), wide_only=True),
        Column(nothing, lambda trial: percent(trial.metrics.get("nothing", {}).get("iou_image"))),
    ]
    always = len(notes)
    if compared:
        random_iou = noted("Random#\nIoU %", "of a random architecture, trained the same")
        columns.append(Column(random_iou, rival, wide_only=True))
    elif any("random" in trial.metrics for trial in trials):
        # AutoNAD has its baseline inside of the trial.
        drawn = noted("Random#\nmIoU %", "of the best of a random search of equal cost, retrained the same")
        columns.append(Column(drawn, lambda t: percent(t.metrics.get("random", {}).get("miou")), wide_only=True))
    table = plain_table(columns, trials, width)
    table.caption = "\n".join(notes if width >= WIDE else notes[:always])
    table.caption_justify = "left"
    return table


def spreads_table(spreads: Sequence[Spread], width: int = WIDE) -> Table:
    """Return the table of means and standard deviations over seeds, with the means over classes where there are any."""

    def score(label: str, name: str, *, wide_only: bool = False) -> Column:
        def cell(spread: Spread) -> str:
            return " ± ".join(percent(value) for value in spread.scores.get(name, ()))

        return Column(f"{label} %\nmean ± std", cell, wide_only=wide_only)

    over_classes = any("miou" in spread.scores for spread in spreads)
    columns = [
        Column("Data", lambda spread: spread.data, "left"),
        Column("Method", lambda spread: spread.method, "left"),
        Column("Seeds", lambda spread: str(spread.seeds)),
        *([score("mIoU", "miou"), score("mF1", "mf1")] if over_classes else []),
        score("IoU", "iou"),
        score("F1", "f1", wide_only=over_classes),
        score("PA", "pa", wide_only=over_classes),
    ]
    return plain_table(columns, spreads, width)


def latency_notes(trials: Sequence[TrialResult]) -> list[str]:
    """Return for each trial that has a latency table a line about how well it predicts."""
    notes = []
    for trial in trials:
        if table := trial.metrics.get("latency_table"):
            told = [] if table["tau"] is None else [f"Kendall's tau {table['tau']:.2f} over {table['over']} others"]
            if table["residual_ms"] is not None:
                told.append(f"{table['residual_ms']:.2g} ms left unexplained")
            if told:
                head = (
                    f"{trial.data}, seed {trial.seed}: latency table of {table['records']} subnets against measurement"
                )
                notes.append(f"{head}: {', '.join(told)}")
    return notes


def candidates_table(found: Sequence[BestCandidate], width: int = WIDE) -> Table:
    """Return the table of the best candidates of a search, scored with inherited weights."""
    columns = [
        Column("Data", lambda row: row.data, "left"),
        Column("Seed", lambda row: str(row.seed)),
        Column("Candidate", lambda row: row.digest[:12], "left"),
        Column("mIoU¹\n%", lambda row: percent(row.miou)),
        Column("Latency²\nms", lambda row: f"{row.latency_ms:.1f}"),
        Column("Param.\nM", lambda row: scaled(row.parameters, 1e6)),
        Column("Of\nscored", lambda row: str(row.scored)),
        Column("Retrained\nmIoU %", lambda row: percent(row.retrained_miou), wide_only=True),
    ]
    table = plain_table(columns, found, width)
    table.caption = "¹ on validation images, inherited weights\n² measured on the device of the search"
    table.caption_justify = "left"
    return table


def runs_table(results: Sequence[RunResult], width: int = WIDE) -> Table:
    """Return the table of runs.

    Args:
        results: in the order of the rows.
        width: columns of the terminal; below `WIDER` the date and the size are left out.
    """

    def best(key: str) -> Callable[[RunResult], float | None]:
        return lambda result: result.best.metrics.get(key) if result.best else None

    parameters, macs, iou, f1 = (best(key) for key in ("parameters", "macs", "iou", "f1"))
    columns = [
        Column("Run", lambda result: result.run, "left"),
        Column("Created, UTC", lambda result: result.created[:16].replace("T", " "), "left", wide_only=True),
        Column("Method", lambda result: result.method, "left"),
        Column("Data", lambda result: ", ".join(dict.fromkeys(trial.data for trial in result.trials)), "left"),
        Column("State", _states, "left"),
        Column("Best\nIoU %", lambda result: percent(iou(result))),
        Column("Its\nF1 %", lambda result: percent(f1(result))),
        Column("Search\nh:m:s", lambda result: _time(search_seconds_of(result))),
        Column("Param.\nM", lambda result: scaled(parameters(result), 1e6), wide_only=True),
        Column("MACs\nG", lambda result: scaled(macs(result), 1e9), wide_only=True),
    ]
    return plain_table(columns, results, width, WIDER)


def plain_table(columns: Sequence[Column], rows: Iterable[Any], width: int, wide: int = WIDE) -> Table:
    """Return a table without a frame; on a terminal of less than `wide` columns some are left out."""
    shown = [column for column in columns if width >= wide or not column.wide_only]
    # Without a frame, so that the narrow form fits the 80 columns of a usual terminal.
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for column in shown:
        # As Text: rich takes the :m: of h:m:s for an emoji. Long names and lists may wrap, numbers may not.
        wraps = column.label in ("Data", "State")
        table.add_column(Text(column.label), justify=column.justify, no_wrap=not wraps, overflow="fold")
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def _states(result: RunResult) -> str:
    return ", ".join(f"{count} {_coloured(state)}" for state, count in states_of(result).items())


def percent(value: float | None) -> str:
    """Return a score of [0, 1] in percent, nothing for None."""
    return "" if value is None else f"{100 * value:.1f}"


def scaled(value: float | None, unit: float) -> str:
    """Return a value in a unit, nothing for None."""
    return "" if value is None else f"{value / unit:.3f}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _coloured(state: str) -> str:
    return f"[{_COLOURS[state]}]{state}[/]"
