"""Faults of whole commands: of the driver, the nodes that carry its trials, its disk and its tracking server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

from safetensors.torch import load_file

from benchmarks.fault_processes import (
    POOL,
    TRAINING,
    Missed,
    below_process,
    caught,
    gcs_and_raylet,
    node_of,
    processes_named,
    raylet,
    remove,
    still_there,
    wait_for,
)
from benchmarks.fault_store import missing_in_store
from benchmarks.fault_trials import (
    NAME,
    TINY_ASDET,
    CannotInject,
    Ground,
    Verdict,
    cluster,
    defectnas,
    events_of,
    judge,
    search,
)

_ORPHANS_S = 20.0


def driver_killed(ground: Ground, name: str, generator: Random) -> Verdict:
    """The command dies by SIGKILL at a random moment, alone or with all that it began; `resume` goes on."""
    runs, alone = ground.root / name, generator.random() < 0.5
    process = search(ground.data, runs, ground.settings())
    try:
        process.wait(generator.uniform(0.0, ground.seconds))
        raise Missed("the command had ended")
    except subprocess.TimeoutExpired:
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise Missed("the command was just ending")
    run = next((p.parent for p in runs.glob("*/run.json")), None)
    try:
        ended = (
            defectnas("resume", run.name, "--runs", runs, "--quiet")
            if run
            else search(ground.data, runs, ground.settings())
        )
        _end(ended)
    finally:
        if alone:
            _end_group(process.pid)
    verdict = judge(ground, next(runs.glob(f"*/trials/{NAME}")))
    return Verdict(verdict.survived, verdict.lost, verdict.same, "alone" if alone else "with its processes")


def head_lost(ground: Ground, name: str, generator: Random) -> Verdict:
    """The head goes, with the command and all else on it, while the other nodes live on; a new cluster goes on."""
    runs = ground.root / name
    event, count = generator.choice([("epoch", 2), ("epoch", 4), ("generation", 1), ("architecture", 1)])
    with cluster(2, connect=False) as (made, _), cluster(2, connect=False) as (other, _):
        process = search(ground.data, runs, ground.settings(), "--cluster", made.address, "--workers", "2")
        folder = _trial_of(runs, process)
        wait_for(lambda: _count(folder, event) >= count, lambda: process.poll() is not None)
        # Ray would end what the command has begun, if it heard of its end.
        for pid in (*gcs_and_raylet(made.head_node), process.pid):
            os.kill(pid, signal.SIGSTOP)
        lost = below_process(raylet(made.head_node))
        where = "head" if _holder(folder) in lost else "another node"
        orphans = {_holder(folder), *processes_named(TRAINING), *processes_named(POOL)} - lost
        remove(made, made.head_node)
        _end_group(process.pid)
        process.wait()
        if (folder / "metrics.json").exists():
            raise Missed("the search had ended")
        # Long before their node, which notices after a minute.
        if left := still_there(orphans, _ORPHANS_S):
            raise RuntimeError(f"{len(left)} of {len(orphans)} processes went on without a driver")
        _end(defectnas("resume", folder.parents[1].name, "--runs", runs, "--quiet", "--cluster", other.address))
    verdict = judge(ground, folder)
    return Verdict(verdict.survived, verdict.lost, verdict.same, f"{event} {count}, trial on {where}")


def second_driver(ground: Ground, name: str, generator: Random) -> Verdict:
    """A second command on the folder of a run that is in use is refused, and the first comes to its end."""
    runs = ground.root / name
    process = search(ground.data, runs, ground.settings())
    folder = _trial_of(runs, process)
    # So short a search could end before the second command has read its modules.
    os.kill(process.pid, signal.SIGSTOP)
    second = defectnas("resume", folder.parents[1].name, "--runs", runs)
    said = second.communicate()[0]
    os.kill(process.pid, signal.SIGCONT)
    if second.returncode != 2 or "in use" not in said:
        raise RuntimeError(f"the second was not refused: {said}")
    _end(process)
    return judge(ground, folder)


def trial_moved(ground: Ground, name: str, generator: Random) -> Verdict:
    """The node that carries the AutoNAD trial itself goes, in any phase; Tune begins it again on another one."""
    phase, count = generator.choice([("epoch", 2), ("epoch", 4), ("generation", 1), ("architecture", 1)])
    with _moved(ground, name, generator, "autonad", ground.settings(), phase, count) as folder:
        verdict = judge(ground, folder)
    return Verdict(verdict.survived, verdict.lost, verdict.same, f"{phase} {count}")


def asdet_moved(ground: Ground, name: str, generator: Random) -> Verdict:
    """The node that carries a NAS-ASDet trial goes; Tune begins it again on another one, from its checkpoint."""
    whole = ground.root / "undisturbed-asdet"
    if not whole.exists():
        _end(search(ground.data, whole, TINY_ASDET, "--no-ray", method="asdet"))
    first = next(whole.glob(f"*/trials/{NAME}"))
    epochs = sum(e["event"] == "epoch" for e in events_of(first))
    count = generator.randint(2, epochs - 2)
    with _moved(ground, name, generator, "asdet", TINY_ASDET, "epoch", count) as second:
        done = [[(e["phase"], e["step"]) for e in events_of(f) if e["event"] == "epoch"] for f in (first, second)]
        results = [json.loads((f / "metrics.json").read_text()) for f in (first, second)]
        weights = [load_file(f / "weights.safetensors") for f in (first, second)]
    equal = all(value.equal(weights[1][key]) for key, value in weights[0].items())
    scores = all(results[0][k] == results[1][k] for k in ("architecture_digest", "iou", "f1", "pa", "test"))
    return Verdict(True, len(set(done[0]) - set(done[1])), equal and scores and done[0] == done[1])


def disk_full(ground: Ground, name: str, generator: Random, *, event: str, count: int) -> Verdict:
    """The file system of the runs fills up while the command works with Ray; it is given room, and `resume` goes on."""
    runs = ground.root / name
    runs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(runs)], capture_output=True)
    if mounted.returncode:
        raise CannotInject("no right to mount a small file system")
    try:
        process = search(ground.data, runs, ground.settings(), "--workers", "2")
        folder = _trial_of(runs, process)
        wait_for(lambda: _count(folder, event) >= count, lambda: process.poll() is not None)
        _fill(runs / "filler")
        output = process.communicate()[0]
        if process.returncode == 0:
            raise Missed("all was written before")
        said = [line for line in output.splitlines() if "disk is full" in line]
        if process.returncode not in (1, 2) or len(said) != 1 or str(runs) not in said[0]:
            raise RuntimeError(f"not one clear line: {output}")
        (runs / "filler").unlink()
        _end(defectnas("resume", folder.parents[1].name, "--runs", runs, "--quiet"))
        verdict = judge(ground, folder)
        return Verdict(verdict.survived, verdict.lost, verdict.same, f"exit code {process.returncode}")
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def tracker_killed(ground: Ground, name: str, generator: Random) -> Verdict:
    """The MLflow server dies by SIGKILL in the middle of a write, and comes back; the store then has all, once."""
    runs, port = ground.root / name, 20_000 + generator.randrange(10_000)
    runs.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{runs}/server.db"]
    command += ["--artifacts-destination", str(runs / "artifacts"), "--port", str(port), "--workers", "1"]

    def serve() -> "subprocess.Popen[bytes]":
        with (runs / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    uri, event, count = f"http://127.0.0.1:{port}", *generator.choice([("epoch", 2), ("generation", 1)])
    server = serve()
    try:
        process = search(ground.data, runs, ground.settings(), "--set", f"tracking.uri={uri}")
        folder = _trial_of(runs, process)
        wait_for(lambda: _count(folder, event) >= count, lambda: process.poll() is not None)
        if not kill_while_writing(server, runs / "server.db", lambda: process.poll() is not None):
            raise Missed("nothing was being written")
        time.sleep(5.0)
        server = serve()
        _end(process)
        wait_for(lambda: _answers(uri), lambda: server.poll() is not None)
        _end(defectnas("track", folder.parents[1].name, "--runs", runs))
        if wrong := missing_in_store(uri, folder):
            raise RuntimeError("; ".join(wrong))
        return judge(ground, folder)
    finally:
        _end_group(server.pid)


def _answers(uri: str) -> bool:
    """Return whether an MLflow server answers; it listens some time before its workers are there."""
    try:
        with urlopen(f"{uri}/health", timeout=10.0):
            return True
    except OSError:
        return False


@contextmanager
def _moved(
    ground: Ground, name: str, generator: Random, method: str, settings: dict[str, Any], event: str, count: int
) -> Iterator[Path]:
    """Search on a cluster whose head computes nothing, and remove the node of the trial; yields the trial's folder."""
    runs = ground.root / name
    with cluster(3, head={"num_cpus": 0}, connect=False) as (made, nodes):
        process = search(ground.data, runs, settings, "--cluster", made.address, method=method)
        folder = _trial_of(runs, process)

        def over() -> bool:
            return process.poll() is not None or (folder / "metrics.json").exists()

        wait_for(lambda: _count(folder, event) >= count, over)
        driver = _holder(folder)
        # The process of an AutoNAD trial only drives: that it holds the trial's lock is its work.
        with caught(lambda: [driver], generator, title="ray::", over=over) as pid:
            remove(made, node_of(pid, nodes))
        _end(process)
        yield folder


def _holder(folder: Path) -> int:
    """Return the process that works on a trial."""
    return int(json.loads((folder / "lock").read_text())["pid"])


def kill_while_writing(server: "subprocess.Popen[bytes]", database: Path, over: Callable[[], bool]) -> bool:
    """Kill an MLflow server and its processes while a transaction is open; returns whether there was one.

    Args:
        server: leader of its process group.
        database: SQLite's file. While a transaction is open, there is a journal beside it.
        over: whether nothing more is to be written.
    """
    journal = database.with_name(f"{database.name}-journal")
    while not over():
        if not journal.exists():
            time.sleep(0.001)
            continue
        os.killpg(server.pid, signal.SIGSTOP)
        # Signals take a moment; then nobody can end the transaction.
        time.sleep(0.05)
        if journal.exists():
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            return True
        os.killpg(server.pid, signal.SIGCONT)
    return False


def _trial_of(runs: Path, process: "subprocess.Popen[str]") -> Path:
    """Wait until the command works on its trial; returns the trial's folder."""
    wait_for(lambda: bool(list(runs.glob(f"*/trials/{NAME}/ledger.jsonl"))), lambda: process.poll() is not None)
    return next(runs.glob(f"*/trials/{NAME}"))


def _count(folder: Path, event: str) -> int:
    return sum(e["event"] == event for e in events_of(folder))


def _fill(path: Path) -> None:
    """Write until the file system has no room."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _end(process: "subprocess.Popen[str]") -> None:
    """Wait for a command to end well."""
    output = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(output)


def _end_group(leader: int) -> None:
    """Kill what is left of the processes that a command began."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
