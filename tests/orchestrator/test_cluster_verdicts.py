import io

import pytest
from cluster_profiles import profile
from rich.console import Console

from clusters.nodes import Answer, Node
from orchestrator import cluster_verdicts
from orchestrator.cluster_storage import LOCK, held_in
from orchestrator.cluster_tables import report_tables
from orchestrator.cluster_verdicts import (
    access_check,
    broadcast_check,
    clocks_check,
    latency_check,
    nodes_check,
    reduce_check,
    versions_check,
)
from orchestrator.files import hold

HEAD = Node("00aa", "head", "10.0.0.10", {"CPU": 8.0, "memory": 2.0**34, "node:__internal_head__": 1.0}, {})
TAGS = {"defectnas/device": "rtx3090"}
ONE = Node("11aa", "one", "10.0.0.11", {"CPU": 16.0, "GPU": 2.0}, TAGS)
TWO = Node("22aa", "two", "10.0.0.12", {"CPU": 16.0, "GPU": 2.0}, TAGS)
BOARD = Node(
    "33aa", "board", "10.0.0.20", {"CPU": 6.0, "GPU": 1.0, "latency_slot": 1.0}, {"defectnas/device": "jetson"}
)
ALL = [HEAD, ONE, TWO, BOARD]
FACTS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "defectnas": "0.1.0", "code": "abc", "gpus": []}
PROBE = {
    "on": "cuda", "device": "RTX", "threads": 1, "cpus": 4, "median_ms": 2.0, "iqr_ms": 0.1, "load": 0.0, "programs": 0,
}  # fmt: skip


def answers(values, nodes=ALL):
    return [Answer(node, value) for node, value in zip(nodes, values, strict=False)]


def test_of_a_node_its_own_resources_are_told_from_rays():
    assert (HEAD.cpus, HEAD.gpus, HEAD.memory_gib, HEAD.custom) == (8, 0, 16.0, {})
    assert BOARD.custom == {"latency_slot": 1.0}
    assert ONE.name == "one/11aa"


def test_nodes_are_held_against_the_profile():
    onprem = profile("onprem")
    assert nodes_check(ALL, {}, [], onprem).state == "pass"
    assert nodes_check(ALL, {}, [], None).found == "4 nodes, 46 CPUs, 5 GPUs"
    short = nodes_check([HEAD, ONE, BOARD], {}, [], onprem)
    assert short.state == "failure"
    assert "group gpu: 1 of 2 nodes (defectnas/device=rtx3090, 2 GPUs)" in short.found
    # The board does for no member of another group, and the head for none.
    without = nodes_check([HEAD, ONE, TWO], {}, [], onprem)
    assert "group board: 0 of 1 nodes (defectnas/device=jetson, latency_slot 1, 1 GPU)" in without.found


def test_a_silent_node_fails_and_one_that_died_warns():
    assert nodes_check(ALL, {"one/11aa": "no answer within 5 s"}, [], None).state == "failure"
    lost = nodes_check(ALL, {}, ["three"], None)
    assert (lost.state, lost.found) == ("warning", "4 nodes, 46 CPUs, 5 GPUs; 1 node died (three)")


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({}, "pass", "the same everywhere"),
        ({"python": "3.11.9"}, "warning", "one/11aa: python 3.11.9, here 3.11.7"),
        ({"python": "3.12.1"}, "failure", "one/11aa: python 3.12.1"),
        ({"torch": "2.13.0+nv"}, "warning", "torch 2.13.0+nv"),
        ({"torch": None}, "failure", "torch missing"),
        ({"ray": "2.61.0"}, "failure", "ray 2.61.0"),
        ({"code": "def"}, "failure", "its source files def, here abc"),
    ],
)
def test_versions_that_break_a_search_fail_and_others_warn(change, state, said):
    check = versions_check(FACTS, answers([FACTS, {**FACTS, **change}]))
    assert check.state == state
    assert said in check.found


def test_gpu_drivers_that_differ_warn_and_a_missing_program_fails():
    driven = [{**FACTS, "gpus": [{"driver": driver}]} for driver in ("550", "570")]
    check = versions_check(FACTS, answers(driven, [ONE, TWO]))
    assert (check.state, check.found) == ("warning", "GPU drivers differ: one/11aa 550, two/22aa 570")
    missing = versions_check(
        FACTS, [Answer(ONE, error="RayTaskError: ModuleNotFoundError: No module named 'clusters'")]
    )
    assert (missing.state, missing.advice) == ("failure", "install the program there")


def test_storage_fails_where_bytes_differ_or_little_is_free():
    wrote = answers(["a", "b"])

    def seen(one, two, gib):
        return {"files": {HEAD.id: one, ONE.id: two}, "free_bytes": gib * 2**30, "seconds": 0.0}

    def storage_check(place, wrote, read):
        return cluster_verdicts.storage_check(place, wrote, read, "mount it")

    assert storage_check("/s", wrote, answers([seen("a", "b", 50)] * 2)).state == "pass"
    assert storage_check("/s", wrote, answers([seen("a", "b", 5)] * 2)).state == "warning"
    assert storage_check("/s", wrote, answers([seen("a", "b", 0.5)] * 2)).state == "failure"
    other = storage_check("/s", wrote, answers([seen("a", "b", 50), seen("x", "b", 50)]))
    assert (other.state, other.found) == ("failure", "one/11aa reads something else than head/00aa wrote")
    refused = storage_check("/s", [wrote[0], Answer(ONE, error="PermissionError: no")], answers([seen("a", None, 9)]))
    assert refused.advice == "mount it"
    assert refused.found == "one/11aa cannot write there (PermissionError: no)"


def test_locks_that_stay_on_their_node_are_a_warning(tmp_path):
    read = answers([{"files": {}, "free_bytes": 50 * 2**30, "seconds": 0.1}] * 2)
    alone = cluster_verdicts.storage_check("/s", [], read, "mount it", answers([True, False]))
    assert alone.state == "warning"
    assert f"not seen by {ONE.name}: two drivers of one run would both go on" in alone.found
    assert "nolock" in alone.advice
    assert cluster_verdicts.storage_check("/s", [], read, "mount it", answers([True, True])).state == "pass"
    assert not held_in(str(tmp_path))
    with hold(tmp_path / LOCK, "it"):
        assert held_in(str(tmp_path))
    assert not held_in(str(tmp_path))


def test_a_clock_is_held_against_what_the_round_trip_leaves_sure():
    assert clocks_check(answers([(0.001, 0.002), (1.5, 0.9)])).state == "pass"
    assert clocks_check(answers([(0.001, 0.002), (-1.5, 0.1)])).found == "one/11aa -1,500 ms"
    assert clocks_check(answers([(0.001, 0.002), (1.5, 0.1)])).state == "warning"
    assert clocks_check(answers([(0.001, 0.002), (100.0, 0.1)])).state == "failure"
    assert clocks_check([Answer(ONE, error="no answer within 5 s", silent=True)]).state == "failure"


def test_a_sum_or_bytes_that_are_wrong_fail():
    assert (
        reduce_check(answers([(True, 1.0), (True, 3.0)]), True, 64).found == "NCCL, 2 workers: right, 3.0 ms for 64 MiB"
    )
    wrong = reduce_check(answers([(True, 1.0), (False, 3.0)]), False, 64)
    assert (wrong.state, wrong.found) == ("failure", "one/11aa: the sum is wrong")
    assert reduce_check(answers([(True, 1.0)]), False, 64).found.startswith("gloo, one worker alone")
    sent = broadcast_check(answers([(0.0, 7), (0.5, 7), (1.0, 7)]), 7, 64, 2.0, HEAD.id)
    assert sent.found == "64 MiB/s to 2 nodes, 64 MiB each; the last was two/22aa after 1,000 ms"
    assert broadcast_check(answers([(0.0, 7), (0.5, 8)]), 7, 64, 2.0, HEAD.id).state == "failure"
    assert broadcast_check(answers([(0.0, 7)]), 7, 64, 2.0, HEAD.id).state == "pass"


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({}, "pass", "median 2.00 ms, spread 5 %"),
        ({"load": None}, "pass", ""),
        ({"load": 0.4}, "warning", "the GPU is 40 % busy"),
        ({"programs": 2}, "warning", "2 other programs on this GPU"),
        ({"iqr_ms": 1.0}, "warning", "unsteady"),
        ({"on": "cpu", "load": 3.0}, "warning", "3.0 of 4 CPUs are busy"),
        ({"on": "cpu", "load": 0.1}, "pass", ""),
    ],
)
def test_what_disturbs_a_measurement_is_said(change, state, said):
    check = latency_check(answers([{**PROBE, **change}], [BOARD]))
    assert check.state == state
    assert said in check.found


def test_strangers_are_to_be_kept_out():
    assert access_check(True, True, None, "127.0.0.1:8265").state == "pass"
    assert access_check(True, True, None, None).found == "asks for a token; no dashboard"
    assert access_check(True, True, None, "10.0.0.10:8265").state == "warning"
    assert access_check(True, True, "/home/me/.ray/auth_token", None).advice == "chmod 600 /home/me/.ray/auth_token"
    assert access_check(False, False, None, None).state == "warning"
    assert access_check(False, True, None, None).state == "failure"


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_tables_fit_any_terminal_and_keep_every_word(width):
    checks = [
        access_check(False, True, None, None),
        nodes_check(ALL, {"one/11aa": "no answer within 5 s"}, [], None),
        latency_check(answers([{**PROBE, "load": 0.4}], [BOARD])),
    ]
    row = {
        "name": "one/11aa", "cpus": 16, "gpus": 2, "gpu_names": ["NVIDIA H100 80GB HBM3"] * 3, "memory_gib": 1.0,
        "labels": TAGS, "resources": {"latency_slot": 1.0}, "answers": False,
    }  # fmt: skip
    stream = io.StringIO()
    Console(file=stream, width=width).print(report_tables([row], checks))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for word in ("2 given out", "3 x NVIDIA", "latency_slot 1", "warning", "failure", "2 of 3 checks failed"):
        assert word in words
