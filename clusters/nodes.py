"""The nodes of the connected Ray, and a way to ask all of them something that comes to an end whatever they do."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clusters import connect  # noqa: F401 - sets what Ray reads on import

_GIB = 2**30
_OWN = ("CPU", "GPU", "memory", "object_store_memory")
_UNEXPECTED = 2
_LONGEST = 300
_FETCH_S = 10.0
"""What is fetched is small, and there; only a node that dies in this moment is waited for."""


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes:
        id: Ray's, hexadecimal.
        host: its host's name.
        address: IP address that the others reach it by.
        resources: amount that Ray gives out, by name.
        labels: Ray labels, its own ones left out.
    """

    id: str
    host: str
    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def cpus(self) -> int:
        """CPUs that Ray gives out."""
        return int(self.resources.get("CPU", 0))

    @property
    def gpus(self) -> int:
        """GPUs that Ray gives out."""
        return int(self.resources.get("GPU", 0))

    @property
    def memory_gib(self) -> float:
        """Memory that Ray gives out, its object store included."""
        return (self.resources.get("memory", 0.0) + self.resources.get("object_store_memory", 0.0)) / _GIB

    @property
    def custom(self) -> dict[str, float]:
        """Custom resources by name."""
        own = (*_OWN, "node:", "accelerator_type:", "bundle_group")
        return {name: amount for name, amount in self.resources.items() if not name.startswith(own)}

    @property
    def name(self) -> str:
        """A name that tells nodes of one host apart."""
        return f"{self.host}/{self.id[:4]}"


@dataclass(frozen=True)
class Answer:
    """What came back from a place: a value, or why there is none.

    Attributes:
        node: that was asked.
        value: what the function returned.
        error: what went wrong, None if nothing did.
        silent: whether nothing came back at all, not even an exception; such a place is not asked again.
    """

    node: Node
    value: Any = None
    error: str | None = None
    silent: bool = False


def living_nodes() -> list[Node]:
    """Return the nodes of the connected Ray, that of the head first, then by host."""
    import ray

    found = [
        Node(
            node["NodeID"],
            node["NodeManagerHostname"],
            node["NodeManagerAddress"],
            dict(node["Resources"]),
            {name: text for name, text in node["Labels"].items() if not name.startswith("ray.io/")},
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: ("node:__internal_head__" not in node.resources, node.host, node.id))


def lost_nodes() -> list[str]:
    """Return the hosts of nodes that died unasked since the cluster began."""
    import ray

    return [
        node["NodeManagerHostname"]
        for node in ray.nodes()
        if not node["Alive"] and node.get("DeathReason") == _UNEXPECTED
    ]


def on_node(node: Node, gpus: float = 0) -> dict[str, Any]:
    """Return the options of an actor that runs on a node and nowhere else, and waits for no CPU there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": place}


@contextmanager
def crew(places: Sequence[tuple[Node, Mapping[str, Any]]]) -> Iterator["Crew"]:
    """Offer a process at every place for the time of a with-block.

    Args:
        places: nodes with the options of the actor there, as `on_node` returns them; a node may occur again.
    """
    made = Crew(places)
    try:
        yield made
    finally:
        made.close()


class Crew:
    """A process per place; see `crew`."""

    def __init__(self, places: Sequence[tuple[Node, Mapping[str, Any]]]):
        import ray

        agent = ray.remote(_Agent)
        # Nothing is done a second time unseen.
        fixed = {"max_restarts": 0, "max_task_retries": 0}
        self._agents = [(node, agent.options(**options, **fixed).remote()) for node, options in places]

    @property
    def nodes(self) -> list[Node]:
        """Nodes of the places that answer, in their order."""
        return [node for node, _ in self._agents]

    def ask(
        self, function: Callable[..., Any], arguments: Callable[[int, Node], tuple[Any, ...]], timeout_s: float
    ) -> list[Answer]:
        """Call a function at every place at once; returns an answer for each, in their order.

        Args:
            function: of a module that the nodes have.
            arguments: returns those for a place, given its number from 0 and its node.
            timeout_s: seconds for all together.
        """
        import ray

        sent = [agent.do.remote(function, arguments(i, node)) for i, (node, agent) in enumerate(self._agents)]
        ready = set(ray.wait(sent, num_returns=len(sent), timeout=timeout_s)[0]) if sent else set()
        late = f"no answer within {timeout_s:g} s"
        answers = [
            _answer(node, reference) if reference in ready else Answer(node, error=late, silent=True)
            for (node, _), reference in zip(self._agents, sent, strict=True)
        ]
        self._drop([answer.silent for answer in answers])
        return answers

    def clock_offsets(self, clock: Callable[[], float], rounds: int, timeout_s: float) -> list[Answer]:
        """Return by how much the clock at each place is ahead of this one's, as (seconds, seconds).

        The second is the most that the first can be wrong by: half of the quickest of some round trips.

        Args:
            clock: returns seconds since 1970 where it is called.
            rounds: how many round trips.
            timeout_s: seconds for each place.
        """
        answers = [_offset(node, agent, clock, rounds, timeout_s) for node, agent in self._agents]
        self._drop([answer.silent for answer in answers])
        return answers

    def close(self) -> None:
        """End all processes."""
        self._drop([True] * len(self._agents))

    def _drop(self, which: Sequence[bool]) -> None:
        import ray

        pairs = list(zip(self._agents, which, strict=True))
        self._agents = [place for place, dropped in pairs if not dropped]
        for (_, agent), dropped in pairs:
            # The program may have left Ray, and its actors with it, before this.
            if dropped and ray.is_initialized():
                ray.kill(agent)


class _Agent:
    """What runs at a place."""

    def do(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
        try:
            return function(*arguments), None
        except Exception as error:
            # As text: not every exception can be unpickled where it is read.
            return None, _in_short(error)


def _offset(node: Node, agent: Any, clock: Callable[[], float], rounds: int, timeout_s: float) -> Answer:
    import ray

    until = time.monotonic() + timeout_s
    best = (0.0, float("inf"))
    for _ in range(rounds):
        before = time.time()
        sent = agent.do.remote(clock, ())
        if not ray.wait([sent], timeout=max(0.0, until - time.monotonic()))[0]:
            return Answer(node, error=f"no answer within {timeout_s:g} s", silent=True)
        half = (time.time() - before) / 2
        answer = _answer(node, sent)
        if answer.error is not None:
            return answer
        if half < best[1]:
            best = (answer.value - before - half, half)
    return Answer(node, best)


def _answer(node: Node, reference: Any) -> Answer:
    import ray

    try:
        value, error = ray.get(reference, timeout=_FETCH_S)
    except Exception as failure:
        return Answer(node, error=_in_short(failure), silent=True)
    return Answer(node, value, error)


def _in_short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Where a node cannot import something, Ray says so at the very end.
    told = [line for line in lines if "ModuleNotFoundError" in line or "ImportError" in line] or lines
    if not lines:
        return repr(error)
    return f"{type(error).__name__}: {told[-1] if told is not lines else lines[0]}"[:_LONGEST]
