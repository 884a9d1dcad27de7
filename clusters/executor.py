"""Score many candidates by workers that live long: in this process, or in actors of Ray.

A worker is a function that returns a function. The outer one is expensive and is called once per process: it
loads weights and decodes images. What it returns is called once per item.
"""

import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from clusters import connect  # noqa: F401 - sets what Ray reads on import

MakeWorker = Callable[[], Callable[[Any], Any]]

# The second is what an actor goes on with while the driver has not yet heard of the first.
_IN_FLIGHT_PER_ACTOR = 2
_LONGEST_ERROR = 1000


class WorkerStartError(RuntimeError):
    """No worker could be made: the function that makes it raised, or its process died, each time."""


class PoolUnavailableError(RuntimeError):
    """A pool was used while another map of it was unfinished, or after its with-block."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Attributes:
        index: of the item in what `map` was given, from 0.
        value: what the worker returned; None where error is set.
        error: how often the item was tried, and the cause of the last failure; None if all went well.
        tries: calls of the worker with this item, the last one included.
        seconds: length of the successful call itself, measured in the worker; 0 where error is set.
    """

    index: int
    value: Any
    error: str | None
    tries: int
    seconds: float


class Pool(Protocol):
    """Workers that are made once and serve several maps, one after the other."""

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield one Outcome per item, in order of completion.

        An item that fails is tried again; one that fails each time has its error in its Outcome and never
        stops the others. Items are fetched from the sequence as workers become free. A map that the
        caller leaves early is given up.

        Raises:
            WorkerStartError: no worker could be made.
            PoolUnavailableError: another map of this pool is unfinished, or its with-block was left.
        """
        ...


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
    _check_at_least(0, retries=retries)
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
    """
    import ray

    _check_at_least(1, actors=actors)
    _check_at_least(0, retries=retries)
    # Ray itself would start a dead actor without its worker, and repeat calls uncounted.
    fixed = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
    host = ray.remote(_Host).options(**{**(options or {}), **fixed})
    pool = _RayPool(lambda: host.remote(gpus == 0, threads), ray.put(make_worker), retries, timeout_s)
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
        _check_free(self._closed, self._busy)
        self._busy = True
        try:
            for index in range(len(items)):
                yield self._score(index, items[index])
        finally:
            self._busy = False

    def close(self) -> None:
        self._closed = True
        self._worker = None

    def _score(self, index: int, item: Any) -> Outcome:
        if self._worker is None:
            self._worker = self._start()
        for tries in range(1, self._retries + 2):
            error, value, seconds = _attempt(self._worker, item)
            if error is None:
                return Outcome(index, value, None, tries, seconds)
        return Outcome(index, None, _tried(tries, error), tries, 0.0)

    def _start(self) -> Callable[[Any], Any]:
        for _ in range(self._retries + 1):
            error, worker, _ = _attempt(self._make_worker)
            if error is None:
                return worker
        raise WorkerStartError(_not_started(self._retries + 1, error))


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

    def start(self, make_worker: MakeWorker) -> tuple[str | None, None, float]:
        error, self._worker, seconds = _attempt(make_worker)
        return error, None, seconds

    def answer(self) -> tuple[None, None, float]:
        return None, None, 0.0

    def call(self, wrapped: tuple[Any]) -> tuple[str | None, Any, float]:
        return _attempt(self._worker, *wrapped)


@dataclass(eq=False)
class _Task:
    """One item of the running map; a suspect may have killed an actor, and shares none until it is cleared."""

    index: int
    item: Any
    tries: int = 0
    failed_on: Any = None
    suspect: bool = False


@dataclass(eq=False)
class _Call:
    """One call of an actor; it has no task where it starts or greets the actor, or its map was given up."""

    ref: Any
    task: _Task | None
    timed: bool


class _Slot:
    """One place for an actor, with what the actor was told to do, in the order in which it does it."""

    def __init__(self) -> None:
        self.actor: Any = None
        self.calls: deque[_Call] = deque()
        self.has_worker = False
        self.failed_starts = 0
        self.head_since = 0.0

    @property
    def free(self) -> bool:
        """Whether items may be added: nothing but items of the running map is before them."""
        return all(call.task is not None for call in self.calls)

    @property
    def has_suspect(self) -> bool:
        return any(call.task is not None and call.task.suspect for call in self.calls)

    def add(self, ref: Any, task: _Task | None = None, *, timed: bool = False) -> None:
        if not self.calls:
            self.head_since = time.monotonic()
        self.calls.append(_Call(ref, task, timed))

    def drop_head(self) -> _Call:
        # An actor begins the next call when it ends one, which is before the driver hears of it: no call is
        # ever thought to have run for longer than it has.
        self.head_since = time.monotonic()
        return self.calls.popleft()


class _Queue:
    """The items of one map that no actor has."""

    def __init__(self, items: Sequence[Any]):
        self._items = items
        self._next = 0
        self._again: deque[_Task] = deque()

    def __len__(self) -> int:
        return len(self._again) + len(self._items) - self._next

    def put_back(self, task: _Task) -> None:
        self._again.append(task)

    def take(self, slot: _Slot, *, only: bool) -> _Task | None:
        """Return an item for an actor; one that failed there if it is the only actor, a suspect if it has no other."""
        for task in self._again:
            if (only or task.failed_on is not slot.actor) and not (task.suspect and slot.calls):
                self._again.remove(task)
                return task
        if self._next == len(self._items):
            return None
        self._next += 1
        return _Task(self._next - 1, self._items[self._next - 1])


class _RayPool:
    def __init__(self, new_actor: Callable[[], Any], make_worker: Any, retries: int, timeout_s: float | None):
        self._new_actor = new_actor
        self._make_worker = make_worker
        self._retries = retries
        self._timeout_s = timeout_s
        self._closed = self._busy = False
        self._slots: list[_Slot] = []

    def start(self, actors: int) -> None:
        for _ in range(actors):
            slot = _Slot()
            self._fill(slot)
            self._slots.append(slot)

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        _check_free(self._closed, self._busy)
        self._busy = True
        try:
            yield from self._outcomes(_Queue(items))
        finally:
            self._busy = False
            for slot in self._slots:
                for call in slot.calls:
                    call.task = None

    def close(self) -> None:
        import ray

        self._closed = True
        for slot in self._slots:
            # The program may have left Ray, and its actors with it, before this pool.
            if ray.is_initialized():
                ray.kill(slot.actor)
        self._slots = []

    def _outcomes(self, queue: _Queue) -> Iterator[Outcome]:
        left = len(queue)
        if not left:
            return
        for slot in self._slots:
            # An actor may have died since the last map; that must not count as a try of the next item.
            if slot.has_worker:
                slot.add(slot.actor.answer.remote())
        self._hand_out(queue)
        while left:
            outcome = self._next_event(queue)
            # Before the caller gets the outcome, so that actors work while the caller does.
            self._hand_out(queue)
            if outcome is not None:
                left -= 1
                yield outcome

    def _hand_out(self, queue: _Queue) -> None:
        free = [slot for slot in self._slots if slot.free]
        # The last items wait for whichever actor is done first, not behind one that may take long; and so does one
        # for each actor that is not ready yet.
        kept = 2 * len(self._slots) - len(free)
        for depth in range(_IN_FLIGHT_PER_ACTOR):
            for slot in free:
                if len(slot.calls) > depth or (slot.calls and (slot.has_suspect or len(queue) <= kept)):
                    continue
                task = queue.take(slot, only=len(free) == 1)
                if task is not None:
                    slot.add(self._submit(slot, task), task, timed=True)

    def _submit(self, slot: _Slot, task: _Task) -> Any:
        import ray

        try:
            # Wrapped, because Ray replaces an ObjectRef that is itself an argument by what it refers to.
            return slot.actor.call.remote((task.item,))
        except Exception as error:
            # What cannot be pickled fails as if the worker had said so, and the map goes on.
            return ray.put((_in_short(error), None, 0.0))

    def _next_event(self, queue: _Queue) -> Outcome | None:
        """Wait for the end of a call, however it ends; return the Outcome if an item has one now."""
        import ray

        while True:
            heads = {slot.calls[0].ref: slot for slot in self._slots if slot.calls}
            timed = [slot for slot in heads.values() if slot.calls[0].timed and self._timeout_s is not None]
            oldest = min(timed, key=lambda slot: slot.head_since, default=None)
            wait_s = None if oldest is None else self._left_s(oldest)
            if oldest is not None and wait_s == 0:
                # Ready although late: the caller was away, not the worker slow.
                if ray.wait([oldest.calls[0].ref], timeout=0)[0]:
                    return self._settle(oldest, queue)
                return self._replace(
                    oldest, queue, f"took longer than {self._timeout_s:g} s, its worker was killed", certain=True
                )
            ready, _ = ray.wait(list(heads), timeout=wait_s)
            if ready:
                slot = heads[ready[0]]
                # Ray prefers what is first in the list: each has its turn.
                self._slots.remove(slot)
                self._slots.append(slot)
                return self._settle(slot, queue)

    def _left_s(self, slot: _Slot) -> float:
        return max(0.0, slot.head_since + (self._timeout_s or 0.0) - time.monotonic())

    def _settle(self, slot: _Slot, queue: _Queue) -> Outcome | None:
        """Take in how the first call of a slot has ended."""
        import ray

        try:
            error, value, seconds = ray.get(slot.calls[0].ref)
        except ray.exceptions.RayTaskError as failure:
            error = _in_short(failure.cause)
        except ray.exceptions.RaySystemError as failure:
            error = _in_short(failure)
        except ray.exceptions.RayError as failure:
            # Not only RayActorError: an actor killed for its memory ends in OutOfMemoryError.
            return self._replace(
                slot, queue, f"the process of its worker died: {_reason_of_death(failure)}", certain=False
            )
        if not slot.has_worker and error is not None:
            return self._replace(slot, queue, error, certain=True)
        task = slot.drop_head().task
        if not slot.has_worker:
            slot.has_worker = True
            slot.failed_starts = 0
        if task is None:
            return None
        if error is not None:
            return self._charge(task, slot.actor, error, queue)
        return Outcome(task.index, value, None, task.tries + 1, seconds)

    def _replace(self, slot: _Slot, queue: _Queue, error: str, *, certain: bool) -> Outcome | None:
        """Put a new actor in the place of a lost one; the call that it was at counts as a try.

        That is the first of its calls, unless it ended the first and died of the second before it could say so.
        Therefore both go on as suspects, and a death that leaves the choice is nobody's last try.

        Args:
            slot: of the lost actor.
            queue: takes back the items that the actor had.
            error: what happened to the actor.
            certain: the first call is known to be the cause.
        """
        import ray

        ray.kill(slot.actor)
        if not slot.has_worker:
            slot.failed_starts += 1
            if slot.failed_starts > self._retries:
                raise WorkerStartError(_not_started(slot.failed_starts, error))
        # Items are only ever added behind items: where there are any, the first call is one.
        actor, lost = slot.actor, [call.task for call in slot.calls if call.task is not None]
        self._fill(slot)
        if not lost:
            return None
        head, *behind = lost
        open_question = bool(behind) and not certain
        for task in lost:
            task.suspect = task.suspect or open_question
        for task in behind:
            queue.put_back(task)
        if open_question and head.tries == self._retries:
            queue.put_back(head)
            return None
        return self._charge(head, actor, error, queue)

    def _charge(self, task: _Task, actor: Any, error: str, queue: _Queue) -> Outcome | None:
        task.tries += 1
        task.failed_on = actor
        if task.tries > self._retries:
            return Outcome(task.index, None, _tried(task.tries, error), task.tries, 0.0)
        queue.put_back(task)
        return None

    def _fill(self, slot: _Slot) -> None:
        slot.actor = self._new_actor()
        slot.calls.clear()
        slot.has_worker = False
        slot.add(slot.actor.start.remote(self._make_worker))


def _check_at_least(least: int, **given: int) -> None:
    for name, number in given.items():
        if number < least:
            raise ValueError(f"{name}={number}: needed is at least {least}")


def _check_free(closed: bool, busy: bool) -> None:
    if closed:
        raise PoolUnavailableError("this pool was closed when its with-block was left; open another one")
    if busy:
        raise PoolUnavailableError("another map of this pool is unfinished; use it up, or close it, before the next")


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[str | None, Any, float]:
    """Return the error or None, the value and the seconds of a call.

    Errors travel as text: not every exception can be pickled, and not every pickled one unpickled elsewhere.
    """
    began = time.perf_counter()
    try:
        value = function(*arguments)
    except (Exception, SystemExit) as error:
        return _in_short(error), None, 0.0
    return None, value, time.perf_counter() - began


def _in_short(error: BaseException) -> str:
    """Return the last lines of a traceback, and where it ends."""
    text = "".join(traceback.format_exception_only(error)).strip()
    if len(text) > _LONGEST_ERROR:
        text = f"{text[:_LONGEST_ERROR]}..."
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else text


def _reason_of_death(error: Exception) -> str:
    """Return the one sentence of Ray's report that tells one death from another."""
    _, found, detail = str(error).partition("Worker exit detail: ")
    return (detail.partition(" Some common causes")[0] if found else str(error)).splitlines()[0][:_LONGEST_ERROR]


def _tried(tries: int, error: str | None) -> str:
    return f"tried {tries} time{'s' * (tries != 1)}: {error}"


def _not_started(starts: int, error: str | None) -> str:
    return f"no worker after {starts} start{'s' * (starts != 1)}: {error}"
