"""Which actor gets which item, and what follows when one fails: what a pool of actors decides, without Ray.

What actors are and what time it is comes from a `Backend`: Ray's is in `clusters.executor`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clusters.pool import FinalText, Outcome, Reply, WorkerStartError, check_free, not_started, tried

# The second is what an actor goes on with while the driver has not yet heard of the first.
_IN_FLIGHT_PER_ACTOR = 2


class ActorLost(Exception):
    """The process of an actor ended before it could answer a call; the message says how."""


class Backend(Protocol):
    """Actors, each of which does its calls one after the other, in the order in which they were submitted.

    An actor and a call are whatever the backend returns for one; a call can be a key of a dict. Only `wait` waits.
    """

    def now(self) -> float:
        """Return seconds from any origin, never falling."""
        ...

    def new_actor(self) -> Any:
        """Begin to start an actor."""
        ...

    def start(self, actor: Any) -> Any:
        """Submit the call that makes the worker."""
        ...

    def answer(self, actor: Any) -> Any:
        """Submit a call that does nothing."""
        ...

    def call(self, actor: Any, item: Any) -> Any:
        """Submit a call of the worker; where that fails, the call has ended with the error."""
        ...

    def wait(self, calls: Sequence[Any], timeout_s: float | None) -> Sequence[Any]:
        """Return those of the calls that have ended, if need be after waiting for one; none at the timeout."""
        ...

    def reply(self, call: Any) -> Reply:
        """Return how a call has ended.

        Raises:
            ActorLost: its actor is gone.
        """
        ...

    def kill(self, actor: Any) -> None:
        """End an actor, whatever it is doing; its calls are not waited for again."""
        ...


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

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.actor: Any = None
        self.calls: deque[_Call] = deque()
        self.has_worker = False
        self.failed_starts = 0
        self.head_since = 0.0

    @property
    def free(self) -> bool:
        """Whether items may be added: nothing but items of the running map is before them.

        Items are only ever added behind items: where there are any, the first call is one.
        """
        return not self.calls or self.calls[0].task is not None

    @property
    def has_suspect(self) -> bool:
        return any(call.task is not None and call.task.suspect for call in self.calls)

    def add(self, ref: Any, task: _Task | None = None, *, timed: bool = False) -> None:
        if not self.calls:
            self.head_since = self.now()
        self.calls.append(_Call(ref, task, timed))

    def drop_head(self) -> _Call:
        # An actor begins the next call when it ends one, which is before the driver hears of it: no call is
        # ever thought to have run for longer than it has.
        self.head_since = self.now()
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


class ActorPool:
    """A pool of workers in actors, see `clusters.pool.Pool` and `clusters.executor.ray_pool`.

    Args (constructor):
        backend: whose actors they are.
        retries: new attempts after the first, at an item or at starting an actor.
        timeout_s: seconds that one call of a worker may take; None: any time.
    """

    def __init__(self, backend: Backend, retries: int, timeout_s: float | None):
        self._backend = backend
        self._retries = retries
        self._timeout_s = timeout_s
        self._closed = self._busy = False
        self._slots: list[_Slot] = []

    def start(self, actors: int) -> None:
        """Begin to start so many actors."""
        for _ in range(actors):
            slot = _Slot(self._backend.now)
            self._fill(slot)
            self._slots.append(slot)

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield one Outcome per item, in order of completion; see `clusters.pool.Pool`."""
        check_free(self._closed, self._busy)
        self._busy = True
        try:
            yield from self._outcomes(_Queue(items))
        finally:
            self._busy = False
            for slot in self._slots:
                for call in slot.calls:
                    call.task = None

    def settle(self, within_s: float) -> None:
        """Wait until no actor is starting; see `clusters.pool.Pool`."""
        check_free(self._closed, self._busy)
        nothing = _Queue(())
        # A slot's first call is its start, as long as it has no worker.
        while starting := [slot for slot in self._slots if not slot.has_worker]:
            now = self._backend.now()
            left_s = max(slot.head_since for slot in starting) + within_s - now
            ended = self._backend.wait([slot.calls[0].ref for slot in starting], max(0.0, left_s))
            if not ended:
                return
            for slot in starting:
                if slot.calls[0].ref in ended:
                    self._settle(slot, nothing)

    def close(self) -> None:
        """End all actors."""
        self._closed = True
        for slot in self._slots:
            self._backend.kill(slot.actor)
        self._slots = []

    def _outcomes(self, queue: _Queue) -> Iterator[Outcome]:
        left = len(queue)
        if not left:
            return
        for slot in self._slots:
            # An actor may have died since the last map; that must not count as a try of the next item.
            if slot.has_worker:
                slot.add(self._backend.answer(slot.actor))
        self._hand_out(queue)
        while left:
            outcomes = self._next_outcomes(queue)
            # Before the caller gets the outcomes, so that actors work while the caller does.
            self._hand_out(queue)
            left -= len(outcomes)
            yield from outcomes

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
                    slot.add(self._backend.call(slot.actor, task.item), task, timed=True)

    def _next_outcomes(self, queue: _Queue) -> list[Outcome]:
        """Wait until a call ends, however it ends, and take in all that have; return the Outcomes that came of it."""
        heads = {slot.calls[0].ref: slot for slot in self._slots if slot.calls}
        timed = [slot for slot in heads.values() if slot.calls[0].timed and self._timeout_s is not None]
        oldest = min(timed, key=lambda slot: slot.head_since, default=None)
        wait_s = None if oldest is None else self._left_s(oldest)
        # Ready although late: the caller was away, not the worker slow.
        if oldest is not None and wait_s == 0 and not self._backend.wait([oldest.calls[0].ref], 0):
            error = f"took longer than {self._timeout_s:g} s, its worker was killed"
            found = [self._replace(oldest, queue, error, certain=True)]
        else:
            # Every actor is looked at before and after: for each call by itself, a thousand actors would be too many.
            found = [self._settle(heads[ref], queue) for ref in self._backend.wait(list(heads), wait_s)]
        return [outcome for outcome in found if outcome is not None]

    def _left_s(self, slot: _Slot) -> float:
        return max(0.0, slot.head_since + (self._timeout_s or 0.0) - self._backend.now())

    def _settle(self, slot: _Slot, queue: _Queue) -> Outcome | None:
        """Take in how the first call of a slot has ended."""
        try:
            error, value, seconds = self._backend.reply(slot.calls[0].ref)
        except ActorLost as lost:
            return self._replace(slot, queue, str(lost), certain=False)
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
        self._backend.kill(slot.actor)
        if not slot.has_worker:
            slot.failed_starts += 1
            if slot.failed_starts > self._retries or isinstance(error, FinalText):
                raise WorkerStartError(not_started(slot.failed_starts, error))
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
        if task.tries > self._retries or isinstance(error, FinalText):
            return Outcome(task.index, None, tried(task.tries, error), task.tries, 0.0)
        queue.put_back(task)
        return None

    def _fill(self, slot: _Slot) -> None:
        slot.actor = self._backend.new_actor()
        slot.calls.clear()
        slot.has_worker = False
        slot.add(self._backend.start(slot.actor))
