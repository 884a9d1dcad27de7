import dataclasses

import pytest

from orchestrator.progress import advance, not_begun
from search.settings import Settings

SETTINGS = dataclasses.replace(
    Settings(),
    search=dataclasses.replace(Settings().search, epochs=2, warmup_epochs=1),
    retrain=dataclasses.replace(Settings().retrain, epochs=4),
)


def epoch(phase: str, step: int, seconds: float, **more):
    known = {"loss": 0.5, "iou": 0.25, "epochs": 2 if phase == "search" else 4}
    return {
        "event": "epoch",
        "phase": phase,
        "step": step,
        "epoch": step,
        "seconds": seconds,
        **known,
        **more,
    }


def after(*events, method="asdet"):
    standing = not_begun(SETTINGS, method)
    for number, event in enumerate(events):
        standing = advance(standing, {"time": 100.0 + number, **event}, now=0.0)
    return standing


def test_a_search_has_four_stages_of_epochs_and_a_retraining():
    assert len(not_begun(SETTINGS, "asdet").costs) == 4 * 2 + 4
    assert len(not_begun(SETTINGS, "random").costs) == 4


def test_phases_follow_the_events():
    events = [
        {"event": "started", "phase": "search"},
        {"event": "stage", "phase": "search", "stage": 1, "stages": 4, "candidates": 11, "epochs": 2},
        epoch("search", 1, 1.0, stage=1, stages=4),
        {"event": "architecture", "parameters": 1, "macs": 1},
        epoch("retrain", 3, 1.0),
        epoch("retrain", 4, 1.0),
        {"event": "finished", "metrics": {"iou": 0.75}},
    ]
    phases = [after(*events[:count]).phase for count in range(len(events) + 1)]
    assert phases == ["waiting", "search", "search", "search", "retrain", "retrain", "test", "done"]
    standing = after(*events)
    assert (standing.iou, standing.started, standing.ended) == (0.75, 100.0, 106.0)
    assert standing.remaining_s() == 0


def test_remaining_time_shrinks_with_the_epochs_and_follows_their_measured_length():
    stage = {"event": "stage", "phase": "search", "stage": 1, "stages": 4, "candidates": 11, "epochs": 2}
    assert after(stage).remaining_s() is None
    first = after(stage, epoch("search", 1, 10.0, stage=1, stages=4))
    # The next epoch alternates weights and alphas and costs more than the first, which only trained weights.
    assert first.remaining_s() > 10.0 * (first.costs[1] / first.costs[0])
    slower = after(stage, epoch("search", 1, 20.0, stage=1, stages=4))
    assert slower.remaining_s() == pytest.approx(2 * first.remaining_s())
    retraining = after(stage, epoch("search", 1, 10.0, stage=1, stages=4), epoch("retrain", 2, 3.0))
    # In retraining its own epochs count: two of four are left.
    assert retraining.remaining_s() == pytest.approx(6.0)


def test_a_resumed_trial_stands_where_its_epochs_do():
    standing = after({"event": "resumed", "phase": "search"}, epoch("search", 7, 1.0, stage=4, stages=4))
    assert standing.done == 7


def test_failure_and_a_new_attempt():
    failed = after({"event": "started", "phase": "search"}, {"event": "failed"})
    assert (failed.phase, failed.ended) == ("failed", 101.0)
    again = advance(failed, {"event": "retried"}, now=110.0)
    assert (again.phase, again.ended) == ("waiting", None)


def test_an_event_that_says_nothing_of_the_progress_changes_nothing():
    before = after({"event": "started", "phase": "search"})
    assert advance(before, {"event": "pruned", "stage": 1, "time": 101.0}, now=0.0) == before
