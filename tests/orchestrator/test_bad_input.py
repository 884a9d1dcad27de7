"""Every kind of bad input ends a search before it begins: one line, exit code 2, no run and no pack."""

import errno
import os
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator import api, cli


@pytest.fixture
def folder(surfaces, tmp_path, monkeypatch):
    """A copy of a good data set, to be spoilt, below the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "search", partial(api.search, function="trial_doubles:chosen"))
    shutil.copytree(surfaces / "good", tmp_path / "data")
    return tmp_path / "data"


def searched(*words):
    begin = ["search", "asdet", "--data", "data", "--budget", "smoke", "--set", "data.image_size=32"]
    words = [*begin, "--no-ray", "--no-tracking", "--quiet", *words]
    return CliRunner().invoke(cli.app, words, prog_name="defectnas")


def refused(done, *parts):
    assert done.exit_code == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("defectnas: ")
    assert [part for part in parts if part not in lines[0]] == [], lines[0]


def first(folder, kind):
    return min((folder / kind).iterdir())


def no_masks(folder):
    for mask in (folder / "masks").iterdir():
        mask.unlink()
    return ("data", "mask")


def value_beyond_the_classes(folder):
    (folder / "meta.csv").unlink()
    (folder / "classes.txt").write_text("scratch\n")
    for mask in (folder / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(mask)) > 0).astype(np.uint8)).save(mask)
    path = first(folder, "masks")
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(path)
    return (str(path.name), "3")


def other_size(folder):
    path = first(folder, "masks")
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(path)
    return (path.name, "32x16", "32x32")


def zero_bytes(folder):
    path = first(folder, "images")
    path.write_bytes(b"")
    return (path.name, "0 bytes")


def lists(folder, train, test):
    for old in (folder / "splits").glob("*.txt") if (folder / "splits").exists() else ():
        old.unlink()
    (folder / "splits").mkdir(exist_ok=True)
    (folder / "splits" / "train.txt").write_bytes(train)
    (folder / "splits" / "test.txt").write_bytes(test)


def names(folder):
    return [path.stem.encode() for path in sorted((folder / "images").iterdir())]


def empty_split(folder):
    lists(folder, b"\n".join(names(folder)), b"# nothing\n")
    return ("test.txt", "empty")


def overlapping_splits(folder):
    every = names(folder)
    lists(folder, b"\n".join(every[:5]), b"\n".join(every[4:]))
    return (every[4].decode(), "in train and in test")


def split_in_another_encoding(folder):
    every = names(folder)
    lists(folder, b"\n".join(every[:5]), every[5] + b"\nr\xe4u\n")
    return ("test.txt row 2", "not UTF-8")


def classes_in_another_encoding(folder):
    (folder / "meta.csv").unlink()
    (folder / "classes.txt").write_bytes(b"Kratzer\nL\xf6cher\n")
    return ("classes.txt row 2", "not UTF-8")


def meta_in_another_encoding(folder):
    (folder / "meta.csv").write_bytes(b"name,part_group\n" + names(folder)[0] + b",r\xe4u\n")
    return ("meta.csv row 2", "not UTF-8")


def meta_without_a_name(folder):
    (folder / "meta.csv").write_bytes(b"part_group,name\na," + names(folder)[0] + b",too,many\nb\n")
    return ("meta.csv row 3", "no name")


@pytest.mark.parametrize(
    "spoil",
    [
        no_masks,
        value_beyond_the_classes,
        other_size,
        zero_bytes,
        empty_split,
        overlapping_splits,
        split_in_another_encoding,
        classes_in_another_encoding,
        meta_in_another_encoding,
        meta_without_a_name,
    ],
)
def test_a_spoilt_data_set_is_named_and_nothing_is_left(folder, spoil):
    parts = spoil(folder)
    refused(searched(), *parts)
    runs = folder.parent / "runs"
    assert [path for path in runs.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert list(runs.glob("packs/*")) == []
    assert not (runs / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--set", "search.epoch=5"), ("--set", "search.epoch", "did you mean search.epochs?")),
        (("--set", "search.momentum=1"), ("--set", "search.momentum", "1", "below 1")),
        (("--set", "data.image_size=33"), ("data.image_size", "33", "a multiple of 8")),
        (("--budget", "foo"), ("--budget", "'foo'", "'smoke'", "defectnas search --help")),
        (("--bugdet", "smoke"), ("--bugdet", "--budget")),
        (("--seeds", "many"), ("--seeds",)),
        (("more",), ("more",)),
    ],
)
def test_a_wrong_setting_or_option_is_named_and_nothing_is_left(folder, words, parts):
    refused(searched(*words), *parts)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["data"]


@pytest.mark.parametrize("words", [["serch"], ["--wrong"], ["data", "chek"], ["search", "darts"], ["resume"]])
def test_a_wrong_command_is_one_line(words):
    refused(CliRunner().invoke(cli.app, words, prog_name="defectnas"), "--help")


def test_help_in_place_of_a_missing_command_is_whole():
    done = CliRunner().invoke(cli.app, [], prog_name="defectnas")
    assert done.exit_code == 2
    assert "Usage: defectnas" in done.output
    assert "resume" in done.output


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.EACCES, "runs/x: permission denied"),
        (errno.EROFS, "runs/x: read-only file system"),
        (errno.EDQUOT, "the disk is full (runs/x)"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(folder, monkeypatch, number, line):
    def unusable(*_, **__):
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setattr(api, "search", unusable)
    done = searched()
    assert (done.exit_code, done.stderr) == (2, f"defectnas: {line}\n")


def test_an_error_of_the_system_that_names_no_file_is_not_taken_for_bad_input(folder, monkeypatch):
    def broken(*_, **__):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(api, "search", broken)
    assert isinstance(searched().exception, ConnectionResetError)


def test_a_path_below_a_file_is_named(folder):
    (folder.parent / "runs").write_text("not a folder")
    refused(searched(), "runs")
