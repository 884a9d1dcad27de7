"""Copies in any orientation, exposures, crops and resized copies are found; textures that only look alike are not."""

import numpy as np
import pytest
from PIL import Image

from search.data import similarity
from search.data.correlation import turned
from search.data.similarity import (
    ORIENTATIONS,
    Thumbnails,
    content_key,
    find_near,
    groups,
    orientation_between,
    reduction,
    thumbnails,
)


def scene(seed, height=200, width=260):
    """A surface with structure of several sizes, as float (height, width)."""
    rng = np.random.default_rng([seed, 7])
    layers = []
    for size in (4, 8, 16, 32):
        coarse = rng.normal(size=(height // size + 2, width // size + 2))
        layer = Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        layers.append(np.asarray(layer) * size**0.5)
    return 128 + 12 * np.sum(layers, axis=0)


def lattice(seed, period=23, size=200):
    """A woven texture: the same in every image, but for its place and the noise."""
    rng = np.random.default_rng([seed, 8])
    y, x = np.mgrid[:size, :size] + rng.uniform(0, period, (2, 1, 1))
    woven = np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)
    return 128 + 45 * woven + rng.normal(0, 15, (size, size))


def exposed(surface, seed, gamma):
    """Another photograph: other exposure and other noise, uint8 (H, W, 1)."""
    light = 255 * (np.clip(surface, 0, 255) / 255) ** gamma
    noisy = light + np.random.default_rng([seed, 9]).normal(0, 4, surface.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)[:, :, None]


def near(pictures):
    factor = reduction([p.shape[:2] for p in pictures])
    return find_near([thumbnails(p, factor) for p in pictures])


def pairs_of(matches):
    return {(m.first, m.second) for m in matches}


@pytest.mark.parametrize("orientation", range(8))
def test_copies_are_equal_in_one_orientation_and_share_a_key(orientation):
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 1), dtype=np.uint8)
    copy = turned(picture, orientation)
    assert orientation_between(picture, copy) == orientation
    assert content_key(picture) == content_key(copy)
    other = copy.copy()
    other[0, 0] ^= 1
    assert orientation_between(picture, other) is None
    assert content_key(picture) != content_key(other)


def test_the_words_for_orientations_are_right():
    picture = np.arange(6).reshape(2, 3)
    named = dict(zip(ORIENTATIONS, range(8), strict=True))
    assert np.array_equal(turned(picture, named["flipped left-right"]), picture[:, ::-1])
    assert np.array_equal(turned(picture, named["flipped top-bottom"]), picture[::-1])
    assert np.array_equal(turned(picture, named["rotated by 180"]), picture[::-1, ::-1])
    assert np.array_equal(turned(picture, named["rotated by 90"]), np.rot90(picture))


@pytest.mark.parametrize("orientation", range(8))
def test_a_turned_crop_at_another_exposure_is_found_with_its_orientation(orientation):
    pictures = [exposed(scene(k), k, 1.0) for k in range(8)]
    crop = exposed(scene(3)[15:180, 30:240], 99, 0.6)
    matches = near([*pictures, turned(crop, orientation)])
    assert pairs_of(matches) == {(3, 8)}
    assert matches[0].orientation == orientation
    assert matches[0].kind == "near"


def test_pictures_that_overlap_by_half_are_found():
    strips = [scene(k, 200, 320) for k in range(8)]
    pictures = [exposed(s[:, :200], k, 1.0) for k, s in enumerate(strips)]
    pictures += [exposed(s[:, 100:300], 50 + k, 1.0) for k, s in enumerate(strips)]
    found = pairs_of(near(pictures))
    assert found <= {(k, k + 8) for k in range(8)}
    assert len(found) >= 7


def test_a_copy_of_half_the_size_is_found():
    pictures = [exposed(scene(k), k, 1.0) for k in range(8)]
    small = np.asarray(Image.fromarray(pictures[5][:, :, 0]).resize((130, 100), Image.Resampling.BOX))[:, :, None]
    assert pairs_of(near([*pictures, small])) == {(5, 8)}


def test_one_texture_in_all_images_makes_no_pairs_and_hides_none():
    pictures = [exposed(lattice(k), k, 1.0) for k in range(20)]
    assert near(pictures) == []
    crop = exposed(lattice(4)[10:190, 20:190], 99, 0.7)
    assert pairs_of(near([*pictures, crop])) == {(4, 20)}


def test_of_many_pictures_the_likeliest_pairs_are_compared(monkeypatch):
    surfaces = [scene(k) for k in range(60)]
    pictures = [exposed(s, k, 1.0) for k, s in enumerate(surfaces)]
    pictures += [exposed(s[5:195, 8:250], 100 + k, 0.7) for k, s in enumerate(surfaces[:10])]
    compared = []
    correlate = similarity.correlation_peaks
    monkeypatch.setattr(similarity, "ALL_PAIRS", 500)
    monkeypatch.setattr(
        similarity, "correlation_peaks", lambda c, pairs: compared.append(len(pairs)) or correlate(c, pairs)
    )
    assert pairs_of(near(pictures)) == {(k, 60 + k) for k in range(10)}
    assert compared[0] < 70 * 69 / 2


def test_what_tells_nothing_makes_no_pairs():
    blank = np.full((64, 64, 1), 90, np.uint8)
    assert near([blank, blank.copy(), exposed(scene(0), 0, 1.0)]) == []
    tiny = Thumbnails(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32))
    assert find_near([tiny, tiny]) == []
    assert find_near([]) == []


def test_matches_do_not_depend_on_the_run():
    pictures = [exposed(scene(k % 5), k, 0.8 + 0.1 * (k % 3)) for k in range(12)]
    assert near(pictures) == near(pictures)


def test_groups_join_over_others():
    assert groups(6, [(0, 3), (5, 3), (1, 2)]) == [0, 1, 1, 0, 4, 0]
    assert groups(3, []) == [0, 1, 2]


def test_the_typical_picture_decides_the_scale():
    assert reduction([(640, 640)] * 3 + [(64, 64)]) == 10
    assert reduction([(32, 32)]) == 1
    assert reduction([(50, 1920)]) == 10  # A long picture has to fit.


def test_colour_pictures_are_compared_in_grey():
    grey = exposed(scene(0), 0, 1.0)
    assert np.array_equal(thumbnails(grey, 4).common, thumbnails(np.repeat(grey, 3, axis=2), 4).common)
