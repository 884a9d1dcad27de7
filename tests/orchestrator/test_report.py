import json

import pytest

from orchestrator.report import result_of, run_summary
from orchestrator.runs import BrokenRunError, lock_run


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


def test_damaged_metrics_are_named(make_run):
    run = make_run("A")
    (run / "trials" / "A-s0" / "metrics.json").write_text('{"iou": 0.')
    with pytest.raises(BrokenRunError, match=r"A-s0/metrics\.json: damaged"):
        result_of(run)
