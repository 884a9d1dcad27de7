"""Looking at one image and its mask: everything that can be wrong with the two files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.data.datasets import DataSet, Sample
from search.data.images import CODINGS, MaskValueError, UnreadableImageError, read_image, read_mask_values
from search.data.report import Finding, Severity, relative
from search.data.similarity import Thumbnails, content_key, thumbnails

FEW_PIXELS = 4
"""A defect of so few px, or fewer, is more likely a slip of the pen than a defect."""

NEARLY_ALL = 0.95
"""A mask that marks this share of the image, or more, may be inverted."""


@dataclass(frozen=True)
class Examined:
    """What was read of one sample.

    Attributes:
        size: (height, width) of the image in px, None if it could not be read.
        areas: px of each class, None if the mask could not be used.
        thumbs: small pictures to compare, None if the image could not be read.
        key: digest that equal pictures share in any orientation, None as above.
        findings: about the two files.
    """

    size: tuple[int, int] | None
    areas: tuple[int, ...] | None
    thumbs: Thumbnails | None
    key: str | None
    findings: tuple[Finding, ...]


def examine(dataset: DataSet, sample: Sample, factor: float) -> Examined:
    """Return what the files of a sample hold; damage of any kind becomes a finding.

    Args:
        dataset: that the sample belongs to.
        sample: whose files are read.
        factor: by which pictures are made smaller to compare, see `similarity.reduction`.
    """
    findings: list[Finding] = []
    size = thumbs = key = None
    image_file = relative(sample.image, dataset.root)
    try:
        picture = read_image(sample, "grey")
    except UnreadableImageError as error:
        findings.append(Finding("error", "unreadable image", image_file, _reason(error, sample.image)))
    else:
        size = picture.shape[0], picture.shape[1]
        thumbs, key = thumbnails(picture, factor), content_key(picture)
        if picture.min() == picture.max():
            value = f"every pixel is {picture.min()}"
            findings.append(Finding("warning", "blank image", image_file, value))
    areas, of_mask = _examine_mask(dataset, sample, size)
    return Examined(size, areas, thumbs, key, (*findings, *of_mask))


def _examine_mask(
    dataset: DataSet, sample: Sample, size: tuple[int, int] | None
) -> tuple[tuple[int, ...] | None, list[Finding]]:
    if sample.mask is None:
        return (0,) * len(dataset.classes), []
    file = relative(sample.mask, dataset.root)
    if not sample.mask.exists():
        missing = f"{sample.image.name} has no mask; give it one, all zero if it has no defect"
        return None, [Finding("error", "missing mask", file, missing)]
    try:
        values = read_mask_values(sample.mask)
    except UnreadableImageError as error:
        return None, [Finding("error", "unreadable mask", file, _reason(error, sample.mask))]
    findings = []
    if size is not None and values.shape != size:
        sizes = f"{_wh(values.shape)} px, but {sample.image.name} is {_wh(size)} px"
        findings.append(Finding("error", "size mismatch", file, f"the mask is {sizes}"))
    try:
        mask = CODINGS[dataset.mask_coding](values, dataset.classes, sample)
    except MaskValueError as error:
        return None, [*findings, Finding("error", "mask value", file, _reason(error, sample.mask))]
    counts = np.bincount(mask.ravel(), minlength=len(dataset.classes) + 1)[1:]
    findings += [Finding(severity, kind, file, said) for severity, kind, said in _doubts(dataset, sample, mask)]
    between = int(((values > 0) & (values < 255)).sum()) if dataset.mask_coding == "binary" else 0
    if between:
        soft = f"{between} px between 0 and 255 (smoothed or JPEG); 128 and more count as defect"
        findings.append(Finding("note", "soft mask", file, soft))
    return None if any(f.severity == "error" for f in findings) else tuple(map(int, counts)), findings


def _doubts(dataset: DataSet, sample: Sample, mask: np.ndarray) -> list[tuple[Severity, str, str]]:
    """Return (severity, kind, message) of what is allowed in a mask and may yet be wrong."""
    defect = int((mask > 0).sum())
    label = None if sample.label is None else dataset.classes[sample.label]
    if defect == 0 and label is not None:
        return [("warning", "empty mask", f"marks nothing, though the image belongs to class {label}")]
    if defect == 0:
        return [("note", "empty mask", "marks nothing: the image counts as free of defects")]
    doubts: list[tuple[Severity, str, str]] = []
    if defect <= FEW_PIXELS:
        doubts.append(("warning", "tiny defect", f"marks {defect} px in all"))
    if defect >= NEARLY_ALL * mask.size:
        share = f"marks {100 * defect / mask.size:.1f} % of the image; is it inverted?"
        doubts.append(("warning", "nearly full mask", share))
    others = set(np.unique(mask)) - {0, -1 if sample.label is None else sample.label + 1}
    if label is not None and others:
        named = ", ".join(dataset.classes[k - 1] for k in sorted(others))
        doubts.append(("warning", "other class", f"marks {named}, though the image belongs to class {label}"))
    return doubts


def _reason(error: Exception, path: Path) -> str:
    """Return the message of a reader without the path, which the finding gives by itself."""
    return str(error).split(": ", 1)[-1].replace(str(path), path.name)


def _wh(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
