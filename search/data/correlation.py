"""Correlation of many small pictures with each other, over all shifts and the eight orientations."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

LEAST_PIXELS = 256
"""Fewer px of a small picture tell too little to compare."""

_BLUR = 7
_BLOCK = 64
# Sizes with small prime factors, which the FFT likes.
_CANVASES = (16, 24, 32, 40, 48, 60, 64, 72, 80, 90, 96, 108, 120, 128, 144, 160, 180, 192)


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of a picture (H, W, ...) in one of the eight orientations, counter-clockwise."""
    rotated = np.rot90(picture, orientation % 4)
    return rotated if orientation < 4 else np.fliplr(rotated)


def canvases_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return high-passed pictures of norm 1, each in a corner of a square canvas, float32 (N, S, S).

    Args:
        pictures: grey, float32 (h, w), of any sizes; one or more.
    """
    patches = [_high_passed(p) for p in pictures]
    longest = max(max(p.shape) for p in patches)
    side = next((s for s in _CANVASES if s >= longest), longest)
    canvases = np.zeros((len(patches), side, side), np.float32)
    for canvas, patch in zip(canvases, patches, strict=True):
        canvas[: patch.shape[0], : patch.shape[1]] = patch
    # What all images have in common (lattice of a fabric, direction of grinding) tells none apart: the mean
    # spectrum of the set, made the same for all orientations, damps each frequency.
    mean = np.mean([np.abs(np.fft.fft2(c)) for c in canvases], axis=0)
    mirror = -np.arange(side) % side
    mean = mean + mean[mirror]
    mean = mean + mean[:, mirror]
    mean = mean + mean.T
    damping = (1 / (1 + 0.5 * mean / max(float(np.median(mean)), 1e-12))).astype(np.float32)
    for k, canvas in enumerate(canvases):
        damped = np.fft.irfft2(np.fft.rfft2(canvas) * damping[:, : side // 2 + 1], s=(side, side))
        canvases[k] = damped / max(float(np.linalg.norm(damped)), 1e-12)
    return canvases


def _high_passed(picture: np.ndarray) -> np.ndarray:
    """Return what exposure and lighting leave: deviations from the surroundings, over the local contrast."""
    detail = picture - _blurred(_blurred(picture))
    spread = np.sqrt(_blurred(_blurred(detail * detail)))
    detail = detail / (spread + 0.01 * detail.std() + 0.1)
    # Straight lines along a whole row or column are of the lens, the lamp or the rolling, not of the part.
    detail = detail - detail.mean(axis=0, keepdims=True)
    detail = np.clip(detail - detail.mean(axis=1, keepdims=True), -3, 3)
    for axis, length in enumerate(detail.shape):
        place = np.arange(length) + 0.5
        taper = np.clip(np.minimum(place, place[::-1]) * 8 / length, 0, 1)
        detail = detail * np.expand_dims(taper, 1 - axis)
    return detail


def _blurred(picture: np.ndarray) -> np.ndarray:
    """Return the mean over `_BLUR` x `_BLUR` px, fewer at the border."""
    for axis in (0, 1):
        length = picture.shape[axis]
        total = np.cumsum(picture, axis=axis, dtype=np.float64)
        total = np.insert(total, 0, 0, axis=axis)
        high = np.minimum(np.arange(length) + _BLUR // 2 + 1, length)
        low = np.maximum(np.arange(length) - _BLUR // 2, 0)
        picture = (total.take(high, axis) - total.take(low, axis)) / np.expand_dims(high - low, 1 - axis)
    return picture


def correlation_peaks(canvases: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the highest correlation over all shifts of each pair in 8 orientations, float32 (P, 8).

    Args:
        canvases: as `canvases_of` gives them.
        pairs: indices (P, 2), sorted by the first, which is the one that is turned.
    """
    spectra = np.fft.rfft2(canvases)
    peaks = np.empty((len(pairs), 8), np.float32)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(canvases) + 1))

    def fill(first: int) -> None:
        views = np.fft.rfft2(np.stack([turned(canvases[first], g) for g in range(8)])).conj()
        # Blocks that stay in the processor's cache.
        for begin in range(starts[first], starts[first + 1], _BLOCK):
            block = slice(begin, min(begin + _BLOCK, starts[first + 1]))
            others = spectra[pairs[block, 1]]
            for orientation, view in enumerate(views):
                products = np.fft.irfft2(view * others, s=canvases.shape[1:])
                peaks[block, orientation] = products.reshape(len(others), -1).max(axis=1)

    # Threads, because the FFT runs outside of the interpreter's lock; each fills its own rows.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, np.unique(pairs[:, 0])):
            pass
    return peaks


def distinctness(peaks: np.ndarray) -> np.ndarray:
    """Return how far the best orientation stands above the fourth best, (P,) of peaks (P, 8).

    The fourth, because a straight scratch agrees with itself in up to four orientations, though never as
    well as in the true one.
    """
    return peaks.max(axis=1) - np.sort(peaks, axis=1)[:, 4]


def alike_in_magnitude(canvases: np.ndarray, keep: int) -> np.ndarray:
    """Return the pairs (P, 2), first < second, of each picture and the `keep` most like it in magnitude.

    The magnitude of a spectrum stays the same when the picture is shifted or turned by 180 degrees.
    """
    count = len(canvases)
    keep = min(keep, count - 1)
    magnitudes = _magnitudes(canvases)
    mean = magnitudes.mean(axis=0)
    magnitudes = _unit(magnitudes - mean)
    pairs = []
    for start in range(0, count, _BLOCK):
        block = canvases[start : start + _BLOCK]
        rows = np.arange(start, start + len(block))
        likeness = np.full((len(block), count), -np.inf, np.float32)
        for orientation in (0, 1, 4, 5):
            seen = _magnitudes(np.stack([turned(c, orientation) for c in block])) - mean
            likeness = np.maximum(likeness, _unit(seen) @ magnitudes.T)
        likeness[np.arange(len(block)), rows] = -np.inf
        nearest = np.argpartition(-likeness, keep - 1, axis=1)[:, :keep]
        pairs.append(np.stack([rows.repeat(keep), nearest.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _magnitudes(canvases: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft2(canvases)).reshape(len(canvases), -1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def nearest_of_each(pairs: np.ndarray, values: np.ndarray, keep: int) -> np.ndarray:
    """Return which of the pairs (P, 2) are among the `keep` of highest value of either picture."""
    owner = np.concatenate([pairs[:, 0], pairs[:, 1]])
    order = np.lexsort((-np.concatenate([values, values]), owner))
    starts = np.searchsorted(owner[order], np.arange(owner.max(initial=-1) + 1))
    rank = np.arange(len(order)) - starts[owner[order]]
    return np.unique(order[rank < keep] % len(pairs))


def overlap_correlation(first: np.ndarray, second: np.ndarray, orientation: int) -> float:
    """Return the correlation, in [-1, 1], of the parts in which two pictures overlap when best shifted.

    It is 0 where they overlap by fewer than `LEAST_PIXELS`.

    Args:
        first: high-passed picture (h, w), cut from its canvas.
        second: another, of any size.
        orientation: in which first is turned.
    """
    one, other = turned(first, orientation), second
    shape = (one.shape[0] + other.shape[0], one.shape[1] + other.shape[1])
    product = np.fft.irfft2(np.fft.rfft2(one, shape).conj() * np.fft.rfft2(other, shape), s=shape)
    place = np.unravel_index(int(product.argmax()), shape)
    parts = [_overlap(int(p), a, b, n) for p, a, b, n in zip(place, one.shape, other.shape, shape, strict=True)]
    (rows, other_rows), (columns, other_columns) = parts
    one, other = one[rows, columns], other[other_rows, other_columns]
    if one.size < LEAST_PIXELS:
        return 0.0
    return float((one * other).sum() / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def _overlap(shift: int, length: int, other_length: int, period: int) -> tuple[slice, slice]:
    """Return where [0, length) moved by shift (modulo period) and [0, other_length) overlap, seen from each."""
    shift = shift - period if shift >= other_length else shift
    start, end = max(0, -shift), min(length, other_length - shift)
    return slice(start, end), slice(start + shift, end + shift)
