"""The data doctor: reads every file of a data set and reports what is in it and what is wrong with it.

A damaged file is a finding, not a failure. Only a folder that no reader understands is refused.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from search.data.correlation import turned
from search.data.datasets import DataSet, Sample, Split
from search.data.file_checks import Examined, examine
from search.data.folder_layouts import MASK_ENDINGS, read_meta
from search.data.images import IMAGE_SUFFIXES, UnreadableImageError, image_size, read_image, read_mask
from search.data.layout_parts import read_names
from search.data.readers import open_dataset
from search.data.report import Finding, ImageFacts, Pair, ProposedSplit, Report, SplitFacts, relative
from search.data.report_text import SEVERITIES
from search.data.similarity import Match, find_near, groups, orientation_between, reduction
from search.data.splits import Unit, pick

TEST_FRACTION = 0.3
"""Share of the images that a proposed split tests on."""


def check(path: Path, reader: str = "auto") -> Report:
    """Return what a data set holds and what is wrong with it; nothing is written.

    Args:
        path: folder of the data set.
        reader: a name in `readers.READERS`, or "auto".

    Raises:
        InputError: no reader understands the folder as a whole.
    """
    start = time.perf_counter()
    dataset = open_dataset(path, reader)
    excluded = _excluded(dataset)
    samples = sorted([*dataset.samples, *excluded], key=lambda s: s.name)
    left_out = {s.name for s in excluded}
    factor = _factor(samples)
    examined = {s.name: examine(dataset, s, factor) for s in samples}
    pairs = _pairs(dataset, samples, examined)
    place = {s.name: k for k, s in enumerate(samples)}
    found = groups(len(samples), [(place[p.first], place[p.second]) for p in pairs])
    images = tuple(_facts(s, examined[s.name], found[place[s.name]], s.name in left_out) for s in samples)
    splits = tuple(_split_facts(dataset, name, split, pairs) for name, split in dataset.splits.items())
    findings = [f for s in samples for f in _of_sample(examined[s.name], s.name in left_out)]
    findings += _unused_files(dataset, samples)
    findings += _of_classes(dataset, images)
    findings += _of_copies(dataset, samples, pairs)
    for facts in splits:
        findings += _of_split(dataset, facts, images)
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.kind, f.file))
    return Report(
        name=dataset.name,
        root=dataset.root,
        reader=dataset.reader,
        classes=dataset.classes,
        mask_coding=dataset.mask_coding,
        images=images,
        pairs=pairs,
        splits=splits,
        findings=tuple(findings),
        proposal=_proposal(images),
        seconds=time.perf_counter() - start,
    )


def _excluded(dataset: DataSet) -> list[Sample]:
    """Return the samples that splits/excluded_*.txt keeps out, so that they are looked at as well."""
    if dataset.reader != "folders":
        return []
    lists = sorted((dataset.root / "splits").glob("excluded_*.txt"))
    names = {name for path in lists for name in read_names(path)}
    meta = read_meta(dataset.root / "meta.csv") if names else None
    found = []
    masks_of = {s.image.parent: s.mask.parent for s in dataset.samples if s.mask is not None}
    for images, masks in masks_of.items():
        by_stem = {p.stem: p for p in sorted(masks.iterdir())} if masks.is_dir() else {}
        for image in sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
            name = next((n for n in (image.stem, f"{images.name}_{image.stem}") if n in names), None)
            if name is None or meta is None:
                continue
            stems = [image.stem + ending for ending in MASK_ENDINGS]
            mask = next((by_stem[stem] for stem in stems if stem in by_stem), masks / f"{image.stem}.png")
            found.append(Sample(name, image, mask, meta.labels.get(name), meta.groups.get(name)))
    return found


def _factor(samples: Sequence[Sample]) -> float:
    sizes = []
    for sample in samples:
        try:
            sizes.append(image_size(sample.image))
        except UnreadableImageError:
            continue  # `examine` reports it.
    return reduction(sizes) if sizes else 1.0


def _facts(sample: Sample, examined: Examined, found_group: int, left_out: bool) -> ImageFacts:
    height, width = examined.size or (0, 0)
    return ImageFacts(
        name=sample.name,
        image=sample.image,
        mask=sample.mask,
        height=height,
        width=width,
        areas=examined.areas,
        label=sample.label,
        given_group=sample.group,
        found_group=found_group,
        left_out=left_out,
    )


def _pairs(dataset: DataSet, samples: list[Sample], examined: Mapping[str, Examined]) -> tuple[Pair, ...]:
    """Return the images that show the same thing, the surest first."""
    opened = [(s, thumbs) for s in samples if (thumbs := examined[s.name].thumbs) is not None]
    readable = [sample for sample, _ in opened]
    copies = _copies(readable, examined)
    copy_of = groups(len(readable), [(m.first, m.second) for m in copies])
    near = [m for m in find_near([t for _, t in opened]) if copy_of[m.first] != copy_of[m.second]]
    pairs = []
    for match in [*copies, *near]:
        first, second = readable[match.first], readable[match.second]
        agreement = None
        if match.exact and None not in (examined[first.name].areas, examined[second.name].areas):
            one, other = (read_mask(dataset, s) > 0 for s in (first, second))
            one = turned(one, match.orientation)
            agreement = float((one & other).sum() / max((one | other).sum(), 1))
        pairs.append(Pair(first.name, second.name, match.kind, match.orientation, match.score, agreement))
    return tuple(pairs)


def _copies(samples: list[Sample], examined: Mapping[str, Examined]) -> list[Match]:
    """Return the pairs of equal pixels in any orientation: each copy with the first of its kind."""
    alike: dict[str | None, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        alike[examined[sample.name].key].append(index)
    matches = []
    for members in alike.values():
        originals: list[int] = []
        # Equal histograms do not make equal pictures: those are opened again and compared.
        for index in members if len(members) > 1 else ():
            picture = read_image(samples[index], "grey")
            for original in originals:
                orientation = orientation_between(read_image(samples[original], "grey"), picture)
                if orientation is not None:
                    matches.append(Match(original, index, orientation, True, 1.0))
                    break
            else:
                originals.append(index)
    return matches


def _split_facts(dataset: DataSet, name: str, split: Split, pairs: Iterable[Pair]) -> SplitFacts:
    train, test = set(split.train), set(split.test)
    surest: dict[str, Pair] = {}
    for pair in pairs:
        if pair.first in test and pair.second in train:
            pair = _reversed(pair)
        if pair.first in train and pair.second in test:
            surest.setdefault(pair.second, pair)
    group = {s.name: s.group for s in dataset.samples}
    in_train = {group.get(n) for n in train} - {None}
    given = sum(group.get(n) in in_train for n in test) if any(group.values()) else None
    return SplitFacts(name, len(split.train), len(split.test), tuple(surest.values()), given)


def _reversed(pair: Pair) -> Pair:
    # Rotations by 90 and 270 undo each other; every other orientation undoes itself.
    orientation = {1: 3, 3: 1}.get(pair.orientation, pair.orientation)
    return replace(pair, first=pair.second, second=pair.first, orientation=orientation)


def _of_sample(examined: Examined, left_out: bool) -> list[Finding]:
    if not left_out:
        return list(examined.findings)
    note = "; the data set itself leaves the image out"
    return [replace(f, severity="note", message=f.message + note) for f in examined.findings]


def _unused_files(dataset: DataSet, samples: list[Sample]) -> list[Finding]:
    images = {s.image for s in samples}
    masks = {s.mask for s in samples if s.mask is not None}
    findings = []
    for folder in sorted({p.parent for p in images | masks}):
        kind = "mask without image" if folder not in {p.parent for p in images} else "unused file"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in IMAGE_SUFFIXES and path not in images | masks:
                said = "no image of this name" if kind == "mask without image" else "belongs to no sample"
                findings.append(Finding("note", kind, relative(path, dataset.root), said))
    return findings


def _of_classes(dataset: DataSet, images: Sequence[ImageFacts]) -> list[Finding]:
    usable = [i.areas for i in images if i.areas is not None and not i.left_out]
    absent = [name for k, name in enumerate(dataset.classes) if not any(areas[k] for areas in usable)]
    return [Finding("warning", "class without image", name, "no mask marks it") for name in absent]


def _of_copies(dataset: DataSet, samples: list[Sample], pairs: Iterable[Pair]) -> list[Finding]:
    paths = {s.name: relative(s.image, dataset.root) for s in samples}
    findings = []
    for pair in pairs:
        if pair.kind != "near":
            masks = "" if pair.mask_iou is None else f"; their masks agree to IoU {pair.mask_iou:.2f}"
            turn = {
                "exact": "the same picture as",
                "rotated": "a rotated copy of",
                "flipped": "a flipped copy of",
            }
            said = f"{turn[pair.kind]} {paths[pair.first]}{masks}"
            findings.append(Finding("warning", "copy", paths[pair.second], said))
    return findings


def _of_split(dataset: DataSet, facts: SplitFacts, images: Sequence[ImageFacts]) -> list[Finding]:
    split, file = dataset.splits[facts.name], f"split {facts.name}"
    known = {i.name for i in images}
    findings = []
    for part, names in (("train", split.train), ("test", split.test)):
        if not names:
            findings.append(Finding("error", "empty split", file, f"{part} is empty"))
        findings += [
            Finding("error", "unknown name", file, f"{part} lists {n!r}, which is no image of the data set")
            for n in sorted(set(names) - known)
        ]
        findings += [
            Finding("error", "listed twice", file, f"{part} lists {n!r} {count} times")
            for n, count in sorted(Counter(names).items())
            if count > 1
        ]
    findings += [
        Finding("error", "overlapping split", file, f"{n!r} is in train and in test")
        for n in sorted(set(split.train) & set(split.test))
    ]
    if facts.leaks:
        seen = f"{len(facts.leaks)} of {facts.test} test images show the same thing as an image in train"
        findings.append(Finding("warning", "leak", file, seen))
    if facts.given_leaks:
        said = f"{facts.given_leaks} of {facts.test} test images have their group in train"
        findings.append(Finding("warning", "leak of given groups", file, said))
    missing = sum(not i.left_out for i in images) - len(known & {*split.train, *split.test})
    if missing > 0:
        findings.append(Finding("note", "not in the split", file, f"{missing} images are in neither part"))
    return findings


def _proposal(images: Sequence[ImageFacts]) -> ProposedSplit | None:
    """Return a split by what was found, and what the data set says, to show one part."""
    usable = [i for i in images if i.areas is not None and i.height and not i.left_out]
    keys = [[("found", i.found_group)] + ([("given", i.given_group)] if i.given_group else []) for i in usable]
    first: dict[tuple[str, int | str | None], int] = {}
    joined = [(first.setdefault(key, k), k) for k, of_image in enumerate(keys) for key in of_image]
    members: dict[int, list[ImageFacts]] = defaultdict(list)
    for image, group in zip(usable, groups(len(usable), joined), strict=True):
        members[group].append(image)
    units = {_unit(str(group), inside): inside for group, inside in members.items()}
    if len(units) < 2:
        return None
    test = pick(tuple(units), TEST_FRACTION, seed=0)
    parts: dict[bool, list[str]] = {False: [], True: []}
    for unit, inside in units.items():
        parts[unit.name in test] += [i.name for i in inside]
    return ProposedSplit(tuple(sorted(parts[False])), tuple(sorted(parts[True])), len(units))


def _unit(name: str, inside: Sequence[ImageFacts]) -> Unit:
    totals = np.sum([i.areas or () for i in inside], axis=0)
    labels = [i.label for i in inside if i.label is not None]
    label = Counter(labels).most_common(1)[0][0] if labels else int(totals.argmax()) if totals.any() else None
    areas = [sum(i.areas or ()) / (i.height * i.width) for i in inside]
    return Unit(name, len(inside), label, float(np.mean(areas)))
