"""Batches are a function of their key; the training tiles are divided by image and part."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from search.data.loaders import TooFewTilesError, batches, divide, seed_of
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.settings import DataSettings

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "datasets"
ALL = ("hflip", "vflip", "rotate90", "brightness", "contrast", "noise")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    dataset = open_dataset(write_dataset(root / "surfaces", 24, 48, seed=0))
    settings = DataSettings(image_size=32, window=32, stride=16, task="multiclass")
    return build_pack(dataset, settings, 0, root / "cache")


def run(pack, indices=None, batch=4, **changes):
    indices = np.arange(len(pack.train.tiles)) if indices is None else indices
    arguments = {"key": (0, "weights", 1, 1), "shuffle": True, "drop_last": False, **changes}
    return list(batches(pack.train, indices, batch, pack=pack, **arguments))


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_values_and_types(pack):
    images, masks = run(pack, shuffle=False)[0]
    assert (images.dtype, masks.dtype) == (torch.float32, torch.int64)
    assert (tuple(images.shape), tuple(masks.shape)) == ((4, 1, 32, 32), (4, 32, 32))
    raw = torch.from_numpy(pack.train.images[:4].copy()).permute(0, 3, 1, 2).double() / 255
    torch.testing.assert_close(images.double(), (raw - pack.mean[0]) / pack.std[0], rtol=0, atol=1e-5)
    assert np.array_equal(masks.numpy(), pack.train.masks[:4])


def test_the_whole_set_is_normalised(pack):
    images = torch.cat([x for x, _ in run(pack)])
    assert abs(images.mean().item()) < 1e-4
    assert abs(images.std().item() - 1) < 1e-3


def test_every_tile_comes_once_and_image_and_mask_stay_together(pack):
    by_mask = {}
    for index, (image, mask) in enumerate(zip(pack.train.images, pack.train.masks, strict=True)):
        by_mask.setdefault((image.tobytes(), mask.tobytes()), []).append(index)
    seen = []
    for images, masks in run(pack):
        raw = (images * pack.std[0] + pack.mean[0]).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
        for image, mask in zip(raw, masks.numpy().astype(np.uint8), strict=True):
            seen.append(by_mask[image.tobytes(), mask.tobytes()].pop())
    assert sorted(seen) == list(range(len(pack.train.tiles)))
    assert seen != sorted(seen)


def test_the_same_key_gives_the_same_batches_and_another_another(pack):
    first = run(pack, augment=ALL)
    torch.rand(7)  # The global random state plays no part.
    assert equal(run(pack, augment=ALL), first)
    assert not equal(run(pack, augment=ALL, key=(0, "weights", 1, 2)), first)
    assert not equal(run(pack, augment=ALL, key=(0, "alphas", 1, 1)), first)


def test_the_global_random_state_is_untouched(pack):
    torch.manual_seed(5)
    np.random.seed(5)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(pack, augment=ALL)
    divide(pack.train, 0.5, 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_seeds_are_the_same_in_another_process():
    code = "from search.data.loaders import seed_of; print(seed_of(0, 'weights', 1, 2))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(done.stdout) == seed_of(0, "weights", 1, 2)
    assert len({seed_of(0, 1), seed_of(1, 0), seed_of("0", 1), seed_of(0, 1, 0), seed_of(11)}) == 5


def test_drop_last(pack):
    indices = np.arange(10)
    assert [len(x) for x, _ in run(pack, indices)] == [4, 4, 2]
    assert [len(x) for x, _ in run(pack, indices, drop_last=True)] == [4, 4]


def test_too_few_tiles(pack):
    with pytest.raises(TooFewTilesError, match="3 tiles do not fill one batch of 4"):
        run(pack, np.arange(3), drop_last=True)
    with pytest.raises(TooFewTilesError, match="0 tiles"):
        run(pack, np.arange(0))


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_division_is_by_part(pack, fraction, seed):
    rest, taken = divide(pack.train, fraction, seed)
    tiles, sources = pack.train.tiles, pack.train.sources
    assert np.array_equal(np.sort(np.concatenate([rest, taken])), np.arange(len(tiles)))
    groups = [{sources[tiles[i].source].group for i in side} for side in (rest, taken)]
    assert not groups[0] & groups[1]
    assert None not in groups[0] | groups[1]
    assert abs(len(taken) / len(tiles) - fraction) < 0.15
    # Every class occurs on both sides.
    assert all(set(np.unique(pack.train.masks[side])) == {0, 1, 2, 3} for side in (rest, taken))
    again = divide(pack.train, fraction, seed)
    assert np.array_equal(again[0], rest)
    assert np.array_equal(again[1], taken)


def test_division_depends_on_the_seed(pack):
    assert len({divide(pack.train, 0.6, seed)[1].tobytes() for seed in range(5)}) > 1


def test_one_part_cannot_be_divided(tmp_path):
    root = write_dataset(tmp_path / "surfaces", 8, 48, seed=0)
    (root / "splits" / "train_grouped.txt").write_text("crack_000_0\ncrack_000_1\n")
    (root / "splits" / "test_grouped.txt").write_text("spot_001_0\n")
    pack = build_pack(open_dataset(root), DataSettings(image_size=32), 0, tmp_path / "cache")
    with pytest.raises(TooFewTilesError, match=r"data\.alpha_fraction: all training tiles show one part"):
        divide(pack.train, 0.6, 0)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no data sets at {REAL}")
@pytest.mark.parametrize("name", ["KSDD", "MT"])
def test_real_sets_are_divided_near_six_to_four(tmp_path, name):
    pack = build_pack(open_dataset(REAL / name), DataSettings(image_size=32), 0, tmp_path)
    rest, taken = divide(pack.train, 0.6, 0)
    tiles, sources = pack.train.tiles, pack.train.sources
    images = [{tiles[i].source for i in side} for side in (rest, taken)]
    assert not images[0] & images[1]
    assert abs(len(images[1]) / len(sources) - 0.6) < 0.03
    defects = [pack.train.masks[side].mean() for side in (rest, taken)]
    assert 0.5 < defects[0] / defects[1] < 2
