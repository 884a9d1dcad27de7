"""Actors in virtual time, for `clusters.dispatch.ActorPool`: the real pool decides, nothing runs, no time passes.

A simulation is a clock and a heap of events. Backends on one simulation share its clock, as the pools of one driver do.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusters.dispatch import ActorLost
from clusters.pool import Reply


@dataclass(frozen=True)
class Fate:
    """What becomes of one call of a worker: after so many seconds it ends as `how` says."""

    seconds: float
    how: str = "done"
    """"done", "raise", "die" (and the actor with it) or "hang" (it never ends)."""


@dataclass(frozen=True)
class Costs:
    """Seconds that the driver and the network take; all 0 is a cluster without overhead.

    Attributes:
        submit_s: that the driver takes to submit a call.
        reply_s: to take a reply in.
        wait_s: to wait for calls, besides the waiting, and `wait_each_s` more for each call waited for.
        way_s: from the driver to an actor, or back.
        actor_s: from asking for an actor until its process is there.
        worker_s: to make a worker in it, once it has the weights.
        bytes_per_s: of one node's network.
    """

    submit_s: float = 0.0
    reply_s: float = 0.0
    wait_s: float = 0.0
    wait_each_s: float = 0.0
    way_s: float = 0.0
    actor_s: float = 0.0
    worker_s: float = 0.0
    bytes_per_s: float = math.inf


class Simulation:
    """A clock that jumps from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Have an event happen at a time; those of one time in the order in which they were asked for."""
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and what happens in it happen."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.step()
        self.now = end

    def step(self, end: float = math.inf) -> bool:
        """Go on to the next event, or to the end if that is earlier; return whether there was one."""
        if not self._events or self._events[0][0] > end:
            self.now = max(self.now, end) if end < math.inf else self.now
            return False
        time, _, event = heapq.heappop(self._events)
        self.now = max(self.now, time)
        event()
        return True


@dataclass(eq=False)
class Call:
    """One call of an actor; its reply is None where the actor was lost."""

    actor: "Actor"
    key: str | None
    value: Any = None
    ended: bool = False
    reply: Reply | None = None


@dataclass(eq=False)
class Actor:
    """A process: does one call after the other, from when it is ready until it is dead."""

    node: int
    waiting: deque[Call] = field(default_factory=deque)
    running: Call | None = None
    ready: bool = False
    dead: bool = False


class Weights:
    """Bytes that each node fetches once: from any node that has them and is not sending, the driver's first."""

    def __init__(self, simulation: Simulation, size: int, bytes_per_s: float):
        self._simulation, self._size, self._seconds = simulation, size, size / bytes_per_s
        self._free_at = [0.0]
        self._there_at: dict[int, float] = {}

    @property
    def bytes_sent(self) -> int:
        """Between nodes, so far."""
        return self._size * len(self._there_at)

    def fetch_s(self, node: int) -> float:
        """Return in how many seconds a node has them; begins to fetch them if nobody there did."""
        if node not in self._there_at:
            end = max(heapq.heappop(self._free_at), self._simulation.now) + self._seconds
            self._there_at[node] = end
            for _ in range(2):
                heapq.heappush(self._free_at, end)
        return max(0.0, self._there_at[node] - self._simulation.now)


class VirtualBackend:
    """See `clusters.dispatch.Backend`.

    Args (constructor):
        simulation: whose clock counts; None: one of its own.
        fate: of a call, by the key of its item and how often that was begun, this time included.
        costs: see there.
        weights: that a worker needs; None: none.
        per_node: actors on one node.
        key: returns the key of an item.
    """

    def __init__(
        self,
        fate: Callable[[str, int], Fate],
        *,
        simulation: Simulation | None = None,
        costs: Costs | None = None,
        weights: Weights | None = None,
        per_node: int = 8,
        key: Callable[[Any], str] = str,
    ):
        self.simulation, self._costs = simulation or Simulation(), costs or Costs()
        self._fate, self._weights, self._per_node, self._key = fate, weights, per_node, key
        self._alive: dict[int, int] = {}
        self.begun: dict[str, int] = {}
        self.busy_s = 0.0
        self.done_s = 0.0
        self.calls = 0

    def now(self) -> float:
        """Return virtual seconds."""
        return self.simulation.now

    def new_actor(self) -> Actor:
        """Begin to start an actor, on the first node with room."""
        node = next(n for n in itertools.count() if self._alive.get(n, 0) < self._per_node)
        self._alive[node] = self._alive.get(node, 0) + 1
        actor = Actor(node)
        self._after(self._costs.actor_s, actor, lambda: self._make_ready(actor))
        return actor

    def start(self, actor: Actor) -> Call:
        """Submit the making of the worker."""
        return self._submit(Call(actor, None, "start"))

    def answer(self, actor: Actor) -> Call:
        """Submit a call that does nothing."""
        return self._submit(Call(actor, None))

    def call(self, actor: Actor, item: Any) -> Call:
        """Submit a call of the worker; its value is the key of the item."""
        return self._submit(Call(actor, self._key(item), item))

    def wait(self, calls: Sequence[Call], timeout_s: float | None) -> list[Call]:
        """Let time pass until one of the calls has ended; return those that have."""
        self.simulation.pass_s(self._costs.wait_s + self._costs.wait_each_s * len(calls))
        end = math.inf if timeout_s is None else self.simulation.now + timeout_s
        while True:
            if ended := [call for call in calls if call.ended]:
                return ended
            if not self.simulation.step(end):
                if end == math.inf:
                    raise RuntimeError("nothing will ever happen: a call hangs, and no time is set for it")
                return []

    def reply(self, call: Call) -> Reply:
        """Return how a call has ended, or raise ActorLost."""
        self.simulation.pass_s(self._costs.reply_s)
        if call.reply is None:
            raise ActorLost("the process of its worker died: so it was simulated")
        return call.reply

    def kill(self, actor: Actor) -> None:
        """End an actor."""
        if not actor.dead:
            self._bury(actor)

    def _submit(self, call: Call) -> Call:
        self.calls += 1
        self.simulation.pass_s(self._costs.submit_s)
        self.simulation.at(self.simulation.now + self._costs.way_s, lambda: self._arrive(call))
        return call

    def _arrive(self, call: Call) -> None:
        if call.actor.dead:
            self._tell(call, None)
            return
        call.actor.waiting.append(call)
        self._go_on(call.actor)

    def _make_ready(self, actor: Actor) -> None:
        actor.ready = True
        self._go_on(actor)

    def _go_on(self, actor: Actor) -> None:
        if not actor.ready or actor.running is not None or not actor.waiting:
            return
        call = actor.running = actor.waiting.popleft()
        fate = self._begin(call)
        if fate.how != "hang":
            self._after(fate.seconds, actor, lambda: self._end(call, fate))

    def _begin(self, call: Call) -> Fate:
        if call.key is not None:
            self.begun[call.key] = self.begun.get(call.key, 0) + 1
            return self._fate(call.key, self.begun[call.key])
        if call.value is None:
            return Fate(0.0)
        fetch_s = self._weights.fetch_s(call.actor.node) if self._weights else 0.0
        return Fate(fetch_s + self._costs.worker_s)

    def _end(self, call: Call, fate: Fate) -> None:
        if call.key is not None:
            self.busy_s += fate.seconds
            self.done_s += fate.seconds * (fate.how == "done")
        if fate.how == "die":
            self._bury(call.actor)
            return
        call.actor.running = None
        failed = fate.how == "raise"
        self._tell(call, ("ValueError: so it was simulated", None, 0.0) if failed else (None, call.key, fate.seconds))
        self._go_on(call.actor)

    def _bury(self, actor: Actor) -> None:
        actor.dead = True
        self._alive[actor.node] -= 1
        for call in (actor.running, *actor.waiting):
            if call is not None:
                self._tell(call, None)
        actor.waiting.clear()

    def _tell(self, call: Call, reply: Reply | None) -> None:
        def heard() -> None:
            call.ended, call.reply = True, reply

        self.simulation.at(self.simulation.now + self._costs.way_s, heard)

    def _after(self, seconds: float, actor: Actor, event: Callable[[], None]) -> None:
        def unless_dead() -> None:
            if not actor.dead:
                event()

        self.simulation.at(self.simulation.now + seconds, unless_dead)


@dataclass(frozen=True)
class Chances:
    """How long calls take, and how often they fail.

    Attributes:
        seconds: one of these, drawn evenly, or with a single one that times e^(spread x normal).
        spread: standard deviation of the logarithm.
        straggling: share of the calls that take `slower` times as long.
        slower: see there.
        raising, dying, hanging: shares of the calls that fail so, half way.
    """

    seconds: tuple[float, ...] = (1.0,)
    spread: float = 0.0
    straggling: float = 0.0
    slower: float = 5.0
    raising: float = 0.0
    dying: float = 0.0
    hanging: float = 0.0

    def fates(self, seed: int) -> Callable[[str, int], Fate]:
        """Return fates that follow from the seed, the key of the item and the number of the try alone."""

        def fate(key: str, tries: int) -> Fate:
            generator = random.Random(f"{seed}/{key}/{tries}")
            seconds = generator.choice(self.seconds) * math.exp(self.spread * generator.gauss(0, 1))
            seconds *= self.slower if generator.random() < self.straggling else 1
            place = generator.random()
            for how, share in (("raise", self.raising), ("die", self.dying), ("hang", self.hanging)):
                if place < share:
                    return Fate(seconds / 2, how)
                place -= share
            return Fate(seconds)

        return fate
