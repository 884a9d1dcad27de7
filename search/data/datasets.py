"""What a data set is: samples, classes and the splits that it brings, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One image and its mask.

    Attributes:
        name: unique within the data set, without suffix.
        image: path of the image file.
        mask: path of the mask file; None for an image that is known to be free of defects.
        label: index into the classes where the whole mask has one class (the folder says which), else None.
        group: samples of one physical part share it and must stay in one split; None if unknown.
    """

    name: str
    image: Path
    mask: Path | None
    label: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class Split:
    """Names of the training and of the test samples; disjoint."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A folder as a reader understood it; no image has been opened yet.

    Attributes:
        name: the folder's name.
        root: the folder.
        reader: name of the reader that understood it.
        classes: names of the defect classes; value k + 1 of a decoded mask is classes[k], 0 is background.
        samples: sorted by name.
        splits: the divisions that the data set brings, by name ("given", "grouped", "fold0").
        mask_coding: how mask files hold classes, read by `readers.read_mask`: "index" (pixel value is the class),
            "binary" (values of 128 and more are defect, of the sample's label or class 1), or as a reader defines.
    """

    name: str
    root: Path
    reader: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    splits: Mapping[str, Split] = field(default_factory=dict)
    mask_coding: str = "index"
