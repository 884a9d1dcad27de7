"""The commands in this process, with trials that stand in for real ones and without Ray."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from clusters import connect
from orchestrator import api, cli
from orchestrator.runs import lock_run

HEAVY = ("torch", "ray", "mlflow", "matplotlib", "pandas", "pyarrow", "torchvision")
KEYS = [
    "data", "seed", "method", "state", "iou", "f1", "pa", "parameters", "macs", "search_seconds",
    "retrain_seconds", "folder",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, surfaces):
    """Call the command line in an empty folder beside the data sets of `surfaces`."""
    monkeypatch.chdir(tmp_path)
    for command in ("search", "demo", "resume"):
        monkeypatch.setattr(api, command, partial(getattr(api, command), function="trial_doubles:chosen"))
    runner = CliRunner()
    return lambda *words: runner.invoke(cli.app, [str(word) for word in words], prog_name="defectnas")


def quickly(*data):
    """Return the words of a search on data sets without Ray and MLflow."""
    words = [
        "search",
        "asdet",
        "--budget",
        "smoke",
        "--set",
        "data.image_size=32",
        "--no-ray",
        "--no-tracking",
    ]
    return [*words, *(word for folder in data for word in ("--data", folder))]


@pytest.mark.parametrize("words", [[], ["search"], ["resume"], ["data", "check"], ["config"]])
def test_help_answers_without_heavy_imports(words):
    code = (
        "import sys; from orchestrator import cli\n"
        f"try: cli.app([*{words!r}, '--help'], prog_name='defectnas')\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage: defectnas" in done.stdout


def test_help_shows_defaults_and_units(run):
    text = " ".join(run("search", "--help").output.replace("│", " ").split())
    assert "paper on a GPU, else smoke" in text
    assert "trials per data set, of consecutive seeds (seeds) [default: (1)]" in text
    assert "for the folder runs and --storage [default: runs]" in text
    assert "(px)" in run("data", "synthesize", "--help").output


def test_a_search_prints_a_table_and_where_everything_is(run, surfaces):
    done = run(*quickly(surfaces / "good"), "--name", "mine")
    assert done.exit_code == 0, done.stderr
    assert "50.0" in done.stdout
    assert f"run folder  {surfaces.__class__('runs/mine').resolve()}" in done.stdout
    assert "MLflow" not in done.stdout
    assert "retraining" in done.stderr


@pytest.mark.parametrize(("depth", "program"), [(None, "defectnas"), ("1", "uv run defectnas")])
def test_where_to_look_at_a_tracked_run_is_said_as_it_can_be_typed(
    run, surfaces, tmp_path, monkeypatch, depth, program
):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    if depth:
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", depth)
    assert f"begin one with: {program} demo" in run("show").stderr
    run(*quickly(surfaces / "good"), "--name", "mine")
    config = tmp_path / "runs" / "mine" / "config.yaml"
    # Nothing is left to do, so that no store is needed for it.
    tracked = config.read_text().replace("enabled: false", "enabled: true")
    config.write_text(tracked)
    assert f"\nMLflow UI   {program} ui\n" in run("resume", "mine").stdout
    config.write_text(tracked.replace("uri: ''\n  experiment", "uri: http://host:5000\n  experiment"))
    assert "\nMLflow at   http://host:5000\n" in run("resume", "mine").stdout


def test_a_trial_is_drawn_without_tracking_too_and_is_done_where_that_fails(run, surfaces, tmp_path, monkeypatch):
    assert run(*quickly(surfaces / "good"), "--name", "drawn").exit_code == 0
    drawings = tmp_path / "runs" / "drawn" / "trials" / "good-s0" / "drawings"
    assert [path.name for path in drawings.iterdir()] == ["curves.png"]

    def broken(events, path):
        raise ValueError("no font")

    monkeypatch.setattr("orchestrator.drawing.draw_curves", broken)
    done = run(*quickly(surfaces / "good"), "--name", "plain", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["trials"][0]["state"] == "done"
    assert "good-s0: not drawn (ValueError: no font)" in done.stderr


def test_json_of_a_search_is_one_object_of_the_promised_form(run, surfaces, tmp_path):
    done = run(*quickly(surfaces / "good"), "--seeds", 2, "--baseline", "random", "--json")
    values = json.loads(done.stdout)
    assert list(values) == ["run", "trials"]
    assert [list(trial) for trial in values["trials"]] == [KEYS] * 4
    pairs = [(trial["method"], trial["seed"]) for trial in values["trials"]]
    assert pairs == [("asdet", 0), ("random", 0), ("asdet", 1), ("random", 1)]
    assert values["trials"][0]["folder"] == str(tmp_path / "runs" / values["run"] / "trials" / "good-s0")


def test_one_failing_trial_gives_exit_code_1_and_leaves_the_others(run, surfaces):
    done = run(*quickly(surfaces / "fails", surfaces / "good"), "--json", "--quiet")
    assert done.exit_code == 1
    assert [trial["state"] for trial in json.loads(done.stdout)["trials"]] == ["failed", "done"]
    done = run(*quickly(surfaces / "fails", surfaces / "good"))
    assert "fails-s0/error.txt: RuntimeError: the trial broke" in done.stderr


def test_bad_input_that_only_the_trial_finds_gives_exit_code_2_too(run, surfaces, tmp_path):
    for name in ("bad", "full"):
        shutil.copytree(surfaces / "good", tmp_path / name)
    done = run(*quickly(tmp_path / "bad"), "--quiet")
    assert (done.exit_code, done.stderr) == (2, "defectnas: bad-s0: image kos01: truncated\n")
    done = run(*quickly(tmp_path / "full"), "--quiet")
    assert done.exit_code == 2
    assert "defectnas: full-s0: the disk is full (" in done.stderr
    assert run(*quickly(tmp_path / "bad", surfaces / "fails"), "--quiet").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (quickly(), "no data set: give --data FOLDER"),
        (quickly("nowhere"), "nowhere"),
        (
            [*quickly("DATA"), "--set", "serch.epochs=5"],
            "--set: serch: no such setting; did you mean search?",
        ),
        ([*quickly("DATA"), "--seeds", "0"], "--seeds: seeds: 0 is not allowed"),
        (
            [*quickly("DATA"), "--config", "missing.yaml"],
            "missing.yaml: cannot be read as a configuration file",
        ),
        ([*quickly("DATA"), "--name", "a/b"], "--name 'a/b': not allowed"),
        ([*quickly("DATA"), "--tracking-uri", "ftp://x"], "tracking.uri: 'ftp://x' is no tracking URI"),
        ([*quickly("DATA"), "--cpus", "2", "--gpus", "1"], "--cpus, --gpus: without Ray the trials run one by one"),
        ([*quickly("DATA"), "--ray", "--cluster", "here"], "cluster 'here': needed is HOST:PORT"),
        ([*quickly("DATA"), "--ray", "--cluster", "127.0.0.1:1"], "cluster '127.0.0.1:1': no Ray answers there"),
        (["resume", "nothing"], "no run 'nothing' in runs"),
        (["show", "nothing"], "no run 'nothing' in runs"),
        (["track", "nothing"], "no run 'nothing' in runs"),
        (["ui"], "runs: no MLflow store there"),
        (["data", "synthesize", "DATA"], "holds something already"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(run, surfaces, tmp_path, words, message):
    done = run(*[surfaces / "good" if word == "DATA" else word for word in words])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("defectnas: ")
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bad_image_stops_before_there_is_a_run(run, surfaces, tmp_path):
    shutil.copytree(surfaces / "good", tmp_path / "cut")
    image = next((tmp_path / "cut" / "images").iterdir())
    image.write_bytes(image.read_bytes()[:50])
    done = run(*quickly(surfaces / "good", tmp_path / "cut"), "--quiet")
    assert done.exit_code == 2
    assert image.name in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run("show", "--json").stdout == '{"runs": []}\n'
    assert [path for path in (tmp_path / "runs").glob("packs/*") if path.name.startswith("cut")] == []


def test_what_cannot_be_divided_stops_before_there_is_a_run(run, surfaces, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "two" / part).mkdir(parents=True)
        for path in sorted((surfaces / "good" / part).iterdir())[:2]:
            shutil.copy(path, tmp_path / "two" / part)
    done = run(*quickly(tmp_path / "two"), "--quiet")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "all training tiles show one part" in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["packs"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["asdet", "--cpus", "64"], "asks for 64 CPUs and 1 GPUs; the largest node has 4 and 2"),
        (["autonad", "--workers", "3"], "3 workers with a GPU each; the cluster has 2 GPUs"),
    ],
)
def test_more_than_the_cluster_has_stops_before_there_is_a_run(run, surfaces, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(connect, "connected", lambda *_, **__: nullcontext(connect.Cluster(None, 4, 2, 4, 2)))
    quick = ["--budget", "smoke", "--set", "data.image_size=32", "--no-tracking", "--quiet"]
    done = run("search", *words, *quick, "--data", surfaces / "good")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["packs"]


def test_a_full_disk_is_one_line(run, surfaces, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr(api, "search", full)
    done = run(*quickly(surfaces / "good"))
    assert (done.exit_code, done.stderr) == (2, "defectnas: the disk is full (runs/x)\n")


def test_resume_leaves_what_is_done_and_tries_again_what_failed(run, surfaces, tmp_path):
    run(*quickly(surfaces / "fails", surfaces / "good"), "--name", "r", "--set", "resources.retries=0")
    trials = tmp_path / "runs" / "r" / "trials"
    ledgers = {name: (trials / name / "ledger.jsonl").read_text() for name in ("fails-s0", "good-s0")}
    done = run("resume", "r", "--json")
    assert done.exit_code == 1
    assert [trial["state"] for trial in json.loads(done.stdout)["trials"]] == ["failed", "done"]
    assert (trials / "good-s0" / "ledger.jsonl").read_text() == ledgers["good-s0"]
    assert len((trials / "fails-s0" / "ledger.jsonl").read_text()) > len(ledgers["fails-s0"])


def test_resume_packs_again_what_is_gone(run, surfaces, tmp_path):
    run(*quickly(surfaces / "fails"), "--name", "r")
    shutil.rmtree(tmp_path / "runs" / "packs")
    run("resume", "r")
    pack = json.loads((tmp_path / "runs" / "r" / "trials" / "fails-s0" / "trial.json").read_text())["pack"]
    assert (tmp_path / "runs" / "packs").resolve() in surfaces.__class__(pack).parents
    assert list((tmp_path / "runs" / "packs").iterdir())


def test_a_resumed_run_writes_no_decisions_where_its_record_says(run, surfaces, tmp_path):
    run(*quickly(surfaces / "fails"), "--name", "r")
    record = tmp_path / "runs/r/trials/fails-s0/trial.json"
    content = json.loads(record.read_text())
    assert content["forms"] == str(tmp_path / "runs/forms.json")
    record.write_text(json.dumps({**content, "forms": str(tmp_path / "elsewhere")}))
    run("resume", "r", "--no-ray")
    assert json.loads(record.read_text())["forms"] == content["forms"]
    (tmp_path / "runs/r/forms.json").write_text("{}")
    run("resume", "r", "--no-ray")
    assert json.loads(record.read_text())["forms"] == str(tmp_path / "runs/r/forms.json")


def test_a_run_whose_cluster_is_gone_goes_on_elsewhere(run, surfaces, tmp_path, monkeypatch):
    run(*quickly(surfaces / "fails"), "--name", "r")
    config = tmp_path / "runs/r/config.yaml"
    begun = config.read_text().replace("address: auto", "address: 127.0.0.1:1").replace("ray: false", "ray: true")
    config.write_text(begun)
    done = run("resume", "r", "--quiet")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'127.0.0.1:1': no Ray answers there" in done.stderr
    assert done.stderr.endswith("to go on elsewhere: --cluster auto|none|HOST:PORT\n")
    asked = []

    def refused(address, **_):
        asked.append(address)
        raise connect.ClusterUnreachableError("far enough")

    monkeypatch.setattr(connect, "connected", refused)
    done = run("resume", "r", "--quiet", "--cluster", "none")
    assert (asked, done.stderr) == (["none"], "defectnas: far enough\n")
    assert config.read_text() == begun


def test_a_run_in_use_is_refused(run, surfaces, tmp_path):
    run(*quickly(surfaces / "fails"), "--name", "r")
    with lock_run(tmp_path / "runs" / "r"):
        done = run("resume", "r")
    assert done.exit_code == 2
    assert "run r is in use by pid" in done.stderr


def test_a_damaged_trial_file_is_named_on_resume(run, surfaces, tmp_path):
    run(*quickly(surfaces / "fails"), "--name", "r")
    (tmp_path / "runs" / "r" / "trials" / "fails-s0" / "trial.json").write_text('{"method"')
    done = run("resume", "r")
    assert done.exit_code == 2
    assert "fails-s0/trial.json: damaged" in done.stderr


@pytest.mark.parametrize(
    ("key", "edit", "message"),
    [
        ("search", {"epochs": 5}, "search.epochs: 5, but fails-s0 was begun with 4"),
        ("resources", {"workers": 2}, "resources.workers: 2, but fails-s0 was begun with 1"),
        ("data_sets", [], "data_sets: the trials of the run have fails, good, this makes none"),
        ("seeds", 2, "seeds: the trials of the run have 0, this makes 0, 1"),
        ("baseline", "random", "method or baseline: the trials of the run have asdet, this makes asdet, random"),
    ],
)
def test_a_configuration_that_was_edited_is_refused_on_resume(run, surfaces, tmp_path, key, edit, message):
    run(*quickly(surfaces / "fails", surfaces / "good"), "--name", "r", "--set", "resources.retries=0")
    config = tmp_path / "runs" / "r" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, key: {**values[key], **edit} if isinstance(edit, dict) else edit}))
    ledger = (tmp_path / "runs" / "r" / "trials" / "fails-s0" / "ledger.jsonl").read_bytes()
    done = run("resume", "r")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"defectnas: {config}: {message}; a run goes on as it was begun")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "runs" / "r" / "trials" / "fails-s0" / "ledger.jsonl").read_bytes() == ledger


def test_where_a_run_goes_on_may_be_edited(run, surfaces, tmp_path):
    run(*quickly(surfaces / "fails"), "--name", "r", "--set", "resources.retries=0")
    config = tmp_path / "runs" / "r" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["resources"].update(retries=1, cpus=1)
    config.write_text(yaml.safe_dump(values))
    before = (tmp_path / "runs" / "r" / "trials" / "fails-s0" / "ledger.jsonl").read_text().count('"started"')
    assert run("resume", "r").exit_code == 1
    after = (tmp_path / "runs" / "r" / "trials" / "fails-s0" / "ledger.jsonl").read_text().count('"started"')
    assert after == before + 2


def test_threads_left_open_are_fixed_in_the_trial_so_that_a_resumption_rounds_the_same(run, surfaces, tmp_path):
    run(*quickly(surfaces / "good"), "--name", "r")
    trial = json.loads((tmp_path / "runs" / "r" / "trials" / "good-s0" / "trial.json").read_text())
    assert trial["settings"]["runtime"]["threads"] >= 1
    run(*quickly(surfaces / "good"), "--name", "r3", "--set", "runtime.threads=3")
    trial = json.loads((tmp_path / "runs" / "r3" / "trials" / "good-s0" / "trial.json").read_text())
    assert trial["settings"]["runtime"]["threads"] == 3


def test_progress_as_json_lines_goes_to_standard_error(run, surfaces):
    done = run(*quickly(surfaces / "good"), "--json", "--json-lines")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} >= {"note", "stage", "epoch", "finished"}
    json.loads(done.stdout)


def test_the_configuration_of_a_run_makes_the_same_run(run, surfaces, tmp_path):
    run(*quickly(surfaces / "good"), "--name", "first", "--set", "search.alpha_lr=1e-3")
    first = tmp_path / "runs" / "first"
    done = run("search", "asdet", "--config", first / "config.yaml", "--name", "second")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "runs" / "second" / "config.yaml").read_text() == (first / "config.yaml").read_text()
    trials = [tmp_path / "runs" / name / "trials" / "good-s0" / "trial.json" for name in ("first", "second")]
    assert trials[0].read_text() == trials[1].read_text()


def test_config_prints_what_a_launch_would_use(run):
    done = run("config", "random", "--budget", "short", "--set", "search.epochs=9")
    assert "method: random\nbudget: short\n" in done.stdout
    assert json.loads(run("config", "--budget", "short", "--json").stdout)["search"]["epochs"] == 15
    assert "properties" in json.loads(run("config", "--schema").stdout)


def test_show_lists_runs_newest_first_and_one_in_detail(run, surfaces):
    assert "no runs" in run("show").stderr
    run(*quickly(surfaces / "good"), "--name", "one")
    run(*quickly(surfaces / "good", surfaces / "fails"), "--name", "two")
    listed = json.loads(run("show", "--json").stdout)["runs"]
    assert {entry["run"] for entry in listed} == {"one", "two"}
    assert next(e for e in listed if e["run"] == "two")["states"] == {"done": 1, "failed": 1}
    assert (listed[0]["best_f1"], listed[0]["search_seconds"]) == (0.6, 61.0)
    assert "50.0" in run("show").stdout
    (runs := Path("runs") / "torn").mkdir()
    (runs / "run.json").write_text("{")
    done = run("show")
    assert done.exit_code == 0
    assert "50.0" in done.stdout
    assert "left out: runs/torn/run.json: damaged" in done.stderr
    one = json.loads(run("show", "one", "--json").stdout)
    assert (one["run"], one["best_iou"], len(one["trials"])) == ("one", 0.5, 1)
    assert "fails-s0/error.txt" in run("show", "two").stderr


def test_demo_makes_its_data_once_and_searches_on_it(run, tmp_path):
    words = ["demo", "--no-ray", "--no-tracking", "--json"]
    first, again = json.loads(run(*words).stdout), json.loads(run(*words).stdout)
    assert first["run"] != again["run"]
    assert first["trials"][0]["data"] == "demo-data"
    images = list((tmp_path / "runs" / "demo-data" / "images").iterdir())
    assert len(images) == 48
    config = (tmp_path / "runs" / first["run"] / "config.yaml").read_text()
    assert "budget: demo" in config


def test_data_check_reports_in_words_pictures_and_json(run, surfaces, tmp_path):
    done = run("data", "check", surfaces / "good")
    assert done.exit_code == 0, done.stderr
    assert "picture sheet: good-check.png" in done.stdout
    assert (tmp_path / "good-check.png").read_bytes()[:4] == b"\x89PNG"
    done = run("data", "check", surfaces / "good", "--json", "--no-sheet", "--write-split", "lists")
    values = json.loads(done.stdout)
    assert len(values["images"]) == 8
    assert values["sheet"] is None
    train = (tmp_path / "lists" / "train_grouped.txt").read_text().split()
    assert set(train) == set(values["proposal"]["train"])
    assert [path.name for path in (surfaces / "good").iterdir() if path.suffix == ".png"] == []


def test_data_check_of_a_damaged_set_ends_with_1_and_of_none_with_2(run, surfaces, tmp_path):
    shutil.copytree(surfaces / "good", tmp_path / "cut")
    image = next((tmp_path / "cut" / "images").iterdir())
    image.write_bytes(image.read_bytes()[:50])
    done = run("data", "check", "cut", "--no-sheet")
    assert done.exit_code == 1
    assert image.name in done.stdout
    done = run("data", "check", "nowhere")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nowhere" in done.stderr


def test_without_a_gpu_the_budget_is_smoke_and_that_is_said(run, surfaces, monkeypatch):
    import torch

    words = [word for word in quickly(surfaces / "good") if word not in ("--budget", "smoke")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run(*words, "--json")
    assert "no GPU on this machine: budget smoke (--budget paper" in done.stderr
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "budget: paper" in run("config").stdout
