"""A data set as one folder of decoded tiles that every worker maps into memory.

A pack is written once, checked whenever it is opened, and never changed:

    meta.json            classes, sizes, mean and std, digest; how it was made
    train.arrow          Arrow IPC file, one record batch: per tile source, x, y, width, height (int32) and
                         image (uint8 S*S*C), mask (uint8 S*S), fixed-size binary
    train_sources.arrow  Arrow IPC file, one record batch per original image: name, group, height, width and
                         image (uint8 H*W*C), mask (uint8 H*W), binary
    test.arrow, test_sources.arrow
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from search.data.datasets import DataSet, Sample
from search.data.images import read_image, read_mask
from search.data.resize import resize_image, resize_mask
from search.data.splits import choose_split, split_name
from search.data.windows import Tile, cut
from search.errors import InputError
from search.settings import DataSettings

FORMAT = 1
"""Version of the files; raised when they change, so that older packs are built anew."""

PARTS = ("train", "test")
_PACK_SETTINGS = ("image_size", "colour", "task", "window", "stride")
_BOX = ("source", "x", "y", "width", "height")
_CHUNK = 1 << 24
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS})


class BrokenPackError(InputError):
    """A pack is incomplete, damaged or of another version."""


class PackWriteError(InputError):
    """A pack cannot be written: the disk is full or the folder is not writable."""


class NoDefectsError(InputError):
    """No training image has a defect, so that there is nothing to learn."""


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
            raise PackWriteError(
                f"{cache}: the pack of {dataset.name} cannot be written ({error})"
            ) from error
    return open_pack(target)


def open_pack(folder: Path) -> Pack:
    """Return a pack, its tiles mapped into memory; the whole content is compared with its digest.

    Raises:
        BrokenPackError: a file is missing, truncated or changed, or of another version.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise BrokenPackError(f"{folder}: pack of format {meta['format']}, this version reads {FORMAT}")
        sets = {
            part: _open_tiles(folder, part, meta["image_size"], meta["colour_channels"]) for part in PARTS
        }
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


_REMEDY = "delete the folder, and it is built again"


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
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        channels = 1 if settings.colour == "grey" else 3
        total, done = sum(map(len, parts.values())), 0
        for part, samples in parts.items():
            counts = np.zeros((channels, 256), np.int64)
            with _PartWriter(building, part, settings.image_size, channels) as writer:
                for sample in samples:
                    counts += writer.add(sample, *_read(dataset, sample, settings), settings)
                    done += 1
                    if on_progress:
                        on_progress(done, total)
            if part == "train":
                if not writer.defects:
                    raise NoDefectsError(
                        f"{dataset.root}: none of the {len(samples)} training masks has a defect"
                    )
                mean, std = _moments(counts)
        meta: dict[str, Any] = {
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
        meta["digest"] = _digest_of(
            meta, {part: _open_tiles(building, part, settings.image_size, channels) for part in PARTS}
        )
        (building / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        _publish(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


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
    return read_image(sample, settings.colour), (mask > 0).astype(
        np.uint8
    ) if settings.task == "binary" else mask


class _PartWriter:
    """Writes the tiles and sources of one part; holds one image in memory at a time."""

    def __init__(self, folder: Path, part: str, size: int, channels: int) -> None:
        self.defects = 0
        self._folder, self._part, self._size, self._channels = folder, part, size, channels
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

    def add(self, sample: Sample, image: np.ndarray, mask: np.ndarray, settings: DataSettings) -> np.ndarray:
        """Write one image and its tiles; return how often each value occurs in the tiles, (C, 256)."""
        height, width = mask.shape
        columns = [[sample.name], [sample.group], [height], [width], [_bytes(image)], [_bytes(mask)]]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._originals.write_batch(pa.record_batch(arrays, schema=self._schema))
        counts = np.zeros((self._channels, 256), np.int64)
        for tile in cut(height, width, settings.window, settings.stride, self._sources):
            rows, across = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
            small = resize_image(image[rows, across], self._size)
            self._scratch["image"].write(_bytes(small))
            self._scratch["mask"].write(_bytes(resize_mask(mask[rows, across], self._size)))
            counts += np.stack([np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(small, 2, 0)])
            self._tiles.append(tile)
        self._sources += 1
        self.defects += int((mask > 0).sum())
        return counts

    def _join(self) -> None:
        """Write the tiles as one record batch, so that each column is one array in the file."""
        count, size = len(self._tiles), self._size**2
        boxes = [pa.array([getattr(t, name) for t in self._tiles], pa.int32()) for name in _BOX]
        pixels = []
        for name, width in (("image", size * self._channels), ("mask", size)):
            with pa.memory_map(str(self._folder / f"{self._part}.{name}")) as scratch:
                buffers = [None, scratch.read_buffer()]
            pixels.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, buffers))
        batch = pa.record_batch([*boxes, *pixels], names=[*_BOX, "image", "mask"])
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


def _open_tiles(folder: Path, part: str, size: int, channels: int) -> TileSet:
    originals = pa.ipc.open_file(pa.memory_map(str(folder / f"{part}_sources.arrow")))
    batch = pa.ipc.open_file(pa.memory_map(str(folder / f"{part}.arrow"))).get_batch(0)
    boxes = zip(*(batch.column(name).to_pylist() for name in _BOX), strict=True)
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
    return _digest_of(meta, {"train": pack.train, "test": pack.test})


_DIGESTED = ("classes", "image_size", "colour_channels", "mean", "std")


def _digest_of(meta: dict[str, Any], sets: dict[str, TileSet]) -> str:
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
