"""Training a supernet by Ray Train: a DDP group of workers on any nodes. The only file that imports ray.train.

When a worker dies, Ray Train begins the group anew. What it goes on from is the trial's own checkpoint, whose checksum
is tested and whose older one is used if it is damaged; Ray Train is told of each epoch and keeps nothing.
"""

import os
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

from clusters import connect  # noqa: F401 - sets what Ray reads on import

os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# How long a group that lost a node waits for it before it goes on with what is left.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.home import Sent, home_of, materialise_state
from orchestrator.nodes import Ticket
from orchestrator.orphans import end_with
from search.checkpoint import load_checkpoint
from search.context import Context
from search.errors import InputError, disk_full, is_disk_full

_FOLLOW_S = 0.5
_LONGEST_WAIT_S = 600
"""For the others of the group, in a step; a worker that hangs is then found and the group begun again."""

FAILURES = 3

_REFUSED, _FULL = "refused", "full"
"""Why the workers end before they have trained: what was asked cannot be trained, or the disk is full."""


class SupernetRefused(InputError):
    """The workers found that they cannot train what was asked."""


class SupernetFailed(RuntimeError):
    """The workers failed more often than is allowed."""


def train_with_ray(
    context: Context,
    workers: int,
    *,
    least: int = 1,
    cpus: float,
    gpu: bool,
    failures: int = FAILURES,
    near: dict[str, str] | None = None,
    far: Ticket | None = None,
) -> None:
    """Train the supernet of a trial, or go on; afterwards its folder holds `supernet.safetensors`.

    Args:
        context: of the trial; its ledger goes on behind what the workers wrote.
        workers: of the DDP group; a global batch is divided among them.
        least: with how many it goes on when nodes are lost; what is left of the cluster is used, and nodes that come
            back too.
        cpus: that each holds.
        gpu: each has one.
        failures: times that the group is begun again when a worker dies or raises.
        near: labels of the nodes that workers are kept to; None: to none.
        far: by which workers on nodes that do not see the folder make one of their own; None: all see it.

    Raises:
        CheckpointDamaged, CheckpointMismatch: see `load_checkpoint`.
        SupernetRefused: what was asked cannot be trained, as every worker found before it began.
        OSError: the disk that the first worker writes to is full.
        SupernetFailed: more failures than that; the message holds the first worker's.
    """
    # What cannot be gone on from is found here: raised by workers, the group would be begun again and again.
    load_checkpoint(context.folder / "checkpoint", "supernet", context.digest)
    storage = context.folder / ".train"
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"folder": str(context.folder), "far": far, "home": far and home_of(far)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=_LONGEST_WAIT_S),
        scaling_config=ScalingConfig(
            num_workers=workers if least == workers else (least, workers),
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            # On as few nodes as they fit on: gradients travel in every step.
            placement_strategy="PACK",
            label_selector=near,
        ),
        run_config=RunConfig(
            # New each time: what a training goes on from is not Ray Train's, which does not survive damage to it.
            name=uuid.uuid4().hex,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=failures),
        ),
    )
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(context, ended), daemon=True)
    follower.start()
    try:
        ended_early = trainer.fit().return_value
    except TrainingFailedError as error:
        raise SupernetFailed(f"the workers of the supernet failed {failures + 1} times: {_cause(error)}") from error
    finally:
        ended.set()
        follower.join()
        context.ledger.catch_up()
        shutil.rmtree(storage, ignore_errors=True)
    if ended_early:
        why, text = ended_early
        raise disk_full(text) if why == _FULL else SupernetRefused(text)


def _loop(config: dict[str, Any]) -> tuple[str, str] | None:
    """Be one worker: train, with the group that Ray Train has made; returns why it cannot be done, if so.

    Raised, Ray Train would only begin the group again, and hand on the text of the error alone.
    """
    from search.distributed import gather, rank
    from search.divergence import Diverged
    from search.hybrid_workers import save_weights
    from search.memory import OutOfMemory
    from search.one_shot import train_supernet
    from search.preflight import RanksDisagree
    from search.trial import open_context, read_trial

    folder, sent = Path(config["folder"]), Sent()
    if config["far"] is None:
        end_with(folder / "lock")
    else:
        folder, sent = materialise_state(config["far"], config["home"])
    problem = ""
    try:
        context = open_context(folder, read_trial(folder), None)
    except InputError as error:
        problem = str(error)
    # It may be one worker's alone; the others would wait for it in the first step.
    if problems := [f"worker {number}: {text}" for number, text in enumerate(gather(problem)) if text]:
        return _REFUSED, problems[0]

    def after_epoch(epoch: int) -> None:
        if rank() == 0:
            sent.send(folder)
        ray.train.report({"epoch": epoch})

    try:
        network = train_supernet(context, after_epoch)
        if rank() == 0:
            save_weights(context, network)
            sent.send(folder)
    except (OutOfMemory, RanksDisagree, Diverged) as error:
        # All workers are here, with the same error.
        return _REFUSED, str(error)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # All are here too, or have come to their end.
        return _FULL, error.filename or str(folder)
    finally:
        if sent.home is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return None


def _follow(context: Context, ended: threading.Event) -> None:
    """Hand on the events of the first worker while it writes them."""
    while not ended.wait(_FOLLOW_S):
        context.ledger.catch_up()


def _cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1]
