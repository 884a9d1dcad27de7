"""Windows of long images: where they lie, and how their predictions become one picture again."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from search.errors import InputError

LONG_SIDE_RATIO = 1.8
"""An image whose long side is this many times its short side is cut where the window is "auto"."""


class WindowError(InputError):
    """Window and stride would leave pixels out."""


@dataclass(frozen=True)
class Tile:
    """A box that is cut from a source image.

    Attributes:
        source: index of the image in its tile set.
        x: left edge, px.
        y: upper edge, px.
        width: px.
        height: px.
    """

    source: int
    x: int
    y: int
    width: int
    height: int


def cut(
    height: int,
    width: int,
    window: int | Literal["auto", "off"] = "auto",
    stride: int | Literal["auto"] = "auto",
    source: int = 0,
) -> tuple[Tile, ...]:
    """Return the windows of an image, row by row; together they cover every pixel.

    The last window of a row or column lies flush with the edge of the image. A side of the image that is
    shorter than the window is taken whole.

    Args:
        height: of the image, px.
        width: of the image, px.
        window: side of a window, px; "off" takes the image whole; "auto" cuts squares of the short side where
            the long side is `LONG_SIDE_RATIO` times it or more.
        stride: step between windows, px; "auto" is half a window.
        source: index of the image, copied into the tiles.

    Raises:
        WindowError: the stride is larger than the window.
    """
    side = _side(height, width, window)
    if side is None:
        return (Tile(source, 0, 0, width, height),)
    step = max(1, side // 2) if stride == "auto" else stride
    if step > side:
        raise WindowError(f"data.stride: {step} px is larger than the window of {side} px; allowed are 1 to {side}")
    rows, columns = _starts(height, side, step), _starts(width, side, step)
    return tuple(Tile(source, x, y, min(side, width), min(side, height)) for y in rows for x in columns)


def _side(height: int, width: int, window: int | str) -> int | None:
    if isinstance(window, int):
        return window
    if window == "off" or max(height, width) < LONG_SIDE_RATIO * min(height, width):
        return None
    return min(height, width)


def _starts(length: int, side: int, step: int) -> list[int]:
    if length <= side:
        return [0]
    starts = list(range(0, length - side + 1, step))
    return starts if starts[-1] == length - side else [*starts, length - side]


def stitch(probabilities: Tensor, tiles: Sequence[Tile], height: int, width: int) -> Tensor:
    """Return one map of an image from the maps of its windows, (K, height, width).

    Each map is resized bilinearly to its window; where windows overlap, their mean counts.

    Args:
        probabilities: (N, K, h, w), float; one map per tile.
        tiles: the N windows of one image; together they cover it.
        height: of the image, px.
        width: of the image, px.
    """
    total = probabilities.new_zeros((probabilities.shape[1], height, width))
    windows_on = probabilities.new_zeros((height, width))
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, tile in enumerate(tiles):
        by_size[tile.height, tile.width].append(index)
    for size, indices in by_size.items():
        # Antialiasing acts only where a map is larger than its window.
        maps = functional.interpolate(
            probabilities[indices], size=size, mode="bilinear", align_corners=False, antialias=True
        )
        for index, resized in zip(indices, torch.unbind(maps), strict=True):
            tile = tiles[index]
            rows, columns = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
            total[:, rows, columns] += resized
            windows_on[rows, columns] += 1
    return total / windows_on
