"""The two cells of an architecture as a picture, in the manner of NAS-ASDet Fig. 6.

Nothing can overlap by construction. Nodes stand in columns by depth; every edge has a horizontal lane of its
own with its operator on it, and climbs to it in the free gap right of its source's column; a node stands
at the middle of its lanes. Curves therefore cross only other curves.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.architecture import CELL_KINDS, Cell, CellArchitecture
from orchestrator.drawing_style import (
    FAINT,
    FAMILIES,
    INK,
    INPUT_NAMES,
    OUTPUT_NAME,
    colour_of,
    family_of,
    new_figure,
    source_name,
    tint,
    write_png,
)

LANE = 0.46
"""Distance between lanes; this and the sizes below are inches."""
GAP, LABEL_WIDTH, LABEL_HEIGHT, APPROACH, NODE_WIDTH, NODE_HEIGHT = 0.75, 1.22, 0.31, 0.38, 0.46, 0.42
STATE_WIDTH = 0.72
COLUMN = GAP + LABEL_WIDTH + APPROACH + NODE_WIDTH
MARGIN, TITLE, LEGEND = 0.22, 0.42, 0.45


@dataclass(frozen=True)
class Wire:
    """One edge of a cell with its place: heights of its lane and arrow, in inches below the top lane."""

    source: int
    node: int
    operator: str
    lane: float
    entry: float


@dataclass(frozen=True)
class Layout:
    """Places of a cell's parts: columns and heights (inches, downwards) per state, and one lane per edge.

    A state is 0 and 1 for the inputs and node + 2 for a node, as the sources of edges are.
    """

    columns: tuple[int, ...]
    heights: tuple[float, ...]
    wires: tuple[Wire, ...]
    depth: int
    height: float

    def right_of(self, state: int) -> float:
        """Return the x of the right side of a state's column."""
        return STATE_WIDTH + self.columns[state] * COLUMN

    @property
    def width(self) -> float:
        """Width of the drawn cell in inches."""
        return STATE_WIDTH + self.depth * COLUMN + GAP + STATE_WIDTH


def lay_out(cell: Cell) -> Layout:
    """Return a layout with few crossings: the best order of nodes, then of each node's edges."""
    orders = itertools.permutations(range(len(cell)))
    best, order = min(((_layout(cell, o, frozenset()), o) for o in orders), key=lambda found: _tangle(found[0]))
    turned: frozenset[int] = frozenset()
    for node in range(len(cell)):
        other = _layout(cell, order, turned | {node})
        if _tangle(other) < _tangle(best):
            best, turned = other, turned | {node}
    return best


def _layout(cell: Cell, order: tuple[int, ...], turned: frozenset[int]) -> Layout:
    columns = [0, 0]
    for edges in cell:
        columns.append(1 + max((columns[e.source] for e in edges), default=0))
    tops, top = {}, 0.0
    for node in order:
        tops[node] = top
        top += max(1, len(cell[node])) * LANE
    centres = [tops[n] + (max(1, len(edges)) - 1) * LANE / 2 for n, edges in enumerate(cell)]
    heights = (*_input_heights(cell, centres, top - LANE), *centres)
    wires = []
    for node, edges in enumerate(cell):
        ranked = sorted(edges, key=lambda e: (heights[e.source], e.source), reverse=node in turned)
        for rank, edge in enumerate(ranked):
            entry = centres[node] + (rank - (len(ranked) - 1) / 2) * min(0.16, 0.38 / len(ranked))
            wires.append(Wire(edge.source, node, edge.operator, tops[node] + rank * LANE, entry))
    return Layout(tuple(columns), heights, tuple(wires), max(columns), top - LANE)


def _input_heights(cell: Cell, centres: list[float], bottom: float) -> tuple[float, float]:
    """Put each input at the middle of the nodes that it feeds, and the two a fair distance apart."""
    fed = [[centres[n] for n, edges in enumerate(cell) if any(e.source == s for e in edges)] for s in (0, 1)]
    wished = [sum(f) / len(f) if f else bottom * (0.25 + 0.5 * s) for s, f in enumerate(fed)]
    upper, lower = (0, 1) if wished[0] <= wished[1] else (1, 0)
    middle = min(max(sum(wished) / 2, bottom * 0.3), bottom * 0.7)
    half = min(max((wished[lower] - wished[upper]) / 2, bottom * 0.2), bottom * 0.3)
    places = {upper: middle - half, lower: middle + half}
    return places[0], places[1]


def _tangle(layout: Layout) -> tuple[int, float]:
    """Return the number of crossings and the length of all climbs."""
    columns, heights = layout.columns, layout.heights
    climbs = [(columns[w.source], heights[w.source], w.lane, columns[w.node + 2]) for w in layout.wires]
    climbs += [(columns[s], heights[s], heights[s], layout.depth + 1) for s in range(2, len(heights))]
    crossings = 0
    for one, other in itertools.permutations(climbs, 2):
        if one[0] == other[0]:
            crossings += (one[1] - other[1]) * (one[2] - other[2]) < 0 and one < other
        elif other[0] < one[0] < other[3]:
            crossings += min(one[1:3]) < other[2] < max(one[1:3])
    return crossings, sum(abs(w.lane - heights[w.source]) for w in layout.wires)


def draw_cells(architecture: CellArchitecture, path: Path) -> Path:
    """Draw the normal and the reduction cell of an architecture as PNG; return the path.

    The boxes are the inputs c_k-2 and c_k-1, the nodes 0, 1, .. and the output c_k, which joins all nodes;
    each coloured label is the operator of one edge.

    Source: NAS-ASDet Fig. 6.
    """
    layouts = [lay_out(getattr(architecture, kind)) for kind in CELL_KINDS]
    width = max(layout.width for layout in layouts) + 2 * MARGIN
    rows = [layout.height + LANE + TITLE for layout in layouts]
    height = sum(rows) + LEGEND + MARGIN
    figure = new_figure(width, height)
    top = height
    for kind, layout, row in zip(CELL_KINDS, layouts, rows, strict=True):
        axes = figure.add_axes((0, (top - row) / height, 1, row / height))
        axes.set(xlim=(-MARGIN, width - MARGIN), ylim=(layout.height + LANE / 2, -TITLE - LANE / 2))
        axes.axis("off")
        axes.text(0, -TITLE - 0.02, f"{kind.capitalize()} cell", fontsize=12, weight="bold", color=INK, va="center")
        _draw_cell(axes, layout)
        top -= row
    used = {family_of(w.operator) for layout in layouts for w in layout.wires}
    _draw_legend(figure, [name for name in FAMILIES if name in used])
    return write_png(figure, path)


def _draw_cell(axes: Any, layout: Layout) -> None:
    last = layout.width - STATE_WIDTH
    middle = layout.height / 2
    nodes = range(2, len(layout.heights))
    ranked = sorted(nodes, key=lambda s: layout.heights[s])
    for state in (0, 1, *nodes):
        curves = [_wire_curve(layout, w) for w in layout.wires if w.source == state]
        if state in nodes:
            start = (layout.right_of(state), layout.heights[state])
            entry = middle + (ranked.index(state) - (len(ranked) - 1) / 2) * 0.2
            points = [start, (last - GAP, start[1]), *_climb((last - GAP, start[1]), (last, entry))]
            curves.insert(0, Curve(tuple(points), 1, FAINT, arrow=True))
        _draw_curves(axes, curves, zorder=2 + 0.1 * state)
    for wire in layout.wires:
        _draw_operator(axes, layout, wire)
    for state in nodes:
        left = layout.right_of(state) - NODE_WIDTH
        _draw_box(axes, left, layout.heights[state], NODE_WIDTH, NODE_HEIGHT, source_name(state), "#e9ecf1")
    for state, name in enumerate(INPUT_NAMES):
        _draw_box(axes, 0, layout.heights[state], STATE_WIDTH, 0.5, name, "#fff3cf")
    height = max(0.5, 0.2 * len(ranked) + 0.1)
    _draw_box(axes, last, middle, STATE_WIDTH, height, OUTPUT_NAME, "#fff3cf")
    caption = {"fontsize": 7.5, "color": FAINT, "ha": "center", "va": "center"}
    axes.text(last + STATE_WIDTH / 2, middle + height / 2 + 0.16, "joins all nodes", **caption)


@dataclass(frozen=True)
class Curve:
    """`runs` straight pieces, a climb (three points of a cubic) and, with a point left, a last run."""

    points: tuple[tuple[float, float], ...]
    runs: int
    colour: str
    arrow: bool = False


def _climb(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    bend = (end[0] - start[0]) / 2
    return [(start[0] + bend, start[1]), (end[0] - bend, end[1]), end]


def _wire_curve(layout: Layout, wire: Wire) -> Curve:
    """Return the line from an edge's source to its operator."""
    start = (layout.right_of(wire.source), layout.heights[wire.source])
    points = [start, *_climb(start, (start[0] + GAP, wire.lane)), (_label_left(layout, wire), wire.lane)]
    return Curve(tuple(points), 0, colour_of(wire.operator))


def _label_left(layout: Layout, wire: Wire) -> float:
    return layout.right_of(wire.node + 2) - NODE_WIDTH - APPROACH - LABEL_WIDTH


def _draw_operator(axes: Any, layout: Layout, wire: Wire) -> None:
    """Draw the label of an edge and its arrow into the node."""
    colour = colour_of(wire.operator)
    left = _label_left(layout, wire)
    start = (left + LABEL_WIDTH, wire.lane)
    points = [start, *_climb(start, (start[0] + APPROACH, wire.entry))]
    _draw_curves(axes, [Curve(tuple(points), 0, colour, arrow=True)], zorder=3)
    _draw_box(axes, left, wire.lane, LABEL_WIDTH, LABEL_HEIGHT, wire.operator, tint(colour, 0.13), colour, 8.5)


def _draw_curves(axes: Any, curves: list[Curve], zorder: float) -> None:
    """Draw the curves that leave one state, on a white rim that sets them off from those of other states."""
    from matplotlib.patches import FancyArrowPatch, PathPatch
    from matplotlib.path import Path as Outline

    for curve in curves:
        codes = [Outline.MOVETO, *[Outline.LINETO] * curve.runs, *[Outline.CURVE4] * 3]
        codes += [Outline.LINETO] * (len(curve.points) - len(codes))
        outline = Outline(curve.points, codes)
        axes.add_patch(PathPatch(outline, fill=False, edgecolor="white", linewidth=4, capstyle="butt", zorder=zorder))
        style = "-|>,head_length=0.45,head_width=0.2" if curve.arrow else "-"
        arrow = FancyArrowPatch(path=outline, arrowstyle=style, mutation_scale=12, color=curve.colour, linewidth=1.5)
        arrow.set(zorder=zorder + 0.05)
        axes.add_patch(arrow)


def _draw_box(
    axes: Any,
    left: float,
    middle: float,
    width: float,
    height: float,
    text: str,
    fill: Any,
    outline: str = INK,
    size: float = 11,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        (left, middle - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.09",
        facecolor=fill,
        edgecolor=outline,
        linewidth=1.1,
        zorder=5,
    )
    axes.add_patch(box)
    axes.text(left + width / 2, middle, text, ha="center", va="center", fontsize=size, color=INK, zorder=6)


def _draw_legend(figure: Any, families: list[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=tint(FAMILIES[f][0], 0.13), edgecolor=FAMILIES[f][0], label=f) for f in families]
    figure.legend(handles=handles, loc="lower center", ncols=max(1, len(handles)), frameon=False, fontsize=9)
