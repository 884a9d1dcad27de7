"""Names that come from users and files stay in the folder that they are put in."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusters.command import make_job
from orchestrator.config import ConfigError, Layer, resolve
from orchestrator.runs import (
    BrokenRunError,
    RunNameError,
    RunRecord,
    TrialRecord,
    check_name,
    create_run,
    read_run,
    trial_folder,
)
from search.errors import InputError

PARTS = st.sampled_from(["..", ".", "/", "\\", "~", "a", "-", "\0", "\n", " ", "s0", "%2e%2e", "$HOME", "/etc", "://"])
NAMES = st.one_of(st.lists(PARTS, max_size=6).map("".join), st.text(max_size=12))
RUNS = Path("/nowhere/runs")


def outside(folder: Path, path: Path) -> bool:
    """Return whether a path is not a child of the folder itself, links and dots resolved."""
    return path.resolve().parent != folder.resolve()


@settings(deadline=None)
@given(NAMES)
@example("..")
@example(".")
@example("")
@example("a\n")
@example("/etc/passwd")
def test_a_run_or_a_trial_is_in_its_folder_or_refused(name):
    try:
        check_name(RUNS, name)
    except RunNameError:
        pass
    else:
        assert not outside(RUNS, RUNS / name)
    try:
        folder = trial_folder(RUNS / "r", name)
    except RunNameError:
        pass
    else:
        assert not outside(RUNS / "r" / "trials", folder)


@settings(deadline=None)
@given(NAMES)
@example("..")
@example(".hidden")
def test_a_data_set_has_a_name_that_is_no_path_or_is_refused(name):
    try:
        launch = resolve([Layer("test", {"data_sets": [{"path": "/data/x", "name": name}]})], budget="smoke")
    except ConfigError:
        return
    for trial in launch.trials():
        assert not outside(RUNS / "r" / "trials", trial_folder(RUNS / "r", trial.record.name))
        assert not outside(RUNS, RUNS / trial.data_set.name)


@settings(deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=8).map("".join))
@example("/..")
@example("/data/..")
def test_a_name_that_is_made_of_a_folder_is_no_path(path):
    try:
        launch = resolve([Layer("test", {"data_sets": [{"path": path}]})], budget="smoke")
    except ConfigError:
        return
    assert not outside(RUNS, RUNS / launch.data_sets[0].name)


@settings(deadline=None)
@given(NAMES)
@example("../../x")
def test_the_job_of_a_cluster_has_a_plain_id_or_is_refused(name):
    try:
        job = make_job(["search", "autonad", "--data", "/d"], name, 1, "defectnas")
    except ValueError:
        return
    assert not outside(RUNS, RUNS / job.id)
    assert not outside(RUNS, RUNS / job.run)


@pytest.mark.parametrize("name", ["../../../out", "..", "/tmp/out", "a/b", ""])
def test_a_run_folder_whose_record_names_a_place_outside_is_refused(make_run, name):
    run = make_run("A")
    values = json.loads((run / "run.json").read_text())
    values["trials"][0]["name"] = name
    (run / "run.json").write_text(json.dumps(values))
    with pytest.raises(BrokenRunError, match="not the record of a run"):
        read_run(run)


def test_no_run_is_made_with_a_trial_outside(tmp_path):
    record = RunRecord("r", "asdet", "2026-01-01T00:00:00+00:00", "test", "0", (TrialRecord("../x", "x", 0, "asdet"),))
    with pytest.raises(InputError):
        create_run(tmp_path / "runs", record, "{}\n", {"../x": {}})
    assert list((tmp_path / "runs").iterdir()) == []
    with pytest.raises(RunNameError):
        create_run(tmp_path / "runs", dataclasses.replace(record, id="../r"), "{}\n", {})


def test_lists_of_a_data_set_open_no_file_outside_of_it(tmp_path):
    from search.data.readers import open_dataset
    from search.data.synthetic import write_dataset

    secret = tmp_path / "secret.png"
    folder = write_dataset(tmp_path / "set", images=8, size=32)
    data = next(folder.rglob("*.png")).read_bytes()
    secret.write_bytes(data)
    for path in folder.rglob("train*.txt"):
        path.write_text(path.read_text() + "../../secret.png\n/etc/passwd\n../secret\n")
    try:
        data_set = open_dataset(folder, "auto")
    except InputError:
        return
    for sample in data_set.samples:
        assert folder.resolve() in sample.image.resolve().parents
        assert sample.mask is None or folder.resolve() in sample.mask.resolve().parents
