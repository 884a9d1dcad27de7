import json
import os
from datetime import UTC, datetime

import pytest

from orchestrator.runs import (
    BrokenRunError,
    RunExistsError,
    RunNameError,
    RunNotFoundError,
    RunRecord,
    TrialRecord,
    create_run,
    find_run,
    is_running,
    list_runs,
    lock_run,
    new_run_id,
    read_run,
    trial_folder,
    trial_state,
    unfinished,
)


def test_a_run_folder_holds_what_was_asked(make_run):
    run = make_run("A", "B")
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "run.json", "trials"]
    assert read_run(run).trials == (
        TrialRecord("A-s0", "A", 0, "asdet"),
        TrialRecord("B-s0", "B", 0, "asdet"),
    )
    assert json.loads((trial_folder(run, "B-s0") / "trial.json").read_text())["name"] == "B"


def test_creation_that_fails_half_way_leaves_nothing(tmp_path):
    record = RunRecord("r", "asdet", "2026-01-01T00:00:00+00:00", "test", "0", ())
    with pytest.raises(TypeError):
        create_run(tmp_path / "runs", record, "{}\n", {"A-s0": {"not": {1, 2}}})
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_is_not_made_twice_nor_under_a_name_that_is_none(make_run):
    make_run("A", run_id="once")
    with pytest.raises(RunExistsError, match="resume once"):
        make_run("A", run_id="once")
    with pytest.raises(RunNameError, match="letters, digits"):
        make_run("A", run_id="../out")


def test_ids_are_of_time_and_method_and_new(tmp_path):
    now = datetime(2026, 11, 21, 21, 46, 55, tzinfo=UTC)
    first = new_run_id(tmp_path, "asdet", now)
    (tmp_path / first).mkdir()
    assert (first, new_run_id(tmp_path, "asdet", now)) == ("20261121-214655-asdet", "20261121-214655-asdet-2")


def test_runs_are_listed_by_name_and_other_folders_are_none(make_run, tmp_path):
    make_run("A", run_id="old", created="2026-01-01T00:00:00+00:00")
    make_run("A", run_id="new", created="2026-02-01T00:00:00+00:00")
    (tmp_path / "runs" / "packs").mkdir()
    (tmp_path / "runs" / "old" / "run.json").write_text("damaged")
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["new", "old"]
    with pytest.raises(RunNotFoundError, match="did you mean old"):
        find_run("olb", tmp_path / "runs")
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_is_found_by_id_and_by_path(make_run, tmp_path, monkeypatch):
    run = make_run("A", run_id="mine")
    monkeypatch.chdir(tmp_path)
    assert find_run("mine", tmp_path / "runs") == run
    assert find_run("runs/mine", tmp_path / "elsewhere") == run
    with pytest.raises(RunNotFoundError, match="did you mean mine"):
        find_run("mine2", tmp_path / "runs")
    with pytest.raises(RunNotFoundError, match="holds no run"):
        find_run("mine", tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["", '{"id": "r"', "[]", '{"id": "r", "trials": []}', '{"trials": [{"name": 1}]}'])
def test_a_damaged_record_is_named(make_run, text):
    run = make_run("A")
    (run / "run.json").write_text(text)
    with pytest.raises(BrokenRunError, match=r"run\.json"):
        read_run(run)


def test_the_state_of_a_trial_is_read_off_its_files(make_run, finish):
    run = make_run("A")
    folder = trial_folder(run, "A-s0")
    assert trial_state(folder, running=True) == "running"
    assert trial_state(folder, running=False) == "stopped"
    (folder / "error.txt").write_text("why")
    assert trial_state(folder, running=True) == "failed"
    finish(run, "A-s0")
    assert trial_state(folder, running=False) == "done"


def test_failed_and_stopped_trials_are_unfinished(make_run, finish):
    run = make_run("A", "B", "C")
    finish(run, "A-s0")
    (trial_folder(run, "B-s0") / "error.txt").write_text("why")
    assert [trial.name for trial in unfinished(run, read_run(run).trials)] == ["B-s0", "C-s0"]


def test_a_run_runs_while_it_is_locked(make_run):
    run = make_run("A")
    assert not is_running(run)
    with lock_run(run):
        assert is_running(run)
        assert json.loads((run / "lock").read_text())["pid"] == os.getpid()
    assert not is_running(run)
