"""What an autoscaled cluster can grow to, as its nodes are told, and a real autoscaler that is asked for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_profiles import documents, manifests, profile

from clusters.command import encode
from clusters.connect import Cluster
from clusters.growth import VARIABLE, Group, GroupsError, environment_of, groups, labelled, reach
from orchestrator.launch import ResourceSettings
from orchestrator.placement import gpu_share
from orchestrator.resources import TooFewResourcesError, check_group

DOUBLE = Path(__file__).resolve().parents[1] / "doubles" / "growing_cluster.py"
ONE = Cluster("a:1", cpus=8, gpus=1, node_cpus=8, node_gpus=1)


def told(kind, **changes):
    return environment_of(profile(kind, **changes))[VARIABLE]


def test_every_pod_is_told_and_what_it_is_told_is_the_profile(monkeypatch):
    (job,) = documents(manifests("kuberay")["rayjob.yaml"])
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    texts = {
        variable["value"] for pod in pods for variable in pod["containers"][0]["env"] if variable["name"] == VARIABLE
    }
    assert len(pods) == 3
    assert len(texts) == 1
    monkeypatch.setenv(VARIABLE, texts.pop())
    head, gpu, board = groups()
    assert head == Group(1, 0, 0)
    assert gpu == Group(8, 8, 1, {"defectnas/device": "a100"})
    assert (
        labelled("defectnas/device", "jetson")
        == board
        == Group(1, 4, 0, {"defectnas/device": "jetson"}, {"latency_slot": 1})
    )
    assert labelled("defectnas/device", "orin") is None
    assert reach(ONE) == Cluster("a:1", cpus=68, gpus=8, node_cpus=8, node_gpus=1)


@pytest.mark.parametrize("kind", ["aws", "gcp"])
def test_machines_are_told_by_the_shell_that_starts_ray(kind, monkeypatch):
    (config,) = documents(manifests(kind)["cluster.yaml"])
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        exports = command.partition("ulimit")[0]
        done = subprocess.run(["sh", "-c", f'{exports} printf %s "${VARIABLE}"'], capture_output=True, text=True)
        assert done.stdout == told(kind)
    monkeypatch.setenv(VARIABLE, told(kind))
    assert sum(group.nodes for group in groups()) == 1 + sum(group.max for group in profile(kind).workers)


@pytest.mark.parametrize(
    ("kind", "changes"), [("slurm", {}), ("onprem", {}), ("kuberay", {"scaling__autoscale": False})]
)
def test_a_cluster_of_fixed_size_offers_what_is_there(kind, changes, monkeypatch):
    assert environment_of(profile(kind, **changes)) == {}
    monkeypatch.delenv(VARIABLE, raising=False)
    assert reach(ONE) == ONE


def test_what_no_manifest_wrote_is_refused(monkeypatch):
    for text in ("8", "%7B", "[%7B%22nodes%22:1%7D]"):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(GroupsError, match=f"^{VARIABLE}: "):
            groups()


def test_workers_are_compared_with_what_the_cluster_can_grow_to(monkeypatch):
    monkeypatch.setenv(VARIABLE, told("kuberay"))
    most = reach(ONE).gpus
    check_group(ResourceSettings(workers=8), "auto", most)
    check_group(ResourceSettings(workers=9), "cpu", most)
    with pytest.raises(TooFewResourcesError, match="9 workers with a GPU each; the cluster has 8 GPUs at most"):
        check_group(ResourceSettings(workers=9), "auto", most)


@pytest.mark.parametrize(("scorers", "gpus"), [(8, 8), (3, 8), (8, 4), (5, 2), (1, 1)])
def test_a_probe_finds_room_beside_scorers_that_bring_a_node_each(scorers, gpus):
    share, beside = gpu_share(False, scorers, gpus), -(-scorers // gpus)
    assert beside * share + gpu_share(True, scorers, gpus) <= 1
    assert beside > 1 or 2 * share > 1


WAITING = """
import json, time
from clusters.connect import ClusterUnreachableError, connected, needs_token, offer
from clusters.growth import comes
from orchestrator.growing import NodesNotComing, await_label, await_workers
while True:
    try:
        needs_token("ADDRESS")
        break
    except ClusterUnreachableError:
        time.sleep(0.2)
said = []
with connected("ADDRESS"):
    import ray
    before = offer(None)
    await_label("defectnas/device=jetson", 120, said.append)
    await_label("defectnas/device=jetson", 120, said.append)
    (board,) = [node for node in ray.nodes() if node["Labels"].get("defectnas/device")]
    again = comes([{"latency_slot": 1}], 60)
    try:
        await_workers(2, 0.5, 1, 0, said.append)
    except NodesNotComing as error:
        said.append(str(error))
print(json.dumps([before.cpus, board["Resources"]["latency_slot"], again, said]))
"""


def test_rays_autoscaler_brings_the_node_that_is_waited_for():
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    cluster = subprocess.Popen([sys.executable, str(DOUBLE)], env=environment, **pipes)
    labels, slot = {"defectnas/device": "jetson"}, {"latency_slot": 1}
    able = [{"nodes": 1, "cpus": 1, "gpus": 0, "labels": labels, "resources": slot}]
    try:
        script = WAITING.replace("ADDRESS", cluster.stdout.readline().strip())
        told = {**environment, VARIABLE: encode(json.dumps(able))}
        done = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, text=True, timeout=200)
    finally:
        cluster.stdin.close()
        cluster.wait(60)
    assert done.returncode == 0, done.stderr
    *amounts, said = json.loads(done.stdout)
    # It came, nothing of it stays set aside, and what does not come is told after the time that was given.
    assert amounts == [1, 1, True]
    assert said == [
        "asked the cluster for a node with the label defectnas/device=jetson; waiting at most 2 min",
        "asked the cluster for 2 times 1 GPU; waiting at most 0 min",
        "the cluster was asked for 2 times 1 GPU, and it did not come within resources.wait, 0 min",
    ]
