"""Which samples are trained on and which are tested on."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.data.datasets import DataSet, Sample, Split
from search.data.images import read_mask
from search.data.layout_parts import split_files
from search.errors import InputError
from search.settings import DataSettings

AREA_QUANTILES = 4
"""Defect areas are balanced between the parts by this many quantiles."""


class SplitError(InputError):
    """A split is empty, overlaps, names what is not there, or cannot be made."""


@dataclass(frozen=True)
class Unit:
    """What must stay together when samples are divided.

    Attributes:
        name: of the unit; unique.
        size: samples in it.
        label: class index, or None where it is not known.
        area: mean share of defect pixels, in [0, 1].
    """

    name: str
    size: int
    label: int | None
    area: float


def choose_split(dataset: DataSet, settings: DataSettings, seed: int) -> Split:
    """Return the split that `settings.split` asks for, checked.

    Args:
        dataset: brings splits of its own, or groups and labels to make one by.
        settings: `split` and `test_fraction` count.
        seed: of a split that is made here; a split that the data set brings does not depend on it.

    Raises:
        SplitError: the split asked for is not there, cannot be made, or is not sound.
        InputError: a mask that is needed for the stratification cannot be read.
    """
    name = split_name(dataset, settings.split)
    if name in dataset.splits:
        split = dataset.splits[name]
        check_split(dataset, name, split)
        return split
    units = _units(dataset, grouped=name == "grouped")
    if len(units) < 2:
        what = "groups" if name == "grouped" else "images"
        raise SplitError(f"{dataset.root}: a {name} split needs 2 {what} or more, there are {len(units)}")
    test = pick(tuple(units), settings.test_fraction, seed)
    parts: dict[bool, list[str]] = {True: [], False: []}
    for unit, samples in units.items():
        parts[unit.name in test] += [s.name for s in samples]
    return Split(tuple(sorted(parts[False])), tuple(sorted(parts[True])))


def split_name(dataset: DataSet, choice: str) -> str:
    """Return the name of the split that a choice means: one that the data set brings, grouped or random.

    "auto" is a given grouped one, else a given one, else grouped where all groups are known, else random.

    Raises:
        SplitError: there is no such split, or "grouped" has to be made and groups are unknown.
    """
    unknown = sum(s.group is None for s in dataset.samples)
    several = len({s.group for s in dataset.samples}) > 1
    if choice == "auto":
        brought = next((name for name in ("grouped", "given") if name in dataset.splits), None)
        return brought or ("grouped" if not unknown and several else "random")
    if choice in dataset.splits or choice == "random":
        return choice
    if choice == "grouped":
        if unknown:
            raise SplitError(
                f"{dataset.root}: data.split is grouped, but {unknown} of {len(dataset.samples)} images have "
                f"no known group; `defectnas data check {dataset.root}` proposes groups, or use random"
            )
        return choice
    allowed = ", ".join(dict.fromkeys(["auto", *dataset.splits, "grouped", "random"]))
    raise SplitError(f"data.split: {choice!r} is not in {dataset.root}; allowed are {allowed}")


def check_split(dataset: DataSet, name: str, split: Split) -> None:
    """Check that a split can be used.

    Raises:
        SplitError: a part is empty, a name is in both parts or twice in one, or is not in the data set.
    """
    files = _list_files(dataset, name)
    known = {s.name for s in dataset.samples}
    for part, names in {"train": split.train, "test": split.test}.items():
        file = files.get(part, f"{dataset.root}, split {name}, {part}")
        if not names:
            raise SplitError(f"{file}: the {part} part of split {name} is empty")
        missing = [n for n in names if n not in known]
        if missing:
            raise SplitError(f"{file}: {missing[0]!r} is not an image of the data set ({len(missing)} such names)")
        repeated = [n for n, count in Counter(names).items() if count > 1]
        if repeated:
            raise SplitError(f"{file}: {repeated[0]!r} is listed twice ({len(repeated)} such names)")
    both = sorted(set(split.train) & set(split.test))
    if both:
        where = " and ".join(str(files[part]) for part in ("train", "test") if part in files) or dataset.root
        raise SplitError(f"{where}: {both[0]!r} is in train and in test of split {name} ({len(both)} such names)")


def pick(units: Sequence[Unit], fraction: float, seed: int) -> frozenset[str]:
    """Return the names of units that make up a share of all samples, balanced over labels and defect areas.

    Units are put in order of label and quantile of area, at random among equals, and every unit is taken that
    brings the sum nearer to the share of those passed so far: each class and each quantile thus gives its
    share to within half a unit. At least one unit is taken and at least one is left.

    Args:
        units: two or more.
        fraction: share of the samples to take, in (0, 1).
        seed: of the random order.
    """
    rng = np.random.default_rng([seed, len(units)])
    ordered = sorted(units, key=lambda u: u.name)
    strata = _strata(ordered)
    label_rank = {label: rank for rank, label in enumerate(_shuffled(sorted({s[0] for s in strata}), rng))}
    noise = rng.random(len(ordered))
    order = sorted(range(len(ordered)), key=lambda i: (label_rank[strata[i][0]], strata[i][1], noise[i]))
    taken: list[Unit] = []
    passed = size_taken = 0
    for index in order:
        unit = ordered[index]
        passed += unit.size
        if fraction * passed - size_taken >= unit.size / 2:
            taken.append(unit)
            size_taken += unit.size
    if not taken:
        taken = [min(ordered, key=lambda u: u.size)]
    if len(taken) == len(ordered):
        taken.remove(min(taken, key=lambda u: u.size))
    return frozenset(unit.name for unit in taken)


def _strata(units: Sequence[Unit]) -> list[tuple[int, int]]:
    """Return (label or -1, quantile of area among those of that label) per unit; 0 is no defect."""
    by_label: dict[int, list[float]] = defaultdict(list)
    for unit in units:
        if unit.area > 0:
            by_label[_label(unit)].append(unit.area)
    steps = np.linspace(0, 1, AREA_QUANTILES + 1)[1:-1]
    edges = {label: np.quantile(areas, steps) for label, areas in by_label.items()}
    return [(_label(u), 0 if u.area <= 0 else 1 + int(np.searchsorted(edges[_label(u)], u.area))) for u in units]


def _label(unit: Unit) -> int:
    return -1 if unit.label is None else unit.label


def _shuffled(values: list[int], rng: np.random.Generator) -> list[int]:
    return [values[i] for i in rng.permutation(len(values))]


def _units(dataset: DataSet, grouped: bool) -> dict[Unit, list[Sample]]:
    members: dict[Hashable, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        members[sample.group if grouped else sample.name].append(sample)
    # Where every label is known, classes are balanced and no mask needs to be opened.
    labelled = all(s.label is not None for s in dataset.samples)
    units = {}
    for name, samples in members.items():
        areas = [0.0] if labelled else [float((read_mask(dataset, s) > 0).mean()) for s in samples]
        label = Counter(s.label for s in samples).most_common(1)[0][0]
        units[Unit(str(name), len(samples), label, float(np.mean(areas)))] = samples
    return units


def _list_files(dataset: DataSet, name: str) -> dict[str, Path]:
    """Return the files that a split was read from, by part; empty where it comes from folders."""
    found = itertools.chain.from_iterable(
        split_files(dataset.root / folder).get(name, {}).items() for folder in ("splits", "ImageSets/Segmentation")
    )
    files = dict(found)
    if "test" not in files and "val" in files:
        files["test"] = files["val"]
    return files
