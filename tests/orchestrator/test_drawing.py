import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic_ledgers import make_events, random_architecture, write_ledger

from models.architecture import CELL_KINDS, OPERATOR_NAMES, CellArchitecture
from orchestrator.drawing import draw_alphas, draw_cells, draw_curves, draw_pruning, draw_trial
from orchestrator.drawing_alphas import STAGE_COLOURS
from orchestrator.drawing_cells import (
    APPROACH,
    GAP,
    LABEL_HEIGHT,
    LABEL_WIDTH,
    NODE_HEIGHT,
    NODE_WIDTH,
    STATE_WIDTH,
    Layout,
    lay_out,
)
from orchestrator.drawing_curves import PROBES
from orchestrator.drawing_style import FAINT, FAMILIES, edge_places

ROOT = Path(__file__).resolve().parents[2]
CHAIN = [[(0, "identity"), (1, "sep_conv_3x3")]] + [[(n, "max_pool_3x3"), (n + 1, "channel_att")] for n in (1, 2, 3)]
FULL = [[(s, OPERATOR_NAMES[1 + (n + s) % 10]) for s in range(n + 2)] for n in range(4)]
SPARSE = [[], [(1, "identity")], [], [(2, "dil_conv_5x5"), (4, "avg_pool_3x3"), (0, "spatial_att")]]
ARCHITECTURES = [
    *(random_architecture(seed) for seed in range(30)),
    CellArchitecture.of(CHAIN, FULL),
    CellArchitecture.of(SPARSE, [[], [], [], []]),
]


def boxes_of(layout: Layout) -> list[tuple[float, float, float, float]]:
    """Return left, top, right, bottom of everything that is drawn as a box, but for the output."""
    boxes = [(0.0, h - 0.25, STATE_WIDTH, h + 0.25) for h in layout.heights[:2]]
    for state in range(2, len(layout.heights)):
        right, middle = layout.right_of(state), layout.heights[state]
        boxes.append((right - NODE_WIDTH, middle - NODE_HEIGHT / 2, right, middle + NODE_HEIGHT / 2))
    for wire in layout.wires:
        right = layout.right_of(wire.node + 2) - NODE_WIDTH - APPROACH
        boxes.append((right - LABEL_WIDTH, wire.lane - LABEL_HEIGHT / 2, right, wire.lane + LABEL_HEIGHT / 2))
    return boxes


def straight_runs_of(layout: Layout) -> list[tuple[float, float, float]]:
    """Return from x, to x and height of each line where it leaves the gap that it climbs in."""
    runs = []
    for wire in layout.wires:
        label = layout.right_of(wire.node + 2) - NODE_WIDTH - APPROACH - LABEL_WIDTH
        runs.append((layout.right_of(wire.source) + GAP, label, wire.lane))
    end = layout.width - STATE_WIDTH - GAP
    runs += [(layout.right_of(s), end, layout.heights[s]) for s in range(2, len(layout.heights))]
    return runs


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def colours_in(path: Path) -> set[tuple[int, int, int]]:
    packed = pixels_of(path).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return {(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in np.unique(packed)}


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=range(len(ARCHITECTURES)))
def test_nothing_in_a_cell_overlaps(architecture: CellArchitecture) -> None:
    for kind in CELL_KINDS:
        cell = getattr(architecture, kind)
        layout = lay_out(cell)
        drawn = sorted((w.node, w.source, w.operator) for w in layout.wires)
        assert drawn == sorted((n, e.source, e.operator) for n, edges in enumerate(cell) for e in edges)
        boxes = boxes_of(layout)
        for one, other in itertools.combinations(boxes, 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)
        for start, end, height in straight_runs_of(layout):
            assert start <= end + 1e-9
            for left, top, right, bottom in boxes:
                assert not (max(start, left) < min(end, right) - 1e-9 and top < height < bottom)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=range(len(ARCHITECTURES)))
def test_every_line_of_a_cell_goes_to_the_right(architecture: CellArchitecture) -> None:
    for kind in CELL_KINDS:
        layout = lay_out(getattr(architecture, kind))
        assert all(layout.columns[w.source] < layout.columns[w.node + 2] for w in layout.wires)
        assert all(-1e-9 <= h <= layout.height + 1e-9 for h in layout.heights)


def test_cells_are_drawn_in_the_colours_of_their_families(tmp_path: Path) -> None:
    pools = [[(0, "max_pool_3x3"), (1, "avg_pool_3x3")]] * 4
    mixed = [[(0, "max_pool_3x3"), (1, "dil_conv_3x3")]] * 4
    only_pools = colours_in(draw_cells(CellArchitecture.of(pools, pools), tmp_path / "new" / "pools.png"))
    with_dilated = colours_in(draw_cells(CellArchitecture.of(pools, mixed), tmp_path / "mixed.png"))
    pooling, dilated = rgb(FAMILIES["pooling"][0]), rgb(FAMILIES["dilated convolution"][0])
    assert pooling in only_pools
    assert dilated not in only_pools
    assert {pooling, dilated} <= with_dilated


def test_edges_are_named_as_the_ledger_orders_them() -> None:
    assert edge_places(14) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3),
        (3, 0), (3, 1), (3, 2), (3, 3), (3, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("stage", [1, 4])
def test_alphas_are_drawn_where_there_are_candidates(tmp_path: Path, stage: int) -> None:
    event = [e for e in make_events() if e["event"] == "epoch" and e.get("stage") == stage][-1]
    image = pixels_of(draw_alphas(event, tmp_path / "alphas.png"))
    blank = (image == rgb("#f6f7f9")).all(axis=2).mean()
    # Eleven of eleven operators are candidates in stage 1, two in stage 4.
    assert blank < 0.02 if stage == 1 else blank > 0.3


def test_the_strongest_operator_of_every_edge_is_framed(tmp_path: Path) -> None:
    event = [e for e in make_events() if e["event"] == "epoch"][2]
    framed = pixels_of(draw_alphas(event, tmp_path / "a.png"))
    first = {**event, "alphas": {k: [[1.0] + [0.0] * 10 for _ in range(14)] for k in CELL_KINDS}}
    moved = pixels_of(draw_alphas(first, tmp_path / "b.png"))
    frame = rgb("#d1495b")
    columns = [np.flatnonzero((image == frame).all(axis=2).any(axis=0)) for image in (framed, moved)]
    assert len(columns[1]) < len(columns[0])
    assert (framed == frame).all(axis=2).sum() > 14 * 2 * 100


def test_pruning_is_drawn_in_a_colour_per_stage(tmp_path: Path) -> None:
    events = make_events()
    two_stages = [e for e in events if e.get("stage", 9) <= 2]
    assert {rgb(c) for c in STAGE_COLOURS} <= colours_in(draw_pruning(events, tmp_path / "all.png"))
    partly = colours_in(draw_pruning(two_stages, tmp_path / "two.png"))
    assert {rgb(STAGE_COLOURS[i]) for i in (0, 1, 4)} <= partly
    assert not {rgb(STAGE_COLOURS[i]) for i in (2, 3)} & partly


def test_nothing_pruned_and_no_epoch_are_said() -> None:
    with pytest.raises(ValueError, match="nothing was pruned yet"):
        draw_pruning(make_events()[:3], Path("unused.png"))
    with pytest.raises(ValueError, match="no event 'epoch'"):
        draw_curves(make_events()[:2], Path("unused.png"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("part", ["one epoch", "search", "retraining", "all", "no numbers"])
def test_curves_of_any_part_of_a_trial(tmp_path: Path, part: str) -> None:
    events = make_events(epochs=12, retrain=40)
    chosen = {
        "one epoch": events[:3],
        "search": [e for e in events if e.get("phase") == "search"],
        "retraining": [e for e in events if e.get("phase") == "retrain"],
        "all": events,
        "no numbers": [{**e, "loss": math.nan, "iou": None} for e in events],
    }[part]
    image = pixels_of(draw_curves(chosen, tmp_path / "curves.png"))
    panels = {"one epoch": 4, "search": 4, "retraining": 1, "all": 5, "no numbers": 5}[part]
    assert len(image) == pytest.approx(150 * (3.0 * math.ceil(panels / 2) + 0.1), abs=2)


def test_an_epoch_that_was_done_again_is_drawn_once(tmp_path: Path) -> None:
    events = make_events()
    again = [{**e, "time": e["time"] + 100} for e in events if e["event"] == "epoch"]
    once, twice = draw_curves(events, tmp_path / "1.png"), draw_curves([*events, *again], tmp_path / "2.png")
    assert np.array_equal(pixels_of(once), pixels_of(twice))


def test_the_probes_of_a_supernet_are_drawn_once_there_are_any(tmp_path: Path) -> None:
    def epoch(step: int, *probes: float) -> dict[str, Any]:
        known = {"n": step, "time": float(step), "event": "epoch", "phase": "supernet", "step": step, "epoch": step}
        return {**known, "loss": 2 / step, "iou": None, **({"probes": [{"miou": p} for p in probes]} if probes else {})}

    colours = [rgb(PROBES["smallest"]), rgb(PROBES["largest"]), rgb(FAINT)]
    write_ledger(tmp_path, [epoch(1)])
    [before] = draw_trial(tmp_path)
    assert not colours_in(before) & set(colours)
    both = colours_in(draw_curves([epoch(1), epoch(2, 0.25, 0.5), epoch(3), epoch(4, 0.3, 0.6)], tmp_path / "2.png"))
    assert [colour in both for colour in colours] == [True, True, False]
    three = colours_in(draw_curves([epoch(1, 0.25, 0.5, 0.4), epoch(2, 0.3, 0.6, 0.5)], tmp_path / "3.png"))
    assert set(colours) <= three


def test_a_trial_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    events = make_events(keep=(7, 1))
    assert draw_trial(tmp_path) == ()
    write_ledger(tmp_path, events[:2])
    assert draw_trial(tmp_path) == ()
    stage_1 = next(i for i, e in enumerate(events) if e["event"] == "pruned") + 1
    write_ledger(tmp_path, events[:stage_1])
    assert [p.name for p in draw_trial(tmp_path, curves=False)] == ["alphas_stage1.png", "pruning.png"]
    assert [p.name for p in draw_trial(tmp_path)] == ["alphas_stage1.png", "pruning.png", "curves.png"]
    write_ledger(tmp_path, events)
    alphas = [f"alphas_stage{k}.png" for k in (1, 2)]
    drawings = draw_trial(tmp_path)
    assert [p.name for p in drawings] == [*alphas, "pruning.png", "cells.png", "curves.png"]
    assert sorted(p.name for p in (tmp_path / "drawings").iterdir()) == sorted(p.name for p in drawings)


def test_a_drawing_is_made_again_only_for_newer_events(tmp_path: Path) -> None:
    events = make_events(keep=(7, 1))
    write_ledger(tmp_path, events)
    drawings = draw_trial(tmp_path)
    for path in drawings:
        os.utime(path, (events[-1]["time"] + 10, events[-1]["time"] + 10))
    kept = {path.name: path.stat().st_mtime_ns for path in drawings}
    assert {path.name: path.stat().st_mtime_ns for path in draw_trial(tmp_path)} == kept
    resumed = [{**e, "time": e["time"] + 100} if e.get("stage") == 2 else e for e in events]
    write_ledger(tmp_path, resumed)
    changed = {path.name for path in draw_trial(tmp_path) if path.stat().st_mtime_ns != kept[path.name]}
    assert changed == {"alphas_stage2.png", "pruning.png"}


def test_drawing_needs_matplotlib_only_when_it_draws() -> None:
    code = (
        "import sys, orchestrator.drawing, orchestrator.tracking\n"
        "print([m for m in ('matplotlib', 'mlflow', 'torch', 'numpy', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
