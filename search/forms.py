"""Which form of the mixed edges runs fastest here: decided by a short timed trial, then remembered.

The forms compute the same but for rounding, and rounding can decide between two operators that are nearly equal. So
the decision is made once per kind of device and shape and written to a file that all trials of a runs folder share:
a resumed or repeated search takes the same form again. `runtime.form` and `runtime.channels_last` fix it by hand.
"""

import fcntl
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from search.checkpoint import write_atomically
from search.distributed import world_size
from search.settings import RuntimeSettings

ABANDON = 1.6
"""A form whose first round takes this many times the best one's is not timed again."""
ROUNDS = 3


@dataclass(frozen=True)
class Form:
    """How mixed edges are computed."""

    edges: str
    channels_last: bool


def allowed_forms(runtime: RuntimeSettings) -> list[Form]:
    """Return the forms that the settings leave open.

    A group of processes does not time, since its members could decide differently: it takes the first that is open.
    """
    edges = ["batched", "plain"] if runtime.form == "auto" else [runtime.form]
    layouts = {"auto": [True, False], "on": [True], "off": [False]}[runtime.channels_last]
    forms = [Form(e, layout) for e in edges for layout in layouts]
    return forms if world_size() == 1 else forms[:1]


def choose_form(
    forms: list[Form],
    fitting: Callable[[list[Form]], list[Form]],
    prepare: Callable[[Form], Callable[[], None]],
    device: torch.device,
    shape: str,
    memory: Path,
) -> Form:
    """Return the fastest of `forms`, by a remembered decision or by timing.

    Args:
        forms: what to choose from.
        fitting: returns those that fit into memory, which alone are timed; raises where none does.
        prepare: returns for a form a function that does one weight and one alpha step.
        device: where it runs.
        shape: what the time depends on besides the device; part of the key that the decision is remembered by.
        memory: JSON file of decisions; created if absent.
    """
    if len(forms) == 1:
        return fitting(forms)[0]
    key = f"{_describe(device)} | {shape} | {[f'{f.edges}{f.channels_last:d}' for f in forms]}"
    known = _read(memory).get(key)
    if known is None:
        seconds = _time(fitting(forms), prepare, device)
        best = min(seconds, key=seconds.__getitem__)
        record = {**asdict(best), "seconds": {f"{f.edges},{f.channels_last}": s for f, s in seconds.items()}}
        with _locked(memory):
            # Whoever was first decides, so that trials which timed at the same moment agree.
            decisions = _read(memory)
            known = decisions.setdefault(key, record)
            write_atomically(memory, json.dumps(decisions, indent=1).encode())
    return Form(known["edges"], known["channels_last"])


def _time(forms: list[Form], prepare: Callable[[Form], Callable[[], None]], device: torch.device) -> dict[Form, float]:
    """Return the fewest seconds of each form's rounds, taken in turn; the first round warms up and sorts out."""
    steps = {form: prepare(form) for form in forms}
    best = {form: _seconds(step, device) for form, step in steps.items()}
    limit = ABANDON * min(best.values())
    racing = {form: step for form, step in steps.items() if best[form] <= limit}
    for _ in range(ROUNDS - 1):
        for form, step in racing.items():
            best[form] = min(best[form], _seconds(step, device))
    return best


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _describe(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} cpu"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _read(memory: Path) -> dict[str, dict[str, Any]]:
    return json.loads(memory.read_text()) if memory.exists() else {}


@contextmanager
def _locked(memory: Path) -> Iterator[None]:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with memory.with_name(f"{memory.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
