"""Pictures of the same thing: exact copies in any orientation, and near-duplicates by correlation.

A near-duplicate is another exposure, an overlapping crop or a turned copy of the same surface. Small
high-passed pictures are correlated over all shifts and eight orientations: all pairs roughly, and the
likeliest of each picture again at twice the size. A true pair agrees in one orientation much better than in
the others, while the texture that all images of a set have in common agrees about equally well in several:
the score is that difference.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from search.data.correlation import (
    LEAST_PIXELS,
    alike_in_magnitude,
    canvases_of,
    correlation_peaks,
    distinctness,
    nearest_of_each,
    overlap_correlation,
    turned,
)

ORIENTATIONS = (
    "unturned",
    "rotated by 90",
    "rotated by 180",
    "rotated by 270",
    "flipped left-right",
    "rotated by 90 and flipped",
    "flipped top-bottom",
    "rotated by 270 and flipped",
)
"""The eight orientations of a picture, in the order of `turned`."""

SAME_PART = 0.15
"""Least score of a near-duplicate. Measured: unrelated magnetic tiles stay below 0.10, steel strips of
different defect classes below 0.07, synthetic periodic textures below 0.12; exposures of one tile reach 0.2
to 0.9."""

FAINT = 0.05
"""Least score of pictures that overlap in a part only; that part then has to agree by `OVERLAP_AGREES`."""

OVERLAP_AGREES = 0.45
"""Least correlation of the overlapping parts of pictures whose score is faint. Measured: unrelated tiles stay
below 0.27, steel strips of different classes below 0.21, synthetic periodic textures below 0.34."""

SMALL_SIDE = 64
"""Side in px, square root of the area, of the typical picture when pictures are compared."""

ALL_PAIRS = 500_000
"""Up to so many pairs are all correlated; of more, the likeliest by the magnitude of their spectra."""

_LONGEST_SIDE = 192
_NEIGHBOURS = 24
_SAME_SIZE_NEIGHBOURS = 8


@dataclass(frozen=True)
class Match:
    """Two pictures of the same thing.

    Attributes:
        first: index of one picture.
        second: index of the other, larger than first.
        orientation: index into `ORIENTATIONS`; the second picture is the first one turned that way.
        exact: every pixel is equal after turning.
        score: 1 for exact copies, else at least `FAINT`; unitless, in [0, 1].
    """

    first: int
    second: int
    orientation: int
    exact: bool
    score: float

    @property
    def kind(self) -> str:
        """Return exact, rotated, flipped (all pixels equal) or near."""
        if not self.exact:
            return "near"
        return "exact" if self.orientation == 0 else "rotated" if self.orientation < 4 else "flipped"


@dataclass(frozen=True)
class Thumbnails:
    """Small grey pictures, float32 (h, w): at the common scale of the set, and at `SMALL_SIDE` of its own."""

    common: np.ndarray
    own: np.ndarray


def content_key(picture: np.ndarray) -> str:
    """Return a digest (hex) of a uint8 picture (H, W, C) that all its eight orientations share."""
    digest = hashlib.sha256(repr((sorted(picture.shape[:2]), picture.shape[2])).encode())
    for channel in range(picture.shape[2]):
        digest.update(np.bincount(picture[:, :, channel].ravel(), minlength=256).tobytes())
    return digest.hexdigest()


def orientation_between(first: np.ndarray, second: np.ndarray) -> int | None:
    """Return the orientation that makes first equal to second in every pixel, or None."""
    return next((g for g in range(8) if np.array_equal(turned(first, g), second)), None)


def reduction(sizes: Sequence[tuple[int, int]]) -> float:
    """Return the factor by which the sides of a typical picture are divided before it is compared.

    Args:
        sizes: (height, width) in px, one or more.
    """
    area = float(np.median([height * width for height, width in sizes]))
    longest = float(np.median([max(size) for size in sizes]))
    return max(1.0, area**0.5 / SMALL_SIDE, longest / _LONGEST_SIDE)


def thumbnails(picture: np.ndarray, factor: float) -> Thumbnails:
    """Return the small pictures by which a uint8 picture (H, W, C) is compared.

    Args:
        picture: grey (C = 1) or colour (C = 3).
        factor: of the whole set, see `reduction`.
    """
    grey = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).convert("L")
    own = reduction([picture.shape[:2]])
    return Thumbnails(_shrunk(grey, factor), _shrunk(grey, own))


def _shrunk(grey: Image.Image, factor: float) -> np.ndarray:
    width, height = (max(8, round(side / factor)) for side in grey.size)
    return np.asarray(grey.resize((width, height), Image.Resampling.BOX), np.float32)


def find_near(pictures: Sequence[Thumbnails]) -> list[Match]:
    """Return the pairs of pictures that show the same thing, the surest first.

    Pictures whose small form has too few pixels to tell, or is too long to fit, are left out.
    """
    found: dict[tuple[int, int], Match] = {}
    for match in itertools.chain(_at_common_scale(pictures), _at_own_scale(pictures)):
        pair = match.first, match.second
        found[pair] = max(match, found.get(pair, match), key=lambda m: m.score)
    return sorted(found.values(), key=lambda m: (-m.score, m.first, m.second))


def _at_common_scale(pictures: Sequence[Thumbnails]) -> Iterator[Match]:
    """Yield exposures, overlapping crops and turned copies: pictures of one scale."""
    fit = _fitting([p.common for p in pictures])
    if len(fit) < 2:
        return
    fine = [pictures[k].common for k in fit]
    coarse = [_shrunk(Image.fromarray(picture), 2) for picture in fine]
    canvases = canvases_of(coarse)
    if len(fit) * (len(fit) - 1) // 2 <= ALL_PAIRS:
        pairs = np.stack(np.triu_indices(len(fit), 1), axis=1)
    else:
        pairs = alike_in_magnitude(canvases, max(_NEIGHBOURS, ALL_PAIRS // len(fit)))
    nearest = pairs[nearest_of_each(pairs, correlation_peaks(canvases, pairs).max(axis=1), _NEIGHBOURS)]
    fine_canvases = canvases_of(fine)
    peaks = correlation_peaks(fine_canvases, nearest)
    yield from _matches(fit, nearest, peaks, SAME_PART)
    scores = distinctness(peaks)
    faint = np.flatnonzero((scores >= FAINT) & (scores < SAME_PART))
    patches = [canvas[: p.shape[0], : p.shape[1]] for canvas, p in zip(fine_canvases, fine, strict=True)]
    agree = [k for k in faint if _overlap_agrees(patches, nearest[k], peaks[k])]
    yield from _matches(fit, nearest[agree], peaks[agree], FAINT)


def _overlap_agrees(patches: Sequence[np.ndarray], pair: np.ndarray, peaks: np.ndarray) -> bool:
    first, second = (patches[index] for index in pair)
    return overlap_correlation(first, second, int(peaks.argmax())) >= OVERLAP_AGREES


def _at_own_scale(pictures: Sequence[Thumbnails]) -> Iterator[Match]:
    """Yield resized copies, seen when all pictures are made equally large."""
    areas = [p.common.size for p in pictures]
    fit = _fitting([p.own for p in pictures])
    if len(fit) < 2 or max(areas) < 1.1 * min(areas):
        return
    canvases = canvases_of([pictures[k].own for k in fit])
    pairs = alike_in_magnitude(canvases, _SAME_SIZE_NEIGHBOURS)
    yield from _matches(fit, pairs, correlation_peaks(canvases, pairs), SAME_PART)


def _fitting(pictures: Sequence[np.ndarray]) -> list[int]:
    return [k for k, p in enumerate(pictures) if p.size >= LEAST_PIXELS and max(p.shape) <= _LONGEST_SIDE]


def _matches(numbers: list[int], pairs: np.ndarray, peaks: np.ndarray, least: float) -> Iterator[Match]:
    scores = distinctness(peaks)
    for k in np.flatnonzero(scores >= least):
        first, second = (numbers[index] for index in pairs[k])
        yield Match(first, second, int(peaks[k].argmax()), False, round(float(scores[k]), 4))


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return a group number for each of `count` pictures; what pairs join, also over others, shares it."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(index) for index in range(count)]
