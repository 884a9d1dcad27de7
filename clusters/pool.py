"""What every pool of workers has in common: outcomes, errors, and the call of a worker that may fail.

A worker is a function that returns a function. The outer one is expensive and is called once per process: it
loads weights and decodes images. What it returns is called once per item.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MakeWorker = Callable[[], Callable[[Any], Any]]

Reply = tuple[str | None, Any, float]
"""How a call of a worker ended: the error or None, the value, seconds."""

LONGEST_ERROR = 1000


class FinalText(str):
    """The text of an error that a new attempt would not change."""

    __slots__ = ()
    final = True


class WorkerStartError(RuntimeError):
    """No worker could be made: the function that makes it raised, or its process died, each time.

    Attributes:
        final: a new attempt would end the same.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.final = isinstance(text, FinalText)


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

        An item that fails is tried again, unless the error has a true attribute `final`; one that fails each time has
        its error in its Outcome and never stops the others. Items are fetched from the sequence as workers become free.
        A map that the caller leaves early is given up.

        Raises:
            WorkerStartError: no worker could be made.
            PoolUnavailableError: another map of this pool is unfinished, or its with-block was left.
        """
        ...

    def settle(self, within_s: float) -> None:
        """Wait until no worker is being made any more, but for none longer than `within_s` since that began.

        Raises:
            WorkerStartError, PoolUnavailableError: as `map`.
        """
        ...


def check_at_least(least: int, **given: int) -> None:
    """Raise ValueError for a number that is too small, by its name."""
    for name, number in given.items():
        if number < least:
            raise ValueError(f"{name}={number}: needed is at least {least}")


def check_free(closed: bool, busy: bool) -> None:
    """Raise PoolUnavailableError unless a map may begin."""
    if closed:
        raise PoolUnavailableError("this pool was closed when its with-block was left; open another one")
    if busy:
        raise PoolUnavailableError("another map of this pool is unfinished; use it up, or close it, before the next")


def attempt(function: Callable[..., Any], *arguments: Any) -> Reply:
    """Return the error or None, the value and the seconds of a call.

    Errors travel as text: not every exception can be pickled, and not every pickled one unpickled elsewhere.
    """
    began = time.perf_counter()
    try:
        value = function(*arguments)
    except (Exception, SystemExit) as error:
        return FinalText(error) if getattr(error, "final", False) else in_short(error), None, 0.0
    return None, value, time.perf_counter() - began


def in_short(error: BaseException) -> str:
    """Return the last lines of a traceback, and where it ends."""
    text = "".join(traceback.format_exception_only(error)).strip()
    if len(text) > LONGEST_ERROR:
        text = f"{text[:LONGEST_ERROR]}..."
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else text


def tried(tries: int, error: str | None) -> str:
    """Return how often an item was tried, and the cause of the last failure; what is final speaks for itself."""
    return error if isinstance(error, FinalText) else f"tried {tries} time{'s' * (tries != 1)}: {error}"


def not_started(starts: int, error: str | None) -> str:
    """Return what a WorkerStartError says."""
    return error if isinstance(error, FinalText) else f"no worker after {starts} start{'s' * (starts != 1)}: {error}"
