"""Image and mask files as arrays, and the ways in which mask files hold classes."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from search.data.datasets import DataSet, Sample
from search.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
"""Suffixes (lower case) of files that are taken for images."""

_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class UnreadableImageError(InputError):
    """An image or mask file is missing, empty, truncated or not an image."""


class MissingMaskError(InputError):
    """An image has no mask file."""


class MaskSizeMismatchError(InputError):
    """A mask has another size than its image."""


class MaskValueError(InputError):
    """A mask holds values that mean no class."""


def read_image(sample: Sample, colour: Literal["grey", "rgb"]) -> np.ndarray:
    """Return the decoded image of a sample, uint8 (H, W, C), C = 1 for grey and 3 for rgb.

    16-bit images are scaled to 8 bits over their whole range.

    Raises:
        UnreadableImageError: the file is missing, empty, truncated or not an image.
    """
    with _opened(sample.image) as image:
        pixels = _decoded(image, sample.image, lambda: _eight_bits(image, "L" if colour == "grey" else "RGB"))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in px from the header of an image file, without decoding it.

    Raises:
        UnreadableImageError: the file is missing, empty or not an image.
    """
    with _opened(path) as image:
        return image.height, image.width


def read_mask(dataset: DataSet, sample: Sample) -> np.ndarray:
    """Return the mask of a sample, uint8 (H, W): 0 background, k + 1 for `dataset.classes[k]`.

    A sample that is known to be free of defects (mask None) gives zeros of the image's size.

    Raises:
        MissingMaskError: the sample has a mask path and no file is there.
        UnreadableImageError: the mask or the image cannot be opened, or the mask is a colour picture.
        MaskSizeMismatchError: mask and image differ in size.
        MaskValueError: the mask holds a value beyond the classes.
    """
    size = image_size(sample.image)
    if sample.mask is None:
        return np.zeros(size, np.uint8)
    if not sample.mask.exists():
        raise MissingMaskError(f"{sample.image}: no mask; expected at {sample.mask}")
    values = read_mask_values(sample.mask)
    if values.shape != size:
        raise MaskSizeMismatchError(
            f"{sample.mask}: mask is {values.shape[1]}x{values.shape[0]} px, but its image "
            f"{sample.image.name} is {size[1]}x{size[0]} px; they must be equal"
        )
    return CODINGS[dataset.mask_coding](values, dataset.classes, sample)


def read_mask_values(path: Path) -> np.ndarray:
    """Return the pixel values of a mask file as stored, integer (H, W); palette files give their indices.

    Raises:
        UnreadableImageError: the file cannot be decoded, or its colour channels differ.
    """
    with _opened(path) as image:
        bilevel = image.mode == "1"
        values = _decoded(image, path, lambda: np.asarray(image.convert("L") if bilevel else image))
    if values.ndim == 3 and image.mode in ("LA", "RGBA"):
        values = values[:, :, :-1]
    if values.ndim == 3:
        if (values != values[:, :, :1]).any():
            raise UnreadableImageError(
                f"{path}: a colour picture cannot be a mask; save one channel whose values are the classes"
            )
        values = values[:, :, 0]
    return values


def _opened(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError(f"{path}: the file is empty (0 bytes)")
        return Image.open(path)
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: no such file") from None
    except _DECODER_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise UnreadableImageError(f"{path}: not a readable image ({_one_line(error)})") from error


def _decoded(image: Image.Image, path: Path, decode: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return decode()
    except _DECODER_ERRORS as error:
        raise UnreadableImageError(f"{path}: truncated or damaged image ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _eight_bits(image: Image.Image, mode: Literal["L", "RGB"]) -> np.ndarray:
    if image.mode.startswith("I"):
        # PIL clips 16-bit values at 255 on conversion, which would turn the picture white.
        scaled = Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
        return np.asarray(scaled.convert(mode))
    return np.asarray(image.convert(mode))


def _index(values: np.ndarray, classes: tuple[str, ...], sample: Sample) -> np.ndarray:
    beyond = (values > len(classes)) | (values < 0)
    if beyond.any():
        named = ", ".join(f"{k} {name}" for k, name in enumerate(classes, start=1))
        raise MaskValueError(
            f"{sample.mask}: value {values[beyond].min()} at {int(beyond.sum())} px is beyond the classes; "
            f"allowed are 0 background, {named}"
        )
    return values.astype(np.uint8)


def _index_or_void(values: np.ndarray, classes: tuple[str, ...], sample: Sample) -> np.ndarray:
    return _index(np.where(values == 255, 0, values), classes, sample)


def _binary(values: np.ndarray, classes: tuple[str, ...], sample: Sample) -> np.ndarray:
    largest = values.max(initial=0)
    if 0 < largest <= len(classes):
        # Read as binary such a file would be empty, and its defects lost without a word.
        raise MaskValueError(
            f"{sample.mask}: largest value is {largest}, while the other masks of the data set mark defects "
            "by 128 or more; use one coding for all masks"
        )
    return np.where(values >= 128, _label_value(sample), 0).astype(np.uint8)


def _nonzero(values: np.ndarray, classes: tuple[str, ...], sample: Sample) -> np.ndarray:
    return np.where(values != 0, _label_value(sample), 0).astype(np.uint8)


def _label_value(sample: Sample) -> int:
    return 1 if sample.label is None else sample.label + 1


CODINGS: dict[str, Callable[[np.ndarray, tuple[str, ...], Sample], np.ndarray]] = {
    "index": _index,
    "index-void": _index_or_void,
    "binary": _binary,
    "nonzero": _nonzero,
}
"""How mask files hold classes, by `DataSet.mask_coding`.

index: the value is the class. index-void: the same, 255 is unlabelled and counts as background (VOC).
binary: 128 and more is defect, of the sample's label or class 1 (anti-aliased or JPEG masks).
nonzero: every value but 0 is defect, of the sample's label or class 1 (palette masks).
"""
