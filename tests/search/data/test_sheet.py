"""The picture sheet: drawn for sound and for broken sets, with outlines where the defects are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from search.data.check import check
from search.data.sheet import PAIRS, draw_sheet
from search.data.sheet_pictures import COLOURS, SIDE, outlined, side_by_side
from search.data.synthetic import write_dataset


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("generated") / "set", images=24, size=64)


def of_colour(picture, k):
    return (picture == ImageColor.getrgb(COLOURS[k])).all(axis=2)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def lay_out(root, pictures):
    """Write images and masks by name: name -> (image, mask)."""
    for name, (image, mask) in pictures.items():
        save(root / "images" / f"{name}.png", image)
        save(root / "masks" / f"{name}.png", mask)
    return check(root)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width))


def test_the_sheet_is_a_png_with_a_row_for_everything(generated, tmp_path):
    report = check(generated)
    path = draw_sheet(report, tmp_path / "new" / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        width, height = sheet.size
        pixels = np.array(sheet.convert("RGB"))
    assert width == 1400
    leak_rows = -(-min(2 * PAIRS, len(report.splits[0].leaks)) // PAIRS)
    assert leak_rows > 0
    # The head, three classes, the plots, the leaks, and the least sure near-duplicates.
    assert height == pytest.approx(100 * (0.7 + 3 * 2.5 + 3.0 + 2.9 * leak_rows + 2.9), abs=1)
    for k in range(3):
        assert of_colour(pixels, k).sum() > 20


def test_a_set_without_splits_pairs_or_defects_is_drawn_too(tmp_path):
    report = lay_out(tmp_path / "set", {f"n{k}": (noise(40, 40, k), np.zeros((40, 40))) for k in range(3)})
    with Image.open(draw_sheet(report, tmp_path / "sheet.png")) as sheet:
        assert sheet.size[0] == 1400


def test_a_broken_set_is_drawn_too(generated, tmp_path):
    folder = Path(shutil.copytree(generated, tmp_path / "set"))
    images, masks = sorted((folder / "images").iterdir()), sorted((folder / "masks").iterdir())
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:500])
    masks[2].unlink()
    masks[3].write_bytes(b"")
    save(masks[4], np.zeros((10, 10)))
    with Image.open(draw_sheet(check(folder), tmp_path / "sheet.png")) as sheet:
        assert sheet.size[0] == 1400


def test_the_outline_lies_around_the_defect(tmp_path):
    mask = np.zeros((SIDE, SIDE))
    mask[60:100, 50:120] = 1
    report = lay_out(tmp_path / "set", {"a": (noise(SIDE, SIDE), mask)})
    line = of_colour(outlined(report, report.images[0]), 0)
    assert not line[mask > 0].any()
    assert line[58:102, 48:122].sum() == line.sum() > 200


def test_a_defect_thinner_than_a_pixel_of_the_small_picture_is_outlined(tmp_path):
    mask = np.zeros((10 * SIDE, 10 * SIDE))
    mask[300:1900, 700] = 1
    report = lay_out(tmp_path / "set", {"a": (noise(10 * SIDE, 10 * SIDE), mask)})
    line = of_colour(outlined(report, report.images[0]), 0)
    assert line[40:180].any(axis=1).all()


def test_of_a_long_image_the_part_with_the_defect_is_shown(tmp_path):
    mask = np.zeros((1000, 200))
    mask[820:840, 90:110] = 1
    report = lay_out(tmp_path / "set", {"a": (noise(1000, 200), mask)})
    shown = outlined(report, report.images[0])
    assert shown.shape == (SIDE, SIDE, 3)
    assert of_colour(shown, 0).any()


def test_the_pair_is_shown_turned_alike(tmp_path):
    picture, none = noise(50, 80), np.zeros((50, 80))
    none[4, 4] = 1
    copy = np.fliplr(np.rot90(picture))
    report = lay_out(tmp_path / "set", {"a": (picture, none), "b": (copy, np.fliplr(np.rot90(none)))})
    (pair,) = report.pairs
    facts = {i.name: i for i in report.images}
    shown = side_by_side(facts[pair.first], facts[pair.second], pair)
    width = (shown.shape[1] - 4) // 2
    assert np.array_equal(shown[:, :width], shown[:, width + 4 :])


def test_an_unreadable_image_is_a_grey_field(generated, tmp_path):
    folder = Path(shutil.copytree(generated, tmp_path / "set"))
    broken = sorted((folder / "images").iterdir())[0]
    broken.write_bytes(b"")
    report = check(folder)
    shown = outlined(report, next(i for i in report.images if i.image.name == broken.name))
    assert (shown == shown[0, 0]).all()
