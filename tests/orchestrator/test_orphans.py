"""Processes that work for somebody: they end with who holds the lock, and only with that."""

import subprocess
import sys

import pytest

from orchestrator.files import hold
from orchestrator.orphans import end_with

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.files import hold
with hold(Path(sys.argv[1]), "the trial"):
    print("held", flush=True)
    time.sleep(1000)
"""
WORK = """
import sys, time
from pathlib import Path
from orchestrator.orphans import end_with
print(end_with(Path(sys.argv[1])), flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def begin():
    begun = []

    def begin(script, *words):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process, process.stdout.readline().strip()

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_process_ends_soon_after_who_it_works_for_was_killed(begin, tmp_path, taken_over):
    lock = tmp_path / "lock"
    holder, held = begin(HOLD, lock)
    worker, watched = begin(WORK, lock, 1000)
    assert (held, watched) == ("held", "True")
    holder.kill()
    holder.wait()
    if taken_over:
        # By who resumes, before anybody could look.
        assert begin(HOLD, lock)[1] == "held"
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == 1
    assert f"who held {lock} is gone" in said


def test_a_process_goes_on_while_who_it_works_for_lives(begin, tmp_path):
    with hold(tmp_path / "lock", "the trial"):
        worker, watched = begin(WORK, tmp_path / "lock", 5)
        assert watched == "True"
        assert worker.wait(60) == 0


def test_where_no_lock_is_seen_nothing_is_ended(tmp_path):
    assert not end_with(tmp_path / "missing")
    (tmp_path / "lock").write_text("left by somebody")
    assert not end_with(tmp_path / "lock")
