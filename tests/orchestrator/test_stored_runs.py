"""Whole runs on an S3 server: begun here, lost with their machine, restored and ended elsewhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
from typer.testing import CliRunner

from orchestrator import api, cli, lease
from orchestrator.runs import read_run, trial_folder
from orchestrator.storage import open_store
from orchestrator.trees import newest_manifest


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to another machine: an empty folder and an empty cache."""

    def go(name):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return folder

    monkeypatch.setattr(lease, "PACE", lease.Pace(beat_s=0.2, gone_s=0.6, settle_s=0.0))
    return go


@pytest.fixture
def run(machine, monkeypatch):
    """Call the command line with trials that stand in for real ones."""
    machine("first")
    for command in ("search", "resume"):
        monkeypatch.setattr(api, command, partial(getattr(api, command), function="trial_doubles:chosen"))
    runner = CliRunner()
    return lambda *words: runner.invoke(cli.app, [str(word) for word in words], prog_name="defectnas")


QUICKLY = (
    *("search", "asdet", "--budget", "smoke", "--no-ray", "--no-tracking"),
    *("--set", "data.image_size=32", "--set", "storage.every=0.05", "--name", "r"),
)


@pytest.fixture
def stored(bucket, surfaces):
    """Data sets in a bucket, by name."""
    for name in ("good", "fails"):
        store = open_store(f"{bucket}/data/{name}")
        for path in (surfaces / name).rglob("*"):
            if path.is_file():
                store.write(str(path.relative_to(surfaces / name)), path.read_bytes())
    return lambda name: f"{bucket}/data/{name}"


def test_data_and_runs_in_a_bucket_and_going_on_elsewhere(run, machine, bucket, stored):
    uri = f"{bucket}/runs"
    done = run(*QUICKLY, "--data", stored("good"), "--data", stored("fails"), "--runs", uri)
    assert done.exit_code == 1, done.output
    first = (trial_folder(api.RUNS / "r", "good-s0") / "metrics.json").read_bytes()
    shutil.rmtree(machine("second").parent / "first")
    listed = json.loads(run("fetch", "--runs", uri, "--json").output)
    assert listed == {"storage": uri, "runs": ["r"]}
    again = run("resume", "r", "--runs", uri, "--no-ray")
    assert again.exit_code == 1
    assert f"restored runs/r from {uri}" in again.output
    assert "fetched from" in again.output
    assert "packing" not in again.output
    assert (trial_folder(api.RUNS / "r", "good-s0") / "metrics.json").read_bytes() == first
    trial = json.loads((api.RUNS / "r/trials/fails-s0/trial.json").read_text())
    assert trial["pack"].startswith(str(machine("third").parent / "second/runs/packs/"))
    fetched = run("fetch", "r", "--storage", uri)
    assert fetched.output.strip() == "runs/r"
    assert json.loads(run("show", "r", "--json").stdout)["states"]["failed"] == 1


def test_secrets_are_nowhere_in_what_is_written(run, bucket, stored, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    assert run(*QUICKLY, "--data", stored("good"), "--runs", f"{bucket}/runs").exit_code == 0
    for path in api.RUNS.rglob("*"):
        assert path.is_dir() or b"very-secret" not in path.read_bytes()
    store = open_store(bucket)
    assert not any(b"very-secret" in (store.read(name) or b"") for name in store.entries())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runs", "s3://no-such-bucket-to-write/runs"), "there is no such bucket; create it first"),
        (("--runs", "ftp://host/runs"), "allowed are s3://BUCKET/PATH"),
        (("--runs", "s3://key:secret@b/runs"), "may hold no user or password"),
        (("--storage", "s3://b/runs?endpoint_override=127.0.0.1:9&scheme=http"), "storage s3://b/runs"),
        (("--runs", "s3://b/one", "--storage", "s3://b/two"), "are two stores; give one"),
        (("--data", "s3://no-such-bucket-to-read/MT"), "there is no such bucket; create it first"),
        (("--data", "gopher://MT"), "allowed are s3://BUCKET/PATH"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_and_nothing_is_written(run, surfaces, s3_server, words, said):
    data = () if "--data" in words else ("--data", surfaces / "good")
    done = run(*QUICKLY, *data, *words)
    assert done.exit_code == 2, done.output
    (line,) = done.output.strip().splitlines()
    assert said in line
    assert "secret" not in line
    assert not api.RUNS.exists()


def test_commands_that_read_local_runs_say_so(run):
    done = run("show", "--runs", "s3://b/runs")
    assert done.exit_code == 2
    assert "first: defectnas fetch RUN --runs s3://b/runs" in done.output


def test_a_name_that_the_store_has_is_taken(run, machine, bucket, surfaces):
    words = (*QUICKLY, "--data", surfaces / "good", "--runs", f"{bucket}/runs")
    assert run(*words).exit_code == 0
    machine("second")
    done = run(*words)
    assert done.exit_code == 2
    assert "runs/r: this name is taken" in done.output


def without_times(value):
    timed = ("seconds", "search_seconds", "retrain_seconds", "latency_ms", "latency_iqr_ms")
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in timed}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_a_search_whose_machine_is_lost_ends_elsewhere_as_one_that_was_not(searched, machine, bucket):
    config, metrics = searched
    code = f"from orchestrator import api; api.search(config=api.Path({str(config)!r}), runs={bucket + '/runs'!r}, "
    machine("first")
    lost = subprocess.run(
        [sys.executable, "-c", code + "name='r', function='stored_trials:killed')"],
        env={**os.environ, "KILLED_AT": "7"},
        timeout=200,
    )
    assert lost.returncode == -signal.SIGKILL
    shutil.rmtree("runs")
    machine("second")
    result = api.resume("r", runs=f"{bucket}/runs")
    assert without_times(result.trials[0].metrics) == without_times(metrics)
    assert newest_manifest(open_store(f"{bucket}/runs/r")).files.keys() >= {
        f"trials/{read_run(result.folder).trials[0].name}/weights.safetensors"
    }
