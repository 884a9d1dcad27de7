"""The tracker against real MLflow stores; everything is read back through MLflow's own client."""

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow_stores import (
    FIRST_OPENED,
    artifact_text,
    artifacts,
    client_of,
    curve,
    free_port,
    parents_and_children,
    stored_runs,
    trial_run,
)
from synthetic_ledgers import append_ledger, finish_trial, make_events, make_run, write_ledger

from benchmarks.fault_launches import kill_while_writing
from benchmarks.fault_store import missing_in_store
from orchestrator import api
from orchestrator.ledger_reader import LedgerTail
from orchestrator.tracking import (
    ENVIRONMENT,
    StoreAwayError,
    StoreRefusedError,
    Tracker,
    TrackingUriError,
    catch_up,
    embedded_uri,
    resolve_uri,
    ui_command,
)
from orchestrator.tracking_run import count_unsent
from orchestrator.tracking_uri import database_file
from orchestrator.tracking_values import Sent, metric_key, summary_note, summary_values
from search.secret_texts import without_secrets

pytestmark = pytest.mark.filterwarnings(FIRST_OPENED)

EVENTS = make_events(epochs=2, keep=(7, 1), retrain=3)
PLAIN = [e for e in EVENTS if e["event"] not in ("pruned", "architecture")]
"""The same without what takes long to draw."""
EPOCHS = [e for e in EVENTS if e["event"] == "epoch"]
SEARCH = [e for e in EPOCHS if e["phase"] == "search"]


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


def start_server(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, so that it can be stopped with its workers."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, cwd=folder, start_new_session=True, **quiet)


def end_group(leader: subprocess.Popen[bytes]) -> None:
    if leader.poll() is None:
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait(30)


def killed_while_it_writes(server: subprocess.Popen[bytes], runs: Path, tracker: Tracker, folder: Path) -> bool:
    """Write events until the server was killed in the middle of a transaction; the rest of them follow."""
    killed = False
    for event in EVENTS[8:]:
        append_ledger(folder, [event])
        over = threading.Event()
        if not killed:
            timer = threading.Timer(5.0, over.set)
            timer.start()
            killed = kill_while_writing(server, database_file(embedded_uri(runs)), over.is_set)
            timer.cancel()
    return killed


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("orch")]


def test_a_finished_run_is_recorded_whole(runs: Path, tmp_path: Path) -> None:
    run = make_run(runs)
    for name in ("KSDD-s0", "MT-s0"):
        finish_trial(run / "trials" / name, EVENTS)
    uri = embedded_uri(runs)
    assert catch_up(run, uri) == 2 * (len(EVENTS) + 1)

    [parent], children = parents_and_children(uri)
    assert [r.info.status for r in (parent, *children[parent.info.run_id])] == ["FINISHED"] * 3
    assert parent.info.run_name == run.name
    tags = parent.data.tags
    assert (tags["defectnas.run"], tags["method"], tags["defectnas.version"]) == (run.name, "asdet", "0.1.0")
    assert tags["defectnas.command"] == "defectnas search asdet"
    assert "| KSDD-s0 | done | 61.00 |" in tags["mlflow.note.content"]
    assert parent.data.metrics["summary/done"] == 2
    assert parent.data.metrics["summary/KSDD/asdet/iou_mean"] == pytest.approx(0.61)
    assert artifact_text(uri, parent, "config.yaml", tmp_path) == "seed: 0\n"

    child = trial_run(uri, "KSDD-s0")
    assert child.data.params["search.alpha_lr"] == "0.002"
    assert child.data.params["data_set"] == "KSDD"
    assert child.data.params["network.operators"].startswith("zero, identity, sep_conv_3x3")
    assert child.data.tags["environment.torch"] == "2.15.0"
    assert child.data.tags["data_digest"] == "cd" * 32
    assert child.data.tags["settings_digest"] == "ef" * 32
    metrics = child.data.metrics
    assert metrics["test/iou"] == pytest.approx(0.61)
    assert metrics["test/classes/a crack_/iou"] == pytest.approx(0.6)
    assert metrics["nothing/iou_image"] == pytest.approx(0.1)
    assert metrics["cost/parameters"] == 123456
    assert metrics["cost/search_stage_2_seconds"] == pytest.approx(4.5)
    assert metrics["cost/search_stage_2_cpu_seconds"] == pytest.approx(9.0)
    assert metrics["cost/test_seconds"] == pytest.approx(1.5)
    [data_set] = child.inputs.dataset_inputs
    assert (data_set.dataset.name, data_set.dataset.digest) == ("KSDD", "cd" * 18)


def test_curves_have_every_epoch_once(runs: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    finish_trial(run / "trials" / "KSDD-s0", PLAIN)
    uri = embedded_uri(runs)
    catch_up(run, uri)
    child = trial_run(uri, "KSDD-s0")
    assert curve(uri, child, "search/loss") == [(e["step"], e["loss"]) for e in SEARCH]
    # The first epoch of each stage trains weights only: its alpha loss is null.
    assert curve(uri, child, "search/alpha_loss") == [(e["step"], e["alpha_loss"]) for e in SEARCH if e["alpha_loss"]]
    assert [step for step, _ in curve(uri, child, "retrain/iou")] == [1, 2, 3]
    entropies = [(e["step"], pytest.approx(e["entropy"]["reduction"])) for e in SEARCH]
    assert curve(uri, child, "search/entropy/reduction") == entropies
    shares = [(e["step"], pytest.approx(e["share"]["normal"]["identity"])) for e in SEARCH]
    assert curve(uri, child, "search/share/normal/identity") == shares


def test_genotype_drawings_pruning_and_pictures_are_artifacts(runs: Path, tmp_path: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    finish_trial(run / "trials" / "KSDD-s0", EVENTS)
    uri = embedded_uri(runs)
    catch_up(run, uri)
    child = trial_run(uri, "KSDD-s0")
    drawings = {"alphas_stage1", "alphas_stage2", "cells", "curves", "pruning"}
    assert artifacts(uri, child) == {
        "architecture.json",
        "metrics.json",
        "pictures/part_1.png",
        "pruning.json",
        *(f"drawings/{name}.png" for name in drawings),
    }
    history = json.loads(artifact_text(uri, child, "pruning.json", tmp_path))
    assert [stage["stage"] for stage in history] == [1, 2]
    assert history[1]["kept"] == [e for e in EVENTS if e["event"] == "pruned"][1]["kept"]
    with open(client_of(uri).download_artifacts(child.info.run_id, "drawings/cells.png", str(tmp_path)), "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_second_catch_up_sends_nothing(runs: Path) -> None:
    run = make_run(runs)
    for name in ("KSDD-s0", "MT-s0"):
        finish_trial(run / "trials" / name, PLAIN)
    uri = embedded_uri(runs)
    catch_up(run, uri)
    before = [(r.info.run_id, r.info.end_time, r.data.metrics, r.data.tags) for r in stored_runs(uri)]
    points = curve(uri, trial_run(uri, "MT-s0"), "search/loss")
    assert catch_up(run, uri) == 0
    # What was sent is known to the store itself.
    (run / "tracking.json").unlink()
    assert catch_up(run, uri) == 0
    assert [(r.info.run_id, r.info.end_time, r.data.metrics, r.data.tags) for r in stored_runs(uri)] == before
    assert curve(uri, trial_run(uri, "MT-s0"), "search/loss") == points


def test_tracking_json_tells_how_far_it_came(runs: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    append_ledger(run / "trials" / "KSDD-s0", EVENTS[:6])
    uri = embedded_uri(runs)
    assert count_unsent(run, uri) == 6
    catch_up(run, uri)
    position = json.loads((run / "tracking.json").read_text())[uri]
    child = trial_run(uri, "KSDD-s0")
    steps = sum(e["event"] == "epoch" for e in EVENTS[:6])
    assert position["trials"]["KSDD-s0"] == {"run": child.info.run_id, "n": 5, "steps": {"search": steps}}
    assert position["run"] == child.data.tags["mlflow.parentRunId"]
    append_ledger(run / "trials" / "KSDD-s0", EVENTS[6:8])
    assert count_unsent(run, uri) == 2
    (run / "tracking.json").write_text("{ damaged")
    assert catch_up(run, uri) == 2
    assert count_unsent(run, uri) == 0


def test_a_growing_ledger_is_followed(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(runs)
    first, second = run / "trials" / "KSDD-s0", run / "trials" / "MT-s0"
    uri = embedded_uri(runs)
    with Tracker(run, uri, every_s=0.05) as tracker:
        append_ledger(first, PLAIN[:3])
        wait_until(lambda: tracker.count_unsent() == 0, "three events sent")
        child = trial_run(uri, "KSDD-s0")
        assert child.info.status == "RUNNING"
        assert len(curve(uri, child, "search/loss")) == 1
        append_ledger(first, PLAIN[3:])
        append_ledger(second, PLAIN[:2])
        wait_until(lambda: tracker.count_unsent() == 0, "all events sent")
        assert len(curve(uri, child, "retrain/loss")) == 3
        finish_trial(first, PLAIN)
        wait_until(lambda: trial_run(uri, "KSDD-s0").info.status == "FINISHED", "finished trial seen")
        [parent], _ = parents_and_children(uri)
        assert parent.info.status == "RUNNING"
        finish_trial(second, PLAIN)
    [parent], children = parents_and_children(uri)
    assert [r.info.status for r in (parent, *children[parent.info.run_id])] == ["FINISHED"] * 3
    assert [step for step, _ in curve(uri, trial_run(uri, "KSDD-s0"), "search/loss")] == [e["step"] for e in SEARCH]
    assert warnings_in(caplog) == []


def test_a_half_line_is_waited_for(runs: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    folder = run / "trials" / "KSDD-s0"
    uri = embedded_uri(runs)
    append_ledger(folder, EVENTS[:2])
    line = json.dumps(EVENTS[2])
    with open(folder / "ledger.jsonl", "a") as file:
        file.write(line[:100])
    assert catch_up(run, uri) == 2
    with open(folder / "ledger.jsonl", "a") as file:
        file.write(line[100:] + "\n")
    assert catch_up(run, uri) == 1
    assert curve(uri, trial_run(uri, "KSDD-s0"), "search/loss") == [(1, EVENTS[2]["loss"])]


@pytest.mark.parametrize("keep_n", [True, False], ids=["same n", "shifted n"])
@pytest.mark.parametrize("live", [True, False], ids=["while following", "afterwards"])
def test_a_resumed_trial_writes_its_last_epochs_again(runs: Path, keep_n: bool, live: bool) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    folder = run / "trials" / "KSDD-s0"
    uri = embedded_uri(runs)
    cut = 3
    resumed: list[dict[str, Any]] = [*EVENTS[:cut]]
    if not keep_n:
        resumed.append({"n": cut, "time": 1.7e9 + 900, "event": "resumed", "phase": "search", "stage": 1, "epoch": 1})
    for event in EVENTS[cut:]:
        resumed.append({**event, "n": len(resumed), "time": event["time"] + 1000, "seconds": 9.0})
    append_ledger(folder, EVENTS[:9])
    if live:
        with Tracker(run, uri, every_s=0.05) as tracker:
            wait_until(lambda: tracker.count_unsent() == 0, "first part sent")
            write_ledger(folder, resumed[:5])
            append_ledger(folder, resumed[5:])
            wait_until(lambda: tracker.count_unsent() == 0, "second part sent")
    else:
        catch_up(run, uri)
        write_ledger(folder, resumed)
        catch_up(run, uri)
    child = trial_run(uri, "KSDD-s0")
    assert curve(uri, child, "search/loss") == [(e["step"], e["loss"]) for e in SEARCH]
    assert [step for step, _ in curve(uri, child, "retrain/loss")] == [1, 2, 3]
    assert {"architecture.json", "pruning.json", "drawings/cells.png"} <= artifacts(uri, child)


def test_a_stopped_run_goes_on_in_the_same_runs(runs: Path) -> None:
    run = make_run(runs)
    first, second = run / "trials" / "KSDD-s0", run / "trials" / "MT-s0"
    uri = embedded_uri(runs)
    with Tracker(run, uri, every_s=0.05):
        append_ledger(first, PLAIN[:6])
        append_ledger(second, PLAIN[:3])
    [parent], children = parents_and_children(uri)
    assert [r.info.status for r in (parent, *children[parent.info.run_id])] == ["KILLED"] * 3
    so_far = trial_run(uri, "KSDD-s0").data.metrics
    assert so_far["cost/search_stage_1_seconds"] == pytest.approx(2 * 1.5)
    assert so_far["cost/search_stage_2_cpu_seconds"] == pytest.approx(1 * 1.5 * 2)
    with Tracker(run, uri, every_s=0.05):
        wait_until(lambda: stored_runs(uri)[0].info.status == "RUNNING", "the parent runs again")
        finish_trial(first, PLAIN)
        finish_trial(second, PLAIN)
    [again], children_again = parents_and_children(uri)
    assert again.info.run_id == parent.info.run_id
    ids = {r.info.run_id for r in children[parent.info.run_id]}
    assert {r.info.run_id for r in children_again[parent.info.run_id]} == ids
    assert {r.info.status for r in stored_runs(uri)} == {"FINISHED"}
    assert trial_run(uri, "KSDD-s0").data.metrics["cost/search_stage_1_seconds"] == pytest.approx(4.5)


def test_a_failed_trial_is_failed_and_the_other_finished(runs: Path, tmp_path: Path) -> None:
    run = make_run(runs)
    append_ledger(run / "trials" / "KSDD-s0", PLAIN[:3])
    (run / "trials" / "KSDD-s0" / "error.txt").write_text("RuntimeError: http://bo:s3cret@x is away\n\nTraceback ..\n")
    finish_trial(run / "trials" / "MT-s0", PLAIN)
    uri = embedded_uri(runs)
    catch_up(run, uri)
    failed = trial_run(uri, "KSDD-s0")
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"] == "RuntimeError: http://***@x is away"
    assert "Traceback" in artifact_text(uri, failed, "error.txt", tmp_path)
    assert trial_run(uri, "MT-s0").info.status == "FINISHED"
    [parent], _ = parents_and_children(uri)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["summary/failed"] == 1


def test_a_trial_that_never_began_has_no_run(runs: Path) -> None:
    run = make_run(runs)
    finish_trial(run / "trials" / "MT-s0", PLAIN)
    uri = embedded_uri(runs)
    catch_up(run, uri)
    [parent], children = parents_and_children(uri)
    assert [r.info.run_name for r in children[parent.info.run_id]] == ["MT-s0"]
    assert parent.info.status == "KILLED"


def test_runs_of_one_name_are_not_mixed_up(runs: Path, tmp_path: Path) -> None:
    uri = embedded_uri(runs)
    elsewhere = tmp_path / "of a colleague"
    made = [
        make_run(runs, "one", [("KSDD", 0)]),
        make_run(runs, "two", [("KSDD", 0)]),
        make_run(elsewhere, "one", [("KSDD", 0)], created="2026-11-22T08:00:00+00:00"),
    ]
    for number, run in enumerate(made):
        finish_trial(run / "trials" / "KSDD-s0", PLAIN, iou=0.1 * (number + 1))
    sent = [catch_up(run, uri) for run in made]
    assert sent == [len(PLAIN) + 1] * 3
    assert [catch_up(run, uri) for run in made] == [0, 0, 0]
    parents, children = parents_and_children(uri)
    found = {}
    for parent in parents:
        [child] = children[parent.info.run_id]
        found[parent.data.tags["defectnas.folder"]] = child.data.metrics["test/iou"]
    assert found == {str(run): pytest.approx(0.1 * (i + 1)) for i, run in enumerate(made)}


def test_a_store_that_is_away_stops_nothing_and_is_caught_up_with(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    folder = run / "trials" / "KSDD-s0"
    away = f"http://ann:s3cret@127.0.0.1:{free_port()}"
    with Tracker(run, away, every_s=0.02) as tracker:
        append_ledger(folder, PLAIN[:4])
        wait_until(lambda: tracker.trouble is not None, "the first failure")
        finish_trial(folder, PLAIN)
    first, last = warnings_in(caplog)
    assert "the search goes on, tracking is tried again" in first
    assert f"{len(PLAIN) + 1} events are not yet tracked at http://***@127.0.0.1" in last
    assert f"defectnas track {run}" in last
    assert "s3cret" not in caplog.text
    with pytest.raises(StoreAwayError) as raised:
        catch_up(run, away)
    assert "s3cret" not in str(raised.value)
    assert catch_up(run, embedded_uri(runs)) == len(PLAIN) + 1
    assert trial_run(embedded_uri(runs), "KSDD-s0").info.status == "FINISHED"


def test_a_server_that_answers_nothing_is_left_in_time(
    runs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    run = make_run(runs, trials=[("KSDD", 0)])
    append_ledger(run / "trials" / "KSDD-s0", EVENTS[:4])
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with Tracker(run, f"http://127.0.0.1:{deaf.getsockname()[1]}", patience_s=1.0):
            connection, _ = deaf.accept()
    connection.close()
    [last] = warnings_in(caplog)
    assert "4 events are not yet tracked" in last
    assert "no answer for 1 s" in last


def test_a_server_that_starts_late_hangs_and_is_killed_while_it_writes_gets_everything_once(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is the one that `defectnas ui` starts, so that it is seen to serve the embedded store."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    run = make_run(runs, trials=[("KSDD", 0)])
    folder = run / "trials" / "KSDD-s0"
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with ExitStack() as cleanup:
        with Tracker(run, uri, every_s=0.2) as tracker:
            append_ledger(folder, EVENTS[:4])
            wait_until(lambda: tracker.trouble is not None, "the first failure")
            server = start_server(ui_command(runs, port), runs)
            cleanup.callback(end_group, server)
            wait_until(lambda: tracker.count_unsent() == 0, "the server is there", 120)
            os.killpg(server.pid, signal.SIGSTOP)
            append_ledger(folder, EVENTS[4:8])
            wait_until(lambda: tracker.trouble is not None, "the server hangs")
            os.killpg(server.pid, signal.SIGCONT)
            wait_until(lambda: tracker.count_unsent() == 0, "the server is back")
            assert killed_while_it_writes(server, runs, tracker, folder)
            again = start_server(ui_command(runs, port), runs)
            cleanup.callback(end_group, again)
            wait_until(lambda: tracker.count_unsent() == 0, "the server is there again", 120)
            finish_trial(folder, EVENTS)
        assert tracker.trouble is None
        child = trial_run(uri, "KSDD-s0")
        assert child.info.status == "FINISHED"
        assert missing_in_store(uri, folder) == []
        assert curve(uri, child, "search/loss") == [(e["step"], e["loss"]) for e in SEARCH]
        assert {"pictures/part_1.png", "drawings/cells.png"} <= artifacts(uri, child)
        assert catch_up(run, uri) == 0
    assert trial_run(embedded_uri(runs), "KSDD-s0").info.run_id == child.info.run_id


def test_the_ui_is_served_and_its_page_is_that_of_the_newest_experiment(runs: Path) -> None:
    catch_up(make_run(runs, trials=[("KSDD", 0)]), embedded_uri(runs))
    catch_up(make_run(runs, trials=[("KSDD", 1)], name="later"), embedded_uri(runs), "line 2")
    port = free_port()
    process, url = api.ui(runs=runs, port=port)
    with process:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), "the server is there", 120)
        finally:
            process.terminate()
    newest = client_of(embedded_uri(runs)).get_experiment_by_name("line 2").experiment_id
    assert url == f"http://127.0.0.1:{port}/#/experiments/{newest}/runs?workflowType=machine_learning"


def test_no_secret_reaches_the_store(runs: Path) -> None:
    uri = "postgresql://ann:s3cret@db.example/mlflow"
    run = make_run(
        runs,
        trials=[("KSDD", 0)],
        command=f"defectnas search asdet --tracking-uri {uri} --set x=mysql://h/d?password=s3cret",
        config=f"tracking:\n  uri: {uri}\n",
    )
    started = {**EVENTS[0], "proxy": "http://ann:s3cret@proxy:3128"}
    finish_trial(run / "trials" / "KSDD-s0", [started, *EVENTS[1:]])
    catch_up(run, embedded_uri(runs))
    written = [runs / "mlflow.db", *(p for p in (runs / "mlartifacts").rglob("*") if p.is_file())]
    assert any(p.name == "config.yaml" for p in written)
    assert [p for p in written if b"s3cret" in p.read_bytes()] == []
    child = trial_run(embedded_uri(runs), "KSDD-s0")
    assert child.data.tags["environment.proxy"] == "http://***@proxy:3128"


def test_a_damaged_trial_does_not_keep_the_others_back(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(runs)
    for name in ("KSDD-s0", "MT-s0"):
        finish_trial(run / "trials" / name, PLAIN)
    (run / "trials" / "KSDD-s0" / "trial.json").write_text("{ half")
    uri = embedded_uri(runs)
    assert catch_up(run, uri) == len(PLAIN) + 1
    assert trial_run(uri, "MT-s0").info.status == "FINISHED"
    [line] = warnings_in(caplog)
    assert line.startswith("trial KSDD-s0 is not tracked any further:")
    assert "trial.json" in line


def test_a_line_that_is_no_event_is_named_and_left_out(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    folder = run / "trials" / "KSDD-s0"
    append_ledger(folder, EVENTS[:2])
    with open(folder / "ledger.jsonl", "a") as file:
        file.write('{"n": 2, "eve\n')
    append_ledger(folder, [EVENTS[2]])
    assert catch_up(run, embedded_uri(runs)) == 3
    assert f"{folder / 'ledger.jsonl'}: line 3 is not an event" in warnings_in(caplog)[0]


def test_settings_that_changed_on_resume_keep_their_first_value(runs: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    folder = run / "trials" / "KSDD-s0"
    uri = embedded_uri(runs)
    append_ledger(folder, EVENTS[:2])
    catch_up(run, uri)
    trial = json.loads((folder / "trial.json").read_text())
    trial["settings"]["runtime"] |= {"threads": 7, "new_setting": 1}
    (folder / "trial.json").write_text(json.dumps(trial))
    append_ledger(folder, EVENTS[2:4])
    assert catch_up(run, uri) == 2
    params = trial_run(uri, "KSDD-s0").data.params
    assert (params["runtime.threads"], params["runtime.new_setting"]) == ("0", "1")


def test_a_deleted_experiment_is_said(runs: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    uri = embedded_uri(runs)
    client = client_of(uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(StoreRefusedError, match="experiment 'gone' was deleted"):
        catch_up(run, uri, "gone")


def test_trackers_of_two_launches_share_a_fresh_store(tmp_path: Path) -> None:
    """Both make the database at the same time, as two launches in a new folder do."""
    made = [make_run(tmp_path, name, [("KSDD", 0)]) for name in ("one", "two")]
    for run in made:
        append_ledger(run / "trials" / "KSDD-s0", EVENTS[:3])
    uri = embedded_uri(tmp_path)

    def follow(run: Path) -> None:
        with Tracker(run, uri, every_s=0.2) as tracker:
            wait_until(lambda: tracker.count_unsent() == 0, "sent", 120)

    threads = [threading.Thread(target=follow, args=[run]) for run in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parents, children = parents_and_children(uri)
    assert sorted(p.info.run_name for p in parents) == ["one", "two"]
    assert all(len(found) == 1 for found in children.values())
    experiments = {p.info.experiment_id for p in parents}
    assert len(experiments) == 1
    assert (tmp_path / "mlartifacts").is_dir()


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("", tmp_path / "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert resolve_uri("sqlite:///here.db", tmp_path) == f"sqlite:///{tmp_path}/here.db"
    for uri in ("http://127.0.0.1:5000", "https://h", "postgresql+psycopg2://u@h/d"):
        assert resolve_uri(uri, tmp_path) == uri
    for uri in ("mlruns", "file:///tmp/mlruns", "ftp://u:s3cret@h", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(TrackingUriError) as raised:
            resolve_uri(uri, tmp_path)
        assert "s3cret" not in str(raised.value)
    assert database_file("sqlite:////a/b.db?timeout=9") == Path("/a/b.db")
    assert database_file("http://127.0.0.1:5000") is None
    command = ui_command(tmp_path, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert embedded_uri(tmp_path) in command


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("at postgresql://u:p@ss@h/d, then", "at postgresql://***@h/d, then"),
        ("mysql://h/d?user=u&password=pw&x=1", "mysql://h/d?user=u&password=***&x=1"),
        ("uri: 'https://token@h'", "uri: 'https://***@h'"),
        ("mail ann@host, see http://host/a", "mail ann@host, see http://host/a"),
    ],
)
def test_secrets_are_blotted_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_summaries_keep_data_sets_and_methods_apart() -> None:
    trials = [
        ("KSDD", "asdet", "done", {"iou": 0.6, "search_seconds": 10}),
        ("KSDD", "asdet", "done", {"iou": 0.8, "search_seconds": 20}),
        ("KSDD", "random", "done", {"iou": 0.5, "search_seconds": 0}),
        ("MT", "asdet", "failed", None),
    ]
    values = summary_values(trials)
    assert values["summary/KSDD/asdet/iou_mean"] == pytest.approx(0.7)
    assert values["summary/KSDD/asdet/iou_std"] == pytest.approx(0.02**0.5)
    assert values["summary/KSDD/random/iou_best"] == 0.5
    assert "summary/KSDD/random/iou_std" not in values
    assert (values["summary/trials"], values["summary/done"], values["summary/failed"]) == (4, 3, 1)
    assert values["summary/search_seconds"] == 30


def test_a_long_summary_ends_with_a_count() -> None:
    note = summary_note(((f"data-s{i}", "done", {"iou": 0.5}) for i in range(300)), limit=2000)
    shown = note.count("| done |")
    assert len(note) < 2100
    assert f"and {300 - shown} more trials" in note


def test_metric_names_are_of_allowed_letters() -> None:
    assert metric_key("test", "classes", "Riß (a/b)", "iou") == "test/classes/Ri_ _a_b_/iou"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "half", "cut"]), st.integers(0, 6)), min_size=1, max_size=12))
def test_a_tail_always_knows_what_the_ledger_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever is appended, left half or cut: the events since the last rewriting are those of the file."""
    path = tmp_path_factory.mktemp("tail") / "ledger.jsonl"
    tail = LedgerTail(path)
    lines: list[str] = []
    known: list[dict[str, Any]] = []
    for clock, (action, size) in enumerate(steps):
        half = ""
        if action == "cut":
            lines = lines[:size]
        else:
            lines += [json.dumps({"n": len(lines) + i, "event": "x", "clock": clock}) + "\n" for i in range(size)]
            half = '{"n": 1, "ev' if action == "half" else ""
        path.write_text("".join(lines) + half)
        reading = tail.read()
        known = [*([] if reading.rewritten else known), *reading.events]
        assert known == [json.loads(line) for line in lines]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.booleans())
def test_every_epoch_is_sent_once_however_often_a_trial_is_killed(kills: list[int], note_resumption: bool) -> None:
    """A trial of 20 epochs is killed and resumed, two epochs back each time; `Sent` decides what goes out."""
    ledger: list[dict[str, Any]] = []
    sent, out = Sent(), []
    for reached in [*kills, 20]:
        done = sum(e["event"] == "epoch" for e in ledger)
        ledger = ledger[: max(0, len(ledger) - 2)] if ledger else ledger
        if note_resumption and done:
            ledger.append({"n": len(ledger), "event": "resumed"})
        step = max((e["step"] for e in ledger if e["event"] == "epoch"), default=0)
        while step < reached:
            step += 1
            ledger.append({"n": len(ledger), "event": "epoch", "phase": "search", "step": step})
        out += [e["step"] for e in ledger if e["event"] == "epoch" and not sent.covers(e)]
        sent = Sent.from_dict(json.loads(json.dumps(sent.after(ledger).to_dict())))
    assert out == list(range(1, 21))
