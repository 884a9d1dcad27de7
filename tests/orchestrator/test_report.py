import io
import json

import pytest
from rich.console import Console

from orchestrator.report import result_of, results_in, run_summary, runs_table, trials_table
from orchestrator.runs import BrokenRunError, RunRecord, TrialRecord, create_run, lock_run


def shown(table, width=140) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def compared(tmp_path, finish):
    records = (TrialRecord("A-s0", "A", 0, "asdet"), TrialRecord("A-random-s0", "A", 0, "random"))
    record = RunRecord("r", "asdet", "2026-01-01T00:00:00+00:00", "test", "0", records)
    run = create_run(tmp_path / "runs", record, "{}\n", {r.name: {} for r in records})
    nothing = {"iou_image": 0.125}
    finish(run, "A-s0", iou=0.5, search_seconds=3661.0, retrain_seconds=61.0, flops=4e9, nothing=nothing)
    finish(run, "A-random-s0", iou=0.375, nothing=nothing)
    return run


def test_json_of_a_search_has_exactly_the_promised_keys(make_run, finish):
    run = make_run("A", "B")
    finish(run, "A-s0", search_seconds=1.5, retrain_seconds=float("nan"), more="left out")
    values = result_of(run).to_dict()
    json.dumps(values, allow_nan=False)
    assert list(values) == ["run", "trials"]
    assert values["trials"][0] == {
        "data": "A", "seed": 0, "method": "asdet", "state": "done", "iou": 0.5, "f1": 0.6, "pa": 0.7,
        "parameters": 1_000_000, "macs": 2_000_000_000, "search_seconds": 1.5, "retrain_seconds": None,
        "folder": str(run / "trials" / "A-s0"),
    }  # fmt: skip
    assert (values["trials"][1]["state"], values["trials"][1]["iou"]) == ("stopped", None)


def test_states_follow_the_lock(make_run):
    run = make_run("A")
    with lock_run(run):
        assert result_of(run).trials[0].state == "running"
    assert result_of(run).trials[0].state == "stopped"


def test_the_table_shows_percent_cost_time_and_both_comparisons(compared):
    text = shown(trials_table(result_of(compared).trials))
    row = next(line for line in text.splitlines() if "asdet" in line).replace("│", " ").split()
    assert row[:7] == ["A", "0", "asdet", "done", "50.0", "60.0", "70.0"]
    assert row[7:] == ["1.000", "2.000", "4.000", "1:01:01", "1:01", "12.5", "37.5"]
    assert "h:m:s" in text
    assert "two-class mean IoU" in text


def test_the_table_fits_a_usual_terminal_without_losing_a_score(compared):
    text = shown(trials_table(result_of(compared).trials), width=100)
    assert all(value in text for value in ("50.0", "60.0", "70.0", "12.5", "37.5"))


def test_the_best_trial_and_the_failed_ones(make_run, finish):
    run = make_run("A", "B", "C")
    finish(run, "A-s0", iou=0.2)
    finish(run, "B-s0", iou=0.4)
    (run / "trials" / "C-s0" / "error.txt").write_text("why\n")
    result = result_of(run)
    assert result.best.data == "B"
    assert [trial.data for trial in result.failed] == ["C"]
    assert run_summary(result)["states"] == {"done": 2, "failed": 1}
    assert run_summary(result)["best_iou"] == 0.4


def test_the_list_of_runs(make_run, finish, tmp_path):
    make_run("A", run_id="old", created="2026-01-01T10:20:30+00:00")
    finish(make_run("A", "B", run_id="new", created="2026-02-01T10:20:30+00:00"), "B-s0", iou=0.4)
    lines = shown(runs_table(results_in(tmp_path / "runs"))).replace("│", " ").splitlines()
    new, old = [line.split() for line in lines if "asdet" in line]
    assert new[:6] == ["new", "2026-02-01", "10:20", "asdet", "A,", "B"]
    assert new[6:] == ["1", "stopped,", "1", "done", "40.0", "1.000", "2.000"]
    assert old == ["old", "2026-01-01", "10:20", "asdet", "A", "1", "stopped"]


def test_damaged_metrics_are_named(make_run):
    run = make_run("A")
    (run / "trials" / "A-s0" / "metrics.json").write_text('{"iou": 0.')
    with pytest.raises(BrokenRunError, match=r"A-s0/metrics\.json: damaged"):
        result_of(run)
