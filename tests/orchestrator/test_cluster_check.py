"""`defectnas cluster check` on a Ray of three nodes, real processes all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.cluster_storage import check_storage
from orchestrator.storage import open_store
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.hybrid_settings import LatencySettings
from search.settings import DataSettings, RuntimeSettings, Settings

DOUBLES = Path(__file__).resolve().parents[1] / "doubles"
LABEL = "defectnas/device=jetson"
CHECKS = ["access", "nodes", "versions", "storage", "clocks", "broadcast", "all-reduce", "latency probe"]


def environment():
    return {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}


@pytest.fixture(scope="module")
def address(s3_server):
    """Of three nodes, the last with a label and a latency slot."""
    command = [sys.executable, str(DOUBLES / "small_cluster.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment(), **pipes)
    lines = (line.strip() for line in process.stdout)
    yield next(line for line in lines if line.rpartition(":")[2].isdigit())
    process.stdin.close()
    process.wait(60)


def defectnas(*words, **options):
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, words)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, **options)


def by_name(report):
    assert [check["name"] for check in report["checks"]] == CHECKS
    return {check["name"]: check for check in report["checks"]}


@pytest.mark.timeout(400)
def test_a_healthy_cluster_is_seen_whole_and_left_as_it_was(address, tmp_path):
    runs = tmp_path / "a" / "runs"
    done = defectnas("cluster", "check", "--cluster", address, "--runs", runs, "--mib", 4, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert report["cluster"] == address
    assert sorted(node["cpus"] for node in report["nodes"]) == [1, 1, 2]
    (board,) = [node for node in report["nodes"] if node["labels"]]
    assert (board["labels"], board["resources"]) == ({"defectnas/device": "jetson"}, {"latency_slot": 1.0})
    checks = by_name(report)
    states = {name: check["state"] for name, check in checks.items()}
    # These nodes ask for no token, and other work on this machine may disturb the probe.
    assert {states.pop(name) for name in CHECKS if name not in ("access", "latency probe")} == {"pass"}
    assert states["latency probe"] in ("pass", "warning")
    assert states["access"] == "warning"
    assert checks["all-reduce"]["values"]["workers"] == 3
    assert len(checks["broadcast"]["values"]["seconds"]) == 2
    assert len(checks["clocks"]["values"]["nodes"]) == 3
    assert list(checks["latency probe"]["values"]["nodes"]) == [board["name"]]
    assert "waiting for 3 nodes" in done.stderr
    assert not (tmp_path / "a").exists()


PLACES = """
import json, sys
from pathlib import Path
from clusters.connect import connected
from orchestrator.hybrid import ray_hands
from places import here
from search.trial import open_context, read_trial
folder = Path(sys.argv[2])

def work():
    hands = ray_hands(open_context(folder, read_trial(folder), None))
    with hands.pool(here, "score") as scorers, hands.pool(here, "measure") as probes:
        return [[outcome.value for outcome in pool.map([3] * 6)] for pool in (scorers, probes)]

with connected(sys.argv[1]):
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
    board = [node["NodeID"] for node in ray.nodes() if node["Labels"].get("defectnas/device") == "jetson"]
    # As Tune runs what drives a trial: in a little room of its own, which what it begins would have to fit into.
    room = PlacementGroupSchedulingStrategy(placement_group([{"CPU": 0.01}]), placement_group_capture_child_tasks=True)
    at = ray.get(ray.remote(work).options(num_cpus=0.01, scheduling_strategy=room).remote())
print(json.dumps([board, *at]))
"""


@pytest.mark.timeout(400)
def test_evaluators_are_on_different_nodes_and_the_probe_alone_on_that_of_the_label(address, surfaces, tmp_path):
    settings = Settings(
        data=DataSettings(image_size=32),
        latency=LatencySettings(node=LABEL),
        runtime=RuntimeSettings(threads=1, device="cpu"),
    )
    pack = build_pack(open_dataset(surfaces / "good"), settings.data, 0, tmp_path / "packs")
    trial = {"method": "autonad", "data": "good", "name": "good", "pack": str(pack.folder), "scorers": 2}
    (tmp_path / "trial.json").write_text(json.dumps({**trial, "settings": settings.to_dict()}))
    command = [sys.executable, "-c", PLACES, address, str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    board, scored, measured = json.loads(done.stdout)
    assert len(set(scored)) == 2
    assert not set(scored) & set(board)
    assert set(measured) == set(board)


@pytest.mark.timeout(400)
def test_nodes_write_to_a_store_and_read_what_the_others_wrote(address, bucket, tmp_path):
    words = ["cluster", "check", "--cluster", address, "--mib", 1, "--json", "--runs"]
    storage = by_name(json.loads(defectnas(*words, f"{bucket}/runs", cwd=tmp_path).stdout))["storage"]
    assert (storage["state"], storage["found"]) == ("pass", f"{bucket}/runs: written and read across 3 nodes")
    assert open_store(bucket).entries() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_this_machine_cannot_use_fails_before_nodes_are_asked(bucket):
    missing = check_storage(f"{bucket}-no/runs", None, None, None, None, 60.0)
    assert missing.state == "failure"
    assert "there is no such bucket" in missing.found


@pytest.fixture(scope="module")
def odd_reports(address, tmp_path_factory):
    """Of the same nodes where one says odd things, then where it hangs."""
    command = [sys.executable, str(DOUBLES / "odd_nodes.py"), address, str(tmp_path_factory.mktemp("runs")), LABEL]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(400)
def test_each_thing_that_is_wrong_with_a_node_fails_its_check_and_names_the_node(odd_reports):
    report = odd_reports[0]
    assert not report["ok"]
    checks = by_name(report)
    (odd,) = [node["name"] for node in report["nodes"] if node["labels"]]
    others = [node["name"] for node in report["nodes"] if not node["labels"]]
    assert checks["nodes"]["state"] == "pass"
    for name in ("versions", "storage", "clocks", "broadcast", "all-reduce"):
        assert checks[name]["state"] == "failure"
        assert checks[name]["advice"]
    assert f"{odd}: torch 1.0.0, here " in checks["versions"]["found"]
    assert f"{odd}: its source files 000000000000" in checks["versions"]["found"]
    assert not any(other in checks["versions"]["found"] for other in others)
    problems = checks["storage"]["values"]["problems"]
    assert sorted(problems) == sorted(
        [
            f"{odd} does not see what {', '.join(others)} wrote",
            *(f"{other} does not see what {odd} wrote" for other in others),
        ]
    )
    assert f"{odd} +90,0" in checks["clocks"]["found"] or f"{odd} +89,9" in checks["clocks"]["found"]
    assert checks["broadcast"]["found"] == f"{odd} received other bytes than were sent"
    assert "ConnectionError: no way through; and 2 more" in checks["all-reduce"]["found"]
    assert checks["latency probe"]["state"] == "warning"
    assert "3.0 of 4 CPUs are busy" in checks["latency probe"]["found"]


@pytest.mark.timeout(400)
def test_a_node_that_hangs_is_named_given_up_and_not_waited_for_again(odd_reports):
    report = odd_reports[1]
    checks = by_name(report)
    (odd,) = [node["name"] for node in report["nodes"] if node["labels"]]
    assert f"{odd} cannot write there (no answer within 5 s)" in checks["storage"]["found"]
    assert odd not in checks["clocks"]["values"]["nodes"]
    assert len(checks["clocks"]["values"]["nodes"]) == 2
    assert checks["broadcast"]["state"] == "pass"
    assert checks["latency probe"]["state"] == "failure"
    assert checks["latency probe"]["found"] == f"{odd}: has not answered before"


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*words):
    return CliRunner().invoke(cli.app, ["cluster", "check", *map(str, words)], prog_name="defectnas")


def test_a_cluster_that_does_not_answer_fails_and_says_so(tmp_path):
    done = run("--cluster", f"127.0.0.1:{closed_port()}", "--runs", tmp_path / "runs", "--json")
    assert done.exit_code == 1
    (check,) = json.loads(done.stdout)["checks"]
    assert (check["name"], check["state"]) == ("join", "failure")
    assert "no Ray answers there" in check["found"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster", "nonsense"], "needed is HOST:PORT"),
        (["--cluster", "ray://127.0.0.1:10001"], "Ray Client"),
        (["--cluster", "missing.toml"], "cannot be read as a cluster profile"),
        (["--cluster", "auto"], "no Ray cluster on this machine"),
        (["--cluster", "h:1", "--runs", "ftp://bucket/runs"], "allowed are s3://BUCKET/PATH"),
        (["--cluster", "h:1", "--node", "jetson"], "needed is a label"),
    ],
)
def test_bad_input_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []
