import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.attempt import TrialFailedError, attempt, run_here
from orchestrator.report import failure_of
from orchestrator.runs import read_json, trial_folder

CHOSEN = "trial_doubles:chosen"


def tried(run, name):
    events = []
    attempt(trial_folder(run, name), CHOSEN, events.append)
    return events


def test_an_attempt_writes_the_results_and_tells_light_events(make_run):
    run = make_run("good")
    (trial_folder(run, "good-s0") / "error.txt").write_text("of an earlier attempt")
    events = tried(run, "good-s0")
    assert [event["event"] for event in events][-2:] == ["epoch", "finished"]
    assert events[1]["candidates"] == 11
    assert all("alphas" not in event and not isinstance(event.get("candidates"), dict) for event in events)
    assert read_json(trial_folder(run, "good-s0") / "metrics.json")["iou"] == 0.5
    assert not (trial_folder(run, "good-s0") / "error.txt").exists()


@pytest.mark.parametrize(
    ("name", "final", "first_line"),
    [
        ("fails", False, "RuntimeError: the trial broke"),
        ("bad", True, "image kos01: truncated\n"),
        ("full", True, "the disk is full ("),
    ],
)
def test_a_failure_is_written_down_in_the_folder(make_run, name, final, first_line):
    run = make_run(name)
    with pytest.raises(TrialFailedError) as raised:
        tried(run, f"{name}-s0")
    assert raised.value.final is final
    text = (trial_folder(run, f"{name}-s0") / "error.txt").read_text()
    assert text.startswith(first_line)
    assert "Traceback (most recent call last)" in text
    assert failure_of(trial_folder(run, f"{name}-s0")) == (text.splitlines()[0], final)


def test_a_disk_too_full_for_the_error_is_raised_itself(make_run, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("orchestrator.attempt.write_atomically", full)
    with pytest.raises(OSError, match=r"No space left on device.*error\.txt"):
        tried(make_run("fails"), "fails-s0")


def test_a_full_disk_is_named_also_by_an_error_that_does_not(make_run, monkeypatch):
    monkeypatch.setattr("trial_doubles.quick", lambda folder, emit: Path("/dev/full").write_text("x"))
    run = make_run("good")
    with pytest.raises(TrialFailedError) as raised:
        tried(run, "good-s0")
    assert raised.value.final
    line = (trial_folder(run, "good-s0") / "error.txt").read_text().partition("\n")[0]
    assert line == f"the disk is full ({trial_folder(run, 'good-s0')}); free some space, then resume the run"


def test_a_second_writer_waits_for_the_first(make_run):
    run = make_run("good")
    lock = trial_folder(run, "good-s0") / "lock"
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.files import hold\n"
        "with hold(Path(sys.argv[1]), 't'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    code = (
        "import sys; from pathlib import Path; from orchestrator.attempt import attempt\n"
        f"attempt(Path(sys.argv[1]), {CHOSEN!r}, lambda event: None)"
    )
    second = subprocess.Popen([sys.executable, "-c", code, str(lock.parent)])
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1.5)
    assert not (lock.parent / "ledger.jsonl").exists()
    first.communicate("")
    assert second.wait(30) == 0
    assert (lock.parent / "metrics.json").exists()


def test_here_one_failing_trial_does_not_stop_the_next(make_run):
    run, told = make_run("fails", "bad", "good"), []
    names = ["fails-s0", "bad-s0", "good-s0"]
    run_here(run, names, lambda name, event: told.append((name, event["event"])), retries=1, function=CHOSEN)
    assert told.count(("fails-s0", "failed")) == 2
    assert told.count(("bad-s0", "failed")) == 1
    assert ("good-s0", "finished") in told


def test_a_group_of_processes_is_one_trial(make_run):
    run, told = make_run("good", "dies", workers=2), []
    names = ["good-s0", "dies-s0"]
    run_here(
        run,
        names,
        lambda name, event: told.append((name, event["event"])),
        retries=1,
        function="trial_doubles:together",
    )
    for name in names:
        assert (trial_folder(run, name) / "sum.txt").read_text() == "3.0"
    # The second member of this one was killed once: the trial failed at once and its new attempt went well.
    assert told == [("good-s0", "finished"), ("dies-s0", "failed"), ("dies-s0", "finished")]
