"""Building the pack of a data set: decode, split, cut, resize, write, and publish in one step."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from search.data.datasets import DataSet, Sample
from search.data.images import read_image, read_mask
from search.data.resize import resize_image, resize_mask
from search.data.splits import choose_split, split_name
from search.data.tiles import (
    BOX_COLUMNS,
    FORMAT,
    PARTS,
    BrokenPackError,
    Pack,
    Source,
    TileSet,
    digest_of,
    open_pack,
    open_tiles,
)
from search.data.windows import Tile, cut
from search.errors import InputError
from search.settings import DataSettings

__all__ = [
    "BrokenPackError",
    "NoDefectsError",
    "Pack",
    "PackWriteError",
    "Source",
    "Tile",
    "TileSet",
    "build_pack",
    "open_pack",
]

_PACK_SETTINGS = ("image_size", "colour", "task", "window", "stride")
_BUILDING = ".building-"
_ABANDONED_AFTER_S = 86400
_UNWRITABLE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EEXIST,
        errno.ENOTDIR,
    }
)


class PackWriteError(InputError):
    """A pack cannot be written: the disk is full or the folder is not writable."""


class NoDefectsError(InputError):
    """No training image has a defect, so that there is nothing to learn."""


def build_pack(
    dataset: DataSet,
    settings: DataSettings,
    seed: int,
    cache: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pack:
    """Return the pack of a data set, from the cache where its files and settings are unchanged.

    The split is made first and the windows are cut after, so that no image is on both sides. The folder is
    built under another name and renamed when complete: a stopped build leaves no pack, and of two builds at
    once one wins and both return it.

    Args:
        dataset: what a reader understood.
        settings: of the data.
        seed: of a split that is made here.
        cache: folder that holds packs; made if it is not there.
        on_progress: called with (images done, images in all).

    Raises:
        InputError: an image or mask cannot be used, or the split cannot.
        NoDefectsError: no training image has a defect.
        PackWriteError: the cache cannot be written.
        BrokenPackError: the pack in the cache is damaged.
    """
    split = choose_split(dataset, settings, seed)
    by_name = {s.name: s for s in dataset.samples}
    parts = {part: [by_name[n] for n in getattr(split, part)] for part in PARTS}
    target = cache / f"{dataset.name}-{_key(dataset, settings, parts)[:16]}"
    if not target.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _build(dataset, settings, parts, target, on_progress)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise PackWriteError(f"{cache}: the pack of {dataset.name} cannot be written ({error})") from error
    return open_pack(target)


def _key(dataset: DataSet, settings: DataSettings, parts: dict[str, list[Sample]]) -> str:
    """Return a hash of everything that the pack is made from, without opening an image."""

    def stamp(path: Path | None) -> list[Any] | None:
        if path is None or not path.exists():
            return None
        status = path.stat()
        return [os.path.relpath(path, dataset.root), status.st_size, status.st_mtime_ns]

    made_from = {
        "format": FORMAT,
        "settings": {name: getattr(settings, name) for name in _PACK_SETTINGS},
        "classes": dataset.classes,
        "coding": dataset.mask_coding,
        "split": split_name(dataset, settings.split),
        "parts": {
            part: [[s.name, s.label, s.group, stamp(s.image), stamp(s.mask)] for s in samples]
            for part, samples in parts.items()
        },
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _build(
    dataset: DataSet,
    settings: DataSettings,
    parts: dict[str, list[Sample]],
    target: Path,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    _sweep(target.parent)
    building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=target.parent))
    total, channels = sum(map(len, parts.values())), 1 if settings.colour == "grey" else 3
    try:
        done, writers = 0, {}
        for part, samples in parts.items():
            with _PartWriter(building, part, settings, channels) as writers[part]:
                for sample in samples:
                    writers[part].add(sample, *_read(dataset, sample, settings))
                    done += 1
                    if on_progress:
                        on_progress(done, total)
        if not writers["train"].defect_px:
            raise NoDefectsError(f"{dataset.root}: none of the {len(parts['train'])} training masks has a defect")
        meta = _describe(dataset, settings, channels, *_moments(writers["train"].counts))
        sets = {part: open_tiles(building, part, settings.image_size, channels) for part in PARTS}
        meta["digest"] = digest_of(meta, sets)
        (building / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        _publish(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _describe(
    dataset: DataSet, settings: DataSettings, channels: int, mean: list[float], std: list[float]
) -> dict[str, Any]:
    """Return what meta.json says, but for the digest."""
    return {
        "format": FORMAT,
        "name": dataset.name,
        "classes": ["defect"] if settings.task == "binary" else list(dataset.classes),
        "image_size": settings.image_size,
        "colour_channels": channels,
        "mean": mean,
        "std": std,
        "split": split_name(dataset, settings.split),
        "reader": dataset.reader,
        "settings": {name: getattr(settings, name) for name in _PACK_SETTINGS},
    }


def _sweep(cache: Path) -> None:
    """Remove what builds that were killed left behind long ago."""
    for left in cache.glob(f"{_BUILDING}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)


def _publish(building: Path, target: Path) -> None:
    building.chmod(0o755)
    try:
        building.rename(target)
    except OSError as error:
        # Another process was faster; its pack has the same key, hence the same content.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _read(dataset: DataSet, sample: Sample, settings: DataSettings) -> tuple[np.ndarray, np.ndarray]:
    mask = read_mask(dataset, sample)
    if settings.task == "binary":
        mask = (mask > 0).astype(np.uint8)
    return read_image(sample, settings.colour), mask


class _PartWriter:
    """Writes the tiles and sources of one part; holds one image in memory at a time.

    Attributes:
        counts: how often each value occurs in the tiles, (C, 256).
        defect_px: defect pixels in the original masks.
    """

    def __init__(self, folder: Path, part: str, settings: DataSettings, channels: int) -> None:
        self.counts = np.zeros((channels, 256), np.int64)
        self.defect_px = 0
        self._folder, self._part, self._settings = folder, part, settings
        self._tiles: list[Tile] = []
        self._sources = 0
        self._scratch = {name: (folder / f"{part}.{name}").open("wb") for name in ("image", "mask")}
        self._schema = pa.schema(
            [
                ("name", pa.string()),
                ("group", pa.string()),
                ("height", pa.int32()),
                ("width", pa.int32()),
                ("image", pa.large_binary()),
                ("mask", pa.large_binary()),
            ]
        )
        self._originals = pa.ipc.new_file(str(folder / f"{part}_sources.arrow"), self._schema)

    def __enter__(self) -> "_PartWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._originals.close()
        for file in self._scratch.values():
            file.close()
        if kind is None:
            self._join()

    def add(self, sample: Sample, image: np.ndarray, mask: np.ndarray) -> None:
        """Write one image, uint8 (H, W, C), its mask, uint8 (H, W), and its tiles."""
        (height, width), size = mask.shape, self._settings.image_size
        columns = [[sample.name], [sample.group], [height], [width], [_bytes(image)], [_bytes(mask)]]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._originals.write_batch(pa.record_batch(arrays, schema=self._schema))
        for tile in cut(height, width, self._settings.window, self._settings.stride, self._sources):
            rows, across = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
            small = resize_image(image[rows, across], size)
            self._scratch["image"].write(_bytes(small))
            self._scratch["mask"].write(_bytes(resize_mask(mask[rows, across], size)))
            self.counts += np.stack([np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(small, 2, 0)])
            self._tiles.append(tile)
        self._sources += 1
        self.defect_px += int((mask > 0).sum())

    def _join(self) -> None:
        """Write the tiles as one record batch, so that each column is one array in the file."""
        count, size = len(self._tiles), self._settings.image_size**2
        boxes = [pa.array([getattr(t, name) for t in self._tiles], pa.int32()) for name in BOX_COLUMNS]
        pixels = []
        for name, width in (("image", size * len(self.counts)), ("mask", size)):
            with pa.memory_map(str(self._folder / f"{self._part}.{name}")) as scratch:
                buffers = [None, scratch.read_buffer()]
            pixels.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, buffers))
        batch = pa.record_batch([*boxes, *pixels], names=[*BOX_COLUMNS, "image", "mask"])
        with pa.ipc.new_file(str(self._folder / f"{self._part}.arrow"), batch.schema) as writer:
            writer.write_batch(batch)
        del batch, pixels, buffers
        for name in self._scratch:
            (self._folder / f"{self._part}.{name}").unlink()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).data


def _moments(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, in [0, 1], from counts of values (C, 256)."""
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
    # One grey step is the least that can be told apart; a blank set would divide by zero.
    return mean.tolist(), np.maximum(np.sqrt(variance), 1 / 255).tolist()
