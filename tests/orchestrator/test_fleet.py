import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestrator.resources import TrialResources
from orchestrator.runs import trial_folder

pytestmark = pytest.mark.usefixtures("ray_session")


class Fleet:
    """A fleet in a thread, and what it told."""

    def __init__(self, run: Path, *names: str, retries: int = 1, parallel: int = 2, silence_s: float = 0.0):
        self.run, self.told, self.silence_s = run, [], silence_s
        resources = TrialResources(1, 0, parallel)
        self._thread = threading.Thread(target=self._fleet, args=(list(names), resources, retries))
        self._thread.start()

    def _fleet(self, names, resources, retries):
        from orchestrator.fleet import run_fleet

        def tell(name, event):
            self.told.append((name, event["event"]))

        run_fleet(
            self.run, names, resources, tell, retries=retries, function="trial_doubles:chosen", silence_s=self.silence_s
        )

    def join(self):
        self._thread.join(120)
        assert not self._thread.is_alive()
        return self.told

    def pid(self, name: str) -> int:
        """Wait until a trial has begun, and return its process."""
        ledger = trial_folder(self.run, name) / "ledger.jsonl"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if ledger.exists() and '"stage"' in ledger.read_text():
                return json.loads(ledger.read_text().splitlines()[0])["pid"]
            time.sleep(0.05)
        raise AssertionError(f"{name} did not begin")


def test_trials_run_beside_each_other_in_processes_of_their_own(make_run):
    run = make_run("waits", "waits2")
    os.rename(trial_folder(run, "waits2-s0"), trial_folder(run, "waits-2"))
    fleet = Fleet(run, "waits-s0", "waits-2")
    pids = {fleet.pid("waits-s0"), fleet.pid("waits-2")}
    assert len(pids | {os.getpid()}) == 3
    for name in ("waits-s0", "waits-2"):
        (trial_folder(run, name) / "go").touch()
    told = fleet.join()
    assert {name for name, event in told if event == "finished"} == {"waits-s0", "waits-2"}
    assert not (run / ".tune").exists()


def test_failures_stay_with_their_trials(make_run):
    run = make_run("fails", "bad", "lost", "good")
    told = Fleet(run, "fails-s0", "bad-s0", "lost-s0", "good-s0", parallel=4).join()
    assert ("good-s0", "finished") in told
    # What raised and what died is tried once more, bad input is not.
    assert [name for name, event in told if event == "retried"].count("fails-s0") == 1
    assert ("lost-s0", "retried") in told
    assert ("bad-s0", "retried") not in told
    texts = {name: (trial_folder(run, f"{name}-s0") / "error.txt").read_text() for name in ("fails", "bad", "lost")}
    assert texts["fails"].startswith("RuntimeError: the trial broke")
    assert texts["bad"].startswith("image kos01: truncated\n")
    assert texts["lost"].startswith("the process of the trial ended: The actor died")
    assert {name for name, event in told if event == "failed"} == {"fails-s0", "bad-s0", "lost-s0"}


def test_a_worker_that_hangs_is_ended_and_begun_again(make_run):
    told = Fleet(make_run("hangs"), "hangs-s0", silence_s=3.0).join()
    assert [event for _, event in told].count("retried") == 1
    assert told[-1] == ("hangs-s0", "finished")


def test_a_killed_worker_is_begun_again_and_ends_well(make_run):
    run = make_run("waits")
    fleet = Fleet(run, "waits-s0")
    os.kill(fleet.pid("waits-s0"), signal.SIGKILL)
    (trial_folder(run, "waits-s0") / "go").touch()
    told = fleet.join()
    assert ("waits-s0", "retried") in told
    assert told[-1] == ("waits-s0", "finished")
    assert (trial_folder(run, "waits-s0") / "metrics.json").exists()
    assert not (trial_folder(run, "waits-s0") / "error.txt").exists()
