"""The files of a pack, mapped into memory.

A pack is a folder that is written once, checked whenever it is opened, and never changed:

    meta.json            classes, sizes, mean and std, digest; how it was made
    train.arrow          Arrow IPC file, one record batch: per tile source, x, y, width, height (int32) and
                         image (uint8 S*S*C), mask (uint8 S*S), fixed-size binary
    train_sources.arrow  Arrow IPC file, one record batch per original image: name, group, height, width and
                         image (uint8 H*W*C), mask (uint8 H*W), binary
    test.arrow, test_sources.arrow
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from search.data.windows import Tile
from search.errors import InputError

FORMAT = 1
"""Version of the files; raised when they change, so that older packs are built anew."""

PARTS = ("train", "test")
BOX_COLUMNS = ("source", "x", "y", "width", "height")
"""Columns of a tile's place in its source."""

_CHUNK = 1 << 24
_REMEDY = "delete the folder, and it is built again"
_DIGESTED = ("classes", "image_size", "colour_channels", "mean", "std")


class BrokenPackError(InputError):
    """A pack is incomplete, damaged or of another version."""


@dataclass(frozen=True)
class Source:
    """One original image.

    Attributes:
        name: of the sample.
        group: physical part that it shows, None if unknown.
        height: px.
        width: px.
    """

    name: str
    group: str | None
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class TileSet:
    """The tiles of one part, and the images that they were cut from.

    Attributes:
        images: uint8 (N, S, S, C), read-only, mapped from the file.
        masks: uint8 (N, S, S), read-only, mapped from the file; 0 background, k + 1 for class k.
        tiles: where each tile lies, N.
        sources: the original images.
    """

    images: np.ndarray
    masks: np.ndarray
    tiles: tuple[Tile, ...]
    sources: tuple[Source, ...]
    _originals: pa.ipc.RecordBatchFileReader

    def picture(self, source: int) -> np.ndarray:
        """Return the original image of a source, uint8 (H, W, C), read-only."""
        height, width = self.sources[source].height, self.sources[source].width
        return self._original(source, "image").reshape(height, width, self.images.shape[-1])

    def truth(self, source: int) -> np.ndarray:
        """Return the untouched mask of a source, uint8 (H, W), read-only; scores are computed against it."""
        return self._original(source, "mask").reshape(self.sources[source].height, self.sources[source].width)

    def _original(self, source: int, column: str) -> np.ndarray:
        return np.frombuffer(self._originals.get_batch(source).column(column)[0].as_buffer(), np.uint8)


@dataclass(frozen=True, eq=False)
class Pack:
    """An opened pack.

    Attributes:
        folder: where it is.
        digest: sha256 (hex) of its content: pixels, names, groups, boxes, classes.
        name: of the data set.
        classes: names of the foreground classes, ("defect",) for the binary task.
        image_size: side S of the tiles, px.
        colour_channels: 1 or 3.
        mean: of the training tiles per channel, in [0, 1].
        std: of the training tiles per channel, in [0, 1], above 0.
        split: name of the split.
        train: tiles to learn from.
        test: tiles to score on.
    """

    folder: Path
    digest: str
    name: str
    classes: tuple[str, ...]
    image_size: int
    colour_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: str
    train: TileSet
    test: TileSet


def open_pack(folder: Path) -> Pack:
    """Return a pack, its tiles mapped into memory; the whole content is compared with its digest.

    Raises:
        BrokenPackError: a file is missing, truncated or changed, or of another version.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise BrokenPackError(f"{folder}: pack of format {meta['format']}, this version reads {FORMAT}")
        sets = {part: open_tiles(folder, part, meta["image_size"], meta["colour_channels"]) for part in PARTS}
        pack = Pack(
            folder=folder,
            digest=meta["digest"],
            name=meta["name"],
            classes=tuple(meta["classes"]),
            image_size=meta["image_size"],
            colour_channels=meta["colour_channels"],
            mean=tuple(meta["mean"]),
            std=tuple(meta["std"]),
            split=meta["split"],
            **sets,
        )
        intact = _digest(pack) == pack.digest
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise BrokenPackError(f"{folder}: incomplete or damaged pack ({reason}); {_REMEDY}") from error
    if not intact:
        raise BrokenPackError(f"{folder}: damaged pack, its content does not match its digest; {_REMEDY}")
    return pack


def open_tiles(folder: Path, part: str, size: int, channels: int) -> TileSet:
    """Return the tiles of one part of a pack's folder; `open_pack` is what checks them.

    Args:
        folder: of the pack.
        part: train or test.
        size: side of the tiles, px.
        channels: 1 or 3.
    """
    originals = pa.ipc.open_file(pa.memory_map(str(folder / f"{part}_sources.arrow")))
    batch = pa.ipc.open_file(pa.memory_map(str(folder / f"{part}.arrow"))).get_batch(0)
    boxes = zip(*(batch.column(name).to_pylist() for name in BOX_COLUMNS), strict=True)
    sources = []
    for index in range(originals.num_record_batches):
        row = originals.get_batch(index).select(["name", "group", "height", "width"]).to_pylist()[0]
        sources.append(Source(**row))
    images, masks = (np.frombuffer(batch.column(name).buffers()[1], np.uint8) for name in ("image", "mask"))
    count = batch.num_rows
    return TileSet(
        images=images[: count * size**2 * channels].reshape(count, size, size, channels),
        masks=masks[: count * size**2].reshape(count, size, size),
        tiles=tuple(Tile(*box) for box in boxes),
        sources=tuple(sources),
        _originals=originals,
    )


def _digest(pack: Pack) -> str:
    meta = {name: getattr(pack, name) for name in _DIGESTED}
    return digest_of(meta, {"train": pack.train, "test": pack.test})


def digest_of(meta: dict[str, Any], sets: dict[str, TileSet]) -> str:
    """Return the sha256 (hex) of a pack's content: classes, sizes, moments, names, groups, boxes, pixels."""
    header = {
        **{name: meta[name] for name in _DIGESTED},
        **{part: [_plain(tiles.sources), _plain(tiles.tiles)] for part, tiles in sets.items()},
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for tiles in sets.values():
        for array in (tiles.images, tiles.masks):
            _update(digest.update, array)
        for index in range(len(tiles.sources)):
            _update(digest.update, tiles.picture(index))
            _update(digest.update, tiles.truth(index))
    return digest.hexdigest()


def _update(update: Callable[[memoryview], object], array: np.ndarray) -> None:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        update(flat[start : start + _CHUNK].data)


def _plain(values: Sequence[Source] | Sequence[Tile]) -> list[list[Any]]:
    return [list(vars(value).values()) for value in values]
