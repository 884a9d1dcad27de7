"""Shrinking keeps thin defects, and does not fatten them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from search.data.resize import resize_image, resize_mask


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.sampled_from([8, 32]),
    y=st.floats(0, 1, exclude_max=True),
    x=st.floats(0, 1, exclude_max=True),
    value=st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_no_defect_vanishes(height, width, size, y, x, value):
    mask = np.zeros((height, width), np.uint8)
    mask[int(y * height), int(x * width)] = value
    small = resize_mask(mask, size)
    assert (small.shape, small.dtype) == ((size, size), np.uint8)
    assert set(np.unique(small)) <= {0, value}
    assert small.any()


def test_a_thin_line_stays_whole_and_thin():
    mask = np.zeros((512, 512), np.uint8)
    mask[:, 250:254] = 1  # half a small pixel wide
    small = resize_mask(mask, 64)
    assert small.any(axis=1).all()
    assert small.sum() == 64


def test_area_is_kept():
    y, x = np.mgrid[:400, :400]
    mask = ((y - 190) ** 2 + (x - 215) ** 2 < 80**2).astype(np.uint8)
    assert abs(resize_mask(mask, 64).mean() / mask.mean() - 1) < 0.05


def test_the_class_that_covers_most_wins():
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3], mask[:, 3:5] = 2, 4
    assert resize_mask(mask, 2).tolist() == [[2, 0], [2, 0]]


def test_equal_size_is_untouched():
    mask = np.random.default_rng(0).integers(0, 3, (32, 32), dtype=np.uint8)
    assert np.array_equal(resize_mask(mask, 32), mask)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(resize_image(image, 32), image)


def test_images_are_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))[:, :, None]
    small = resize_image(stripes, 32)
    assert small.shape == (32, 32, 1)
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() <= 6


def test_colour_channels_stay_apart():
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, :, 1] = 200
    assert resize_image(image, 32).reshape(-1, 3).max(axis=0).tolist() == [0, 200, 0]
