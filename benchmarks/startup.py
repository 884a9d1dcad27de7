"""Time from `defectnas search` to the first training step, cold and warm, and what it consists of.

`python -m benchmarks.startup --data FOLDER [--budget smoke] [--rounds 3] [--only "asdet;..."] [--json FILE]`

The real command, told to stop after its first epoch. Cold: an empty folder of runs, so that images are read and packed,
and an empty page cache of the system where this user may empty it. Warm: the pack is there, files were read before.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import give

KINDS = {
    "asdet": ["asdet"],
    "asdet, no Ray": ["asdet", "--no-ray"],
    "autonad": ["autonad"],
    "autonad, 2 workers": ["autonad", "--workers", "2"],
    "autonad, no Ray": ["autonad", "--no-ray"],
}
_PACKED, _MADE, _JOINED, _STARTED = "data", "run", "ray", "started"
STEPS = {
    "program and data": ("begun", _PACKED),
    "run folder": (_PACKED, _MADE),
    "Ray": (_MADE, _JOINED),
    "process of the trial": (_JOINED, _STARTED),
    "workers and network": (_STARTED, "step"),
}
"""What the time consists of, as the moments between which it passes."""


def moments(words: list[str], data: Path, budget: str, runs: Path) -> dict[str, float]:
    """Return when each thing was reached by a search, seconds since 1970; it is stopped after its first epoch."""
    command = [sys.executable, "-m", "orchestrator.cli", "search", *words, "--data", str(data), "--budget", budget]
    command += ["--runs", str(runs), "--json-lines"]
    found = {"begun": time.time()}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if event["event"] == "note":
            text = event["text"]
            if ", seed " in text:
                found[_PACKED] = event["time"]
            elif text.startswith("run "):
                found[_MADE] = event["time"]
            elif text.startswith(("Ray in", "Ray cluster")):
                found[_JOINED] = event["time"]
        elif event["event"] == "started":
            found[_STARTED] = event["time"]
        elif event["event"] == "epoch":
            found["step"] = event["time"] - event["seconds"]
            break
    process.send_signal(signal.SIGINT)
    process.communicate()
    if "step" not in found:
        raise RuntimeError("".join(said[-20:]))
    # Without Ray nothing is joined.
    found.setdefault(_JOINED, found[_MADE])
    return found


def forget_files() -> bool:
    """Empty the system's cache of files, so that modules are read from the disk; False: this user may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def measured(words: list[str], data: Path, budget: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return seconds of each step, medians over rounds, and the least and most of the whole, cold and warm."""
    taken: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="startup-") as folder:
            forget_files()
            for state in taken:
                taken[state].append(moments(words, data, budget, Path(folder)))
    rows = {}
    for state, several in taken.items():
        wholes = [one["step"] - one["begun"] for one in several]
        parts = {name: statistics.median(one[b] - one[a] for one in several) for name, (a, b) in STEPS.items()}
        rows[state] = {"whole": statistics.median(wholes), "least": min(wholes), "most": max(wholes), **parts}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--budget", default="smoke", help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="cold and warm starts of each, default 3")
    parser.add_argument("--only", default=";".join(KINDS), help="default %(default)s")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    chosen = arguments.only.split(";")
    if unknown := set(chosen) - set(KINDS):
        parser.error(f"--only: no kind {', '.join(sorted(unknown))}; there are {'; '.join(KINDS)}")
    result: dict[str, Any] = {"page_cache_emptied": forget_files(), "rounds": arguments.rounds, "seconds": {}}
    for kind in chosen:
        result["seconds"][kind] = measured(KINDS[kind], arguments.data, arguments.budget, arguments.rounds)
        for state, row in result["seconds"][kind].items():
            cells = "  ".join(f"{name} {seconds:.1f}" for name, seconds in row.items())
            print(f"{kind:20s} {state}  {cells}", file=sys.stderr)
    give(result, arguments.json)


if __name__ == "__main__":
    main()
