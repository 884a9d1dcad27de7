import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.hybrid_architecture import BLOCK_OPERATORS, EDGE_NAMES, EDGE_OPERATORS, HybridArchitecture
from models.hybrid_space import HybridSpace
from orchestrator import drawing_hybrid
from orchestrator.drawing_hybrid import (
    BAR_LENGTH,
    BLOCK_COLOURS,
    EDGE_COLOURS,
    WIDTH,
    Box,
    HybridLayout,
    draw_hybrid,
    lay_out_hybrid,
)

ROOT = Path(__file__).resolve().parents[2]
SPACE = HybridSpace()
TABLE_1 = HybridSpace(
    widths=((32, 64), (32, 64, 96, 128), (128, 160, 192, 224), (192, 224, 256, 288)),
    depths=((1, 2, 3, 4),) * 4,
    ratios=((7.5, 8.0, 8.5, 9.0),) * 2 + ((3.5, 4.0, 4.5, 5.0),) * 2,
    kernels=(3, 5, 7),
)
FLAT = HybridSpace(
    widths=((32,), (32,), (32,), (32,)),
    depths=((1,),) * 4,
    ratios=((7.125,),) * 4,
    operators=("convolution",),
    kernels=(11,),
    edge_operators=("depthwise3x3",),
    pool_sizes=(12,),
)
DEEP = HybridSpace(depths=((2, 12),) * 4)
CASES = [
    *((space, getattr(space, end)()) for space in (SPACE, TABLE_1, FLAT, DEEP) for end in ("smallest", "largest")),
    *((SPACE, SPACE.sample(random.Random(seed))) for seed in range(10)),
    *((TABLE_1, TABLE_1.sample(random.Random(seed))) for seed in range(10)),
]
DRAWN = [CASES[i] for i in (0, 1, 4, 7, 8, 18)]

Rectangle = tuple[float, float, float, float]


def apart(one: Rectangle, other: Rectangle) -> bool:
    """Return whether two (left, top, right, bottom) have no point in common."""
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def corners(box: Box) -> Rectangle:
    return box.left, box.top, box.right, box.bottom


def pieces(layout: HybridLayout) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    for line in layout.lines:
        yield from itertools.pairwise(line.points)


@pytest.mark.parametrize(("space", "architecture"), CASES, ids=range(len(CASES)))
def test_bars_are_as_long_as_the_widths_say(space: HybridSpace, architecture: HybridArchitecture) -> None:
    layout = lay_out_hybrid(architecture, space)
    assert len(layout.bars) == sum(max(depths) for depths in space.depths)
    per_channel = BAR_LENGTH / max(max(widths) for widths in space.widths)
    bars = iter(layout.bars)
    for stage, widths, depths, panel in zip(
        architecture.stages, space.widths, space.depths, layout.panels, strict=True
    ):
        for k, bar in enumerate(itertools.islice(bars, max(depths))):
            chosen = stage.blocks[k] if k < stage.depth else None
            assert bar.operator == (chosen.operator if chosen else None)
            assert bar.box.width == pytest.approx(max(widths) * per_channel)
            assert bar.solid == pytest.approx(stage.width * per_channel if chosen else 0)
            assert 0 <= bar.solid <= bar.box.width + 1e-9
            assert bar.box.width <= BAR_LENGTH + 1e-9
            assert panel.top < bar.box.top < bar.box.bottom < panel.bottom
            assert panel.left < bar.box.left < bar.box.right < panel.right


@pytest.mark.parametrize(("space", "architecture"), CASES, ids=range(len(CASES)))
def test_all_nodes_and_all_ten_edges_are_there(space: HybridSpace, architecture: HybridArchitecture) -> None:
    layout = lay_out_hybrid(architecture, space)
    assert [(edge.name, edge.text) for edge in layout.edges] == list(zip(EDGE_NAMES, architecture.edges, strict=True))
    places = [f"{name}{k}" for k in (1, 2, 3, 4) for name in ("stage", "level")]
    sizes = [node for node in layout.nodes if node.name.endswith("_size")]
    assert sorted(node.name for node in layout.nodes) == sorted(["image", "head", *places, *(s.name for s in sizes)])
    assert [s.text for s in sizes] == [f"{side}×{side}" for side in architecture.pools]


@pytest.mark.parametrize(("space", "architecture"), CASES, ids=range(len(CASES)))
def test_no_boxes_overlap_and_no_line_runs_through_one(space: HybridSpace, architecture: HybridArchitecture) -> None:
    layout = lay_out_hybrid(architecture, space)
    boxes = [corners(box) for box in (*layout.nodes, *layout.edges, *layout.panels)]
    assert all(apart(one, other) for one, other in itertools.combinations(boxes, 2))
    bars = [corners(bar.box) for bar in layout.bars]
    assert all(apart(one, other) for one, other in itertools.combinations(bars, 2))
    for left, top, right, bottom in (*boxes, corners(layout.frame)):
        assert 0 < left < right < WIDTH
        assert 0 < top < bottom < layout.height
    for (x0, y0), (x1, y1) in pieces(layout):
        assert x0 == x1 or y0 == y1
        for left, top, right, bottom in boxes:
            inside_across = max(min(x0, x1), left) < min(max(x0, x1), right) - 1e-9 or left < x0 == x1 < right
            inside_down = max(min(y0, y1), top) < min(max(y0, y1), bottom) - 1e-9 or top < y0 == y1 < bottom
            assert not (inside_across and inside_down)


@pytest.mark.parametrize(("space", "architecture"), CASES[:12], ids=range(12))
def test_the_graph_is_that_of_the_network(space: HybridSpace, architecture: HybridArchitecture) -> None:
    layout = lay_out_hybrid(architecture, space)
    boxes = {box.name: box for box in (*layout.nodes, *layout.edges, *layout.panels)}

    def at(point: tuple[float, float]) -> str | None:
        close = 1e-9
        for name, b in boxes.items():
            if b.left - close <= point[0] <= b.right + close and b.top - close <= point[1] <= b.bottom + close:
                return name
        return None

    found = {(at(line.points[0]), at(line.points[-1])) for line in layout.lines}
    wanted = {("image", "panel1")} | {(f"panel{k}", f"panel{k + 1}") for k in (1, 2, 3)}
    wanted |= {(f"panel{k}", f"stage{k}") for k in (1, 2, 3, 4)}
    for k in (1, 2, 3):
        wanted |= {(f"stage{k}", f"lateral{k}"), (f"lateral{k}", f"level{k}"), (f"level{k + 1}", f"level{k}")}
        wanted |= {(f"level{k}", f"output{k}"), (f"output{k}", "head")}
    wanted |= {("stage4", "level4"), ("level4", "head")}
    for k in (1, 2, 3, 4):
        # Branches leave and join the line of the last stage between boxes.
        wanted |= {(None, f"pool{k}_size"), (f"pool{k}_size", f"pool{k}"), (f"pool{k}", None)}
    assert found == wanted


@pytest.mark.parametrize(("space", "architecture"), DRAWN, ids=range(len(DRAWN)))
def test_texts_fit_their_boxes_and_keep_apart(
    space: HybridSpace, architecture: HybridArchitecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figures: list[Any] = []
    monkeypatch.setattr(drawing_hybrid, "write_png", lambda figure, path: figures.append(figure))
    draw_hybrid(architecture, Path("unused.png"), space=space)
    figure = figures[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [*figure.axes[0].texts, *figure.legends[0].get_texts()]
    layout = lay_out_hybrid(architecture, space)
    places: list[tuple[str, Rectangle]] = []
    for text in texts:
        box = text.get_window_extent(renderer)
        left, right = box.x0 / figure.dpi, box.x1 / figure.dpi
        places.append(
            (text.get_text(), (left, layout.height - box.y1 / figure.dpi, right, layout.height - box.y0 / figure.dpi))
        )
    assert {bar.box.text for bar in layout.bars} <= {said for said, _ in places}
    for (said, one), (also, other) in itertools.combinations(places, 2):
        assert apart(one, other), (said, also)
    for said, (left, top, right, bottom) in places:
        assert 0 <= left < right <= WIDTH, said
        assert 0 <= top < bottom <= layout.height, said
    for box in (*layout.nodes, *layout.edges, *layout.panels):
        for said, place in places:
            meets = not apart(place, corners(box))
            inside = box.left < place[0] and place[2] < box.right and box.top < place[1] and place[3] < box.bottom
            assert inside or not meets, (said, box)
    for said, place in places:
        for (x0, y0), (x1, y1) in pieces(layout):
            assert apart(place, (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))), said


def test_places_follow_from_the_space_alone() -> None:
    one, other = (lay_out_hybrid(SPACE.sample(random.Random(seed)), SPACE) for seed in (1, 2))
    assert [corners(b) for b in (*one.nodes, *one.edges)] == [corners(b) for b in (*other.nodes, *other.edges)]
    assert [corners(bar.box) for bar in one.bars] == [corners(bar.box) for bar in other.bars]


def test_labels_say_ratio_and_kernel() -> None:
    stages = [
        (32, [("convolution", 7.5, 5), ("attention", 8.0, 0)]),
        (64, [("mlp", 7.5, 0)]),
        (128, [("mlp", 4, 0)]),
        (192, [("attention", 4.5, 0)]),
    ]
    architecture = HybridArchitecture.of(stages, ["conv1x1"] * 10, [1, 2, 3, 6])
    layout = lay_out_hybrid(architecture, HybridSpace(kernels=(3, 5)))
    assert [bar.box.text for bar in layout.bars[:4]] == [
        "convolution 5×5, ratio 7.5", "attention, ratio 8", "no block", "mlp, ratio 7.5",
    ]  # fmt: skip
    assert layout.panels[1].text == "total stride 8, 64 of 96 channels, 1 of 3 blocks"


def test_every_operator_has_a_colour() -> None:
    assert set(BLOCK_COLOURS) == set(BLOCK_OPERATORS)
    assert len(set(BLOCK_COLOURS.values())) == len(BLOCK_OPERATORS)
    assert set(EDGE_COLOURS) == set(EDGE_OPERATORS)


@pytest.mark.filterwarnings("error")
def test_a_png_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = draw_hybrid(SPACE.sample(random.Random(3)), tmp_path / "new" / "hybrid.png", space=SPACE, title="The answer")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == pytest.approx(150 * WIDTH, abs=2)
        shown = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert path.stat().st_size > 20_000
    used = {block.operator for stage in SPACE.sample(random.Random(3)).stages for block in stage.blocks}
    assert {tuple(bytes.fromhex(BLOCK_COLOURS[name][1:])) for name in used} <= shown
    assert [p.name for p in path.parent.iterdir()] == ["hybrid.png"]


def test_an_architecture_of_another_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not one of this space"):
        draw_hybrid(TABLE_1.largest(), tmp_path / "none.png", space=SPACE)
    assert not list(tmp_path.iterdir())


def test_drawing_needs_matplotlib_only_when_it_draws() -> None:
    code = (
        "import sys, orchestrator.drawing_hybrid, orchestrator.drawing_front\n"
        "print([m for m in ('matplotlib', 'mlflow', 'torch', 'numpy', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
