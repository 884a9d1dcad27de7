"""Score many candidates by workers that live long: in this process, or in actors of Ray."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from clusters import connect  # noqa: F401 - sets what Ray reads on import
from clusters.dispatch import ActorLost, ActorPool
from clusters.pool import (
    LONGEST_ERROR,
    FinalText,
    MakeWorker,
    Outcome,
    Pool,
    PoolUnavailableError,
    Reply,
    WorkerStartError,
    attempt,
    check_at_least,
    check_free,
    in_short,
    not_started,
    tried,
)

__all__ = [
    "MakeWorker",
    "ObjectStoreFullError",
    "Outcome",
    "Pool",
    "PoolUnavailableError",
    "WorkerStartError",
    "put",
    "ray_pool",
    "serial_pool",
]


class ObjectStoreFullError(RuntimeError):
    """Ray's object store takes nothing more."""


def put(value: Any, what: str) -> Any:
    """Put a value into the object store of the connected Ray; returns the reference.

    Args:
        value: anything that can be pickled.
        what: what it is, for the message.

    Raises:
        ObjectStoreFullError: the store is full and cannot spill to the disk.
    """
    import ray

    try:
        return ray.put(value)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise ObjectStoreFullError(
            f"Ray's object store on this node has no room for {what} and cannot spill to its disk; free it (other jobs "
            "may fill it) or give Ray more by ray start --object-store-memory, then resume the run"
        ) from error


@contextmanager
def serial_pool(make_worker: MakeWorker, *, retries: int = 2) -> Iterator[Pool]:
    """Offer a pool of one worker in this process, which is made when the first item needs it.

    What kills a process kills this one: only what raises, `SystemExit` included, is tried again.

    Args:
        make_worker: returns the function that is called with each item.
        retries: new attempts at an item, or at making the worker, after the first.

    Raises:
        ValueError: retries are too few.
    """
    check_at_least(0, retries=retries)
    pool = _SerialPool(make_worker, retries)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def ray_pool(
    make_worker: MakeWorker,
    *,
    actors: int,
    cpus: float = 1,
    gpus: float = 0,
    threads: int | None = None,
    retries: int = 2,
    timeout_s: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Pool]:
    """Offer a pool of one worker per actor on the connected Ray; use it inside of `connect.connected`.

    All actors begin to start at once, and those that are ready begin to work. An actor that the cluster has no
    room for waits for it. At the end actors are killed, not closed, whatever they are doing.

    An actor that died is replaced, and the item that it was at counts a try. If another item waited in the same
    actor, that one may have been begun unnoticed: both are then tried again with none beside them, and no item
    is given up for such a death, so that one may be begun once more often than its tries say.

    Args:
        make_worker: returns the function that is called with each item. It is sent once, through the object
            store, and may hold ObjectRefs; `ray.get` them in the worker.
        actors: how many workers.
        cpus: CPUs that Ray sets aside for each.
        gpus: GPUs, or the share of one, for each; 0 hides all GPUs from it.
        threads: threads of OpenMP, and so of torch, in each; None leaves what Ray chose.
        retries: new attempts after the first at an item that raised, overran its time or was being worked on
            when its actor died; and at starting an actor.
        timeout_s: seconds that one call of the worker may take before its actor is killed and replaced; None:
            any time. Neither waiting nor making a worker counts.
        options: further options of Ray for the actors, as `label_selector`.

    Raises:
        ValueError: actors or retries are too few.
        ObjectStoreFullError: the object store of this node has no room for `make_worker`.
    """
    import ray

    check_at_least(1, actors=actors)
    check_at_least(0, retries=retries)
    # Ray itself would start a dead actor without its worker, and repeat calls uncounted.
    fixed = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
    host = ray.remote(_Host).options(**{**(options or {}), **fixed})
    pool = ActorPool(_RayBackend(lambda: host.remote(gpus == 0, threads), make_worker), retries, timeout_s)
    try:
        pool.start(actors)
        yield pool
    finally:
        pool.close()


class _SerialPool:
    def __init__(self, make_worker: MakeWorker, retries: int):
        self._make_worker = make_worker
        self._retries = retries
        self._worker: Callable[[Any], Any] | None = None
        self._closed = self._busy = False

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        check_free(self._closed, self._busy)
        self._busy = True
        try:
            for index in range(len(items)):
                yield self._score(index, items[index])
        finally:
            self._busy = False

    def settle(self, within_s: float) -> None:
        check_free(self._closed, self._busy)

    def close(self) -> None:
        self._closed = True
        self._worker = None

    def _score(self, index: int, item: Any) -> Outcome:
        if self._worker is None:
            self._worker = self._start()
        tries, error = 0, None
        while tries <= self._retries and not isinstance(error, FinalText):
            error, value, seconds = attempt(self._worker, item)
            tries += 1
            if error is None:
                return Outcome(index, value, None, tries, seconds)
        return Outcome(index, None, tried(tries, error), tries, 0.0)

    def _start(self) -> Callable[[Any], Any]:
        starts, error = 0, None
        while starts <= self._retries and not isinstance(error, FinalText):
            error, worker, _ = attempt(self._make_worker)
            if error is None:
                return worker
            starts += 1
        raise WorkerStartError(not_started(starts, error))


class _Host:
    """What runs in the process of an actor."""

    def __init__(self, hide_gpus: bool, threads: int | None):
        # Here and not in `start`: torch may be imported already when the arguments of `start` are unpickled.
        if hide_gpus:
            # Ray leaves all GPUs visible to a worker that was given none.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
            # Ray may reuse a process that has imported it, which is past reading the environment.
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(threads)

    def start(self, make_worker: MakeWorker) -> Reply:
        error, self._worker, seconds = attempt(make_worker)
        return error, None, seconds

    def answer(self) -> Reply:
        return None, None, 0.0

    def call(self, wrapped: tuple[Any]) -> Reply:
        return attempt(self._worker, *wrapped)


class _RayBackend:
    """Actors of the connected Ray, see `dispatch.Backend`."""

    def __init__(self, new_actor: Callable[[], Any], make_worker: MakeWorker):
        self.new_actor = new_actor
        self._make_worker = put(make_worker, "what makes the workers")

    def now(self) -> float:
        return time.monotonic()

    def start(self, actor: Any) -> Any:
        return actor.start.remote(self._make_worker)

    def answer(self, actor: Any) -> Any:
        return actor.answer.remote()

    def call(self, actor: Any, item: Any) -> Any:
        import ray

        try:
            # Wrapped, because Ray replaces an ObjectRef that is itself an argument by what it refers to.
            return actor.call.remote((item,))
        except Exception as error:
            # What cannot be pickled fails as if the worker had said so, and the map goes on.
            return ray.put((in_short(error), None, 0.0))

    def wait(self, calls: Sequence[Any], timeout_s: float | None) -> Sequence[Any]:
        import ray

        ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        if not ended and timeout_s != 0:
            ended, _ = ray.wait(list(calls), timeout=timeout_s)
        return ended

    def reply(self, call: Any) -> Reply:
        import ray

        try:
            return ray.get(call)
        except ray.exceptions.RayTaskError as failure:
            return in_short(failure.cause), None, 0.0
        except ray.exceptions.RaySystemError as failure:
            return in_short(failure), None, 0.0
        except ray.exceptions.RayError as failure:
            # Not only RayActorError: an actor killed for its memory ends in OutOfMemoryError.
            raise ActorLost(f"the process of its worker died: {_reason_of_death(failure)}") from failure

    def kill(self, actor: Any) -> None:
        import ray

        # The program may have left Ray, and its actors with it, before this pool.
        if ray.is_initialized():
            ray.kill(actor)


def _reason_of_death(error: Exception) -> str:
    """Return the one sentence of Ray's report that tells one death from another."""
    _, found, detail = str(error).partition("Worker exit detail: ")
    return (detail.partition(" Some common causes")[0] if found else str(error)).splitlines()[0][:LONGEST_ERROR]
