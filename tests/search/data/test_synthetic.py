"""Generated surfaces: repeatable, varied, and neither invisible nor trivial."""

import hashlib

import numpy as np
import pytest

from search.data.readers import open_dataset, read_image, read_mask
from search.data.splits import choose_split
from search.data.synthetic import DEFECTS, TEXTURES, NotEmptyError, surface, write_dataset
from search.settings import DataSettings


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("synthetic") / "surfaces", images=48, size=64, seed=1)


def test_the_normal_reader_opens_it(written):
    dataset = open_dataset(written)
    assert (dataset.reader, dataset.classes, len(dataset.samples)) == ("folders", DEFECTS, 48)
    assert set(dataset.splits) == {"given", "grouped"}
    assert {s.label for s in dataset.samples} == {0, 1, 2}
    masks = {s.name: read_mask(dataset, s) for s in dataset.samples}
    assert all(set(np.unique(masks[s.name])) == {0, s.label + 1} for s in dataset.samples)


def test_the_grouped_split_is_sound_and_has_every_class_on_both_sides(written):
    dataset = open_dataset(written)
    by_name = {s.name: s for s in dataset.samples}
    split = choose_split(dataset, DataSettings(), 0)
    assert len(split.train) + len(split.test) == 48
    sides = [[by_name[n] for n in part] for part in (split.train, split.test)]
    assert not {s.group for s in sides[0]} & {s.group for s in sides[1]}
    assert all({s.label for s in side} == {0, 1, 2} for side in sides)


def test_shots_of_a_part_share_the_mask_and_differ_in_light(written):
    dataset = open_dataset(written)
    first, second = dataset.samples[:2]
    assert first.group == second.group
    assert np.array_equal(read_mask(dataset, first), read_mask(dataset, second))
    difference = read_image(first, "grey").astype(int) - read_image(second, "grey")
    assert np.abs(difference).mean() > 2


def test_same_seed_same_files(tmp_path, written):
    again = write_dataset(tmp_path / "again", images=48, size=64, seed=1)
    other = write_dataset(tmp_path / "other", images=48, size=64, seed=2)

    def digest(folder):
        files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        return [(str(p), hashlib.sha256((folder / p).read_bytes()).hexdigest()) for p in files]

    assert digest(again) == digest(written)
    assert digest(other) != digest(written)


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_defects_can_be_seen_but_not_by_a_threshold(texture, defect):
    contrasts, best = [], []
    for seed in range(6):
        image, mask = surface(texture, defect, 96, (seed, 0))
        where = mask.astype(bool)
        assert 0.002 < where.mean() < 0.2
        values = image.astype(float)
        contrasts.append(abs(values[where].mean() - values[~where].mean()) / values[~where].std())
        scores = [
            np.logical_and(guess, where).sum() / np.logical_or(guess, where).sum()
            for level in range(0, 256, 4)
            for guess in (values <= level, values >= level)
        ]
        best.append(max(scores))
    assert np.mean(contrasts) > 0.6
    # Even the threshold that fits each picture best does not do.
    assert np.mean(best) < 0.7


def test_bad_arguments(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotEmptyError, match="holds something already"):
        write_dataset(tmp_path)
    with pytest.raises(ValueError, match="images is 3 and size 64"):
        write_dataset(tmp_path / "new", images=3, size=64)
    assert not (tmp_path / "new").exists()
