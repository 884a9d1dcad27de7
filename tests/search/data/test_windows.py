"""Windows cover the image, and stitching undoes cutting."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.data.readers import open_dataset, read_mask
from search.data.windows import Tile, WindowError, cut, stitch

KSDD = Path(__file__).resolve().parents[4] / "shared" / "datasets" / "KSDD"

sides = st.integers(1, 60)


def box(tile: Tile) -> tuple[slice, slice]:
    return slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)


@given(height=sides, width=sides, window=st.integers(1, 40), share=st.floats(0.01, 1))
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(height, width, window, share):
    tiles = cut(height, width, window, max(1, int(window * share)))
    seen = np.zeros((height, width), int)
    for tile in tiles:
        assert (tile.height, tile.width) == (min(window, height), min(window, width))
        assert tile.x >= 0
        assert tile.y >= 0
        assert tile.y + tile.height <= height
        assert tile.x + tile.width <= width
        seen[box(tile)] += 1
    assert seen.min() >= 1
    assert len(set(tiles)) == len(tiles)


@given(height=sides, width=sides, window=st.integers(1, 40), share=st.floats(0.01, 1), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_stitch_undoes_cut(height, width, window, share, seed):
    original = torch.rand((2, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tiles = cut(height, width, window, max(1, int(window * share)))
    maps = torch.stack([original[:, *box(tile)] for tile in tiles])
    torch.testing.assert_close(stitch(maps, tiles, height, width), original, rtol=0, atol=1e-12)


def test_overlap_is_averaged():
    tiles = [Tile(0, 0, 0, 4, 2), Tile(0, 2, 0, 4, 2)]
    maps = torch.stack([torch.zeros(1, 2, 4), torch.ones(1, 2, 4)])
    assert stitch(maps, tiles, 2, 6)[0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_stitch_scales_bilinearly():
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    stitched = stitch(ramp, [Tile(0, 0, 0, 8, 8)], 8, 8)
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(stitched[0, 3], expected)
    # A map larger than its window is averaged down, not sampled.
    stripes = torch.tensor([0.0, 1.0]).repeat(16).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    assert (stitch(stripes, [Tile(0, 0, 0, 8, 8)], 8, 8) - 0.5).abs().max() < 0.1


def test_windows_of_two_sizes_in_one_image():
    tiles = [Tile(0, 0, 0, 4, 4), Tile(0, 4, 0, 2, 4)]
    maps = torch.stack([torch.full((1, 8, 8), 0.25), torch.full((1, 8, 8), 0.75)])
    expected = torch.tensor([0.25] * 4 + [0.75] * 2).expand(1, 4, 6)
    torch.testing.assert_close(stitch(maps, tiles, 4, 6), expected)


@pytest.mark.parametrize(
    ("height", "width", "boxes"),
    [
        (100, 179, [(0, 0, 179, 100)]),
        (100, 180, [(0, 0, 100, 100), (50, 0, 100, 100), (80, 0, 100, 100)]),
        (200, 100, [(0, 0, 100, 100), (0, 50, 100, 100), (0, 100, 100, 100)]),
    ],
)
def test_auto_cuts_long_images_only(height, width, boxes):
    assert [(t.x, t.y, t.width, t.height) for t in cut(height, width)] == boxes
    assert cut(height, width, "off") == (Tile(0, 0, 0, width, height),)


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(WindowError, match=r"data\.stride: 60 px is larger than the window of 50 px"):
        cut(100, 100, 50, 60)


@pytest.mark.skipif(not KSDD.is_dir(), reason=f"no data set at {KSDD}")
@pytest.mark.parametrize(
    ("stride", "windows", "with_defect"), [(190, 278, 157), (250, 251, 116), (380, 174, 68), (500, 156, 62)]
)
def test_window_counts_of_kolektor(stride, windows, with_defect):
    dataset = open_dataset(KSDD)
    masks = [read_mask(dataset, s) for s in dataset.samples]
    found = [m[box(t)].any() for m in masks for t in cut(*m.shape, 500, stride)]
    assert (len(found), sum(found)) == (windows, with_defect)


@pytest.mark.skipif(not KSDD.is_dir(), reason=f"no data set at {KSDD}")
def test_kolektor_is_cut_by_default():
    dataset = open_dataset(KSDD)
    counts = {len(cut(*read_mask(dataset, s).shape)) for s in dataset.samples}
    assert counts <= {4, 5}
