"""Opening a data set: the table of known layouts, and one function that picks the reader."""

import difflib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from search.data import folder_layouts, raw_layouts
from search.data.datasets import DataSet
from search.data.images import IMAGE_SUFFIXES, read_image, read_mask
from search.data.layout_parts import AmbiguousNameError
from search.errors import InputError

__all__ = [
    "READERS",
    "MissingFolderError",
    "Reader",
    "UnknownLayoutError",
    "UnknownReaderError",
    "open_dataset",
    "read_image",
    "read_mask",
]


class MissingFolderError(InputError):
    """The data set's path is no folder."""


class UnknownLayoutError(InputError):
    """No reader understands the folder."""


class UnknownReaderError(InputError):
    """There is no reader of this name."""


@dataclass(frozen=True)
class Reader:
    """A layout that can be read.

    Attributes:
        layout: what the folder must hold, in words.
        recognises: whether a folder has this layout; opens no image.
        open: the data set of such a folder.
    """

    layout: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], DataSet]


READERS: dict[str, Reader] = {
    "kolektorsdd": Reader(
        "kosNN/PartM.jpg + PartM_label.bmp", raw_layouts.recognises_kolektor, raw_layouts.open_kolektor
    ),
    "mt": Reader("MT_Blowhole/Imgs/*.jpg + *.png", raw_layouts.recognises_mt, raw_layouts.open_mt),
    "neu_seg": Reader(
        "images/training, images/test + annotations/training, annotations/test",
        raw_layouts.recognises_neu_seg,
        raw_layouts.open_neu_seg,
    ),
    "rsdds": Reader(
        "Type-I*/Type-II* with Rail surface images + GroundTruth",
        raw_layouts.recognises_rsdds,
        raw_layouts.open_rsdds,
    ),
    "dagm": Reader("ClassN/Train/*.PNG + ClassN/Train/Label", raw_layouts.recognises_dagm, raw_layouts.open_dagm),
    "msd": Reader("oil, scratch, stain + ground_truth", raw_layouts.recognises_msd, raw_layouts.open_msd),
    "voc": Reader(
        "JPEGImages + SegmentationClass (+ ImageSets/Segmentation)",
        folder_layouts.recognises_voc,
        folder_layouts.open_voc,
    ),
    "folders": Reader(
        "images + masks (also image/label, img/mask, ground_truth; with train and test inside or above)",
        folder_layouts.recognises_folders,
        folder_layouts.open_folders,
    ),
}
"""The readers, by name; the first that recognises a folder opens it."""


def open_dataset(path: Path, reader: str = "auto") -> DataSet:
    """Return the data set of a folder.

    Args:
        path: the folder.
        reader: a name in `READERS`, or "auto" for the first that recognises the folder.

    Raises:
        MissingFolderError: path is no folder.
        UnknownReaderError: reader is neither "auto" nor a name in `READERS`.
        UnknownLayoutError: no reader, or not the one asked for, understands the folder.
        AmbiguousNameError: two images would have the same name.
        InputError: what the layout's own function raises.
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingFolderError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    if reader != "auto" and reader not in READERS:
        near = difflib.get_close_matches(reader, READERS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownReaderError(f"reader {reader!r} is unknown{hint}; allowed are auto, {', '.join(READERS)}")
    asked = READERS if reader == "auto" else {reader: READERS[reader]}
    name = next((name for name, candidate in asked.items() if candidate.recognises(path)), None)
    if name is None:
        raise UnknownLayoutError(_unknown(path, reader))
    # An absolute root keeps its meaning in other processes, and gives "." a name.
    dataset = READERS[name].open(Path(os.path.abspath(path)))
    repeated = [sample for sample, count in Counter(s.name for s in dataset.samples).items() if count > 1]
    if repeated:
        raise AmbiguousNameError(f"{path}: {repeated[0]} names more than one image")
    if not dataset.samples:
        raise UnknownLayoutError(f"{path}: has the folders of the layout {name} and no image in them")
    return dataset


def _unknown(path: Path, reader: str) -> str:
    accepted = "; ".join(f"{name}: {r.layout}" for name, r in READERS.items())
    if reader != "auto":
        return f"{path}: is not laid out as {reader} ({READERS[reader].layout}); it holds {_contents(path)}"
    inner = sorted(p for p in path.iterdir() if p.is_dir() and any(r.recognises(p) for r in READERS.values()))
    hint = f" (did you mean {inner[0]}?)" if inner else ""
    return f"{path}: unknown layout, it holds {_contents(path)}{hint}; accepted are {accepted}"


def _contents(path: Path) -> str:
    entries = sorted(path.iterdir())
    folders = [f"{p.name}/" for p in entries if p.is_dir()]
    images = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in entries)
    others = [p.name for p in entries if p.is_file() and p.suffix.lower() not in IMAGE_SUFFIXES]
    shown = folders[:8] + ([f"{images} images"] if images else []) + others[:4]
    more = len(folders[8:]) + len(others[4:])
    return (", ".join(shown) or "nothing") + (f" and {more} more" if more else "")
