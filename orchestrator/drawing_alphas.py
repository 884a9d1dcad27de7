"""What the search thinks of the operators, as pictures: probabilities per edge, and who was pruned when.

Both pictures have one panel per cell kind, one row per edge (grouped by the node that it enters) and one
column per operator.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.architecture import CELL_KINDS, OPERATOR_NAMES
from orchestrator.drawing_style import (
    INK,
    INPUT_NAMES,
    edge_places,
    new_figure,
    source_name,
    write_png,
)

ROW, COLUMN = 0.31, 0.52
"""Size of a table cell in inches."""
LEFT, BETWEEN, TOP, BOTTOM, RIGHT = 1.0, 1.35, 1.6, 0.6, 0.65
BLANK, FRAME = "#f6f7f9", "#d1495b"
STAGE_COLOURS = ("#dfe6f0", "#b3cbe6", "#7ba6d6", "#3f78bd", "#12305c")
"""Light to dark: removed after the first stage, the second, .., kept."""


def draw_alphas(event: Mapping[str, Any], path: Path) -> Path:
    """Draw the probabilities of one epoch event of the search as heat maps; return the path.

    The strongest operator of each edge is framed; operators that are no longer candidates are left blank.

    Args:
        event: a ledger event "epoch" with "alphas" and "candidates" per cell kind, 14 rows each.
        path: the PNG to write.
    """
    operators = _operators(event["candidates"])
    kinds = [kind for kind in CELL_KINDS if kind in event["candidates"]]
    rows_of_all = [row for kind in kinds for row in event["alphas"][kind] if row]
    # Where nothing is preferred yet, all is pale: full colour is three times an even share, or the largest.
    full = max((max(max(row), min(3 / len(row), 1.0)) for row in rows_of_all), default=1.0)
    title = f"Operator probabilities in %, stage {event.get('stage', '?')}, epoch {event.get('epoch', '?')}"
    figure, panels = _panels(kinds, [len(event["alphas"][k]) for k in kinds], operators, title)
    from matplotlib import colormaps

    colour_of_share = colormaps["YlGnBu"]
    for kind, axes in zip(kinds, panels, strict=True):
        rows = list(zip(event["candidates"][kind], event["alphas"][kind], strict=True))
        shares = [{n: min(p / full, 1) for n, p in zip(names, values, strict=True)} for names, values in rows]
        _fill(axes, [{n: colour_of_share(share) for n, share in row.items()} for row in shares], operators)
        for height, (names, values) in enumerate(rows):
            for name, value in zip(names, values, strict=True):
                colour = "white" if value / full > 0.55 else INK
                _write(axes, operators.index(name), height, _short(value), colour, bold=value == max(values))
    notes = "red frame: the strongest of the edge    blank: pruned before"
    figure.text(0.5, 0.22 / figure.get_figheight(), notes, ha="center", va="center", fontsize=8.5, color=INK)
    return write_png(figure, path)


def draw_pruning(events: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw after which stage each operator was removed from each edge; return the path.

    Args:
        events: ledger events; those named "pruned" are used, the last one of each stage.
        path: the PNG to write.

    Raises:
        ValueError: events has no "pruned" event.
    """
    stages = {int(e["stage"]): e for e in events if e["event"] == "pruned"}
    if not stages:
        raise ValueError("nothing was pruned yet: no event 'pruned' among the events")
    ordered = [stages[s] for s in sorted(stages)]
    kinds = [kind for kind in CELL_KINDS if kind in ordered[0]["kept"]]
    edges = {kind: len(ordered[0]["kept"][kind]) for kind in kinds}
    present = {kind: _present(ordered[0], kind) for kind in kinds}
    operators = _operators(present)
    figure, panels = _panels(kinds, list(edges.values()), operators, "Operators removed, stage by stage")
    from matplotlib.patches import Patch

    last = STAGE_COLOURS[-1]
    for kind, axes in zip(kinds, panels, strict=True):
        gone = [{n: e["stage"] for e in ordered for n in e["removed"][kind][row]} for row in range(edges[kind])]
        rows = list(zip(present[kind], gone, strict=True))
        colours = [{n: stage_colour(at[n]) if n in at else last for n in names} for names, at in rows]
        _fill(axes, colours, operators)
        kept = [(operators.index(n), height) for height, (names, at) in enumerate(rows) for n in names if n not in at]
        dots = [(column + 0.5, height + 0.5) for column, height in kept]
        axes.plot(*zip(*dots, strict=True), linestyle="", marker="o", markersize=5, color="white", zorder=3)
    handles = [Patch(facecolor=stage_colour(s), label=f"removed after stage {s}") for s in sorted(stages)]
    handles.append(Patch(facecolor=last, label=f"kept after stage {max(stages)}"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8.5)
    return write_png(figure, path)


def stage_colour(stage: int) -> str:
    """Return the colour of what stage 1, 2, .. removed; stages past the fourth share a colour."""
    return STAGE_COLOURS[min(stage, len(STAGE_COLOURS) - 1) - 1]


def _operators(candidates: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Return every operator of any edge, in the order of Table 1, then those that Table 1 does not have."""
    found = {name for rows in candidates.values() for row in rows for name in row}
    return [n for n in OPERATOR_NAMES if n in found] + sorted(found - set(OPERATOR_NAMES))


def _fill(axes: Any, rows: Sequence[Mapping[str, Any]], operators: Sequence[str]) -> None:
    """Fill a table with a colour per edge and operator; what has none stays blank."""
    from matplotlib.colors import to_rgba

    colours = [[to_rgba(row.get(name, BLANK)) for name in operators] for row in rows]
    corners = range(len(operators) + 1), range(len(rows) + 1)
    axes.pcolormesh(*corners, colours, edgecolors="white", linewidth=0.8, zorder=2)


def _write(axes: Any, column: int, row: int, text: str, colour: str, *, bold: bool) -> None:
    """Write into a table, in bold and with a red frame around it if asked."""
    from matplotlib.patches import Rectangle

    weight = "bold" if bold else "normal"
    place = {"ha": "center", "va": "center", "fontsize": 7.5, "zorder": 4}
    axes.text(column + 0.5, row + 0.52, text, color=colour, weight=weight, **place)
    if bold:
        corner = (column + 0.04, row + 0.06)
        axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor=FRAME, linewidth=1.6, zorder=3))


def _present(event: Mapping[str, Any], kind: str) -> list[list[str]]:
    """Return the operators that each edge had before this pruning."""
    return [[*kept, *gone] for kept, gone in zip(event["kept"][kind], event["removed"][kind], strict=True)]


def _short(value: float) -> str:
    return f"{100 * value:.0f}" if value >= 0.0995 else f"{100 * value:.1f}"


def _panels(kinds: Sequence[str], edges: Sequence[int], operators: Sequence[str], title: str) -> tuple[Any, list[Any]]:
    """Return a figure and one empty labelled table per cell kind, a unit square per edge and operator."""
    panel_width, panel_height = COLUMN * len(operators), ROW * max(edges)
    width = max(LEFT + len(kinds) * panel_width + (len(kinds) - 1) * BETWEEN + RIGHT, 6.8)
    height = TOP + panel_height + BOTTOM
    figure = new_figure(width, height)
    figure.text(0.2 / width, 1 - 0.25 / height, title, fontsize=12, weight="bold", color=INK, va="center")
    panels = []
    for index, (kind, rows) in enumerate(zip(kinds, edges, strict=True)):
        left = LEFT + index * (panel_width + BETWEEN)
        box = (left / width, BOTTOM / height, panel_width / width, panel_height / height)
        axes = figure.add_axes(box)
        axes.set(xlim=(0, len(operators)), ylim=(rows, 0), facecolor=BLANK)
        axes.set_title(f"{kind.capitalize()} cell", fontsize=10.5, color=INK, pad=62, loc="left")
        axes.xaxis.tick_top()
        slant = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
        axes.set_xticks([i + 0.5 for i in range(len(operators))], operators, **slant, fontsize=8.5)
        places = edge_places(rows)
        axes.set_yticks([i + 0.5 for i in range(rows)], [source_name(s) for _, s in places], fontsize=8.5)
        axes.tick_params(length=0, colors=INK, pad=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        _mark_nodes(axes, places)
        panels.append(axes)
    return figure, panels


def _mark_nodes(axes: Any, places: Sequence[tuple[int, int]]) -> None:
    """Separate the edges of different nodes by a line, and name each node at the left."""
    first = 0
    for node in range(places[-1][0] + 1 if places else 0):
        count = min(node + len(INPUT_NAMES), len(places) - first)
        if first:
            axes.axhline(first, color=INK, linewidth=1.2, zorder=5)
        name = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 8.5, "color": INK}
        axes.annotate(f"into {node}", (0, first + count / 2), (-44, 0), textcoords="offset points", **name)
        first += count
