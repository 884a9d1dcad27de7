"""The best candidate under a latency, read off a finished search."""

import json

import pytest

from orchestrator.candidates import NoCandidates, best_of
from orchestrator.runs import RunRecord, TrialRecord, create_run, trial_folder


def make(tmp_path, candidates, method="autonad"):
    trials = (TrialRecord("A-s0", "A", 0, method),)
    record = RunRecord("r", method, "2026-01-01T00:00:00+00:00", "test", "0", trials)
    run = create_run(tmp_path / "runs", record, "{}\n", {"A-s0": {}})
    lines = [
        {
            "digest": f"{number:064x}",
            "architecture": {"kind": "hybrid"},
            "number": number,
            "latency_ms": latency_ms,
            "parameters": 10,
            "feasible": miou is not None,
            "score": miou and {"miou": miou},
        }
        for number, (latency_ms, miou) in enumerate(candidates)
    ]
    folder = trial_folder(run, "A-s0")
    if candidates:
        (folder / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "candidates.json").write_text(json.dumps({"best": lines[0]["digest"], "front": []}))
    return run


def test_without_a_limit_it_is_what_the_search_chose(tmp_path):
    (found,) = best_of(make(tmp_path, [(5.0, 0.6), (9.0, 0.7)]), None)
    assert (found.latency_ms, found.miou, found.scored, found.retrained_miou) == (5.0, 0.6, 2, None)


@pytest.mark.parametrize(("under", "miou"), [(5.0, 0.6), (8.9, 0.6), (9.0, 0.7), (99.0, 0.7)])
def test_under_a_limit_it_is_the_highest_miou_that_is_as_fast(tmp_path, under, miou):
    (found,) = best_of(make(tmp_path, [(5.0, 0.6), (9.0, 0.7), (1.0, None), (8.0, 0.5)]), under)
    assert found.miou == miou


def test_retrainings_are_averaged(tmp_path):
    run = make(tmp_path, [(5.0, 0.6)])
    for seed, miou in enumerate((0.7, 0.9)):
        folder = trial_folder(run, "A-s0") / "finalists" / f"00000000-s{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"miou": miou}))
    assert best_of(run, None)[0].retrained_miou == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("candidates", "method", "under", "said"),
    [
        ([(5.0, 0.6)], "autonad", 4.0, "the fastest candidate of A takes 5.0 ms"),
        ([], "autonad", None, "no scored candidates yet; go on with: defectnas resume r"),
        ([(5.0, 0.6)], "asdet", None, "best is for runs of autonad"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(tmp_path, candidates, method, under, said):
    with pytest.raises(NoCandidates, match=said):
        best_of(make(tmp_path, candidates, method), under)


def test_a_search_that_was_cut_off_answers_from_what_it_has(tmp_path):
    run = make(tmp_path, [(5.0, 0.6), (9.0, 0.7)])
    folder = trial_folder(run, "A-s0")
    (folder / "candidates.json").unlink()
    with (folder / "candidates.jsonl").open("a") as file:
        file.write('{"digest": "half a li')
    assert best_of(run, 20.0)[0].scored == 2
    with pytest.raises(NoCandidates, match="has not chosen yet; give --under, or go on with: defectnas resume r"):
        best_of(run, None)
    (folder / "candidates.jsonl").write_text("{}\n")
    with pytest.raises(NoCandidates, match=r"candidates\.jsonl: not a file of candidates"):
        best_of(run, 20.0)


def test_a_trial_without_an_answer_does_not_hide_the_others(tmp_path):
    trials = tuple(TrialRecord(f"{name}-s0", name, 0, "autonad") for name in "AB")
    whole = trial_folder(make(tmp_path, [(5.0, 0.6)]), "A-s0")
    record = RunRecord("two", "autonad", "2026-01-01T00:00:00+00:00", "test", "0", trials)
    run = create_run(tmp_path / "runs", record, "{}\n", {"A-s0": {}, "B-s0": {}})
    for path in whole.glob("candidates.*"):
        (trial_folder(run, "A-s0") / path.name).write_bytes(path.read_bytes())
    told = []
    assert [row.data for row in best_of(run, None, told.append)] == ["A"]
    assert len(told) == 1
    assert "B-s0" in told[0]
