"""The command line as a process of its own, with real Ray: purity of its output, and being stopped."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.runs import is_running

DOUBLE_CLI = Path(__file__).resolve().parents[1] / "doubles" / "double_cli.py"


@pytest.fixture
def environment():
    """An environment whose Ray has a temporary folder of its own, short enough for its sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as root:
        left_out = ("RAY_ADDRESS", "UV_RUN_RECURSION_DEPTH")
        kept = {key: value for key, value in os.environ.items() if key not in left_out}
        yield {**kept, "TMPDIR": root}
        # What a process began, it has ended and cleared away.
        assert [name for name in os.listdir(root) if name.startswith("dn-")] == []
        assert [text for text in command_lines() if root in text] == []


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


def search(surfaces, *names, script=DOUBLE_CLI):
    data = [word for name in names for word in ("--data", str(surfaces / name))]
    words = [
        "search",
        "asdet",
        "--budget",
        "smoke",
        "--set",
        "data.image_size=32",
        "--no-tracking",
        "--name",
        "r",
    ]
    return [sys.executable, str(script), *words, *data]


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_on_ray_too_the_output_is_one_object_and_progress_is_json_lines(surfaces, tmp_path, environment):
    command = [
        *search(surfaces, "good", "dies", "fails"),
        "--json",
        "--json-lines",
        "--set",
        "resources.retries=1",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 1, done.stderr
    assert len(done.stdout.splitlines()) == 1
    states = {trial["data"]: trial["state"] for trial in json.loads(done.stdout)["trials"]}
    assert states == {"good": "done", "dies": "done", "fails": "failed"}
    *progress, failure = done.stderr.splitlines()
    assert {json.loads(line)["event"] for line in progress} >= {
        "note",
        "stage",
        "epoch",
        "retried",
        "failed",
        "finished",
    }
    assert failure.startswith("failed: ")
    assert not (tmp_path / "runs" / "r" / ".tune").exists()


@pytest.mark.parametrize(
    ("number", "by_uv", "program"),
    [(signal.SIGINT, {}, "defectnas"), (signal.SIGTERM, {"UV_RUN_RECURSION_DEPTH": "1"}, "uv run defectnas")],
)
def test_stopped_by_a_signal_it_clears_away_and_says_how_to_go_on(
    surfaces, tmp_path, environment, number, by_uv, program
):
    run = tmp_path / "runs" / "r"
    command = search(surfaces, "waits", "good")
    own = {**environment, **by_uv}
    process = subprocess.Popen(command, cwd=tmp_path, env=own, stderr=subprocess.PIPE, text=True)
    wait_for((run / "trials" / "waits-s0" / "ledger.jsonl").exists)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"stopped; go on with: {program} resume r"
    assert not is_running(run)
    assert not (run / ".tune").exists()


def test_killed_it_can_be_resumed_at_once(surfaces, tmp_path, environment):
    run = tmp_path / "runs" / "r"
    process = subprocess.Popen(search(surfaces, "waits"), cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    wait_for((run / "trials" / "waits-s0" / "ledger.jsonl").exists)
    process.kill()
    process.wait()
    (run / "trials" / "waits-s0" / "go").touch()
    resumed = [sys.executable, str(DOUBLE_CLI), "resume", "r", "--json"]
    done = subprocess.run(resumed, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # A killed process cannot clear away; the folder of its Ray is all that stays.
    for folder in Path(environment["TMPDIR"]).glob("dn-*"):
        wait_for(lambda name=str(folder): not [text for text in command_lines() if name in text])
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_the_real_trial_goes_from_data_to_scores_and_into_mlflow(surfaces, tmp_path, environment):
    small = [
        "data.image_size=32", "network.channels=4", "network.operators=[zero, identity, max_pool_3x3]",
        "search.keep=[2, 1]", "search.epochs=1", "search.warmup_epochs=0", "search.batch=2",
        "retrain.batch=2", "retrain.epochs=1", "runtime.form=plain", "runtime.channels_last=off",
    ]  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "search",
        "asdet",
        "--budget",
        "smoke",
        "--name",
        "r",
        "--json",
    ]
    command += ["--data", str(surfaces / "good"), *(word for value in small for word in ("--set", value))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    assert 0 <= trial["iou"] <= 1
    assert trial["parameters"] > 0
    folder = Path(trial["folder"])
    assert {"architecture.json", "metrics.json", "weights.safetensors", "ledger.jsonl"} <= {
        p.name for p in folder.iterdir()
    }
    assert (tmp_path / "runs" / "mlflow.db").exists()
    assert "not yet tracked" not in done.stderr
