"""A search among many networks as pictures: its front, its course, and the latencies that it goes by."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.drawing_style import FAINT, INK, new_figure, write_png

FRONT, CHOSEN, BEST, MEAN, VOLUME = "#c96a08", "#d1495b", "#16803c", "#8fbf9f", "#2563c9"
CELL_WIDTH, CELL_HEIGHT, LEFT, RIGHT, TOP, BOTTOM, UPRIGHT = 0.72, 0.5, 1.3, 1.25, 0.95, 0.55, 6
"""Of the heat map, in inches; and the letters of a block's label that fit above it: longer ones are slanted."""
Table = Sequence[Sequence[float | None]]
"""Rows of latencies in ms."""


@dataclass(frozen=True)
class Point:
    """A scored candidate.

    Attributes:
        latency_ms: above 0.
        miou: in [0, 1].
        parameters: how many.
        feasible: whether it keeps every limit.

    Raises:
        ValueError: a value out of these ranges.
    """

    latency_ms: float
    miou: float
    parameters: int
    feasible: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_ms) and self.latency_ms > 0):
            raise ValueError(f"latency {self.latency_ms} ms; a finite one above 0 is needed")
        if not 0 <= self.miou <= 1:
            raise ValueError(f"mIoU {self.miou}; it is in [0, 1], not in percent")
        if self.parameters < 1:
            raise ValueError(f"{self.parameters} parameters; at least 1 is needed")


def staircase(front: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the corners (latency_ms, mIoU) of the best mIoU that a latency allows, from the fastest point on.

    A point that none dominates for another objective's sake may lie below the stairs; it makes no corner.
    """
    corners: list[tuple[float, float]] = []
    for point in sorted(front, key=lambda p: (p.latency_ms, -p.miou)):
        if not corners:
            corners.append((point.latency_ms, point.miou))
        elif point.miou > corners[-1][1]:
            corners += [(point.latency_ms, corners[-1][1]), (point.latency_ms, point.miou)]
    return corners


def draw_front(
    points: Sequence[Point],
    front: Sequence[Point],
    path: Path,
    *,
    limit_ms: float | None = None,
    chosen: Point | None = None,
    measured_on: str = "",
    title: str = "Scored candidates and their front",
) -> Path:
    """Draw mIoU over latency of every scored candidate as PNG; return the path.

    Dots are darker with more parameters, hollow where infeasible; stairs join the front.

    Args:
        points: all scored candidates.
        front: those of them that none dominates, in any order; feasible ones only, may be empty.
        path: the PNG to write.
        limit_ms: the largest latency that is allowed, drawn as a line.
        chosen: the one of them that is the answer.
        measured_on: device and input shape of the latencies, for the axis.
        title: what stands above.

    Raises:
        ValueError: no points, or a front or a chosen one that is not among the feasible points.
    """
    feasible = [p for p in points if p.feasible]
    if not points:
        raise ValueError("nothing to draw: no candidate was scored")
    strangers = [p for p in (*front, *([chosen] if chosen else [])) if p not in feasible]
    if strangers:
        raise ValueError(f"{strangers[0]} is on the front or chosen, but not among the feasible points")
    figure = new_figure(8.2, 5.6)
    axes = figure.add_axes((0.095, 0.2, 0.80, 0.71))
    _dress(axes, title, f"latency in ms{', ' if measured_on else ''}{measured_on}", "mIoU in %")
    hollow = {"facecolors": "none", "edgecolors": FAINT, "linewidths": 1.0, "label": "infeasible", "zorder": 2}
    _scatter(axes, [p for p in points if not p.feasible], 34, hollow)
    if feasible:
        millions = [p.parameters / 1e6 for p in feasible]
        low, high = _span(millions)
        shades = {"c": millions, "cmap": "viridis_r", "vmin": low, "vmax": high, "linewidths": 0, "zorder": 3}
        dots = _scatter(axes, feasible, 34, {**shades, "label": "feasible"})
        _add_scale(figure, dots, (0.915, 0.2, 0.018, 0.71), "parameters in millions")
    if limit_ms is not None:
        axes.axvline(limit_ms, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"limit {limit_ms:.4g} ms")
    if front:
        ring = {"facecolors": "none", "edgecolors": FRONT, "linewidths": 1.6, "zorder": 5}
        _scatter(axes, front, 58, ring)
        corners = staircase(front)
        # The last step goes on to where latencies end: more time than the slowest of the front needs does not hurt.
        corners.append((max(corners[-1][0], axes.dataLim.x1 if limit_ms is None else limit_ms), corners[-1][1]))
        across, up = zip(*corners, strict=True)
        label = f"front, {len(front)} {'candidate' if len(front) == 1 else 'candidates'}"
        axes.plot(across, [100 * y for y in up], color=FRONT, linewidth=1.8, label=label, zorder=4)
    if chosen:
        said = f"chosen: {100 * chosen.miou:.1f} % in {chosen.latency_ms:.3g} ms, {chosen.parameters / 1e6:.2f} M"
        star = {"marker": "*", "facecolors": CHOSEN, "edgecolors": "white", "linewidths": 0.8, "zorder": 6}
        _scatter(axes, [chosen], 230, {**star, "label": f"{said} parameters"})
    axes.margins(0.06)
    # Below the axes, where no candidate can be hidden by it.
    figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=8.5)
    return write_png(figure, path)


def draw_hypervolume(
    generations: Sequence[int],
    hypervolumes: Sequence[float],
    best: Sequence[float | None],
    mean: Sequence[float | None],
    path: Path,
) -> Path:
    """Draw best and mean score and the hypervolume over the generations as PNG; return the path.

    Args:
        generations: their numbers, rising.
        hypervolumes: of the front after each, at least 0.
        best: best score, 1 is drawn as 100; None or NaN where there is no feasible candidate.
        mean: mean score, likewise.
        path: the PNG to write.

    Raises:
        ValueError: no generations, lengths that differ, numbers that do not rise, a hypervolume that is none.
    """
    lengths = [len(generations), len(hypervolumes), len(best), len(mean)]
    if not generations or len(set(lengths)) != 1:
        raise ValueError(f"{lengths} generations, hypervolumes, best and mean scores; as many of each, at least 1")
    if any(b <= a for a, b in itertools.pairwise(generations)):
        raise ValueError(f"generations {list(generations)}; each must be above the one before")
    if not all(math.isfinite(v) and v >= 0 for v in hypervolumes):
        raise ValueError(f"hypervolumes {list(hypervolumes)}; finite ones of at least 0 are needed")
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.2, 5.4)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    upper, lower = figure.subplots(2)
    _dress(upper, "Course of the search", "", "score in %")
    _dress(lower, "Hypervolume of the front", "generation", "hypervolume")
    dots: dict[str, Any] = {"marker": "o", "markersize": 3} if len(generations) <= 40 else {}
    for values, colour, label in ((best, BEST, "best"), (mean, MEAN, "mean")):
        percent = [math.nan if value is None else 100 * value for value in values]
        upper.plot(generations, percent, color=colour, linewidth=1.8, label=label, **dots)
    if not any(value is not None and math.isfinite(value) for value in (*best, *mean)):
        upper.set_ylim(0, 100)
    # A front only changes when a generation is told, hence steps.
    lower.plot(generations, hypervolumes, color=VOLUME, linewidth=1.8, drawstyle="steps-post", clip_on=False, **dots)
    lower.set_ylim(0, 1.08 * max(hypervolumes) or 1)
    for axes in (upper, lower):
        axes.set_xlim(generations[0] - 0.5, generations[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    upper.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.02), borderaxespad=0.0, ncols=2)
    return write_png(figure, path)


def draw_latency_heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values_ms: Table,
    counts: Sequence[Sequence[int]],
    path: Path,
    *,
    measured_on: str,
) -> Path:
    """Draw the mean latency of each operator at each block as PNG, warmer where it is lower; return the path.

    Cells that were never measured are hatched; how often the others were stands below their latency. The colours are
    logarithmic, since blocks at high resolution cost many times those at low.

    Source: AutoNAD Fig. 5.

    Args:
        rows: operators.
        columns: blocks.
        values_ms: mean latency per row and column, above 0; whatever it is, None too, where the count is 0.
        counts: how often each was measured.
        path: the PNG to write.
        measured_on: device and input shape.

    Raises:
        ValueError: tables of another shape, a measured latency that is none, or no measured cell.
    """
    measured = _measured(rows, columns, values_ms, counts)
    if not measured:
        raise ValueError("nothing was measured yet: all counts are 0")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    table_width, table_height = CELL_WIDTH * len(columns), CELL_HEIGHT * len(rows)
    longest = max(map(len, columns))
    top = TOP if longest <= UPRIGHT else TOP + 0.045 * longest
    width, height = max(LEFT + table_width + RIGHT, 6.4), top + table_height + BOTTOM
    figure = new_figure(width, height)
    left, look = 0.2 / width, {"color": INK, "va": "center"}
    figure.text(left, 1 - 0.25 / height, "Mean latency in ms", fontsize=12, weight="bold", **look)
    figure.text(left, 1 - 0.5 / height, measured_on, fontsize=9, **look)
    axes = figure.add_axes((LEFT / width, BOTTOM / height, table_width / width, table_height / height))
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    norm, colour_of = LogNorm(*_span(list(measured.values()))), colormaps["RdYlBu"]
    for row, column in itertools.product(range(len(rows)), range(len(columns))):
        value = measured.get((row, column))
        fill = None if value is None else colour_of(norm(value))
        _draw_cell(axes, (column, row), fill, () if value is None else (f"{value:.3g}", f"n {counts[row][column]}"))
    axes.xaxis.tick_top()
    slant = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if longest > UPRIGHT else {}
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns, fontsize=8.5, **slant)
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=8.5)
    axes.tick_params(length=0, colors=INK, pad=3)
    axes.spines[:].set_visible(False)
    place = ((LEFT + table_width + 0.2) / width, BOTTOM / height, 0.14 / width, table_height / height)
    scale = _add_scale(figure, ScalarMappable(norm, colour_of), place, "ms")
    ends = sorted({min(measured.values()), max(measured.values())})
    scale.set_ticks(ends, labels=[f"{value:.3g}" for value in ends], minor=False)
    scale.ax.minorticks_off()
    scale.ax.invert_yaxis()
    notes = "red: fast    blue: slow    hatched: never measured    n: measurements"
    figure.text(0.5, 0.22 / height, notes, ha="center", fontsize=8.5, **look)
    return write_png(figure, path)


def _draw_cell(axes: Any, corner: tuple[int, int], fill: Any, lines: Sequence[str]) -> None:
    """Draw a cell with its lines of text, a hatched one without a colour."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {"facecolor": fill} if fill else {"facecolor": "white", "hatch": "////"}
    axes.add_patch(Rectangle(corner, 1, 1, edgecolor="#c4c9d1", linewidth=0.8, **look))
    for text, down, size in zip(lines, (0.38, 0.76), (9, 6.5), strict=False):
        dark = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] < 0.5
        ink = {"color": "white" if dark else INK, "ha": "center", "va": "center"}
        axes.text(corner[0] + 0.5, corner[1] + down, text, fontsize=size, **ink)


def _measured(
    rows: Sequence[str], columns: Sequence[str], values_ms: Table, counts: Sequence[Sequence[int]]
) -> dict[tuple[int, int], float]:
    """Return the latency per (row, column) that was measured."""
    for name, table in (("values_ms", values_ms), ("counts", counts)):
        shape = [len(row) for row in table]
        if shape != [len(columns)] * len(rows) or not shape:
            raise ValueError(f"{name}: rows of {shape}; {len(rows)} rows of {len(columns)} are needed")
    found = {}
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        value, where = values_ms[i][j], f"{rows[i]} at {columns[j]}"
        if counts[i][j] < 0:
            raise ValueError(f"{where}: measured {counts[i][j]} times")
        if counts[i][j]:
            if value is None or not (math.isfinite(value) and value > 0):
                raise ValueError(f"{where}: {value} ms; a measured latency is finite and above 0")
            found[i, j] = value
    return found


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the largest of positive values, a little apart where all are the same."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low / 1.1, high * 1.1)


def _scatter(axes: Any, points: Sequence[Point], size: float, look: dict[str, Any]) -> Any:
    if not points:
        return None
    return axes.scatter([p.latency_ms for p in points], [100 * p.miou for p in points], s=size, **look)


def _add_scale(figure: Any, shown: Any, place: tuple[float, float, float, float], label: str) -> Any:
    """Add the scale of the colours at a place in parts of the figure."""
    scale = figure.colorbar(shown, cax=figure.add_axes(place))
    scale.set_label(label, fontsize=8.5, color=INK)
    scale.ax.tick_params(labelsize=7.5, colors=INK, length=0)
    scale.outline.set_visible(False)
    return scale


def _dress(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10.5, weight="bold", color=INK, loc="left", pad=14)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(up, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(color="#e6e8ec", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
