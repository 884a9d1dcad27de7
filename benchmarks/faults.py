"""Faults injected into whole AutoNAD searches, with real processes: how many are survived, what is lost, who wins.

    python -m benchmarks.faults [--kills 20] [--each 2] [--only KINDS] [--seed 0] [--json FILE]

Every disturbed search replays the latencies of one that nothing disturbed, and must ask for the same candidates, give
them the same scores and come to the same winner. Where a kind makes that impossible, as a poisonous candidate does, the
table says so.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fault_trials import (
    NAME,
    Ground,
    Verdict,
    cluster,
    defectnas,
    faulty_hands,
    judge,
    kill_one,
    prepare,
    search,
)
from benchmarks.result import give

Inject = Callable[[Ground, str, random.Random], Verdict]


class CannotInject(Exception):
    """The fault cannot be made on this machine."""


class Cut(Exception):
    """Ends a trial in this process."""


def evaluator_killed(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """A scorer dies by SIGKILL in the middle of a candidate."""
    return _on_cluster(ground, name, "generation", 1, lambda made, nodes: _soon(generator, "ray::_Host"))


def rank_killed(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """A worker of the supernet's training dies by SIGKILL in the middle of an epoch."""
    return _on_cluster(
        ground, name, "epoch", generator.randint(1, 4), lambda *_: _soon(generator, "ray::RayTrainWorker")
    )


def node_removed(ground: Ground, name: str, generator: random.Random, *, event: str) -> Verdict:
    """A node goes, with all its processes, behind the first event of a kind."""
    return _on_cluster(ground, name, event, 1, lambda made, nodes: made.remove_node(nodes[0], allow_graceful=False))


def store_full(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """Others fill Ray's object store, which has 80 MB, several times over while candidates are scored."""
    held = []

    def fill(*_: Any) -> None:
        import ray

        held.extend(ray.put(np.zeros(20_000_000, np.uint8)) for _ in range(12))

    return _on_cluster(ground, name, "epoch", 6, fill, object_store_memory=80_000_000)


def candidate_hangs(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """A scorer never ends with a candidate; its time runs out and another scores it."""
    return _faulty(ground, name, generator, "hang")


def candidate_poisonous(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """A candidate kills every scorer that it is given to; it is left out, and the search goes on and says so."""
    return _faulty(ground, name, generator, "poison")


def checkpoint_damaged(ground: Ground, name: str, generator: random.Random, *, how: str) -> Verdict:
    """A training is cut off, and its newest checkpoint is truncated or has one bit turned."""
    from orchestrator.hybrid import serial_hands
    from search.hybrid_trial import run_hybrid_trial

    folder, last = ground.trial(name), generator.randint(2, 5)

    def cut(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == last + 1:
            raise Cut

    try:
        run_hybrid_trial(folder, cut, serial_hands)
    except Cut:
        newest = max((folder / "checkpoint").glob("supernet-*.safetensors"))
        data = bytearray(newest.read_bytes())
        place = generator.randrange(len(data))
        if how == "truncated":
            del data[place:]
        else:
            data[place] ^= 1 << generator.randrange(8)
        newest.write_bytes(data)
    events: list[str] = []
    run_hybrid_trial(folder, lambda event: events.append(event["event"]), serial_hands)
    if "checkpoint_damaged" not in events:
        raise RuntimeError(f"{folder}: the damage was not noticed")
    return judge(ground, folder)


def disk_full(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """The file system of the run is full while the supernet is trained; it is given room, and the trial goes on."""
    from orchestrator.attempt import TrialFailedError, attempt

    folder = ground.trial(name)
    small = ground.root / f"{name}-disk"
    small.mkdir()
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) + 3_000_000
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotInject("a small file system cannot be mounted here") from error
    try:
        there = shutil.copytree(ground.root / name, small / name) / "trials" / NAME
        try:
            attempt(there, "orchestrator.hybrid:run_trial", lambda event: None)
        except TrialFailedError as failure:
            if "No space" not in str(failure):
                raise
        else:
            raise RuntimeError("the disk was not full")
        subprocess.run(["mount", "-o", "remount,size=500m", str(small)], check=True)
        attempt(there, "orchestrator.hybrid:run_trial", lambda event: None)
        return judge(ground, there)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def driver_killed(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """The command, with Ray in it, dies by SIGKILL at a random moment; `resume` goes on."""
    runs = ground.root / name
    process = search(ground.data, runs, ground.settings())
    time.sleep(generator.uniform(0.0, ground.seconds))
    early = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = next((p.parent for p in runs.glob("*/run.json")), None)
    ended = (
        defectnas("resume", run.name, "--runs", runs, "--quiet")
        if run
        else search(ground.data, runs, ground.settings())
    )
    output = ended.communicate()[0]
    if ended.returncode and early:
        raise RuntimeError(output)
    return judge(ground, next(runs.glob(f"*/trials/{NAME}")))


def tracker_killed(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """The MLflow server dies by SIGKILL while it is told things, and comes back; the store then has every epoch."""
    runs, port = ground.root / name, 20_000 + generator.randrange(10_000)
    runs.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{runs}/server.db"]
    command += ["--artifacts-destination", str(runs / "artifacts"), "--port", str(port), "--workers", "1"]

    def serve() -> "subprocess.Popen[bytes]":
        with (runs / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    uri = f"http://127.0.0.1:{port}"
    server = serve()
    try:
        process = search(ground.data, runs, ground.settings(), "--set", f"tracking.uri={uri}")
        time.sleep(generator.uniform(5.0, ground.seconds))
        os.killpg(server.pid, signal.SIGKILL)
        time.sleep(5.0)
        server = serve()
        output = process.communicate()[0]
        if process.returncode:
            raise RuntimeError(output)
        folder = next(runs.glob(f"*/trials/{NAME}"))
        told = defectnas("track", folder.parents[1].name, "--runs", runs)
        if told.wait():
            raise RuntimeError(told.communicate()[0])
        _check_store(uri, folder)
        return judge(ground, folder)
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def second_driver(ground: Ground, name: str, generator: random.Random) -> Verdict:
    """A second command on the folder of a run that is in use is refused, and the first comes to its end."""
    runs = ground.root / name
    process = search(ground.data, runs, ground.settings())
    while not list(runs.glob(f"*/trials/{NAME}/ledger.jsonl")):
        time.sleep(0.2)
    folder = next(runs.glob(f"*/trials/{NAME}"))
    # So short a search could end before the second command has read its modules.
    os.kill(process.pid, signal.SIGSTOP)
    second = defectnas("resume", folder.parents[1].name, "--runs", runs)
    said = second.communicate()[0]
    os.kill(process.pid, signal.SIGCONT)
    if second.returncode != 2 or "in use" not in said:
        raise RuntimeError(f"the second was not refused: {said}")
    process.communicate()
    return judge(ground, folder)


KINDS: dict[str, Inject] = {
    "driver killed": driver_killed,
    "evaluator killed": evaluator_killed,
    "DDP rank killed": rank_killed,
    "node removed in training": partial(node_removed, event="epoch"),
    "node removed in evolution": partial(node_removed, event="generation"),
    "node removed in retraining": partial(node_removed, event="architecture"),
    "object store full": store_full,
    "checkpoint truncated": partial(checkpoint_damaged, how="truncated"),
    "checkpoint bit turned": partial(checkpoint_damaged, how="bit"),
    "disk full": disk_full,
    "tracking server killed": tracker_killed,
    "second driver": second_driver,
    "candidate hangs": candidate_hangs,
    "candidate poisonous": candidate_poisonous,
}
NOT_THE_SAME = {"candidate poisonous"}
"""Kinds in which the search cannot be the undisturbed one: a candidate is missing from it."""


def _on_cluster(
    ground: Ground, name: str, event: str, number: int, inject: Callable[[Any, list[Any]], Any], **head: Any
) -> Verdict:
    """Run a trial on a cluster of three nodes and do something behind the so-many-th event of a kind."""
    from orchestrator.hybrid import ray_hands
    from search.hybrid_trial import run_hybrid_trial

    folder = ground.trial(name)
    trial = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps({**trial, "supernet_workers": 2, "scorers": 2}))
    seen = 0
    with cluster(2, **head) as (made, nodes):

        def emit(said: dict[str, Any]) -> None:
            nonlocal seen
            seen += said["event"] == event
            if said["event"] == event and seen == number:
                inject(made, nodes)

        run_hybrid_trial(folder, emit, ray_hands)
    if seen < number:
        raise RuntimeError(f"{folder}: nothing was injected")
    return judge(ground, folder)


def _soon(generator: random.Random, name: str) -> None:
    """Kill a process with a title a moment later, when it is at work again."""
    threading.Timer(generator.uniform(0.05, 0.3), kill_one, (name, generator)).start()


def _faulty(ground: Ground, name: str, generator: random.Random, fault: str) -> Verdict:
    from orchestrator.hybrid import ray_hands
    from search.hybrid_trial import run_hybrid_trial

    whole = ground.whole / "trials" / NAME
    best = json.loads((whole / "candidates.json").read_text())["best"]
    digests = [json.loads(line)["digest"] for line in (whole / "candidates.jsonl").read_text().splitlines()]
    digest = generator.choice([d for d in digests[:8] if d != best])
    folder = ground.trial(name, evolution={"timeout": 5})
    said: list[str] = []
    with cluster(2):
        hands = partial(faulty_hands, of=ray_hands, fault=fault, digest=digest)
        run_hybrid_trial(folder, lambda event: said.append(event["event"]), hands)
    if fault == "poison" and said.count("quarantined") != 1:
        raise RuntimeError("the candidate was not named")
    verdict = judge(ground, folder)
    if fault == "poison":
        # Its own generations follow from it, so other candidates are asked for: all of those must have a score.
        rows = map(json.loads, (folder / "candidates.jsonl").read_text().splitlines())
        verdict = Verdict(verdict.survived, sum(row["score"] is None for row in rows) - 1, False)
    return verdict


def _check_store(uri: str, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    metrics = json.loads((folder / "metrics.json").read_text())
    runs = client.search_runs(experiments, "tags.`defectnas.trial` != ''")
    tested = [run.data.metrics.get("test/miou") for run in runs if "test/miou" in run.data.metrics]
    if metrics["miou"] not in tested:
        raise RuntimeError(f"the store has {tested}, not {metrics['miou']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="times that the driver is killed, default 20")
    parser.add_argument("--each", type=int, default=2, help="times that each other fault is injected, default 2")
    parser.add_argument("--only", default="", help=f"kinds, of: {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, default 0")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(KINDS)
    if unknown := set(chosen) - set(KINDS):
        parser.error(f"--only: no kind {', '.join(unknown)}")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        ground = prepare(Path(scratch))
        for kind in chosen:
            times = arguments.kills if kind == "driver killed" else arguments.each
            row = rows[kind] = {"injected": times, "survived": 0, "lost": 0, "same": 0, "errors": []}
            start = time.perf_counter()
            for number in range(times):
                try:
                    generator = random.Random(f"{arguments.seed}/{kind}/{number}")
                    verdict = KINDS[kind](ground, f"{kind}-{number}".replace(" ", "-"), generator)
                except CannotInject as error:
                    row["injected"] -= 1
                    print(f"{kind}: not injected, {error}", file=sys.stderr)
                    continue
                except Exception as error:  # a fault that was not survived is a result, not the end of the benchmark
                    row["errors"].append(f"{type(error).__name__}: {error}"[:2000])
                    print(f"{kind}: {row['errors'][-1]}", file=sys.stderr)
                    continue
                row["survived"] += verdict.survived
                row["lost"] += verdict.lost
                row["same"] += verdict.same
            row["seconds"] = time.perf_counter() - start
            same = "left out" if kind in NOT_THE_SAME else f"{row['same']}/{row['injected']}"
            line = (
                f"{kind:26s} survived {row['survived']}/{row['injected']}  evaluations lost {row['lost']}  same {same}"
                f"  {row['seconds']:.0f} s"
            )
            print(line, *row["errors"], sep="\n    ", file=sys.stderr, flush=True)
    give({"kinds": rows}, arguments.json)
    sys.exit(any(row["survived"] < row["injected"] for row in rows.values()))


if __name__ == "__main__":
    main()
