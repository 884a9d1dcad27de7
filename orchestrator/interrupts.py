"""Ctrl-C and SIGTERM as one thing: an exception that lets every with-block close what it opened."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt at the first Ctrl-C or SIGTERM of a with-block, and let the closing finish.

    A second one only says that it is still closing; the third ends the closing too. Outside of the main
    thread, where Python allows no handlers, nothing is changed.

    Yields:
        A function that puts the handlers back after something else (Ray, on starting) has replaced them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 2:
            print("still stopping; once more ends at once", file=sys.stderr)
            return
        raise KeyboardInterrupt

    def install() -> None:
        for number in _SIGNALS:
            signal.signal(number, stop)

    previous: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    install()
    try:
        yield install
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
