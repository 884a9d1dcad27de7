import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config import data_sets_layer, resolve
from orchestrator.live import Watch, duration, finite

STAGE = {
    "event": "stage",
    "phase": "search",
    "stage": 1,
    "stages": 4,
    "candidates": 11,
    "epochs": 3,
    "time": 1.0,
}
EPOCH = {
    "event": "epoch", "phase": "search", "stage": 1, "stages": 4, "epoch": 1, "epochs": 3, "step": 1,
    "steps": 12, "loss": 0.5, "iou": 0.125, "seconds": 2.0, "time": 2.0,
}  # fmt: skip
DONE = {"event": "finished", "metrics": {"iou": 0.5}, "time": 3.0}


def watched(mode, *events, names=("A",), **terminal):
    stream = io.StringIO()
    watch = Watch(mode, stream)
    if terminal:
        watch.console = Console(file=stream, **terminal)
    trials = resolve([data_sets_layer([Path("/x") / name for name in names])], budget="smoke").trials()
    with watch.follow(trials):
        watch.note("packing")
        for event in events:
            watch.event("A-s0", event)
    return watch, stream.getvalue()


def test_lines_tell_turns_and_not_every_epoch():
    _, text = watched("lines", STAGE, EPOCH, DONE)
    assert text.splitlines() == [
        "packing",
        "[    0:00] A-s0: search stage 1/4, 11 operators an edge",
        "[    0:00] A-s0: done, test IoU 50.0 %",
    ]


TROUBLES = {
    "checkpoint x/search-00000004: sha256 differs; gone on from the one before, of step 3": {
        "event": "checkpoint_damaged", "text": "x/search-00000004: sha256 differs", "used": 3,
    },
    "latency of subnet abababab left out: out of memory": {
        "event": "latency_failed", "architecture_digest": "ab" * 32, "error": "out of memory",
    },
    "candidate cdcdcdcd left out: no": {"event": "quarantined", "digest": "cd" * 32, "number": 3, "error": "no"},
}  # fmt: skip


@pytest.mark.parametrize("mode", ["lines", "table"])
def test_what_went_wrong_and_was_got_over_is_said_in_every_mode_but_the_quiet_one(mode):
    stream = io.StringIO()
    watch = Watch("quiet", stream)
    watch.console, watch._mode = Console(file=stream, force_terminal=mode == "table", width=120), mode
    with watch.follow(resolve([data_sets_layer([Path("/x/A")])], budget="smoke").trials()):
        for event in TROUBLES.values():
            watch.event("A-s0", event)
    assert [text for text in TROUBLES if f"A-s0: {text}" not in stream.getvalue()] == []
    assert watched("quiet", *TROUBLES.values())[1] == ""


def progress(phase, done, of):
    return {"event": "progress", "phase": phase, "done": done, "of": of}


def finalist(done, of):
    return {"event": "finalist", "phase": "retrain", "done": done, "of": of, "miou": 0.5}


def test_measuring_and_retraining_of_autonad_are_counted():
    measured = [progress("latency", done, 60) for done in (0, 7, 16, 17, 45, 60)]
    table = {"event": "latency", "records": 60, "mean_ms": 5.0, "residual_ms": 0.5}
    events = [*measured, table, progress("retrain", 1, 3), finalist(2, 3)]
    shown = []
    for count in range(1, len(events) + 1):
        console = Console(width=100, file=io.StringIO())
        console.print(watched("quiet", *events[:count])[0].table())
        shown.append(console.file.getvalue().splitlines()[1].split()[3:5])
    counts = [["latency", f"{done}/60"] for done in (0, 7, 16, 17, 45)]
    assert shown[:5] == counts
    assert [row[0] for row in shown[5:]] == ["evolve", "evolve", "retrain", "retrain"]
    assert [row[1] for row in shown[7:]] == ["1/3", "2/3"]
    _, text = watched("lines", *events)
    assert [line.partition("A-s0: ")[2] for line in text.splitlines()[1:]] == [
        "subnets whose latency is measured: 0 of 60",
        "subnets whose latency is measured: 16 of 60",
        "subnets whose latency is measured: 45 of 60",
        "subnets whose latency is measured: 60 of 60",
        "60 subnets measured, 5.0 ms on average; the table is off by 0.5 ms",
        "subnets retrained: 1 of 3",
        "finalist 2/3: test mIoU 50.0 %",
    ]
    _, text = watched("json-lines", progress("latency", 7, 60))
    assert json.loads(text.splitlines()[-1]) == {"trial": "A-s0", **progress("latency", 7, 60)}


@pytest.mark.parametrize(
    ("residual_ms", "said"), [(0.25, "the table is off by 0.2 ms"), (None, "too few to tell how far the table is off")]
)
def test_measured_latencies_are_told_with_the_error_of_their_table_where_there_is_one(residual_ms, said):
    _, text = watched("lines", {"event": "latency", "records": 12, "mean_ms": 5.04, "residual_ms": residual_ms})
    assert text.splitlines()[-1].endswith(f"A-s0: 12 subnets measured, 5.0 ms on average; {said}")


def test_a_stream_that_is_no_terminal_gets_lines():
    assert watched("auto", STAGE)[1] == watched("lines", STAGE)[1]


def test_json_lines_are_one_object_each_with_the_trial():
    _, text = watched("json-lines", STAGE, {**EPOCH, "loss": float("nan")})
    note, stage, epoch = (json.loads(line) for line in text.splitlines())
    assert (note["event"], note["text"]) == ("note", "packing")
    assert stage == {"trial": "A-s0", **STAGE}
    assert epoch["loss"] is None


def test_quiet_shows_nothing():
    assert watched("quiet", STAGE, EPOCH, DONE)[1] == ""


def test_the_table_has_a_row_per_trial_with_stage_epoch_and_scores():
    watch, _ = watched("quiet", STAGE, EPOCH, names=("A", "B"))
    console = Console(width=100, file=io.StringIO())
    console.print(watch.table())
    header, first, second, summary = console.file.getvalue().splitlines()
    assert header.split() == [
        "Data",
        "Seed",
        "Method",
        "Phase",
        "Epoch",
        "Loss",
        "IoU",
        "%",
        "Elapsed",
        "Remaining",
    ]
    assert first.split()[:8] == ["A", "0", "asdet", "search", "1/4", "1/3", "0.500", "12.5"]
    assert first.split()[-1].startswith("~")
    assert second.split() == ["B", "0", "asdet", "waiting"]
    assert summary.startswith("1 running, 1 waiting")


def test_a_table_longer_than_the_terminal_keeps_what_runs_and_says_what_it_hides():
    names = ("B", "C", "D", "E", "A")
    watch, _ = watched("quiet", STAGE, names=names, width=100, height=10)
    console = Console(width=100, file=io.StringIO())
    console.print(watch.table())
    lines = console.file.getvalue().splitlines()
    assert lines[1].split()[0] == "A"
    assert len(lines) == 1 + 2 + 1
    assert "(3 not shown)" in lines[-1]


def test_the_live_table_leaves_a_terminal_clean_and_shows_notes():
    _, text = watched("auto", STAGE)
    assert "\x1b[" not in text
    stream = io.StringIO()
    watch = Watch("quiet", stream)
    watch.console = Console(file=stream, force_terminal=True, width=90)
    watch._mode = "table"
    with watch.follow(resolve([data_sets_layer([Path("/x/A")])], budget="smoke").trials()):
        watch.note("packing")
        watch.event("A-s0", STAGE)
    assert "packing" in stream.getvalue()
    assert "search 1/4" in stream.getvalue()


def test_what_our_modules_log_is_shown_as_a_note():
    stream = io.StringIO()
    watch = Watch("lines", stream)
    with watch.follow([]):
        logging.getLogger("orchestrator.tracking").warning("MLflow is %s", "away")
    logging.getLogger("orchestrator.tracking").debug("after")
    assert stream.getvalue() == "MLflow is away\n"


def test_durations_and_numbers_that_json_has_not():
    assert [duration(s) for s in (0.4, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
    assert finite({"a": [float("inf"), 1.0], "b": {"c": float("nan")}}) == {
        "a": [None, 1.0],
        "b": {"c": None},
    }
