"""What the check of a data set found, as frozen values."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from search.data import report_text
from search.errors import InputError

Severity = Literal["error", "warning", "note"]


class SplitExistsError(InputError):
    """A list of names that would be written is already there."""


class NoSplitError(InputError):
    """No group-safe split could be made of the data set."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with, or worth knowing of, one file or split.

    Attributes:
        severity: error: it cannot be trained on as it is; warning: it can, but the result may mislead; note.
        kind: the same for all findings of a sort, such as "empty mask".
        file: path relative to the data set, or "split NAME".
        message: what was found and what is allowed or expected.
    """

    severity: Severity
    kind: str
    file: str
    message: str


@dataclass(frozen=True)
class ImageFacts:
    """One image and its mask as read.

    Attributes:
        name: of the sample.
        image: path of the image file.
        mask: path of the mask file; None for an image that is known to be free of defects.
        height: px; 0 if the image could not be read.
        width: px; 0 if the image could not be read.
        areas: px of each class; None if the mask could not be used.
        label: index into the classes, where the data set gives one per image.
        given_group: the part that the data set says it shows, if it does.
        found_group: number shared by the images that were found to show the same thing.
        left_out: the data set itself excludes it.
    """

    name: str
    image: Path
    mask: Path | None
    height: int
    width: int
    areas: tuple[int, ...] | None
    label: int | None
    given_group: str | None
    found_group: int
    left_out: bool


@dataclass(frozen=True)
class Pair:
    """Two images that show the same thing.

    Attributes:
        first: name of a sample.
        second: name of another; its picture is that of first, turned by `orientation`.
        kind: exact, rotated, flipped (every pixel is equal after turning) or near.
        orientation: index into `similarity.ORIENTATIONS`.
        score: 1 for equal pixels, else how surely they agree; unitless, in [0, 1].
        mask_iou: of the two masks' defects after turning, in [0, 1]; None for near ones and unusable masks.
    """

    first: str
    second: str
    kind: str
    orientation: int
    score: float
    mask_iou: float | None = None


@dataclass(frozen=True)
class SplitFacts:
    """How far the two parts of a split are apart.

    Attributes:
        name: of the split.
        train: number of images.
        test: number of images.
        leaks: for each test image of which a picture in train shows the same thing, the surest such pair;
            first is the one in train.
        given_leaks: test images whose given group is also in train; None if the data set gives no groups.
    """

    name: str
    train: int
    test: int
    leaks: tuple[Pair, ...]
    given_leaks: int | None


@dataclass(frozen=True)
class ProposedSplit:
    """A split that keeps together what was found, or is said, to show one part."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    groups: int


@dataclass(frozen=True)
class Report:
    """All that the check of a data set found.

    Attributes:
        name: of the data set.
        root: its folder.
        reader: name of the reader that understood it.
        classes: names of the defect classes.
        mask_coding: how mask files hold classes, see `DataSet`.
        images: every image that was looked at, by name.
        pairs: images that show the same thing, the surest first.
        splits: the splits that the data set brings.
        findings: errors first, then by kind and file.
        proposal: a group-safe split; None if everything is one group.
        seconds: that the check took.
    """

    name: str
    root: Path
    reader: str
    classes: tuple[str, ...]
    mask_coding: str
    images: tuple[ImageFacts, ...]
    pairs: tuple[Pair, ...]
    splits: tuple[SplitFacts, ...]
    findings: tuple[Finding, ...]
    proposal: ProposedSplit | None
    seconds: float = field(compare=False)

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(f.severity == severity for f in self.findings)

    def lines(self) -> list[str]:
        """Return the report in plain words, a line of a terminal each."""
        return report_text.lines(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries and lists, ready for JSON; paths are relative to the data set."""
        values = dataclasses.asdict(self)
        for image in values["images"]:
            image["image"] = relative(image["image"], self.root)
            image["mask"] = None if image["mask"] is None else relative(image["mask"], self.root)
        return values | {"root": str(self.root)}


def relative(path: Path, root: Path) -> str:
    """Return a path as seen from a folder, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def write_split(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write the proposed split as train_grouped.txt and test_grouped.txt and return the two paths.

    Put into the `splits` folder of a data set of images and masks, they are read as its split "grouped".

    Args:
        report: of the data set.
        folder: is made if it is not there.

    Raises:
        NoSplitError: the report proposes none.
        SplitExistsError: a file of that name is there; nothing is written then.
    """
    if report.proposal is None:
        raise NoSplitError(f"{report.root}: no group-safe split to write, it needs 2 groups of images or more")
    parts = {
        folder / "train_grouped.txt": report.proposal.train,
        folder / "test_grouped.txt": report.proposal.test,
    }
    present = next((path for path in parts if path.exists()), None)
    if present is not None:
        raise SplitExistsError(f"{present}: is there already; name another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for path, names in parts.items():
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    train, test = parts
    return train, test
