"""The picture of a comparison: for each data set score over cost, a colour for each run, and the front of all."""

from pathlib import Path
from typing import Any

from orchestrator.comparison import Comparison, Panel
from orchestrator.drawing_style import INK, new_figure, write_png

COLOURS = ("#2563c9", "#c96a08", "#16803c", "#8a3ab9", "#d1495b", "#0e7c86", "#7a5c1e", "#5b6472")
"""Of the runs; they begin again after the last."""

_FRONT = "#1f2430"
_COLUMNS = 2


def draw_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw test score over latency (or MACs) of all architectures as PNG; return the path.

    Circles were searched, crosses drawn at random; the line is the front over all runs.

    Args:
        comparison: with at least one panel.
        path: the PNG to write.
    """
    columns = min(_COLUMNS, len(comparison.panels))
    rows = -(-len(comparison.panels) // columns)
    figure = new_figure(6.2 * columns, 4.6 * rows + 0.35 + 0.2 * len(comparison.runs))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, comparison.panels, strict=False):
        _draw_panel(axes, panel, comparison.runs)
    for axes in grid[len(comparison.panels) :]:
        axes.axis("off")
    _add_legend(figure, comparison)
    return write_png(figure, path)


def _draw_panel(axes: Any, panel: Panel, runs: tuple[str, ...]) -> None:
    # The front is drawn last, so that none of it is hidden.
    for index in sorted(range(len(panel.rows)), key=lambda index: (index in panel.front, -index)):
        row = panel.rows[index]
        colour, drawn = COLOURS[runs.index(row.run) % len(COLOURS)], row.role == "random"
        look = {"marker": "x", "s": 44} if drawn else {"marker": "o", "s": 40, "edgecolors": "white", "linewidths": 0.7}
        axes.scatter([panel.cost_of(row)], [100 * panel.score_of(row)], color=colour, zorder=3, **look)
    front = sorted((panel.cost_of(panel.rows[i]), 100 * panel.score_of(panel.rows[i])) for i in panel.front)
    across, up = zip(*front, strict=True)
    axes.plot(across, up, drawstyle="steps-post", color=_FRONT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
    name = {"miou": "mIoU", "iou": "IoU"}[panel.score]
    axes.set_title(panel.data, fontsize=10.5, weight="bold", color=INK, loc="left")
    axes.set_xlabel(panel.cost_label, fontsize=9, color=INK)
    axes.set_ylabel(f"test {name} in %", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(0.08)


def _add_legend(figure: Any, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D

    runs = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[k % len(COLOURS)], label=run)
        for k, run in enumerate(comparison.runs)
    ]
    found = {row.role for panel in comparison.panels for row in panel.rows}
    kinds = [
        Line2D([], [], marker=marker, linestyle="", color=_FRONT, label=role)
        for role, marker in (("searched", "o"), ("random", "x"))
        if role in found
    ]
    kinds.append(Line2D([], [], linestyle=(0, (4, 3)), color=_FRONT, linewidth=1.1, label="front"))
    figure.legend(handles=[*runs, *kinds], loc="outside lower left", ncols=3, frameon=False, fontsize=8)
