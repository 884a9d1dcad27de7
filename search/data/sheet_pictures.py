"""The small pictures of the sheet: an image with its defects outlined, and two images side by side."""

import numpy as np
from PIL import Image, ImageColor, ImageOps

from search.data.correlation import turned
from search.data.datasets import DataSet, Sample
from search.data.images import UnreadableImageError, read_image, read_mask
from search.data.report import ImageFacts, Pair, Report
from search.data.report_text import LONG

SIDE = 220
"""Longest side of a small picture, px."""

COLOURS = ("#e6194b", "#3cb44b", "#4a7dff", "#f58231", "#c03bd6", "#00a0a0", "#b57a3c", "#a8a800")
"""Of the classes, in turn."""


def outlined(report: Report, facts: ImageFacts) -> np.ndarray:
    """Return an image with its defects outlined, uint8 (h, w, 3), at most `SIDE` px.

    Contrast is stretched. Of a long image a square around its defects is cut. Without a usable mask, the
    image is shown as it is; an unreadable image gives a grey field.
    """
    picture = _picture(facts)
    if picture is None:
        return np.full((SIDE, SIDE, 3), 210, np.uint8)
    mask = np.zeros(picture.shape, np.uint8)
    if facts.areas is not None:
        mask = read_mask(_dataset(report), _sample(facts))
    box = _window(mask)
    small = _small(picture[box])
    for value in np.unique(mask[mask > 0]):
        part = Image.fromarray((mask[box] == value).astype(np.uint8) * 255)
        # A box filter keeps what is thinner than a pixel of the small picture.
        inside = np.asarray(part.resize(small.shape[1::-1], Image.Resampling.BOX)) > 0
        small[_grown(_grown(inside)) & ~inside] = ImageColor.getrgb(COLOURS[(value - 1) % len(COLOURS)])
    return small


def side_by_side(first: ImageFacts, second: ImageFacts, pair: Pair) -> np.ndarray:
    """Return the two images of a pair, uint8 (h, w, 3), the first turned as the second is."""
    pictures = [_picture(first), _picture(second)]
    ready = [np.full((SIDE, SIDE), 210, np.uint8) if p is None else p for p in pictures]
    left, right = _small(turned(ready[0], pair.orientation)), _small(ready[1])
    height = max(left.shape[0], right.shape[0])
    parts = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in (left, right)]
    gap = np.full((height, 4, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1]], axis=1)


def _picture(facts: ImageFacts) -> np.ndarray | None:
    try:
        return read_image(_sample(facts), "grey")[:, :, 0]
    except UnreadableImageError:
        return None  # A finding of the report; the sheet shows a grey field.


def _sample(facts: ImageFacts) -> Sample:
    return Sample(facts.name, facts.image, facts.mask, facts.label)


def _dataset(report: Report) -> DataSet:
    return DataSet(report.name, report.root, report.reader, report.classes, (), {}, report.mask_coding)


def _small(picture: np.ndarray) -> np.ndarray:
    """Return a grey picture (H, W) as uint8 (h, w, 3) whose longer side is `SIDE`, contrast stretched."""
    image = ImageOps.autocontrast(Image.fromarray(np.ascontiguousarray(picture)), cutoff=0.5)
    scale = SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    resized = image.resize((size[0], size[1]), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    return np.array(resized.convert("RGB"))


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the part of a long image that shows its defects: a square of the short side."""
    short = min(mask.shape)
    if max(mask.shape) < LONG * short:
        return slice(None), slice(None)
    places = np.argwhere(mask > 0)
    centre = np.median(places, axis=0) if len(places) else np.array(mask.shape) / 2
    starts = np.clip(centre - short / 2, 0, np.array(mask.shape) - short).astype(int)
    return slice(starts[0], starts[0] + short), slice(starts[1], starts[1] + short)


def _grown(mask: np.ndarray) -> np.ndarray:
    """Return a mask grown by one pixel to its four neighbours."""
    padded = np.pad(mask, 1)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
