"""What `benchmarks.faults` injects faults into: a small AutoNAD search, its undisturbed course, and how two compare."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.config import Layer, resolve
from orchestrator.files import dump_yaml
from search.context import Context
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.hybrid_workers import Hands
from search.latency import LatencyRecord
from search.ledger import read_events
from search.settings import Settings

TINY: dict[str, Any] = {
    "method": "autonad",
    "data": {"image_size": 32, "task": "multiclass", "augment": ["hflip"]},
    "space": {
        "widths": [[32], [32, 64], [64], [64]],
        "depths": [[1, 2]] * 4,
        "ratios": [[2.0]] * 4,
        "decoder_width": 32,
    },
    # Stochastic depth drops other samples where a batch is divided among workers.
    "supernet": {
        "epochs": 6,
        "warmup_epochs": 1,
        "batch": 4,
        "steps": 4,
        "validate_every": 2,
        "probes": 1,
        "drop_path": 0,
    },
    "latency": {"records": 6, "repeats": 1, "warmup": 0},
    "evolution": {"population": 8, "generations": 4, "children": 6, "parents": 3, "timeout": 30},
    "finetune": {"epochs": 3, "steps": 2, "batch": 4, "finalists": 2, "lr": 1e-3},
    "runtime": {"threads": 1, "device": "cpu"},
}
TINY_ASDET: dict[str, Any] = {
    "method": "asdet",
    "data": {"image_size": 32, "augment": ["hflip"]},
    "network": {"channels": 4},
    "search": {"keep": [3, 1], "epochs": 3, "warmup_epochs": 1, "batch": 2, "steps": 3},
    "retrain": {"epochs": 4, "batch": 2, "steps": 3},
    "runtime": {"threads": 1, "device": "cpu", "form": "batched", "channels_last": "off"},
}
NAME = "images-s0"


@dataclass(frozen=True)
class Ground:
    """Where faults are injected.

    Attributes:
        root: folder of everything.
        data: the data set.
        whole: folder of the run that nothing disturbed; every other run replays its latencies.
        seconds: that its command took.
    """

    root: Path
    data: Path
    whole: Path
    seconds: float

    def trial(self, name: str, **changes: dict[str, Any]) -> Path:
        """Make the folder of a trial that replays the latencies of the undisturbed one; return it."""
        return make_trial(self.root / name / "trials" / NAME, self.data, self.settings(**changes))

    def settings(self, **changes: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a disturbed run, in sections."""
        sections = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
        sections["latency"]["replay"] = str(self.whole)
        for section, values in changes.items():
            sections[section] |= values
        return sections


class CannotInject(Exception):
    """The fault cannot be made on this machine."""


def prepare(root: Path) -> Ground:
    """Make the data set and the undisturbed run."""
    write_dataset(root / "images", images=24, size=64, seed=0)
    start = time.perf_counter()
    process = search(root / "images", root / "undisturbed", TINY)
    output = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(output)
    whole = next((root / "undisturbed").glob("*/run.json")).parent
    return Ground(root, root / "images", whole, time.perf_counter() - start)


def search(
    data: Path, runs: Path, sections: dict[str, Any], *more: str, method: str = "autonad"
) -> "subprocess.Popen[str]":
    """Start the command that searches on a data set with these settings."""
    runs.mkdir(exist_ok=True)
    config = runs / "search.yaml"
    config.write_text(dump_yaml(sections))
    words = ["search", method, "--data", data, "--config", config, "--runs", runs, "--budget", "smoke", "--quiet"]
    # Never a cluster that happens to run on this machine.
    alone = [] if {"--cluster", "--no-ray"} & set(more) else ["--cluster", "none"]
    return defectnas(*words, *more, *alone)


def make_trial(folder: Path, data: Path, sections: dict[str, Any]) -> Path:
    """Make the folder of a trial of these settings; return it."""
    launch = resolve([Layer("benchmark", {**sections, "data_sets": [{"path": str(data)}]})], budget="smoke")
    settings: Settings = launch.trials()[0].settings
    pack = build_pack(open_dataset(data), settings.data, 0, data.parent / "packs")
    folder.mkdir(parents=True)
    trial = {"method": "autonad", "data": data.name, "name": data.name, "pack": str(pack.folder)}
    (folder / "trial.json").write_text(json.dumps({**trial, "settings": settings.to_dict()}))
    return folder


@dataclass(frozen=True)
class Verdict:
    """What became of a disturbed trial: whether it came to its end, what it lost, and whether it found the same.

    `how` says which of several forms the fault had; empty where there is one.
    """

    survived: bool
    lost: int
    same: bool
    how: str = ""


def judge(ground: Ground, folder: Path) -> Verdict:
    """Compare a trial with the undisturbed one."""
    whole = ground.whole / "trials" / NAME
    if not (folder / "metrics.json").exists():
        return Verdict(False, 0, False)
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (whole, folder))
    asked, found = (_scores(f / "candidates.jsonl") for f in (whole, folder))
    same = asked == found and all(first[k] == second[k] for k in ("architecture_digest", "miou", "mf1", "iou"))
    # Told once each, also where two processes might have written.
    same = same and _epochs(whole) == _epochs(folder)
    return Verdict(True, len(asked.keys() - found.keys()), same)


def events_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the ledger of a trial says so far."""
    path = folder / "ledger.jsonl"
    return list(read_events(path)) if path.exists() else []


def _scores(path: Path) -> dict[str, Any]:
    rows = list(map(json.loads, path.read_text().splitlines()))
    scores = {c["digest"]: (c["number"], (c["score"] or {}).get("miou")) for c in rows}
    if len(scores) < len(rows):
        raise RuntimeError(f"{path}: a candidate is in it twice")
    return scores


def _epochs(folder: Path) -> list[tuple[str, int]]:
    return [(e["phase"], e["epoch"]) for e in events_of(folder) if e["event"] == "epoch"]


@contextmanager
def cluster(
    nodes: int = 2, *, head: Mapping[str, Any] | None = None, connect: bool = True, **each: Any
) -> Iterator[tuple[Any, list[Any]]]:
    """Offer a Ray of several nodes, real processes all, on this machine: the cluster and its nodes but the head.

    Args:
        nodes: beside the head; all have the label defectnas/fault=yes.
        head: options of the head alone, which has one CPU otherwise.
        connect: this process joins it.
        each: options of all nodes.
    """
    import logging

    from clusters import connect as ours  # noqa: F401 - sets what Ray reads on import

    import ray  # isort: skip
    from ray.cluster_utils import Cluster

    first = {"num_cpus": 1, "include_dashboard": False, **each, **(head or {})}
    with tempfile.TemporaryDirectory(prefix="dn-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with _address_file_in(folder):
            made = Cluster(initialize_head=True, head_node_args=first)
        try:
            added = [made.add_node(num_cpus=1, labels={"defectnas/fault": "yes"}, **each) for _ in range(nodes)]
            if connect:
                ray.init(address=made.address, logging_level=logging.ERROR, log_to_driver=False)
                made.wait_for_nodes()
            yield made, added
        finally:
            ray.shutdown()
            with _address_file_in(folder):
                made.shutdown()


@contextmanager
def _address_file_in(folder: str) -> Iterator[None]:
    """Let a simulated cluster keep its files in a folder, also the one by which a search beside it would find it.

    `Cluster` writes that file where `ray start` does, whatever its nodes are told, and fails where that folder is not.
    """
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    try:
        yield
    finally:
        del os.environ["RAY_TMPDIR"]
        if before is not None:
            os.environ["RAY_TMPDIR"] = before


def recorded_hands(context: Context, *, of: Callable[[Context], Hands], latencies: Path) -> Hands:
    """Return hands that really measure every latency, and then tell the one that another trial has on file."""
    hands = of(context)

    def pool(make_worker: Any, kind: str) -> Any:
        return hands.pool(partial(_make_recorded, make_worker, latencies) if kind == "measure" else make_worker, kind)

    return Hands(hands.train, pool, hands.share)


def _make_recorded(make_worker: Any, latencies: Path, folder: Path) -> Callable[[Any], Any]:
    work, told = make_worker(folder), {}
    for line in latencies.read_text().splitlines():
        record = LatencyRecord.from_dict({k: v for k, v in json.loads(line).items() if k != "conditions"})
        told[record.architecture.digest()] = record

    def measure(architecture: Any) -> Any:
        if architecture is None:
            return work(None)
        conditions, _ = work(architecture)
        return conditions, told[architecture.digest()]

    return measure


@dataclass(frozen=True)
class Broken:
    """How workers fail at one subnet.

    Attributes:
        how: "hang" once, or "poison", dying of it each time.
        digest: of the subnet.
        kind: of the workers: "score" or "retrain".
    """

    how: str
    digest: str
    kind: str = "score"


def faulty_hands(context: Context, *, of: Callable[[Context], Hands], broken: Broken) -> Hands:
    """Return the hands that `of` returns, with workers that fail."""
    hands = of(context)

    def pool(make_worker: Any, asked: str) -> Any:
        failing = partial(_make_faulty, make_worker, broken.how, broken.digest, context.folder / "fault.mark")
        return hands.pool(failing if asked == broken.kind else make_worker, asked)

    return Hands(hands.train, pool, hands.share)


def _make_faulty(make_worker: Any, fault: str, digest: str, mark: Path, folder: Path) -> Callable[[Any], Any]:
    work = make_worker(folder)

    def fail(item: Any) -> Any:
        # A scorer gets a subnet, a retrainer the folder of one.
        if item.name.startswith(digest[:8]) if isinstance(item, Path) else item.digest() == digest:
            if fault == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            if not mark.exists():
                mark.touch()
                time.sleep(10_000)
        return work(item)

    return fail


def defectnas(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Start the command line in a process group of its own."""
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **{**pipes, "start_new_session": True, **options})
