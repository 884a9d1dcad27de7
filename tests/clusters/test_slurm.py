"""The batch script of Slurm: sound as a script, and run with programs that stand in for Slurm, Ray and the search."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_profiles import manifests
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.command import decode, make_job
from clusters.render import render

# Every program writes down how it was called, and with which token.
STAND_IN = f"""#!{sys.executable}
import json, os, signal, sys, time
name = os.path.basename(sys.argv[0])
def note(**more):
    with open(os.environ["CALLS"], "a") as file:
        token = os.environ.get("RAY_AUTH_TOKEN")
        file.write(json.dumps({{"name": name, "argv": sys.argv[1:], "token": token, **more}}) + "\\n")
if name == "ray":
    signal.signal(signal.SIGTERM, lambda *_: (note(ended=True), os._exit(0)))
note(address=os.environ.get("RAY_ADDRESS"))
if name == "scontrol" and sys.argv[1] == "show":
    print("localhost\\nother-node")
elif name == "getent":
    print("127.0.1.1 STREAM localhost\\n10.1.2.3 STREAM\\n10.1.2.3 DGRAM\\n10.9.9.9 STREAM")
elif name == "srun":
    program = next(i for i, word in enumerate(sys.argv[1:], 1) if not word.startswith("-"))
    os.execvp(sys.argv[program], sys.argv[program:])
elif name == "ray":
    time.sleep(60)
elif name == "defectnas" and os.environ.get("WAITS"):
    def stop(*_):
        note(stopped=True)
        time.sleep(0.3)
        note(saved=True)
        sys.exit(130)
    signal.signal(signal.SIGTERM, stop)
    note(ready=True)
    time.sleep(60)
elif name == "defectnas":
    nodes = int(sys.argv[sys.argv.index("--nodes") + 1])
    while open(os.environ["CALLS"]).read().count('"name": "ray"') < nodes:
        time.sleep(0.02)
    sys.exit(int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def job(tmp_path):
    """Begin the script of a profile with stand-ins; returns the process and what they were called with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "scontrol", "getent", "ray", "defectnas"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    begun = []

    def begin(nodes=2, words=("search", "autonad"), environment=None, **changes):
        from cluster_profiles import profile

        changes = {"image__bin": str(programs), "secrets": [], **changes}
        script = tmp_path / "job.sh"
        script.write_text(render(profile("slurm", **changes), make_job(list(words), "night"))["job.sh"])
        variables = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "SLURM_JOB_ID": "4242",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": "localhost,other-node",
            **(environment or {}),
        }
        process = subprocess.Popen(["bash", script], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        begun.append(process)
        return process

    def called(name=None, **having):
        noted = [json.loads(line) for line in calls.read_text().splitlines()]
        return [call for call in noted if name in (None, call["name"]) and having.items() <= call.items()]

    yield begin, called
    for process in begun:
        process.kill()
        process.wait()


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in 30 s")


def option(call, name):
    (value,) = [word.partition("=")[2] for word in call["argv"] if word.startswith(f"--{name}=")]
    return value


def test_a_job_starts_ray_on_each_node_runs_the_command_and_ends_ray(job):
    begin, called = job
    process = begin()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    head, workers = [call for call in called("ray") if "ended" not in call]
    if "--head" not in head["argv"]:
        head, workers = workers, head
    assert "--head" in head["argv"]
    assert option(head, "dashboard-host") == "127.0.0.1"
    (search,) = called("defectnas")
    assert search["address"] == option(workers, "address") == f"10.1.2.3:{option(head, 'port')}"
    assert search["argv"][:8] == [
        "cluster", "run", "--name", "night", "--runs", "/work/runs", "--nodes", "2",
    ]  # fmt: skip
    assert len(called("ray", ended=True)) == 2
    tokens = {call["token"] for call in called("ray") + called("defectnas")}
    assert len(tokens) == 1
    assert re.fullmatch("[0-9a-f]{64}", tokens.pop())
    assert called("srun")[-1]["argv"][-3:] == ["rm", "-rf", "/tmp/ray-4242"]


def test_no_two_ports_of_a_job_are_the_same(job):
    begin, called = job
    begin().communicate(timeout=60)
    head = next(call for call in called("ray") if "--head" in call["argv"])
    ports = [int(found[1]) for word in head["argv"] if (found := re.fullmatch(r"--.*port=(\d+)", word))]
    assert len(ports) == len(set(ports)) == 9
    assert max(ports) - min(ports) < 20
    # Below those that the system hands out by itself.
    assert 20000 <= min(ports) <= max(ports) < 32768


def test_one_node_is_head_and_worker(job):
    begin, called = job
    assert begin(nodes=1).wait(60) == 0
    assert len([call for call in called("ray") if "ended" not in call]) == 1


def test_at_the_time_limit_the_search_saves_and_the_job_is_queued_anew(job):
    begin, called = job
    process = begin(environment={"WAITS": "1"})
    until(lambda: called("defectnas", ready=True))
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert process.returncode == 130
    assert called("defectnas", saved=True)
    assert called("scontrol")[-1]["argv"] == ["requeue", "4242"]


def test_a_job_is_not_queued_anew_for_ever(job):
    begin, called = job
    process = begin(environment={"WAITS": "1", "SLURM_RESTART_COUNT": "10"})
    until(lambda: called("defectnas", ready=True))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert [call["argv"][0] for call in called("scontrol")] == ["show"]


def test_the_exit_code_of_the_search_is_that_of_the_job(job):
    begin, called = job
    assert begin(environment={"CODE": "1"}).wait(60) == 1
    assert [call["argv"][0] for call in called("scontrol")] == ["show"]


def test_hostile_words_arrive_as_they_were(job, tmp_path):
    begin, called = job
    words = ["search", "$(touch broken)", "a b", "'\"`id`", "\n#SBATCH --uid=0", "", "*", "~", "; touch broken", "%41"]
    assert begin(words=words, nodes=1).wait(60) == 0
    (search,) = called("defectnas")
    assert [decode(word) for word in search["argv"][search["argv"].index("--") + 1 :]] == words
    assert not (tmp_path / "broken").exists()


def test_secrets_come_from_their_files_when_the_job_runs(job, tmp_path):
    begin, _ = job
    (tmp_path / "secret").write_text("it's $HOME\n")
    process = begin(nodes=1, secrets=[{"variable": "PASSWORD", "file": str(tmp_path / "secret")}])
    assert process.wait(60) == 0
    assert "it's" not in (tmp_path / "job.sh").read_text()
    assert begin(nodes=1, secrets=[{"variable": "PASSWORD", "file": "/none/there"}]).wait(60) != 0


VARIANTS = [
    {},
    {"security__token": False, "secrets": [], "limits__minutes": 0, "workers__gpus": 0, "workers__min": 4},
    {"image": {"name": "registry.example.com/defectnas:0.1.0"}, "environment": {"A": "it's one"}},
    {"workers__resources": {"latency_slot": 1}, "workers__labels": {"a/b": "c"}, "ray__dashboard": "cluster"},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_shellcheck_finds_nothing(tmp_path, changes):
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck comes with the development dependencies"
    path = tmp_path / "job.sh"
    path.write_text(manifests("slurm", **changes)["job.sh"])
    done = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert done.stdout == ""


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12)


@settings(deadline=None, max_examples=15)
@given(PRINTABLE)
def test_bash_can_read_every_script(value):
    script = manifests("slurm", environment={"OTHER": value.replace("://", "")})["job.sh"]
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_slurm_reads_comes_first_and_has_no_blanks():
    lines = manifests("slurm")["job.sh"].splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[1 : 1 + len(directives)] == directives
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in directives)
    assert {"#SBATCH --signal=B:TERM@120", "#SBATCH --requeue", "#SBATCH --dependency=singleton"} <= set(directives)
    assert "#SBATCH --gpus-per-node=a100:4" in directives
    assert "#SBATCH --nodes=2-4" in directives
