"""Layouts in which public surface-defect data sets are released.

Each comes as two functions: whether a folder is one, and the data set that it holds.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from search.data.datasets import DataSet, Sample, Split
from search.data.layout_parts import child, has_images, images_in, role, split_of_roles, unique_names

MT_CLASSES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
NEU_SEG_CLASSES = ("inclusion", "patches", "scratches")
MSD_CLASSES = ("oil", "scratch", "stain")
KOLEKTOR_TWINS = {"kos26": "kos01", "kos34": "kos27"}
"""Items of KolektorSDD that were published twice, byte for byte."""

_RSDDS_IMAGES = ("Rail surface images", "images", "image", "imgs")
_RSDDS_MASKS = ("GroundTruth", "ground_truth", "masks")
_MSD_MASKS = ("ground_truth", "groundtruth", "ground_truth_1", "ground_truth_2", "gt", "masks", "labels")


def _folders(root: Path, pattern: str) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and re.fullmatch(pattern, p.name, re.IGNORECASE))


def recognises_kolektor(root: Path) -> bool:
    """Return whether the folder holds items kosNN with PartM.jpg and PartM_label.bmp."""
    return any(any(item.glob("Part*_label.bmp")) for item in _folders(root, r"kos\d+"))


def open_kolektor(root: Path) -> DataSet:
    """Return KolektorSDD as released: one group per item, twins joined; defect-free parts included."""
    samples = [
        Sample(
            f"{item.name}_{stem}",
            image,
            item / f"{stem}_label.bmp",
            group=KOLEKTOR_TWINS.get(item.name, item.name),
        )
        for item in _folders(root, r"kos\d+")
        for stem, image in images_in(item).items()
        if not stem.endswith("_label")
    ]
    # The labels are palette files: index 1 is defect, and 2 in one of them.
    return _dataset(root, "kolektorsdd", ("defect",), samples, "nonzero")


def recognises_mt(root: Path) -> bool:
    """Return whether the folder holds MT_Blowhole and the like, each with Imgs."""
    return any((folder / "Imgs").is_dir() for folder in _folders(root, "MT_(" + "|".join(MT_CLASSES) + ")"))


def open_mt(root: Path) -> DataSet:
    """Return the magnetic tile set as released; which images show one tile is not in the release."""
    samples = []
    for label, title in enumerate(MT_CLASSES):
        for folder in _folders(root, f"MT_{title}"):
            for image in sorted((folder / "Imgs").glob("*.jpg")):
                name, mask = f"{title}_{image.stem}", image.with_suffix(".png")
                samples.append(Sample(name, image, mask, label=label))
    for folder in _folders(root, "MT_Free"):
        for image in sorted((folder / "Imgs").glob("*.jpg")):
            samples.append(Sample(f"Free_{image.stem}", image, None))
    return _dataset(root, "mt", MT_CLASSES, samples, "binary")


def recognises_neu_seg(root: Path) -> bool:
    """Return whether the folder holds images/training, images/test and annotations/training."""
    return all((root / p).is_dir() for p in ("images/training", "images/test", "annotations/training"))


def open_neu_seg(root: Path) -> DataSet:
    """Return NEU_Seg as released, with its split (which holds rotated copies on both sides: check it)."""
    found = {
        (part.name, stem): (image, root / "annotations" / part.name / f"{stem}.png")
        for part in _folders(root / "images", "training|test|validation")
        for stem, image in images_in(part).items()
    }
    names = unique_names(found)
    by_role: dict[str, list[str]] = {}
    for (part_name, _), name in sorted((key, name) for key, name in names.items()):
        by_role.setdefault(str(role(part_name)), []).append(name)
    split = split_of_roles(by_role)
    samples = [Sample(names[key], *paths) for key, paths in found.items()]
    return _dataset(root, "neu_seg", NEU_SEG_CLASSES, samples, "index", {"given": split} if split else {})


def recognises_rsdds(root: Path) -> bool:
    """Return whether the folder, or Type-I/Type-II folders in it, hold rail images and GroundTruth."""
    return any(True for _ in _rsdds_parts(root))


def open_rsdds(root: Path) -> DataSet:
    """Return RSDDs as released; both types are joined, the name says which: type1_rail_12."""
    samples = []
    for prefix, images, masks in _rsdds_parts(root):
        present = images_in(masks)
        for stem, image in images_in(images).items():
            mask = present.get(stem, masks / f"{stem}.jpg")
            samples.append(Sample(prefix + stem, image, mask))
    return _dataset(root, "rsdds", ("defect",), samples, "binary")


def _rsdds_parts(root: Path) -> Iterator[tuple[str, Path, Path]]:
    typed = [("type1_", f) for f in _folders(root, r"type-?(I|1)\b.*")]
    typed += [("type2_", f) for f in _folders(root, r"type-?(II|2)\b.*")]
    is_rail = child(root, _RSDDS_IMAGES[0]) is not None
    for prefix, folder in typed or ([("", root)] if is_rail else []):
        images, masks = child(folder, *_RSDDS_IMAGES), child(folder, *_RSDDS_MASKS)
        if images is not None and masks is not None:
            yield prefix, images, masks


def recognises_dagm(root: Path) -> bool:
    """Return whether the folder holds ClassN/Train/Label."""
    return any((folder / "Train" / "Label").is_dir() for folder in _folders(root, r"class\d+"))


def open_dagm(root: Path) -> DataSet:
    """Return DAGM 2007 as released: a class per texture, an image without label file is free of defects."""
    folders = sorted(_folders(root, r"class\d+"), key=lambda f: int(f.name[5:]))
    classes = tuple(f.name.lower() for f in folders)
    samples: list[Sample] = []
    by_role: dict[str, list[str]] = {"train": [], "test": []}
    for label, folder in enumerate(folders):
        for part in _folders(folder, "train|test"):
            labels = images_in(part / "Label") if (part / "Label").is_dir() else {}
            for stem, image in images_in(part).items():
                name, mask = f"{folder.name}_{part.name}_{stem}", labels.get(f"{stem}_label")
                samples.append(Sample(name, image, mask, label=label if mask else None))
                by_role[part.name.lower()].append(name)
    split = split_of_roles(by_role) if all(by_role.values()) else None
    return _dataset(root, "dagm", classes, samples, "binary", {"given": split} if split else {})


def recognises_msd(root: Path) -> bool:
    """Return whether the folder holds oil, scratch and stain, and a folder of ground truth."""
    present = [child(root, title) for title in MSD_CLASSES]
    return all(f is not None and has_images(f) for f in present) and child(root, *_MSD_MASKS) is not None


def open_msd(root: Path) -> DataSet:
    """Return MSD (mobile phone screens) by class folders; images of the folder good are free of defects.

    The ground truth may lie flat or in one folder per class. (A VOC arrangement of MSD is read as VOC.)
    """
    truth = child(root, *_MSD_MASKS)
    assert truth is not None, "recognises_msd comes first"
    samples = []
    for label, title in enumerate(MSD_CLASSES):
        folder = child(root, title)
        masks = child(truth, title) or truth
        assert folder is not None, "recognises_msd comes first"
        present = images_in(masks)
        for stem, image in images_in(folder).items():
            samples.append(Sample(stem, image, present.get(stem, masks / f"{stem}.png"), label=label))
    free = child(root, "good")
    samples += [Sample(f"good_{stem}", image, None) for stem, image in (images_in(free) if free else {}).items()]
    return _dataset(root, "msd", MSD_CLASSES, samples, "nonzero")


def _dataset(
    root: Path,
    reader: str,
    classes: tuple[str, ...],
    samples: list[Sample],
    coding: str,
    splits: dict[str, Split] | None = None,
) -> DataSet:
    ordered = tuple(sorted(samples, key=lambda s: s.name))
    return DataSet(root.name, root, reader, classes, ordered, splits or {}, coding)
