"""What the layouts of data sets have in common: image listings, split lists, class lists, mask codings."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from search.data.datasets import Sample, Split
from search.data.images import IMAGE_SUFFIXES, UnreadableImageError, read_mask_values
from search.errors import InputError

PROBED_MASKS = 32
"""Masks with content that are opened to learn how a data set without a class list holds its classes."""

BRIGHT = 128
"""Mask values from here on mark a defect in a binary mask and are no class in an index mask."""

_BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "__ignore__"})
_TRAIN_NAMES = ("train", "training")
_JOINED_LISTS = ("trainval", "train_val")
_TEST_NAMES = ("test", "testing")
_VAL_NAMES = ("val", "valid", "validation")


class AmbiguousNameError(InputError):
    """Two image files would be one sample."""


class IncompleteSplitError(InputError):
    """A list of training names without the list of test names, or the other way round."""


class NotTextError(InputError):
    """A text file of a data set is in an unknown encoding."""


class EmptyListError(InputError):
    """A list that must name something is empty."""


def images_in(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder (not of its subfolders) by stem, in order of their names.

    Raises:
        AmbiguousNameError: two files differ in their suffix only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise AmbiguousNameError(f"{path}: same name as {found[path.stem].name}; names must differ without suffix")
        found[path.stem] = path
    return found


def has_images(folder: Path) -> bool:
    """Return whether a folder exists and holds an image file itself."""
    return folder.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())


def child(folder: Path, *names: str) -> Path | None:
    """Return the subfolder with the first of `names` that occurs, whatever its case; None if none does."""
    present = {p.name.lower(): p for p in sorted(folder.iterdir(), reverse=True) if p.is_dir()}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def role(part: str) -> str | None:
    """Return train, test or val for the name of a list or subfolder that says so, else None."""
    for name, synonyms in {"train": _TRAIN_NAMES, "test": _TEST_NAMES, "val": _VAL_NAMES}.items():
        if part.lower() in synonyms:
            return name
    return None


def unique_names(items: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a sample name for each (part, stem): the stem if all stems differ, else part_stem."""
    stems = [stem for _, stem in items]
    if len(set(stems)) == len(stems):
        return {(part, stem): stem for part, stem in items}
    return {(part, stem): f"{part}_{stem}" if part else stem for part, stem in items}


def split_of_roles(names_by_role: Mapping[str, Iterable[str]]) -> Split | None:
    """Return the split of names by role (train, val, test), or None where there is nothing to test on.

    With train, val and test, val joins train: whoever selects by validation holds images out of train.
    With train and val only, val is the test.
    """
    given = {name: tuple(names) for name, names in names_by_role.items()}
    train, val, test = given.get("train"), given.get("val"), given.get("test")
    if test is None and train is not None and val is not None:
        return Split(train, val)
    if test is None or (train is None and val is None):
        return None
    return Split(tuple(itertools.chain(train or (), val or ())), test)


def split_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the split lists (*.txt) of a folder: per split name, the file of each role.

    train.txt/test.txt are "given"; train_X.txt/test_X.txt and X_train.txt/X_test.txt are X. trainval.txt
    counts where there is no train.txt. Files of other names are no split.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    joined = next((folder / f"{name}.txt" for name in _JOINED_LISTS if (folder / f"{name}.txt").exists()), None)
    for path in sorted(folder.glob("*.txt")):
        if path.stem in _JOINED_LISTS:
            continue
        first, _, rest = path.stem.partition("_")
        before, _, last = path.stem.rpartition("_")
        if role(first):
            found[rest or "given"][str(role(first))] = path
        elif role(last):
            found[before][str(role(last))] = path
    if joined and "train" not in found["given"]:
        found["given"] = {"train": joined, **{r: p for r, p in found["given"].items() if r == "test"}}
    return {name: files for name, files in found.items() if files}


def read_text(path: Path) -> str:
    """Return the text of a file that a data set brings.

    Raises:
        NotTextError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        raise NotTextError(f"{path} row {row}: not UTF-8; save the file in that encoding") from error


def read_names(path: Path) -> tuple[str, ...]:
    """Return the names that a list gives, one a line; blank lines and lines that start with # are skipped."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def read_splits(folder: Path, known: Collection[str], left_out: Collection[str] = ()) -> dict[str, Split]:
    """Return the splits whose lists lie in a folder; whether they are sound is for `splits.check_split`.

    Args:
        folder: where the lists are; it need not exist.
        known: names of the samples; a listed "a.jpg" or "x/a.jpg" is taken for "a" where only that is known.
        left_out: names that are dropped from every list.

    Raises:
        IncompleteSplitError: a list has no counterpart.
    """
    known, left_out = set(known), set(left_out)

    def resolve(path: Path) -> list[str]:
        names = [n if n in known or Path(n).stem not in known else Path(n).stem for n in read_names(path)]
        return [n for n in names if n not in left_out]

    splits = {}
    for name, files in split_files(folder).items():
        split = split_of_roles({r: resolve(p) for r, p in files.items()})
        # A lone list is an error in train/test pairs; ImageSets may well hold a lone trainval.txt.
        if split is None:
            only = next(iter(files.values()))
            raise IncompleteSplitError(f"{only}: a list of this name needs a counterpart for train or test beside it")
        splits[name] = split
    return splits


def read_class_list(root: Path) -> tuple[str, ...] | None:
    """Return the class names of root/classes.txt, None if there is no such file.

    The class of value 1 comes first; a leading "background" is dropped.

    Raises:
        EmptyListError: the file names no class.
    """
    path = root / "classes.txt"
    if not path.exists():
        return None
    names = read_names(path)
    names = names[1:] if names and names[0].lower() in _BACKGROUND_NAMES else names
    if not names:
        raise EmptyListError(f"{path}: names no class; give one name a line, the class of value 1 first")
    return names


def probe_coding(
    samples: Iterable[Sample], classes: tuple[str, ...] | None, *, void: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Return (mask coding, classes) as the masks themselves show them.

    Up to `PROBED_MASKS` masks with content are opened, spread over the data set; all of them only if they
    hold several classes and nothing says how many. What most of them do counts, so that one stray file is
    named as the error when it is read and does not decide how all others are read.

    Args:
        samples: samples of the data set, in order.
        classes: names of the classes where a list gives them.
        void: 255 is "unlabelled" where smaller values occur too (VOC).
    """
    paths = [s.mask for s in samples if s.mask is not None]
    spread = [paths[i] for step in (7, 1) for i in range(0, len(paths), step) if step == 1 or len(paths) > 7]
    values: set[int] = set()
    probed = bright = 0
    for path in dict.fromkeys(spread):
        found = _values_of(path) - {0}
        values |= found
        probed += bool(found)
        bright += any(v >= BRIGHT for v in found)
        if probed == PROBED_MASKS:
            break
    if void and values - {255}:
        return "index-void", classes or _numbered(paths, values - {255}, void=True)
    if bright and 2 * bright >= probed and max(values) > len(classes or ()):
        return "binary", classes or ("defect",)
    return "index", classes or _numbered(paths, values, void=False)


def _numbered(paths: list[Path], values: set[int], void: bool) -> tuple[str, ...]:
    if max((v for v in values if void or v < BRIGHT), default=0) <= 1:
        return ("defect",)
    largest = max((v for p in paths for v in _values_of(p) if v < (255 if void else BRIGHT)), default=1)
    return tuple(f"class{k}" for k in range(1, largest + 1))


def _values_of(path: Path) -> set[int]:
    if not path.exists():
        return set()
    try:
        return {int(v) for v in np.unique(read_mask_values(path))}
    except UnreadableImageError:
        # Only the coding is asked for here; `read_mask` reports the damaged file to whoever needs it.
        return set()
