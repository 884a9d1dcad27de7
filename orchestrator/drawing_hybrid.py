"""An architecture of the hybrid space as a picture, in the manner of AutoNAD Fig. 3.

At the left the four stages of the encoder, one under the other, each block a bar; at the right, on the same heights,
the feature aggregation as a graph. All places follow from the space alone, so that pictures of its architectures can
be laid over one another, and all lines are horizontal or vertical, so that none runs under a label.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.hybrid_architecture import EDGE_NAMES, POOLS, STAGES, HybridArchitecture, HybridBlock
from models.hybrid_space import HybridSpace
from orchestrator.drawing_style import FAINT, INK, new_figure, tint, write_png

BLOCK_COLOURS = {"attention": "#16803c", "convolution": "#2563c9", "mlp": "#c96a08"}
EDGE_COLOURS = {
    "conv1x1": "#2563c9",
    "conv3x3": "#2563c9",
    "conv5x5": "#2563c9",
    "dilated3x3": "#8a3ab9",
    "depthwise3x3": "#0f766e",
}
NODE_FILL, HEAD_FILL, PANEL_FILL, PANEL_LINE = "#e9ecf1", "#fff3cf", "#f6f7f9", "#d5d9e0"

STRIDES = (4, 8, 16, 32)
"""Side of the image over the side of a stage's maps."""

BAR_LENGTH, BAR_HEIGHT, BAR_ROW, BAR_LABEL = 3.0, 0.2, 0.29, 1.95
"""Of the bar of the largest width of all stages; this and the sizes below are inches."""
MARGIN, TOP, LEGEND, PAD, HEADER, BETWEEN = 0.25, 1.05, 0.6, 0.14, 0.38, 0.36
PANEL_WIDTH = PAD + BAR_LENGTH + 0.1 + BAR_LABEL
NODE_WIDTH, NODE_HEIGHT, POOL_WIDTH, OPERATOR_WIDTH, OPERATOR_HEIGHT = 0.74, 0.44, 0.56, 1.14, 0.28
LANE, STEP, CAPTION = 0.38, 0.34, 0.26
"""Distance between branches of the pyramid, length of a short line, height of a caption."""
PYRAMID = POOLS * LANE + OPERATOR_HEIGHT + 2 * CAPTION

STAGE_LEFT = MARGIN + PANEL_WIDTH + STEP
POOL_LEFT = STAGE_LEFT + NODE_WIDTH + 2 * STEP
OPERATOR_LEFT = POOL_LEFT + POOL_WIDTH + STEP
LEVEL_LEFT = OPERATOR_LEFT + OPERATOR_WIDTH + 2 * STEP
OUTPUT_LEFT = LEVEL_LEFT + NODE_WIDTH + STEP
HEAD_LEFT = OUTPUT_LEFT + OPERATOR_WIDTH + STEP
WIDTH = HEAD_LEFT + NODE_WIDTH + MARGIN


@dataclass(frozen=True)
class Box:
    """A rectangle with its text; `name` is "image", "stage1", "pool2_size", "level3", "head", an edge's name, ..."""

    name: str
    text: str
    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The x of its right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The y of its lower side."""
        return self.top + self.height

    @property
    def middle(self) -> float:
        """The y of its centre."""
        return self.top + self.height / 2


@dataclass(frozen=True)
class Bar:
    """A block: its box as long as the largest width of the stage, `solid` of that the chosen one; 0 without a block."""

    box: Box
    operator: str | None
    solid: float


@dataclass(frozen=True)
class Line:
    """Horizontal and vertical pieces from point to point (x, y); with an arrow head at the end or without."""

    points: tuple[tuple[float, float], ...]
    arrow: bool = True


@dataclass(frozen=True)
class HybridLayout:
    """Places of everything in inches, x to the right, y downwards.

    Attributes:
        panels: one per stage, around its bars; its text says what was chosen.
        bars: per stage as many as its largest depth.
        nodes: the image, four stages, four pool sizes, four levels, the head.
        edges: the operators, in the order of `EDGE_NAMES`.
        frame: around the pyramid pooling.
        lines: between all of these.
        height: of the picture.
    """

    panels: tuple[Box, ...]
    bars: tuple[Bar, ...]
    nodes: tuple[Box, ...]
    edges: tuple[Box, ...]
    frame: Box
    lines: tuple[Line, ...]
    height: float


def lay_out_hybrid(architecture: HybridArchitecture, space: HybridSpace) -> HybridLayout:
    """Return the places of an architecture's parts.

    Raises:
        ValueError: the architecture is not one of the space.
    """
    if not space.contains(architecture):
        raise ValueError(f"architecture {architecture.digest()[:12]} is not one of this space; give the space it is of")
    panels, bars = _lay_out_encoder(architecture, space)
    middles = [panel.middle for panel in panels]
    nodes = {"image": Box("image", "image", MARGIN + PANEL_WIDTH / 2 - NODE_WIDTH / 2, TOP - 0.62, NODE_WIDTH, 0.3)}
    for k, (middle, side) in enumerate(zip(middles, STRIDES, strict=True), start=1):
        for name, left in (("stage", STAGE_LEFT), ("level", LEVEL_LEFT)):
            top = middle - NODE_HEIGHT / 2
            nodes[f"{name}{k}"] = Box(f"{name}{k}", f"{name} {k}\n1/{side}", left, top, NODE_WIDTH, NODE_HEIGHT)
    head_top, head_bottom = nodes["level1"].top, nodes["level4"].bottom
    nodes["head"] = Box("head", "head\n1/4", HEAD_LEFT, head_top, NODE_WIDTH, head_bottom - head_top)
    lanes = [middles[3] + (k - POOLS / 2 + (k >= POOLS / 2)) * LANE for k in range(POOLS)]
    for k, (lane, size) in enumerate(zip(lanes, architecture.pools, strict=True), start=1):
        name, top = f"pool{k}_size", lane - OPERATOR_HEIGHT / 2
        nodes[name] = Box(name, f"{size}×{size}", POOL_LEFT, top, POOL_WIDTH, OPERATOR_HEIGHT)
    columns = (OPERATOR_LEFT,) * 3 + (OUTPUT_LEFT,) * 3 + (OPERATOR_LEFT,) * POOLS
    rows = (*middles[:3], *middles[:3], *lanes)
    edges = {
        name: Box(name, operator, left, row - OPERATOR_HEIGHT / 2, OPERATOR_WIDTH, OPERATOR_HEIGHT)
        for name, operator, left, row in zip(EDGE_NAMES, architecture.edges, columns, rows, strict=True)
    }
    top = lanes[0] - OPERATOR_HEIGHT / 2 - CAPTION
    left, right = nodes["stage4"].right + STEP / 2, LEVEL_LEFT - STEP / 2
    frame = Box("pyramid", "pyramid pooling", left, top, right - left, 2 * (middles[3] - top) - CAPTION + PAD)
    lines = _lay_out_lines(panels, nodes, edges)
    height = max(frame.bottom, panels[-1].bottom) + LEGEND
    return HybridLayout(tuple(panels), tuple(bars), tuple(nodes.values()), tuple(edges.values()), frame, lines, height)


def _lay_out_encoder(architecture: HybridArchitecture, space: HybridSpace) -> tuple[list[Box], list[Bar]]:
    panels: list[Box] = []
    bars: list[Bar] = []
    scale = BAR_LENGTH / max(max(widths) for widths in space.widths)
    row_top = TOP
    for number, stage in enumerate(architecture.stages, start=1):
        widest, deepest = max(space.widths[number - 1]), max(space.depths[number - 1])
        height = HEADER + deepest * BAR_ROW + PAD / 2
        row = max(height, PYRAMID if number == STAGES else 0.0)
        said = f"total stride {STRIDES[number - 1]}, {stage.width} of {widest} channels, "
        said += f"{stage.depth} of {deepest} {'block' if deepest == 1 else 'blocks'}"
        panel = Box(f"panel{number}", said, MARGIN, row_top + (row - height) / 2, PANEL_WIDTH, height)
        panels.append(panel)
        for k in range(deepest):
            block = stage.blocks[k] if k < stage.depth else None
            top = panel.top + HEADER + k * BAR_ROW + (BAR_ROW - BAR_HEIGHT) / 2
            text = _label(block) if block else "no block"
            place = Box(f"bar{number}.{k + 1}", text, MARGIN + PAD, top, widest * scale, BAR_HEIGHT)
            bars.append(Bar(place, block.operator, stage.width * scale) if block else Bar(place, None, 0.0))
        row_top += row + BETWEEN
    return panels, bars


def _label(block: HybridBlock) -> str:
    kernel = f" {block.kernel}×{block.kernel}" if block.kernel else ""
    return f"{block.operator}{kernel}, ratio {block.ratio:.4g}"


def _lay_out_lines(panels: list[Box], nodes: dict[str, Box], edges: dict[str, Box]) -> tuple[Line, ...]:
    """Return the lines: down the encoder, from left to right through each level, and up from level to level."""
    head, stage, top = nodes["head"], nodes["stage4"], nodes["level4"]
    centre = MARGIN + PANEL_WIDTH / 2
    above = (nodes["image"], *panels)
    lines = [Line(((centre, a.bottom), (centre, b.top))) for a, b in itertools.pairwise(above)]
    for k, panel in enumerate(panels, start=1):
        lines.append(_across(panel, nodes[f"stage{k}"]))
    for k in (1, 2, 3):
        chain = (nodes[f"stage{k}"], edges[f"lateral{k}"], nodes[f"level{k}"], edges[f"output{k}"])
        lines += [_across(a, b) for a, b in itertools.pairwise(chain)]
        lines.append(Line(((chain[-1].right, chain[-1].middle), (head.left, chain[-1].middle))))
        below, x = nodes[f"level{k + 1}"], LEVEL_LEFT + NODE_WIDTH / 2
        lines.append(Line(((x, below.top), (x, nodes[f"level{k}"].bottom))))
    lines.append(_across(stage, top))
    lines.append(Line(((top.right, top.middle), (head.left, top.middle))))
    fork, join = POOL_LEFT - STEP / 2, OPERATOR_LEFT + OPERATOR_WIDTH + STEP / 2
    for k in range(1, POOLS + 1):
        size, edge = nodes[f"pool{k}_size"], edges[f"pool{k}"]
        lines.append(Line(((fork, stage.middle), (fork, size.middle), (size.left, size.middle))))
        lines.append(_across(size, edge))
        lines.append(Line(((edge.right, edge.middle), (join, edge.middle), (join, top.middle)), arrow=False))
    return tuple(lines)


def _across(source: Box, target: Box) -> Line:
    return Line(((source.right, source.middle), (target.left, target.middle)))


def draw_hybrid(architecture: HybridArchitecture, path: Path, *, space: HybridSpace, title: str | None = None) -> Path:
    """Draw an architecture of the hybrid space as PNG; return the path.

    Each block is a bar as long as the largest width that its stage may have, solid up to the chosen width; a block
    that a smaller depth leaves out is only outlined. The coloured labels of the graph are the operators of its edges.

    Source: AutoNAD Fig. 3.

    Args:
        architecture: what to draw.
        path: the PNG to write.
        space: what could have been chosen.
        title: what stands above; without one, the first digits of the digest.

    Raises:
        ValueError: the architecture is not one of the space.
    """
    layout = lay_out_hybrid(architecture, space)
    figure = new_figure(WIDTH, layout.height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(layout.height, 0))
    axes.axis("off")
    title = f"Architecture {architecture.digest()[:12]}" if title is None else title
    axes.text(MARGIN, 0.22, title, fontsize=12, weight="bold", color=INK, va="center")
    for left, caption in ((MARGIN, "Encoder"), (STAGE_LEFT, "Feature aggregation")):
        axes.text(left, TOP - 0.47, caption, fontsize=10, weight="bold", color=INK, va="center")
    for number, panel in enumerate(layout.panels, start=1):
        _draw_box(axes, panel, PANEL_FILL, PANEL_LINE, zorder=1)
        height = {"y": panel.top + HEADER / 2 + 0.02, "color": INK, "va": "center"}
        axes.text(panel.left + PAD, s=f"Stage {number}", fontsize=9.5, weight="bold", **height)
        axes.text(panel.left + PAD + 0.72, s=panel.text, fontsize=8.5, **height)
    for bar in layout.bars:
        _draw_bar(axes, bar)
    frame = layout.frame
    _draw_box(axes, frame, PANEL_FILL, PANEL_LINE, zorder=1)
    axes.text(frame.left + 0.1, frame.top + CAPTION / 2, frame.text, fontsize=8, color=INK, va="center")
    _draw_lines(axes, layout.lines)
    for node in layout.nodes:
        _draw_box(axes, node, HEAD_FILL if node.name in ("image", "head") else NODE_FILL, INK, size=8.5)
    for edge in layout.edges:
        colour = EDGE_COLOURS[edge.text]
        _draw_box(axes, edge, tint(colour, 0.13), colour, size=8.5)
    _draw_legend(figure, space)
    return write_png(figure, path)


def _draw_bar(axes: Any, bar: Bar) -> None:
    from matplotlib.patches import Rectangle

    box, colour = bar.box, BLOCK_COLOURS[bar.operator] if bar.operator else FAINT
    solid, rest = (box.left, bar.solid), (box.left + bar.solid, box.width - bar.solid)
    for (left, width), look in ((rest, {"fill": False, "linestyle": (0, (3, 2))}), (solid, {"facecolor": colour})):
        if width > 0:
            axes.add_patch(Rectangle((left, box.top), width, box.height, edgecolor=colour, **look, zorder=2))
    shade = INK if bar.operator else FAINT
    axes.text(box.right + 0.1, box.middle, box.text, fontsize=8.5, color=shade, va="center")


def _draw_lines(axes: Any, lines: tuple[Line, ...]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Outline

    for line in lines:
        style = "-|>,head_length=0.4,head_width=0.18" if line.arrow else "-"
        place: dict[str, Any] = {"path": Outline(line.points), "arrowstyle": style, "mutation_scale": 12}
        axes.add_patch(FancyArrowPatch(**place, color=INK, linewidth=1.1, joinstyle="miter", zorder=2))


def _draw_box(axes: Any, box: Box, fill: Any, outline: str, *, size: float = 0.0, zorder: float = 4) -> None:
    """Draw a box, and its text in this size where one is given."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.06"
    colours = {"facecolor": fill, "edgecolor": outline, "linewidth": 1.0}
    corner = (box.left, box.top)
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=style, **colours, zorder=zorder))
    if size:
        place = {"ha": "center", "va": "center", "fontsize": size, "color": INK, "linespacing": 1.15}
        axes.text(box.left + box.width / 2, box.middle, box.text, **place, zorder=zorder + 1)


def _draw_legend(figure: Any, space: HybridSpace) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=BLOCK_COLOURS[name], label=name) for name in space.operators]
    dashed: dict[str, Any] = {"facecolor": "none", "edgecolor": INK, "linestyle": (0, (3, 2))}
    handles.append(Patch(**dashed, label="width and blocks of the space that were not chosen"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
