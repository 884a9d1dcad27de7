"""A comparison of runs as tables for a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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
    columns = [
        Column("Run", lambda row: row.run, "left"),
        Column("Seed", lambda row: str(row.seed)),
        Column("Method", lambda row: row.method, "left"),
        Column("Found", lambda row: row.role, "left", wide_only=True),
        Column("Digest", lambda row: row.digest[:8], "left"),
        Column("Front", lambda row: "*" if id(row) in front else "", "left"),
        Column("IoU\n%", lambda row: percent(row.iou)),
        Column("mIoU\n%", lambda row: percent(row.miou)),
        Column("Inherited\nmIoU %", lambda row: percent(row.inherited_miou), wide_only=True),
        Column("Latency\nms", _milliseconds),
        Column("Param.\nM", lambda row: scaled(row.parameters, 1e6)),
        Column("MACs\nG", lambda row: scaled(row.macs, 1e9)),
    ]
    table = plain_table(columns, panel.rows, width)
    table.title, table.title_justify = panel.data, "left"
    name = {"miou": "mIoU", "iou": "IoU"}[panel.score]
    table.caption = f"* on the front of test {name} and {panel.cost_label}"
    table.caption_justify = "left"
    return table


def _side_by_side(
    head: str, names: Sequence[str], values: Mapping[str, Sequence[str]], width: int, title: str
) -> Table:
    def cell(index: int) -> Callable[[Any], str]:
        return lambda item: str(item[1][index])

    columns = [Column(head, lambda item: item[0], "left")]
    columns += [Column(name, cell(index), "left") for index, name in enumerate(names)]
    table = plain_table(columns, list(values.items()), width)
    for column in table.columns:
        column.no_wrap = False
    table.title, table.title_justify = title, "left"
    return table


def _distinct(rows: Sequence[Compared]) -> list[Compared]:
    """Return the best row of each architecture, in their order."""
    return list({row.digest: row for row in reversed(rows)}.values())[::-1]


def _milliseconds(row: Compared) -> str:
    return "" if row.latency_ms is None else f"{row.latency_ms:.1f}"
