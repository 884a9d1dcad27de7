"""The append-only ledger: numbering, cutting, half lines."""

import pytest

from search.ledger import Ledger, read_events


def test_events_are_numbered_and_heard(tmp_path):
    heard = []
    ledger = Ledger(tmp_path / "ledger.jsonl", heard.append)
    for epoch in range(3):
        ledger.write("epoch", epoch=epoch)
    events = list(read_events(tmp_path / "ledger.jsonl"))
    assert [(e["n"], e["event"], e["epoch"]) for e in events] == [(i, "epoch", i) for i in range(3)]
    assert heard == events


def test_a_cut_ledger_goes_on_from_there(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for epoch in range(5):
        ledger.write("epoch", epoch=epoch)
    again = Ledger(tmp_path / "ledger.jsonl")
    again.cut(2)
    again.write("epoch", epoch=20)
    assert [(e["n"], e["epoch"]) for e in read_events(tmp_path / "ledger.jsonl")] == [(0, 0), (1, 1), (2, 20)]


def test_a_phase_that_was_never_saved_is_dropped_whole(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.write("started", phase="search")
    ledger.write("stage", phase="search")
    ledger.write("epoch", phase="search")
    ledger.cut_phase("retrain")
    assert len(list(read_events(path))) == 3
    ledger.cut_phase("search")
    assert [e["event"] for e in read_events(path)] == ["started"]


def test_a_half_written_last_line_is_dropped(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).write("started")
    with path.open("a") as file:
        file.write('{"n": 1, "event": "ep')
    assert len(list(read_events(path))) == 1
    ledger = Ledger(path)
    ledger.write("epoch")
    assert [e["n"] for e in read_events(path)] == [0, 1]


def test_a_silent_ledger_writes_nothing():
    ledger = Ledger(None)
    ledger.write("started")
    ledger.cut(0)
    assert ledger.count == 0


def test_what_json_cannot_say_is_refused_and_leaves_no_line(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.write("epoch", loss=float("nan"))
    assert list(read_events(tmp_path / "ledger.jsonl")) == []
