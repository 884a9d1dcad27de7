"""`defectnas cluster ...` in this process, with stand-ins for kubectl, sbatch and ray."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_profiles import KINDS, RENDERED
from typer.testing import CliRunner

from clusters.command import encode
from orchestrator import api, cli, clusters_api
from orchestrator.mirror import Mirror
from orchestrator.profiles import EXAMPLES
from orchestrator.runs import RunRecord, create_run

WORDS = ("--", "search", "autonad", "--data", "/shared/data/MT", "--workers", "8")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call the command line in an empty folder that holds the example profiles."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(cli.app, [str(word) for word in words], prog_name="defectnas")


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Programs that write down how they were called; `says` is what squeue answers, `codes` how each ends."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("kubectl", "sbatch", "squeue", "ray"):
        script = f'#!/bin/sh\necho {name} "$@" >> {folder}/calls\ncat {folder}/{name}.says 2> /dev/null\n'
        (folder / name).write_text(f"{script}exit $(cat {folder}/{name}.code 2> /dev/null || echo 0)\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(clusters_api, "program_of", lambda step: (str(folder / step.argv[0]),))
    return folder


def calls(tools):
    path = tools / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("kind", RENDERED)
def test_render_writes_the_manifests_and_says_how_to_apply_them(run, tmp_path, kind):
    done = run("cluster", "render", "--cluster", f"{kind}.toml", "--output", "out", *WORDS)
    assert done.exit_code == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    main = {"kuberay": "rayjob.yaml", "slurm": "job.sh"}.get(kind, "cluster.yaml")
    assert main in written
    assert "apply with:\n" in done.stdout
    assert {"kuberay": "kubectl apply", "slurm": "sbatch"}.get(kind, "ray up --yes --no-restart") in done.stdout
    assert all(str(tmp_path / "out" / name) in done.stdout for name in written)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_the_dashes_before_a_command_may_be_left_out(run):
    with_dashes = run("cluster", "render", "--cluster", "slurm.toml", "--json", *WORDS)
    without = run("cluster", "render", "--cluster", "slurm.toml", "--json", *WORDS[1:])
    assert with_dashes.stdout == without.stdout
    values = json.loads(without.stdout)
    assert values["id"] == values["run"]
    assert values["files"] == ["job.sh"]


def test_render_without_a_command_makes_a_cluster_that_stands(run, tmp_path):
    assert run("cluster", "render", "--cluster", "kuberay.toml").exit_code == 0
    assert (tmp_path / "manifests" / "defectnas" / "raycluster.yaml").is_file()
    done = run("cluster", "render", "--cluster", "slurm.toml")
    assert done.exit_code == 2
    assert "kind slurm needs a command" in done.stderr


def test_rendering_again_replaces_what_was_rendered_and_nothing_else(run, tmp_path):
    run("cluster", "render", "--cluster", "kuberay.toml", "--output", "out", *WORDS)
    assert run("cluster", "render", "--cluster", "slurm.toml", "--output", "out", *WORDS).exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["job.sh"]
    (tmp_path / "out" / "mine.txt").write_text("kept")
    done = run("cluster", "render", "--cluster", "kuberay.toml", "--output", "out", *WORDS)
    assert done.exit_code == 2
    assert "holds mine.txt; give a folder for manifests alone" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["job.sh", "mine.txt"]


def test_nothing_half_written_is_left_where_the_disk_is_full(run, tmp_path, monkeypatch):
    real = Path.write_text

    def full(path, text, **options):
        if path.name == "rayjob.yaml":
            raise OSError(28, "No space left on device", str(path))
        return real(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    done = run("cluster", "render", "--cluster", "kuberay.toml", "--output", "out", *WORDS)
    assert done.exit_code == 2
    assert "the disk is full" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


BAD = [
    (["train"], "command 'train': not allowed on a cluster; allowed: search, resume"),
    (["search", "autonad", "--runs", "/x"], "--runs: not allowed in a command for a cluster"),
    (["search", "autonad", "--cluster=auto"], "--cluster: not allowed"),
    (["search", "autonad", "--no-ray"], "--no-ray: not allowed"),
    (["search", "autonad", "--data", "MT"], "--data MT: seen from the nodes, so it has to be absolute"),
    (["search", "autonad", "--config=a.yaml"], "--config a.yaml: seen from the nodes"),
    (["search", "autonad", "--tracking-uri", "https://me:pw@host"], "holds a password"),
    (["search", "autonad", "--name", "../x"], "--name: '../x' names no run"),
    (["resume", "/runs/x"], "resume: needed is the id of a run"),
    (["search", "autonad", "--dta", "/x"], "No such option: --dta"),
    (["search", "darts"], "'darts' is not one of"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_a_command_that_cannot_run_there_is_refused_before_anything_is_made(run, tmp_path, tools, words, said):
    done = run("cluster", "submit", "--cluster", "slurm.toml", "--", *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert calls(tools) == []
    assert not (tmp_path / "manifests").exists()


def test_runs_may_lie_in_a_store(run, tmp_path):
    text = (tmp_path / "kuberay.toml").read_text().replace('runs = "runs"', 'runs = "s3://bucket/runs"')
    (tmp_path / "kuberay.toml").write_text(text)
    done = run("cluster", "render", "--cluster", "kuberay.toml", "--output", "m", *WORDS)
    assert done.exit_code == 0, done.output
    assert "--runs s3://bucket/runs --nodes" in (tmp_path / "m" / "rayjob.yaml").read_text()
    other = run("cluster", "render", "--cluster", "kuberay.toml", *WORDS, "--storage", "s3://elsewhere/runs")
    assert other.exit_code == 2
    assert "--storage s3://elsewhere/runs: another store than storage.runs of the profile" in other.stderr


def test_submit_applies_by_kubectl(run, tmp_path, tools):
    done = run("cluster", "submit", "--cluster", "kuberay.toml", *WORDS, "--name", "night")
    assert done.exit_code == 0, done.stderr
    folder = tmp_path / "manifests" / "night"
    names = ["access.yaml", "storage.yaml", "rayjob.yaml"]
    assert calls(tools) == ["kubectl apply " + " ".join(f"--filename={folder / name}" for name in names)]
    assert "submitted: night, run night in /shared/runs" in done.stdout


def test_a_job_that_waits_in_the_queue_is_not_submitted_again(run, tmp_path, tools):
    assert "submitted:" in run("cluster", "submit", "--cluster", "slurm.toml", *WORDS, "--name", "night").stdout
    (tools / "squeue.says").write_text("17\n")
    assert (
        "there already: night" in run("cluster", "submit", "--cluster", "slurm.toml", *WORDS, "--name", "night").stdout
    )
    asked = "squeue --me --noheader --name=night --format=%i"
    assert calls(tools) == [asked, f"sbatch {tmp_path}/manifests/night/job.sh", asked]


def test_submit_starts_machines_and_hands_the_job_in_on_their_head(run, tmp_path, tools, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run("cluster", "submit", "--cluster", "onprem.toml", *WORDS)
    assert done.exit_code == 2
    assert "auth_token: missing; make your token with: ray get-auth-token --generate" in done.stderr
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("not shown to anyone")
    done = run("cluster", "submit", "--cluster", "onprem.toml", *WORDS)
    assert done.exit_code == 0, done.stderr
    up, job = calls(tools)
    assert up.startswith("ray up --yes --no-restart ")
    assert job.startswith("ray exec ")
    assert "--submission-id search-autonad-" in job
    texts = [path.read_text() for path in (tmp_path / "manifests").rglob("*") if path.is_file()]
    assert not any("not shown" in text for text in [*texts, done.stdout, done.stderr, up, job])


def test_a_running_cluster_takes_jobs_at_its_dashboard(run, tools):
    (tools / "ray.code").write_text("1")
    done = run("cluster", "submit", "--cluster", "address.toml", *WORDS, "--name", "night")
    assert done.exit_code == 1
    status, submit = calls(tools)
    assert status == "ray job status --address http://127.0.0.1:8265 night"
    assert submit.startswith("ray job submit --address http://127.0.0.1:8265 --submission-id night --no-wait -- ")
    assert "ray ended with code 1" in done.stderr


def test_a_dry_run_writes_and_runs_nothing(run, tmp_path, tools):
    done = run("cluster", "submit", "--dry-run", "--cluster", "kuberay.toml", *WORDS)
    assert done.exit_code == 0
    assert "would run:\n  kubectl apply" in done.stdout
    assert calls(tools) == []
    assert not (tmp_path / "manifests").exists()


def test_a_missing_tool_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("cluster", "submit", "--cluster", "slurm.toml", *WORDS)
    assert done.exit_code == 2
    assert "sbatch: not on this machine; submit from one that has it" in done.stderr
    assert not (tmp_path / "manifests").exists()


def test_a_failing_tool_ends_with_exit_code_1(run, tools):
    (tools / "kubectl.code").write_text("3")
    done = run("cluster", "submit", "--cluster", "kuberay.toml", *WORDS)
    assert done.exit_code == 1
    assert "kubectl ended with code 3: kubectl apply" in done.stderr


def test_the_budget_is_not_left_to_a_head_without_a_gpu(run):
    def command(*words):
        return run("cluster", "submit", "--dry-run", "--cluster", "onprem.toml", "--", *words).stdout

    assert "--budget paper" in command("search", "asdet")
    assert "--budget paper" not in command("search", "asdet", "--budget", "smoke")
    assert "--budget" not in command("search", "asdet", "--config", "/shared/c.yaml")
    assert "resume night" in command("resume", "night")


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_a_profile(run, tmp_path, kind):
    (tmp_path / "mine.toml").write_text(run("cluster", "example", kind).stdout)
    assert run("cluster", "submit", "--dry-run", "--cluster", "mine.toml", *WORDS).exit_code == 0


@pytest.fixture
def on_head(run, monkeypatch):
    """Call `cluster run`; returns the command that takes its place."""
    from clusters import waiting

    became = []
    monkeypatch.setattr(waiting, "wait_for_nodes", lambda *arguments: None)
    monkeypatch.setattr(os, "execv", lambda path, argv: became.append(argv))

    def call(name, runs, *words):
        became.clear()
        options = ["--name", name, "--runs", runs, "--nodes", 2]
        done = run("cluster", "run", *options, "--", *(encode(word) for word in words))
        return done, became[0][3:] if became else None

    return call


def test_on_the_head_a_run_begins_or_goes_on(on_head, tmp_path):
    words = ["search", "asdet", "--data", "/a b"]
    _, begins = on_head("night", tmp_path / "runs", *words)
    assert begins == [*words, "--name", "night", "--runs", str(tmp_path / "runs")]
    command = " ".join(["defectnas", *begins]).replace("/a b", "'/a b'")
    create_run(tmp_path / "runs", RunRecord("night", "asdet", "2026", command, "0", ()), "{}\n", {})
    _, goes_on = on_head("night", tmp_path / "runs", *words)
    assert goes_on == ["resume", "night", "--runs", str(tmp_path / "runs")]
    refused, became = on_head("night", tmp_path / "runs", "search", "autonad")
    assert (refused.exit_code, became) == (2, None)
    assert "the run of this name was begun by another command" in refused.stderr
    _, resumed = on_head("night", tmp_path / "runs", "resume", "night")
    assert resumed == ["resume", "night", "--runs", str(tmp_path / "runs")]


def test_on_a_new_head_a_run_goes_on_from_its_store(on_head, tmp_path, monkeypatch, bucket):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("HOME", str(first))
    words, uri = ["search", "asdet", "--data", "s3://bucket/MT"], f"{bucket}/runs"
    place = ["--runs", str(first / "defectnas/runs"), "--storage", uri]
    _, begins = on_head("night", uri, *words)
    assert begins == [*words, "--name", "night", *place]
    command = " ".join(["defectnas", *begins])
    folder = create_run(first / "defectnas/runs", RunRecord("night", "asdet", "2026", command, "0", ()), "{}\n", {})
    with Mirror(folder, uri):
        pass
    assert on_head("night", uri, *words)[1] == ["resume", "night", *place]

    monkeypatch.setenv("HOME", str(second))
    done, became = on_head("night", uri, "search", "autonad")
    assert (done.exit_code, became) == (2, None)
    assert (second / "defectnas/runs/night/run.json").is_file()


def test_on_the_head_nodes_that_do_not_come_end_with_exit_code_1(run, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    done = run("cluster", "run", "--name", "n", "--runs", tmp_path, "--wait", 0, "--", "search", "asdet")
    assert done.exit_code == 1
    assert "no Ray cluster on this machine" in done.stderr


def test_a_search_takes_the_address_of_a_profile(run, tmp_path):
    launch = api.config(method="asdet", budget="smoke", cluster="address.toml")
    assert launch.cluster.address == "10.0.0.10:6379"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.yaml").write_text("budget: smoke\ncluster: {address: ../onprem.toml}\n")
    assert api.config(config=Path("sub/c.yaml")).cluster.address == "10.0.0.10:6379"
    done = run("search", "asdet", "--data", tmp_path, "--budget", "smoke", "--cluster", "kuberay.toml")
    assert done.exit_code == 2
    assert "kuberay.toml: address: missing" in done.stderr


def test_an_address_of_ray_client_makes_the_search_a_job_of_that_cluster(run, tmp_path, monkeypatch):
    from orchestrator import cli_remote

    submitted, followed = [], []
    monkeypatch.setattr(cli_remote, "_access", lambda address, jobs: {})
    monkeypatch.setattr(clusters_api, "submit", lambda rendered: not submitted.append(rendered))
    monkeypatch.setattr(cli_remote.subprocess, "run", lambda argv, **_: followed.append(argv))
    monkeypatch.setattr(cli_remote, "_ended", lambda jobs, job, json_: 1)
    words = [
        "search",
        "asdet",
        "--data",
        "/shared/MT",
        "--budget",
        "smoke",
        "--name",
        "n",
        "--cluster=ray://head:10001",
    ]
    monkeypatch.setattr(sys, "argv", ["defectnas", *words, "--runs", "/shared/runs"])
    done = run(*words, "--runs", "/shared/runs")
    assert done.exit_code == 1
    assert "submitted: n, run n in /shared/runs, by http://head:8265" in done.stderr
    (step,) = submitted[0].steps
    given = step.argv[step.argv.index("--", 4) + 1 :]
    assert step.argv[:5] == ("ray", "job", "submit", "--address", "http://head:8265")
    assert list(given[:8]) == ["defectnas", "cluster", "run", "--name", "n", "--runs", "/shared/runs", "--nodes"]
    assert list(given[10:]) == ["search", "asdet", "--data", "/shared/MT", "--budget", "smoke"]
    assert followed[0][-4:] == ["--address", "http://head:8265", "--follow", "n"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "runs"], "--runs runs: with --cluster ray://... seen from the nodes"),
        (["--runs", "/shared/runs", "--data", "MT"], "--data MT: seen from the nodes, so it has to be absolute"),
        (["--runs", "/shared/runs"], "its jobs are taken at http://127.0.0.1:8265, and nothing answers there"),
    ],
)
def test_what_cannot_become_a_job_of_that_cluster_is_one_line(run, monkeypatch, words, said):
    from orchestrator import cli_remote

    def away(*_, **__):
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(cli_remote.urllib.request, "urlopen", away)
    words = ["search", "asdet", "--budget", "smoke", "--cluster", "ray://127.0.0.1:10001", *words]
    monkeypatch.setattr(sys, "argv", ["defectnas", *words])
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["cluster"], ["cluster", "render"], ["cluster", "submit"]])
def test_help_answers_without_heavy_imports(words):
    code = (
        "import sys; from orchestrator import cli\n"
        f"try: cli.app([*{words!r}, '--help'], prog_name='defectnas')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_rendering_needs_no_heavy_imports(tmp_path):
    words = [
        "cluster",
        "render",
        "--cluster",
        str(EXAMPLES / "kuberay.toml"),
        "--output",
        str(tmp_path / "out"),
        *WORDS,
    ]
    code = (
        "import sys; from orchestrator import cli\n"
        f"try: cli.app({words!r}, prog_name='defectnas')\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
