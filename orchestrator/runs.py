"""A run as a folder of plain files: created whole, locked while it runs, its state read off the files.

runs/<run id>/run.json        what was asked: `RunRecord`
              config.yaml     the resolved configuration
              lock            held (flock) by the process that works on the run
              trials/<name>/  trial.json, and what `search.trial` writes there
"""

import dataclasses
import difflib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from orchestrator.files import hold, is_held, write_atomically, write_json
from search.errors import InputError

FAILURE = "failure.json"
"""Beside a trial's error.txt: the same for programs, {"error": in short, "final": a new attempt would end the same}."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What runs, trials and data sets may be called: a folder of such a name lies in the folder that it is put in."""

State = Literal["done", "failed", "running", "stopped"]


class RunNotFoundError(InputError):
    """No run of this name in the folder of runs."""


class RunExistsError(InputError):
    """A run of this name is already there."""


class RunNameError(InputError):
    """A name that no run folder can have."""


class BrokenRunError(InputError):
    """A file of a run folder is missing or is not what was written there."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a run: a method on a data set with a seed. `name` is its folder under trials/."""

    name: str
    data: str
    seed: int
    method: str


@dataclass(frozen=True)
class RunRecord:
    """What run.json holds.

    Attributes:
        created: ISO 8601 in UTC.
        command: the command line.
        commit: of the source tree that the package was started from, empty for an installed one.
    """

    id: str
    method: str
    created: str
    command: str
    version: str
    trials: tuple[TrialRecord, ...]
    commit: str = ""


def trial_folder(run: Path, name: str) -> Path:
    """Return the folder of the trial of this name.

    Raises:
        RunNameError: it would be outside of the run.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise RunNameError(f"trial {name!r} of {run}: no name; allowed are letters, digits, '.', '_' and '-'")
    return run / "trials" / name


def new_run_id(runs: Path, method: str, now: datetime, taken: Sequence[str] = ()) -> str:
    """Return a name that sorts by time and that no run in `runs` has, and that is not taken elsewhere."""
    stem = f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{method}"
    names = [stem, *(f"{stem}-{k}" for k in range(2, 1000))]
    return next(name for name in names if not (runs / name).exists() and name not in taken)


def check_name(runs: Path, name: str) -> None:
    """Check that a new run may have this name.

    Raises:
        RunNameError: it is not a plain folder name.
        RunExistsError: `runs` has a run of this name.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise RunNameError(f"--name {name!r}: not allowed; allowed are letters, digits, '.', '_' and '-'")
    if (runs / name).exists():
        raise RunExistsError(f"{runs / name}: this name is taken; choose another --name, or: defectnas resume {name}")


def create_run(runs: Path, record: RunRecord, config: str, trials: Mapping[str, Mapping[str, Any]]) -> Path:
    """Create the folder of a run at once: it appears complete, or not at all.

    Args:
        runs: the folder of runs, made if missing.
        record: what run.json will hold; its id names the folder.
        config: the text of config.yaml.
        trials: content of each trial.json by trial name.

    Returns:
        The run's folder.

    Raises:
        RunExistsError: `runs` has a run of this id.
    """
    runs.mkdir(parents=True, exist_ok=True)
    final = runs / record.id
    check_name(runs, record.id)
    building = runs / f".{record.id}.{os.getpid()}"
    try:
        building.mkdir()
        for name, content in trials.items():
            trial_folder(building, name).mkdir(parents=True)
            write_json(trial_folder(building, name) / "trial.json", content)
        write_atomically(building / "config.yaml", config)
        write_json(building / "run.json", dataclasses.asdict(record))
        # A rename onto a folder that is not empty fails, so of two runs of one name one gives way.
        os.rename(building, final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return final


def read_run(run: Path) -> RunRecord:
    """Return the record of a run folder.

    Raises:
        BrokenRunError: run.json is missing or damaged.
    """
    values = read_json(run / "run.json")
    try:
        trials = tuple(TrialRecord(**trial) for trial in values.pop("trials"))
        for trial in trials:
            trial_folder(run, trial.name)
        return RunRecord(**values, trials=trials)
    except (KeyError, TypeError, AttributeError, RunNameError) as error:
        raise BrokenRunError(f"{run / 'run.json'}: not the record of a run ({error})") from error


def read_json(path: Path) -> Any:
    """Return the value of a JSON file of a run.

    Raises:
        BrokenRunError: it is missing, truncated or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenRunError(f"{path}: missing; it is part of every run") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise BrokenRunError(f"{path}: damaged, not JSON ({error})") from error


def list_runs(runs: Path) -> list[Path]:
    """Return the run folders in `runs` by name; what is in them may be damaged."""
    if not runs.is_dir():
        return []
    found = [folder for folder in runs.iterdir() if not folder.name.startswith(".") and (folder / "run.json").is_file()]
    return sorted(found, key=lambda folder: folder.name)


def find_run(name: str, runs: Path) -> Path:
    """Return the folder of the run that is named by its id in `runs`, or by its path.

    Raises:
        RunNotFoundError: neither exists; the message names the nearest id.
    """
    for folder in (runs / name, Path(name)):
        if (folder / "run.json").is_file():
            return folder.resolve()
    ids = [folder.name for folder in list_runs(runs)]
    near = difflib.get_close_matches(name, ids, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see: defectnas show" if ids else f"{runs} holds no run"
    raise RunNotFoundError(f"no run {name!r} in {runs}; {hint}")


def lock_run(run: Path) -> AbstractContextManager[None]:
    """Hold the run for this process; others are refused with the holder's pid and host.

    Raises:
        InUseError: another process works on the run.
    """
    return hold(run / "lock", f"run {run.name}")


def is_running(run: Path) -> bool:
    """Return whether a living process works on the run."""
    return is_held(run / "lock")


def trial_state(folder: Path, running: bool) -> State:
    """Return the state of a trial, read off its files.

    Args:
        folder: the trial's folder.
        running: whether a process works on the run (`is_running`).
    """
    if (folder / "metrics.json").is_file():
        return "done"
    if (folder / "error.txt").is_file():
        return "failed"
    return "running" if running else "stopped"


def unfinished(run: Path, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that have no metrics yet, failed ones included."""
    return [trial for trial in trials if trial_state(trial_folder(run, trial.name), running=False) != "done"]
