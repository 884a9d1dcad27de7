"""Packs: what goes in comes out, they are found again, and damage is noticed."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from search.data.images import UnreadableImageError
from search.data.pack import BrokenPackError, NoDefectsError, Pack, PackWriteError, build_pack, open_pack
from search.data.readers import open_dataset, read_image, read_mask
from search.data.resize import resize_image, resize_mask
from search.data.splits import SplitError, choose_split
from search.data.synthetic import write_dataset
from search.data.windows import cut
from search.settings import DataSettings

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "datasets"
SMALL = DataSettings(image_size=32)


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    return open_dataset(write_dataset(tmp_path_factory.mktemp("data") / "surfaces", 16, 48, seed=0))


@pytest.fixture(scope="module")
def pack(surfaces, tmp_path_factory) -> Pack:
    return build_pack(surfaces, SMALL, 0, tmp_path_factory.mktemp("cache"))


def assert_holds(pack, dataset, data_settings, seed):
    """The pack holds what reading, splitting, cutting and shrinking one after the other give."""
    split = choose_split(dataset, data_settings, seed)
    by_name = {s.name: s for s in dataset.samples}
    for part, names in {"train": split.train, "test": split.test}.items():
        tiles = getattr(pack, part)
        assert [s.name for s in tiles.sources] == list(names)
        number = 0
        for index, name in enumerate(names):
            image = read_image(by_name[name], data_settings.colour)
            mask = read_mask(dataset, by_name[name])
            mask = (mask > 0).astype(np.uint8) if data_settings.task == "binary" else mask
            assert np.array_equal(tiles.picture(index), image)
            assert np.array_equal(tiles.truth(index), mask)
            assert (tiles.sources[index].height, tiles.sources[index].width) == mask.shape
            assert tiles.sources[index].group == by_name[name].group
            for tile in cut(*mask.shape, data_settings.window, data_settings.stride, index):
                assert tiles.tiles[number] == tile
                part_of = (slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width))
                size = data_settings.image_size
                assert np.array_equal(tiles.images[number], resize_image(image[part_of], size))
                assert np.array_equal(tiles.masks[number], resize_mask(mask[part_of], size))
                number += 1
        assert number == len(tiles.tiles) == len(tiles.images) == len(tiles.masks)


def test_what_goes_in_comes_out(surfaces, pack):
    assert_holds(pack, surfaces, SMALL, 0)
    assert (pack.name, pack.classes, pack.split) == ("surfaces", ("defect",), "grouped")
    assert (pack.image_size, pack.colour_channels) == (32, 1)


@given(
    sizes=st.lists(st.tuples(st.integers(3, 70), st.integers(3, 70)), min_size=3, max_size=5),
    window=st.one_of(st.integers(16, 40), st.sampled_from(["auto", "off"])),
    colour=st.sampled_from(["grey", "rgb"]),
    task=st.sampled_from(["binary", "multiclass"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_of_any_sizes_and_settings(tmp_path_factory, sizes, window, colour, task, seed):
    root = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(seed)
    for k, (height, width) in enumerate(sizes):
        mask = rng.integers(0, 3, (height, width), dtype=np.uint8)
        mask[0, 0] = 2
        for folder, values in (
            ("images", rng.integers(0, 256, (height, width, 3), np.uint8)),
            ("masks", mask),
        ):
            (root / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / "set" / folder / f"s{k}.png")
    data_settings = DataSettings(image_size=32, window=window, colour=colour, task=task)
    dataset = open_dataset(root / "set")
    pack = build_pack(dataset, data_settings, seed, root / "cache")
    assert pack.classes == (("defect",) if task == "binary" else ("class1", "class2"))
    assert_holds(pack, dataset, data_settings, seed)


def test_tiles_are_mapped_and_read_only(pack):
    before = pa.total_allocated_bytes()
    again = open_pack(pack.folder)
    # Nothing of the size of the pixels is held in memory: they stay in the file.
    assert pa.total_allocated_bytes() - before < again.train.images.nbytes
    for array in (again.train.images, again.train.masks, again.test.truth(0), again.test.picture(0)):
        assert not array.flags.writeable
        assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        again.train.images[0, 0, 0, 0] = 1


def test_mean_and_std_are_those_of_the_training_tiles(pack):
    values = pack.train.images.reshape(-1, pack.colour_channels) / 255
    np.testing.assert_allclose(pack.mean, values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(pack.std, values.std(axis=0), rtol=1e-9)


def test_a_known_pack_is_found_again(surfaces, pack):
    written = {p: p.stat().st_mtime_ns for p in pack.folder.iterdir()}
    calls = []
    again = build_pack(surfaces, SMALL, 0, pack.folder.parent, lambda *at: calls.append(at))
    assert (again.folder, again.digest, calls) == (pack.folder, pack.digest, [])
    assert {p: p.stat().st_mtime_ns for p in pack.folder.iterdir()} == written
    # Neither the seed, where the split is given, nor settings that pixels do not depend on make another pack.
    same = replace(SMALL, augment=("hflip",), alpha_fraction=0.3)
    assert build_pack(surfaces, same, 5, pack.folder.parent).folder == pack.folder


def test_whatever_changes_the_content_makes_another_pack(surfaces, pack, tmp_path):
    changes = (
        {"image_size": 64},
        {"colour": "rgb"},
        {"task": "multiclass"},
        {"split": "given"},
        {"split": "random"},
        {"window": 32},
        {"window": 32, "stride": 8},
    )
    packs = [build_pack(surfaces, replace(SMALL, **c), 0, tmp_path) for c in changes]
    packs.append(build_pack(surfaces, replace(SMALL, split="random"), 1, tmp_path))
    assert len({p.folder for p in packs}) == len(packs) == len({p.digest for p in packs} - {pack.digest})


def test_a_changed_file_makes_another_pack(surfaces, tmp_path):
    root = write_dataset(tmp_path / "surfaces", 16, 48, seed=0)
    first = build_pack(open_dataset(root), SMALL, 0, tmp_path / "cache")
    image = next((root / "images").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    second = build_pack(open_dataset(root), SMALL, 0, tmp_path / "cache")
    assert first.folder != second.folder
    assert first.digest != second.digest


def test_the_digest_is_of_the_content_alone(pack, tmp_path):
    copy = open_dataset(write_dataset(tmp_path / "elsewhere", 16, 48, seed=0))
    other = build_pack(copy, SMALL, 0, tmp_path / "cache")
    assert other.folder.name != pack.folder.name
    assert other.digest == pack.digest


def test_progress_counts_images(surfaces, tmp_path):
    calls = []
    build_pack(surfaces, SMALL, 0, tmp_path, lambda *at: calls.append(at))
    assert calls == [(k, 16) for k in range(1, 17)]


@pytest.mark.parametrize(
    "file", ["meta.json", "train.arrow", "test.arrow", "train_sources.arrow", "test_sources.arrow"]
)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_noticed(surfaces, tmp_path, file, damage):
    pack = build_pack(surfaces, SMALL, 0, tmp_path)
    folder = pack.folder
    pixels = {
        "train.arrow": pack.train.masks,
        "test.arrow": pack.test.images,
        "train_sources.arrow": pack.train.picture(3),
        "test_sources.arrow": pack.test.truth(1),
    }
    content = bytearray((folder / file).read_bytes())
    if damage == "missing":
        (folder / file).unlink()
    elif damage == "truncated":
        (folder / file).write_bytes(content[: len(content) * 2 // 3])
    else:
        at = content.index(b'"std"') + 14 if file == "meta.json" else content.index(pixels[file].tobytes()) + 99
        content[at] ^= 1
        (folder / file).write_bytes(content)
    with pytest.raises(BrokenPackError, match=rf"{folder.name}.*delete the folder"):
        open_pack(folder)
    with pytest.raises(BrokenPackError):
        build_pack(surfaces, SMALL, 0, tmp_path)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_never_passes_as_other_content(pack, tmp_path_factory, where, bit):
    folder = tmp_path_factory.mktemp("flipped")
    for file in pack.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = bytearray((folder / "train.arrow").read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (folder / "train.arrow").write_bytes(content)
    try:
        opened = open_pack(folder)
    except BrokenPackError:
        return
    # Padding between the columns may hold anything.
    assert np.array_equal(opened.train.images, pack.train.images)
    assert np.array_equal(opened.train.masks, pack.train.masks)
    assert opened.train.tiles == pack.train.tiles


def test_no_pack_at_all(tmp_path):
    with pytest.raises(BrokenPackError, match="incomplete or damaged"):
        open_pack(tmp_path)


def test_another_format(pack, tmp_path):
    meta = json.loads((pack.folder / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(BrokenPackError, match="pack of format 99"):
        open_pack(tmp_path)


def test_a_failed_build_leaves_nothing(surfaces, tmp_path):
    root = write_dataset(tmp_path / "surfaces", 16, 48, seed=0)
    victim = sorted((root / "images").iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:500])
    with pytest.raises(UnreadableImageError, match=victim.name):
        build_pack(open_dataset(root), SMALL, 0, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_stopped_build_leaves_nothing(surfaces, tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pack(surfaces, SMALL, 0, tmp_path, stop)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_builds_left_is_removed_after_a_day(surfaces, tmp_path):
    for name, age_s in ((".building-old", 90000), (".building-new", 60)):
        (tmp_path / name).mkdir()
        then = (tmp_path / name).stat().st_mtime - age_s
        os.utime(tmp_path / name, (then, then))
    build_pack(surfaces, SMALL, 0, tmp_path)
    assert sorted(p.name for p in tmp_path.glob(".building-*")) == [".building-new"]


def test_no_defects_to_learn_from(tmp_path):
    root = write_dataset(tmp_path / "surfaces", 16, 48, seed=0)
    for mask in (root / "masks").iterdir():
        Image.new("L", (48, 48)).save(mask)
    with pytest.raises(NoDefectsError, match=r"none of the \d+ training masks has a defect"):
        build_pack(open_dataset(root), SMALL, 0, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unsound_split_makes_no_pack(surfaces, tmp_path):
    with pytest.raises(SplitError):
        build_pack(surfaces, replace(SMALL, split="fold7"), 0, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(surfaces, tmp_path):
    program = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from search.data.pack import PackWriteError, build_pack
        from search.data.readers import open_dataset
        from search.settings import DataSettings
        dataset = open_dataset(Path(sys.argv[1]))
        for limit in (200, 4096, 30000, 60000):  # a limit on file size stops writing as a full disk does
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                build_pack(dataset, DataSettings(image_size=64), 0, Path(sys.argv[2]))
            except PackWriteError as error:
                print(error)
        """
    )
    arguments = [sys.executable, "-c", program, str(surfaces.root), str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("the pack of surfaces cannot be written" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_a_folder(surfaces, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(PackWriteError, match="cache: the pack of surfaces cannot be written"):
        build_pack(surfaces, SMALL, 0, tmp_path / "cache")


def _build_in_process(root: str, cache: str, barrier: object, digests: object) -> None:
    def meet(done: int, total: int) -> None:
        if done == total:
            barrier.wait(60)  # type: ignore[attr-defined]

    pack = build_pack(open_dataset(Path(root)), SMALL, 0, Path(cache), meet)
    digests.put((pack.digest, pack.folder.name))  # type: ignore[attr-defined]


def test_two_processes_that_build_at_once_get_one_pack(surfaces, tmp_path, pack):
    context = multiprocessing.get_context("fork")
    barrier, digests = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_build_in_process, args=(str(surfaces.root), str(tmp_path), barrier, digests))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    results = [digests.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert results == [(pack.digest, pack.folder.name)] * 2
    assert [p.name for p in tmp_path.iterdir()] == [pack.folder.name]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no data sets at {REAL}")
@pytest.mark.parametrize(
    ("name", "changes", "train", "test"),
    [
        ("KSDD", {"split": "given", "window": 500, "stride": 190}, (35, 186), (17, 92)),
        ("KSDD", {}, (36, 173), (16, 78)),
        ("MT", {"window": "off"}, (269, 269), (119, 119)),
        ("SD900", {"task": "multiclass"}, (630, 630), (270, 270)),
    ],
)
def test_real_sets(tmp_path, name, changes, train, test):
    dataset = open_dataset(REAL / name)
    pack = build_pack(dataset, DataSettings(image_size=64, **changes), 0, tmp_path)
    assert (len(pack.train.sources), len(pack.train.tiles)) == train
    assert (len(pack.test.sources), len(pack.test.tiles)) == test
    # No image, and no part where parts are known and respected, is on both sides.
    assert not {s.name for s in pack.train.sources} & {s.name for s in pack.test.sources}
    if pack.split == "grouped":
        assert not {s.group for s in pack.train.sources} & {s.group for s in pack.test.sources}
    assert all(pack.test.truth(k).any() for k in range(len(pack.test.sources)))
    assert int(pack.train.masks.max()) == len(pack.classes)
