"""The course of a trial as one picture: loss and IoU, how sure the search is, and what it leans to."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.architecture import CELL_KINDS, OPERATOR_NAMES
from orchestrator.drawing_style import FAINT, INK, new_figure, write_png
from search.hybrid_settings import probe_names

TRAINING, ALPHAS, SCORE = "#2563c9", "#c96a08", "#16803c"
PROBES = {"smallest": "#63c084", "largest": SCORE}
KIND_COLOURS = {"normal": TRAINING, "reduction": ALPHAS}
OPERATOR_COLOURS = {
    "zero": "#c9cdd3",
    "identity": "#5b6472",
    "sep_conv_3x3": "#8db4ee",
    "sep_conv_5x5": "#4a80d4",
    "sep_conv_7x7": "#1c449b",
    "dil_conv_3x3": "#c08fdc",
    "dil_conv_5x5": "#7d2fae",
    "max_pool_3x3": "#e9b065",
    "avg_pool_3x3": "#c96a08",
    "channel_att": "#63c084",
    "spatial_att": "#16803c",
}
"""One hue per family of operators, darker with the kernel."""

PHASES = ("search", "supernet", "retrain")
"""Whose epochs are drawn."""

Event = Mapping[str, Any]


def draw_curves(events: Sequence[Event], path: Path) -> Path:
    """Draw loss, training IoU, entropy, operator shares and scores of probe subnets of a trial; return the path.

    Panels without data (a trial that has only begun, or that does not search) are left out.

    Args:
        events: ledger events; of an epoch that was done twice, the last is drawn.
        path: the PNG to write.

    Raises:
        ValueError: events has no "epoch" event.
    """
    search, supernet, retrain = (epochs_of(events, phase) for phase in PHASES)
    panels: list[tuple[Any, list[Event]]] = []
    if search:
        panels.append((_draw_search_loss, search))
    if search and search[-1].get("entropy"):
        shares = [_share_drawer(kind) for kind in CELL_KINDS if kind in search[-1]["share"]]
        panels += [(draw, search) for draw in (_draw_entropy, *shares)]
    if supernet:
        panels.append((_draw_supernet, supernet))
    if retrain:
        panels.append((_draw_retraining, retrain))
    if not panels:
        raise ValueError("nothing to draw: no event 'epoch' among the events")
    rows = (len(panels) + 1) // 2 if len(panels) > 1 else 1
    columns = min(2, len(panels))
    figure = new_figure(6.2 * columns, 3.0 * rows + 0.1)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    grid = figure.add_gridspec(rows, columns)
    for index, (draw, epochs) in enumerate(panels):
        row, column = divmod(index, columns)
        alone = index == len(panels) - 1 and column == 0
        axes = figure.add_subplot(grid[row, :] if alone else grid[row, column])
        axes.set_xlim(epochs[0]["step"] - 0.5, epochs[-1]["step"] + 0.5)
        draw(axes, epochs)
    return write_png(figure, path)


def epochs_of(events: Sequence[Event], phase: str) -> list[Event]:
    """Return the epoch events of a phase by step; of a step that a resumed trial did again, the last."""
    found = {int(e["step"]): e for e in events if e["event"] == "epoch" and e["phase"] == phase}
    return [found[step] for step in sorted(found)]


def _draw_search_loss(axes: Any, epochs: Sequence[Event]) -> None:
    _dress(axes, "Search", "epoch", "loss")
    _mark_stages(axes, epochs)
    _line(axes, epochs, "loss", TRAINING, "weights")
    _line(axes, epochs, "alpha_loss", ALPHAS, "alphas")
    _add_score(axes, epochs)


def _draw_retraining(axes: Any, epochs: Sequence[Event]) -> None:
    _dress(axes, "Retraining", "epoch", "loss")
    _line(axes, epochs, "loss", TRAINING, "loss")
    _add_score(axes, epochs)


def _draw_supernet(axes: Any, epochs: Sequence[Event]) -> None:
    """Draw the loss and, after AutoNAD Fig. 6, what fixed subnets score with the shared weights as they are."""
    _dress(axes, "Supernet", "epoch", "loss")
    _line(axes, epochs, "loss", TRAINING, "loss")
    _start_at_zero(axes)
    probed = [e for e in epochs if e.get("probes")]
    if not probed:
        return
    right = _add_scale(axes, "mIoU of the probes")
    # The extremes last, so that they lie above the random ones.
    for index, name in reversed(list(enumerate(probe_names(len(probed[0]["probes"]) - 2)))):
        label = name if name in PROBES else "random" if index == 2 else "_"
        _plot(right, [(e, e["probes"][index]["miou"]) for e in probed], PROBES.get(name, FAINT), label)
    _legend(right, _labelled(axes, right))


def _add_score(axes: Any, epochs: Sequence[Event]) -> None:
    """Add the training IoU on a scale of its own at the right."""
    right = _add_scale(axes, "training IoU")
    _line(right, epochs, "iou", SCORE, "training IoU")
    _start_at_zero(axes)
    _legend(right, _labelled(axes, right))


def _add_scale(axes: Any, label: str) -> Any:
    """Return axes over the same epochs with a scale from 0 to 1 at the right."""
    right = axes.twinx()
    right.set_ylim(0, 1)
    right.set_ylabel(label, color=SCORE, fontsize=9)
    right.tick_params(colors=SCORE, labelsize=8, length=0)
    for side in ("top", "left", "bottom", "right"):
        right.spines[side].set_visible(False)
    return right


def _draw_entropy(axes: Any, epochs: Sequence[Event]) -> None:
    _dress(axes, "Entropy per edge", "epoch", "nats, mean of the edges")
    _mark_stages(axes, epochs)
    for kind, colour in KIND_COLOURS.items():
        _plot(axes, [(e, e["entropy"].get(kind)) for e in epochs], colour, f"{kind} cell")
    _start_at_zero(axes)
    _legend(axes, _labelled(axes))


def _share_drawer(kind: str) -> Any:
    def draw(axes: Any, epochs: Sequence[Event]) -> None:
        _dress(axes, f"Mean probability of the operators, {kind} cell", "epoch", "share")
        shares = [e["share"][kind] for e in epochs]
        names = {name for share in shares for name in share}
        ordered = [n for n in OPERATOR_NAMES if n in names] + sorted(names - set(OPERATOR_NAMES))
        steps = [e["step"] for e in epochs]
        # Each epoch is as wide as a step: slopes between stages would look like a course.
        edges = [steps[0] - 0.5, *steps, steps[-1] + 0.5]
        values = [[share.get(name, 0.0) for share in (shares[0], *shares, shares[-1])] for name in ordered]
        colours = [OPERATOR_COLOURS.get(name, INK) for name in ordered]
        axes.stackplot(edges, values, labels=ordered, colors=colours, step="mid", linewidth=0)
        _mark_stages(axes, epochs, "white")
        axes.set_ylim(0, 1)
        handles, labels = axes.get_legend_handles_labels()
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "handlelength": 1.0}
        axes.legend(handles[::-1], labels[::-1], fontsize=7.5, frameon=False, **place)

    return draw


def _line(axes: Any, epochs: Sequence[Event], key: str, colour: str, label: str) -> None:
    _plot(axes, [(e, e.get(key)) for e in epochs], colour, label)


def _plot(axes: Any, values: Sequence[tuple[Event, float | None]], colour: str, label: str) -> None:
    """Plot one value per epoch, with gaps where there is none and between stages."""
    steps: list[float] = []
    heights: list[float] = []
    for index, (event, value) in enumerate(values):
        if index and event.get("stage") != values[index - 1][0].get("stage"):
            steps.append(event["step"] - 0.5)
            heights.append(math.nan)
        steps.append(event["step"])
        heights.append(math.nan if value is None else value)
    # A stage of one epoch has no line, only its dot.
    dots = {"marker": "o", "markersize": 3} if len(values) <= 30 else {}
    axes.plot(steps, heights, color=colour, linewidth=1.6, label=label, **dots)


def _start_at_zero(axes: Any) -> None:
    top = axes.dataLim.y1
    axes.set_ylim(0, top * 1.06 if math.isfinite(top) and top > 0 else 1)


def _labelled(*axes: Any) -> list[Any]:
    return [line for one in axes for line in one.get_lines() if line.get_label()[0] != "_"]


def _legend(axes: Any, handles: Sequence[Any]) -> None:
    """Put the legend at the right of the title, where no curve can run under it."""
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.04), "borderaxespad": 0.0, "columnspacing": 1.2}
    axes.legend(handles=handles, ncols=len(handles), fontsize=8, frameon=False, **place)


def _mark_stages(axes: Any, epochs: Sequence[Event], colour: str = FAINT) -> None:
    """Draw a line where a stage begins and its number above."""
    seen: set[int] = set()
    for event in epochs:
        if event["stage"] in seen:
            continue
        seen.add(event["stage"])
        start = event["step"] - 0.5
        if len(seen) > 1:
            axes.axvline(start, color=colour, linewidth=1.2, linestyle=(0, (3, 3)), zorder=3)
        note = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "fontsize": 7.5,
            "color": FAINT,
        }
        axes.annotate(f"stage {event['stage']}", (start, 1), (2, 2), va="bottom", **note)


def _dress(axes: Any, title: str, across: str, up: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10.5, weight="bold", color=INK, loc="left", pad=14)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(up, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
