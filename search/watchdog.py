"""Ends a process that hangs, so that whoever waits for it hears of it and begins another one."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager

_silence_s = 0.0


@contextmanager
def watched(silence_s: float) -> Iterator[None]:
    """End this process (exit code 1, what each thread was doing on standard error) if it is silent for so long.

    A thread of the interpreter's own does it, which also ends one that hangs in a library and would not let Python run.

    Args:
        silence_s: seconds between two calls of `beat`, the with-block's ends counting as one each; 0: any.
    """
    global _silence_s
    _silence_s = silence_s
    beat()
    try:
        yield
    finally:
        _silence_s = 0.0
        faulthandler.cancel_dump_traceback_later()


def beat() -> None:
    """Say that there is progress; without `watched` nobody listens."""
    if _silence_s:
        faulthandler.dump_traceback_later(_silence_s, exit=True, file=2)
