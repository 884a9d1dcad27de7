"""Real trials in a group: each member writes down what it got, and the second comes late."""

import hashlib
import json
import time
from pathlib import Path

from search import trial
from search.distributed import rank

LATE_S = 2.0


def late(folder: Path, emit=None) -> dict:
    """Run the trials in a folder; at one that has nothing to train in its search the second member begins late.

    That is when the first has chosen an architecture, or after a while: it may be waiting.
    """
    retrain = trial.retrain
    try:
        for path in sorted(folder.glob("*/trial.json")):
            trial.retrain = _noting(retrain, path.parent)
            end = time.monotonic() + (LATE_S if rank() == 1 and path.parent.name == "random" else 0)
            while not path.with_name("architecture.json").exists() and time.monotonic() < end:
                time.sleep(0.02)
            trial.run_trial(path.parent, emit)
    finally:
        trial.retrain = retrain
    return {}


def _noting(retrain, folder: Path):
    def noted(context, architecture):
        network, seconds = retrain(context, architecture)
        weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters()))
        told = {"architecture": architecture.digest(), "weights": weights.hexdigest()}
        (folder / f"member-{rank()}.json").write_text(json.dumps(told))
        return network, seconds

    return noted
