"""Trials whose process is killed in the middle, for runs that go on from a store."""

import os
import signal
from pathlib import Path

from orchestrator.hybrid import serial_hands
from search.hybrid_trial import run_hybrid_trial


def killed(folder: Path, emit=None) -> dict:
    """An AutoNAD trial that kills its process after the event whose number KILLED_AT says."""

    def told(event) -> None:
        emit(event)
        if event["n"] == int(os.environ["KILLED_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)

    return run_hybrid_trial(folder, told, serial_hands)
