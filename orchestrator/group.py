"""One trial in several processes of a machine: a torch.distributed group that lives and dies with its first.

The first member is the process of the trial itself and the only one that writes or reports. Training averages
its gradients over the group (`search.distributed`); here the processes are started, joined and ended.
"""

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Emit = Callable[[dict[str, Any]], None]
TrialFunction = Callable[[Path, Emit | None], dict[str, Any]]

_ENDING_S = 60.0


def run_in_group(function: str, folder: Path, emit: Emit, workers: int) -> dict[str, Any]:
    """Run a trial in this process and workers - 1 others; returns what it returns here.

    Args:
        function: module:function of `search.trial.run_trial`'s signature, called in every process.
        folder: the trial's folder; the others write their errors to worker-N.log in it.
        emit: gets each event of the trial.
        workers: processes in all; 1 makes no group.

    Raises:
        RuntimeError: another member of the group has died.
    """
    if workers == 1:
        return imported(function)(folder, emit)
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, workers, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    gpus = _visible_gpus()
    backend = "nccl" if len(gpus) >= workers else "gloo"
    command = [
        sys.executable,
        "-m",
        "orchestrator.group",
        function,
        str(folder),
        str(store.port),
        str(workers),
        backend,
    ]
    with _members(command, folder, workers, gpus):
        dist.init_process_group(backend, store=store, rank=0, world_size=workers)
        try:
            return imported(function)(folder, emit)
        finally:
            dist.destroy_process_group()


def imported(function: str) -> TrialFunction:
    """Return the function that module:function names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def _members(command: Sequence[str], folder: Path, workers: int, gpus: Sequence[str]) -> Iterator[None]:
    """Run the other members for the time of a with-block; an exception in it ends them."""
    members = []
    try:
        for rank in range(1, workers):
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus[rank % len(gpus)] if gpus else ""}
            with open(folder / f"worker-{rank}.log", "w", encoding="utf-8") as log:
                # The pipe carries nothing: that it closes tells a member that the first is gone.
                members.append(
                    subprocess.Popen(
                        [*command, str(rank)], env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
                    )
                )
        yield
        for member in members:
            member.wait(_ENDING_S)
    finally:
        for member in members:
            member.kill()
            member.wait()
            member.stdin.close()  # type: ignore[union-attr]


def _visible_gpus() -> list[str]:
    """Return the GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu for gpu in listed.split(",") if gpu]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _member(function: str, folder: str, port: str, workers: str, backend: str, rank: str) -> None:
    """Be one of the other members."""
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", int(port), int(workers), is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=int(rank), world_size=int(workers))
    imported(function)(Path(folder), None)
    dist.destroy_process_group()


def _end_with_the_first() -> None:
    # The bare descriptor: a buffered read would hold its lock when the interpreter ends.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    _member(*sys.argv[1:])
