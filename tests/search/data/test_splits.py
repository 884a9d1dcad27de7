"""Splits that data sets bring, splits made here, and what makes one unusable."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from search.data.datasets import DataSet, Sample, Split
from search.data.readers import open_dataset
from search.data.splits import SplitError, Unit, check_split, choose_split, pick, split_name
from search.settings import DataSettings

REAL = Path(__file__).resolve().parents[4] / "shared" / "datasets"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no data sets at {REAL}")


def dataset(
    labels: list[int | None], groups: list[str | None] | None = None, splits: dict[str, Split] | None = None
) -> DataSet:
    """A data set without files: enough where every label is known."""
    samples = tuple(
        Sample(f"s{k:03d}", Path(f"s{k:03d}.png"), None, label, groups[k] if groups else None)
        for k, label in enumerate(labels)
    )
    return DataSet("made", Path("made"), "folders", ("a", "b", "c"), samples, splits or {})


def given_split(train: str = "0 1", test: str = "2") -> Split:
    return Split(*(tuple(f"s{int(k):03d}" for k in part.split()) for part in (train, test)))


def test_auto_prefers_what_is_brought_and_grouped():
    known, unknown = ["g0", "g0", "g1"], [None, None, None]
    both = {"given": given_split(), "grouped": given_split("0", "1 2")}
    assert split_name(dataset([0, 0, 0], unknown, both), "auto") == "grouped"
    assert split_name(dataset([0, 0, 0], known, {"given": given_split()}), "auto") == "given"
    assert split_name(dataset([0, 0, 0], known), "auto") == "grouped"
    assert split_name(dataset([0, 0, 0], unknown), "auto") == "random"
    assert split_name(dataset([0, 0, 0], ["g0", None, "g1"]), "auto") == "random"
    assert split_name(dataset([0, 0, 0], ["g0"] * 3), "auto") == "random"


def test_a_brought_split_is_returned_whatever_the_seed():
    data = dataset([0, 0, 0], splits={"fold1": given_split("2", "0")})
    chosen = [choose_split(data, DataSettings(split="fold1"), seed) for seed in range(3)]
    assert chosen == [given_split("2", "0")] * 3


def test_unknown_split_names_what_is_allowed():
    data = dataset([0, 0, 0], splits={"fold0": given_split()})
    with pytest.raises(SplitError, match=r"'fold7' .*allowed are auto, fold0, grouped, random"):
        choose_split(data, DataSettings(split="fold7"), 0)
    with pytest.raises(SplitError, match="'given' is not in"):
        choose_split(data, DataSettings(split="given"), 0)


def test_unknown_groups_point_at_the_check():
    with pytest.raises(SplitError, match="1 of 3 images have no known group; `defectnas data check made`"):
        choose_split(dataset([0, 0, 0], ["a", "b", None]), DataSettings(split="grouped"), 0)


def test_one_group_cannot_be_split():
    with pytest.raises(SplitError, match="needs 2 groups or more, there are 1"):
        choose_split(dataset([0, 0], ["a", "a"]), DataSettings(split="grouped"), 0)


def test_random_is_stratified_by_label():
    labels = [0] * 50 + [1] * 20 + [2] * 10
    data = dataset(list(labels))
    split = choose_split(data, DataSettings(split="random"), 0)
    tested = [labels[int(name[1:])] for name in split.test]
    assert [tested.count(k) for k in range(3)] == [15, 6, 3]
    assert not set(split.train) & set(split.test)
    assert len(split.train) + len(split.test) == 80


def test_seed_decides_and_repeats():
    data = dataset([0] * 40)
    settings_ = DataSettings(split="random")
    assert choose_split(data, settings_, 3) == choose_split(data, settings_, 3)
    assert choose_split(data, settings_, 3) != choose_split(data, settings_, 4)


def test_random_without_labels_is_stratified_by_defect_area(tmp_path):
    for k in range(40):
        values = np.zeros((16, 16), np.uint8)
        values.flat[: 5 * k] = 255
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"s{k:03d}.png")
    data = open_dataset(tmp_path)
    for seed in range(5):
        split = choose_split(data, DataSettings(split="random", test_fraction=0.25), seed)
        tested = [int(name[1:]) for name in split.test]
        assert len(tested) == 10
        # 39 masks have a defect; each quarter of them gives a quarter of itself.
        bounds = ((1, 10), (11, 20), (21, 29), (30, 39))
        quarters = [sum(low <= a <= high for a in tested) for low, high in bounds]
        assert min(quarters) >= 2
        assert max(quarters) <= 3


def test_groups_stay_together_and_classes_are_balanced():
    rng = np.random.default_rng(0)
    groups, labels = [], []
    for group in range(60):
        for _ in range(int(rng.integers(1, 7))):
            groups.append(f"g{group}")
            labels.append(group % 3)
    split = choose_split(dataset(list(labels), list(groups)), DataSettings(split="grouped"), 1)
    sides = [{groups[int(n[1:])] for n in part} for part in (split.train, split.test)]
    assert not sides[0] & sides[1]
    for label in range(3):
        tested = sum(labels[int(n[1:])] == label for n in split.test)
        assert abs(tested - 0.3 * labels.count(label)) <= 4


@pytest.mark.parametrize(
    ("split", "complaint"),
    [
        (given_split("", "1"), "the train part of split given is empty"),
        (given_split("0", ""), "the test part of split given is empty"),
        (given_split("0 1", "1"), r"'s001' is in train and in test of split given \(1 such names\)"),
        (given_split("0 9", "1"), "'s009' is not an image of the data set"),
        (given_split("0 0", "1"), "'s000' is listed twice"),
    ],
)
def test_unsound_splits(split, complaint):
    with pytest.raises(SplitError, match=complaint):
        check_split(dataset([0, 0, 0]), "given", split)


def test_unsound_split_names_its_file(tmp_path):
    for name in "ab":
        for folder in ("images", "masks", "splits"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("L", (8, 8), 1).save(tmp_path / "images" / f"{name}.png")
        Image.new("L", (8, 8), 1).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "splits" / "train_grouped.txt").write_text("a\nb\n")
    (tmp_path / "splits" / "test_grouped.txt").write_text("b\n")
    with pytest.raises(SplitError, match=r"splits.train_grouped\.txt and .*test_grouped\.txt: 'b' is in train"):
        choose_split(open_dataset(tmp_path), DataSettings(), 0)
    (tmp_path / "splits" / "test_grouped.txt").write_text("")
    with pytest.raises(SplitError, match=r"splits.test_grouped\.txt: the test part of split grouped is empty"):
        choose_split(open_dataset(tmp_path), DataSettings(), 0)


units = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([None, 0, 1, 2]), st.floats(0, 1)), min_size=2, max_size=40
).map(lambda rows: [Unit(f"u{k}", *row) for k, row in enumerate(rows)])


@given(units=units, fraction=st.floats(0.05, 0.95), seed=st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_pick_takes_about_the_share_and_leaves_some(units, fraction, seed):
    taken = pick(units, fraction, seed)
    assert 0 < len(taken) < len(units)
    size = sum(u.size for u in units if u.name in taken)
    assert abs(size - fraction * sum(u.size for u in units)) <= max(u.size for u in units)
    assert taken == pick(units[::-1], fraction, seed)


@needs_real
def test_magnetic_tiles_are_split_by_tile():
    data = open_dataset(REAL / "MT")
    group = {s.name: s.group for s in data.samples}
    for choice in ("auto", "grouped"):
        split = choose_split(data, DataSettings(split=choice), 0)
        assert (len(split.train), len(split.test)) == (269, 119)
        assert not {group[n] for n in split.train} & {group[n] for n in split.test}
    leaking = choose_split(data, DataSettings(split="given"), 0)
    trained = {group[n] for n in leaking.train}
    assert sum(group[n] in trained for n in leaking.test) == 117
