"""Layouts that people arrange themselves: folders of images and masks, and Pascal VOC."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from search.data.datasets import DataSet, Sample
from search.data.layout_parts import (
    child,
    has_images,
    images_in,
    probe_coding,
    read_class_list,
    read_names,
    read_splits,
    read_text,
    role,
    split_files,
    split_of_roles,
    unique_names,
)
from search.errors import InputError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
"""Names of the folder of images, in any case."""
MASK_FOLDERS = (
    "masks",
    "mask",
    "labels",
    "label",
    "ground_truth",
    "groundtruth",
    "gt",
    "annotations",
    "SegmentationClass",
)
"""Names of the folder of masks, in any case."""
MASK_ENDINGS = ("", "_mask", "_label", "_gt", "_seg", "-mask")
"""What the name of a mask may have after the name of its image."""
GROUP_COLUMNS = ("group", "tile_group", "near_dup_group", "part", "item")
"""Columns of meta.csv that name the physical part; another column that ends with _group counts too."""

_PART_SUFFIX = re.compile(r"^(?P<item>.+)_part\d+$", re.IGNORECASE)


class NoMasksError(InputError):
    """None of the images has a mask."""


class BadMetadataError(InputError):
    """A row of meta.csv cannot be used."""


@dataclass(frozen=True)
class Meta:
    """What meta.csv says: classes in order (None if it does not), and per name the label and the group."""

    classes: tuple[str, ...] | None
    labels: Mapping[str, int]
    groups: Mapping[str, str]


def recognises_folders(root: Path) -> bool:
    """Return whether the folder holds a folder of images and one of masks."""
    return any(True for _ in _pairs(root))


def open_folders(root: Path) -> DataSet:
    """Return the data set of a folder of images and one of masks.

    The two may have subfolders train, test and val, or lie in such folders; that is then the split "given".
    splits/*.txt give further splits, splits/excluded_*.txt names that are left out. Classes come from
    meta.csv (class_index, class), else from classes.txt, else from the values in the masks. Groups come from
    meta.csv (see `GROUP_COLUMNS`; images of equal image_sha1 share one), else from names like item_Part3.

    Raises:
        NoMasksError: no image has a mask.
        BadMetadataError: meta.csv has no usable name or class_index.
    """
    found = {
        (part, stem): (image, mask)
        for part, images, masks in _pairs(root)
        for stem, image, mask in _matched(images, masks)
    }
    names = unique_names(found)
    if not any(mask.exists() for _, mask in found.values()):
        image, mask = next(iter(found.values()))
        raise NoMasksError(f"{root}: none of the {len(found)} images has a mask; {image.name} expects {mask}")
    left_out = {n for p in sorted((root / "splits").glob("excluded_*.txt")) for n in read_names(p)}
    meta = read_meta(root / "meta.csv")
    kept = {key: name for key, name in names.items() if name not in left_out}
    samples = [
        Sample(name, *found[key], label=meta.labels.get(name), group=meta.groups.get(name) or item_of(name))
        for key, name in kept.items()
    ]
    samples.sort(key=lambda s: s.name)
    splits = read_splits(root / "splits", {s.name for s in samples}, left_out)
    by_role: dict[str, list[str]] = {}
    for (part, _), name in kept.items():
        by_role.setdefault(str(role(part)), []).append(name)
    from_folders = split_of_roles(by_role)
    if from_folders is not None:
        splits.setdefault("given", from_folders)
    coding, classes = probe_coding(samples, meta.classes or read_class_list(root))
    return DataSet(root.name, root, "folders", classes, tuple(samples), splits, coding)


def recognises_voc(root: Path) -> bool:
    """Return whether the folder has JPEGImages and SegmentationClass."""
    return has_images(root / "JPEGImages") and (root / "SegmentationClass").is_dir()


def open_voc(root: Path) -> DataSet:
    """Return the data set of a Pascal VOC folder.

    It holds the images that have a mask or are listed in ImageSets/Segmentation. The value 255 is
    "unlabelled" and counts as background, unless it is the only one that occurs. With train.txt, val.txt and
    test.txt, train and val are trained on; with train.txt and val.txt, val is the test.

    Raises:
        NoMasksError: no image has a mask.
    """
    lists = root / "ImageSets" / "Segmentation"
    listed = {n for files in split_files(lists).values() for p in files.values() for n in read_names(p)}
    matched = _matched(root / "JPEGImages", root / "SegmentationClass")
    samples = tuple(
        Sample(name, image, mask, group=item_of(name))
        for name, image, mask in matched
        if mask.exists() or name in listed
    )
    if not any(s.mask is not None and s.mask.exists() for s in samples):
        raise NoMasksError(f"{root}: no image of JPEGImages has a mask in SegmentationClass")
    splits = read_splits(lists, {s.name for s in samples})
    coding, classes = probe_coding(samples, read_class_list(root), void=True)
    return DataSet(root.name, root, "voc", classes, samples, splits, coding)


def item_of(name: str) -> str | None:
    """Return the item of a name like kos01_Part5 (kos01), None for other names."""
    match = _PART_SUFFIX.match(name)
    return match["item"] if match else None


def read_meta(path: Path) -> Meta:
    """Return what a meta.csv says; nothing if there is none.

    Raises:
        BadMetadataError: there is no column name, a class_index is no whole number from 1, or has two names.
    """
    if not path.exists():
        return Meta(None, {}, {})
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path)), restkey="more"))
    except csv.Error as error:
        raise BadMetadataError(f"{path}: not a table of comma-separated values ({error})") from error
    if rows and "name" not in rows[0]:
        raise BadMetadataError(f"{path}: needs a column name, has {', '.join(rows[0])}")
    for number, row in enumerate(rows, start=2):
        if not row["name"]:
            raise BadMetadataError(f"{path} row {number}: has no name")
    indices = {row["name"]: _class_index(path, n, row) for n, row in enumerate(rows, 2) if row.get("class_index")}
    titles: dict[int, str] = {}
    for number, row in enumerate(rows, start=2):
        index = indices.get(row["name"])
        title = row.get("class") or (f"class{index}" if index else "")
        if index and titles.setdefault(index, title) != title:
            raise BadMetadataError(
                f"{path} row {number}: class_index {index} is {title} here and {titles[index]} above"
            )
    classes = tuple(titles.get(k, f"class{k}") for k in range(1, max(titles) + 1)) if titles else None
    return Meta(classes, {name: index - 1 for name, index in indices.items()}, _groups(rows))


def _class_index(path: Path, number: int, row: Mapping[str, str]) -> int:
    value = row["class_index"]
    if not value.isdecimal() or not 1 <= int(value) <= 255:
        raise BadMetadataError(f"{path} row {number}: class_index {value!r} is not a whole number from 1 to 255")
    return int(value)


def _groups(rows: list[dict[str, str]]) -> dict[str, str]:
    columns = [c for c in rows[0] if c in GROUP_COLUMNS or c.endswith("_group")] if rows else []
    groups = {row["name"]: (row[columns[0]] if columns else item_of(row["name"])) or "" for row in rows}
    # Byte-identical images are one part, whatever their names say; joined groups take the first one's name.
    joined: dict[str, str] = {}

    def first(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    seen: dict[str, str] = {}
    for row in rows:
        mine, content = groups[row["name"]], row.get("image_sha1")
        if mine and content:
            one, other = first(seen.setdefault(content, mine)), first(mine)
            if one != other:
                joined[other] = one
    return {name: first(group) for name, group in groups.items() if group}


def _pairs(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield (part, folder of images, folder of masks); part is the name of a train/test/val folder or ""."""
    for part in [root, *sorted(p for p in root.iterdir() if p.is_dir() and role(p.name))]:
        images, masks = child(part, *IMAGE_FOLDERS), child(part, *MASK_FOLDERS)
        if images is None or masks is None:
            continue
        if has_images(images):
            yield ("" if part == root else part.name), images, masks
        for inner in sorted(p for p in images.iterdir() if has_images(p)):
            yield inner.name, inner, masks / inner.name


def _matched(images: Path, masks: Path) -> list[tuple[str, Path, Path]]:
    """Return (stem, image, mask) per image; the mask path says where one is expected if there is none."""
    present = images_in(masks) if masks.is_dir() else {}
    found = []
    for stem, image in images_in(images).items():
        mask = next((present[stem + end] for end in MASK_ENDINGS if stem + end in present), masks / f"{stem}.png")
        found.append((stem, image, mask))
    return found
