"""A comparison of runs as tables for a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from orchestrator.comparison import Compared, Comparison, Panel, differing_choices
from orchestrator.tables import WIDE, Column, percent, plain_table, scaled

MOST_SIDE_BY_SIDE = 4
"""Architectures of which the choices are put side by side; `--json` has those of all."""


def comparison_tables(comparison: Comparison, width: int = WIDE) -> Iterator[Table]:
    """Yield the tables: per data set the architectures and in what the best of them differ, then the settings.

    Args:
        comparison: what to show.
        width: columns of the terminal.
    """
    for panel in comparison.panels:
        yield _panel_table(panel, width)
        best = _distinct(panel.rows)[:MOST_SIDE_BY_SIDE]
        if choices := differing_choices(best):
            title = f"{panel.data}: in what the best differ"
            yield _side_by_side("Place", [row.digest[:8] for row in best], choices, width, title)
    if comparison.settings:
        yield _side_by_side("Setting", comparison.runs, comparison.settings, width, "Settings that differ")


def _panel_table(panel: Panel, width: int) -> Table:
    front = {id(panel.rows[index]) for index in panel.front}
    # Seeds of retrainings say something only where there are several.
    several = any(row.retraining for row in panel.rows)

    def seeds(row: Compared) -> str:
        return f"{row.seed}/{row.retraining}" if several and row.retraining is not None else str(row.seed)

    columns = [
        Column("", lambda row: "*" if id(row) in front else "", "left"),
        Column("Run", lambda row: row.run, "left"),
        Column("Seed", seeds),
        Column("Method", lambda row: "random" if row.role == "random" else row.method, "left"),
        Column("Digest", lambda row: row.digest[:8], "left"),
        Column("IoU\n%", lambda row: percent(row.iou), wide_only=panel.score == "miou"),
        Column("mIoU\n%", lambda row: percent(row.miou), wide_only=panel.score == "iou"),
        Column("Inher.\nmIoU %", lambda row: percent(row.inherited_miou), wide_only=True),
        Column("Latency\nms", _milliseconds, wide_only=panel.cost == "macs"),
        Column("Param.\nM", lambda row: scaled(row.parameters, 1e6), wide_only=True),
        Column("MACs\nG", lambda row: scaled(row.macs, 1e9)),
    ]
    shown = [column for column in columns if any(column.cell(row) for row in panel.rows)]
    table = plain_table(shown, panel.rows, width)
    # Where the terminal is too narrow the names give way, and never the numbers.
    next(column for column in table.columns if str(column.header) == "Run").no_wrap = False
    table.title, table.title_justify = panel.data, "left"
    name = {"miou": "mIoU", "iou": "IoU"}[panel.score]
    notes = [f"* on the front of test {name} and {panel.cost_label}"]
    if several:
        notes.append("seed of the search/of the retraining")
    if width >= WIDE and any(row.inherited_miou is not None for row in panel.rows):
        notes.append("inherited mIoU: with the supernet's weights, on validation images")
    table.caption, table.caption_justify = "\n".join(notes), "left"
    return table


def _side_by_side(
    head: str, names: Sequence[str], values: Mapping[str, Sequence[str]], width: int, title: str
) -> Table:
    def cell(index: int) -> Callable[[Any], str]:
        # A setting may be a path, with brackets that would be taken for markup.
        return lambda item: escape(item[1][index])

    columns = [Column(head, lambda item: item[0], "left")]
    columns += [Column(name, cell(index), "left") for index, name in enumerate(names)]
    table = plain_table(columns, list(values.items()), width)
    for column in table.columns[1:]:
        column.no_wrap = False
    table.title, table.title_justify = title, "left"
    return table


def _distinct(rows: Sequence[Compared]) -> list[Compared]:
    """Return the best row of each architecture, in their order."""
    best: dict[str, Compared] = {}
    for row in rows:
        best.setdefault(row.digest, row)
    return list(best.values())


def _milliseconds(row: Compared) -> str:
    return "" if row.latency_ms is None else f"{row.latency_ms:.1f}"
