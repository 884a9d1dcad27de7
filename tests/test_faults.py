"""What the benchmark of faults makes of what it sees.

Whole searches are disturbed by `pytest -m faults` (`test_disturbed_searches.py`): on several nodes that are real
processes, against a search that nothing disturbs.
"""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.fault_processes import Missed, caught
from benchmarks.fault_trials import CannotInject, Verdict


def injected(monkeypatch, kind, *outcomes):
    """Return the row of a kind whose injections come out like this, one after the other."""
    left = list(outcomes)

    def made_up(ground, name, generator):
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setitem(faults.KINDS, kind, made_up)
    row = faults.inject(kind, None, 0, sum(not isinstance(outcome, Missed) for outcome in outcomes))
    assert left == []
    return row


GOOD = Verdict(True, 0, True)


@pytest.mark.parametrize(
    ("kind", "outcomes", "said"),
    [
        ("driver killed", [GOOD, GOOD], None),
        ("driver killed", [Missed("late"), GOOD], None),
        ("driver killed", [GOOD, Verdict(True, 2, True)], "2 evaluations lost"),
        ("driver killed", [GOOD, Verdict(True, 0, False)], "the same search 1 times of 2"),
        ("driver killed", [GOOD, RuntimeError("broke")], "survived 1 of 2"),
        ("candidate poisonous", [Verdict(True, 0, False)], None),
        ("candidate poisonous", [Verdict(True, 1, False)], "1 evaluations lost"),
        ("disk full in training", [CannotInject("no right to mount")], "cannot be injected here (no right to mount)"),
    ],
)
def test_whatever_is_not_as_claimed_is_an_objection(monkeypatch, kind, outcomes, said):
    found = faults.objections({kind: injected(monkeypatch, kind, *outcomes)})
    assert (found == []) if said is None else (said in "".join(found))


def test_a_kind_that_no_draw_could_inject_is_an_objection(monkeypatch):
    def late(ground, name, generator):
        raise Missed("late")

    monkeypatch.setitem(faults.KINDS, "driver killed", late)
    row = faults.inject("driver killed", None, 0, 1)
    assert faults.objections({"driver killed": row}) == ["driver killed: injected 0 times, not 1"]
    assert row["redrawn"] == 5


def test_a_kind_that_a_machine_cannot_inject_is_in_the_table_and_may_be_allowed(monkeypatch):
    kind = "disk full in training"
    rows = {kind: injected(monkeypatch, kind, CannotInject("no right to mount"))}
    assert "disk full in training: cannot be injected here, no right to mount | 0 | 0" in faults.table(rows)
    assert faults.objections(rows, [kind]) == []


def test_only_a_process_that_computes_is_caught():
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with caught(lambda: [idle.pid, busy.pid], random.Random(0)) as pid:
            assert pid == busy.pid
            assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        with pytest.raises(Missed), caught(lambda: [busy.pid], random.Random(0), over=lambda: True):
            pytest.fail("it was too late")
    finally:
        for process in (idle, busy):
            process.send_signal(signal.SIGKILL)
            process.wait()
