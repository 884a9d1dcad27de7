"""What all commands share: how a launch is watched, results are printed, and a command ends."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from search.secret_texts import without_secrets

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: a trial, or something outside of this program, failed; the input is of no use; stopped by a signal."""


def watch_of(quiet: bool, json_lines: bool) -> Any:
    """Return what shows a launch as its options ask for."""
    from orchestrator.live import Watch

    return Watch("quiet" if quiet else "json-lines" if json_lines else "auto")


def end(result: Any, json_: bool) -> None:
    """Print the result of a launch, and leave with the exit code that it deserves."""
    if json_:
        print_json(result.to_dict())
    else:
        print_result(result)
        told = [f"run folder  {result.folder}", *_tracked_at(result.folder)]
        stdout().print(Text("\n".join(told)), soft_wrap=True)
    if result.failed:
        raise typer.Exit(print_failures(result))


def _tracked_at(run: Path) -> list[str]:
    """Return the line that says where a run can be looked at in MLflow, none where it is not tracked."""
    from orchestrator.pipeline import launch_of

    tracking = launch_of(run).tracking
    if not tracking.enabled:
        return []
    if tracking.uri:
        return [f"MLflow at   {without_secrets(tracking.uri)}"]
    return [f"MLflow UI   {program()} ui{runs_flag(run.parent)}"]


def print_result(result: Any) -> None:
    """Print the trials of a run, and over the seeds of a data set."""
    from orchestrator.report import spreads_over_seeds
    from orchestrator.tables import latency_notes, spreads_table, trials_table

    console = stdout()
    console.print(trials_table(result.trials, console.width))
    if spreads := spreads_over_seeds(result.trials):
        console.print(spreads_table(spreads, console.width))
    for note in latency_notes(result.trials):
        console.print(Text(note), soft_wrap=True)


def print_failures(result: Any) -> int:
    """Name the trials that failed, each with why in one line; returns the exit code that they deserve."""
    from orchestrator.report import failure_of

    failures = [(trial.folder, *failure_of(trial.folder)) for trial in result.failed]
    for folder, line, final in failures:
        said = f"defectnas: {folder.name}: {line}" if final else f"failed: {folder / 'error.txt'}: {line}"
        print(said, file=sys.stderr)
    return BAD_INPUT if all(final for _, _, final in failures) else FAILED


def print_json(values: Mapping[str, Any]) -> None:
    """Print the one JSON object of a result."""
    sys.stdout.write(json.dumps(values) + "\n")


def stdout() -> Console:
    """Return where tables are printed."""
    console = Console(highlight=False)
    # A file or pipe has no width; 80 columns would break the table.
    return console if console.is_terminal else Console(highlight=False, width=140)


def program() -> str:
    """Return how this program is called: `uv run` leaves the PATH of who types as it is."""
    return "uv run defectnas" if "UV_RUN_RECURSION_DEPTH" in os.environ else "defectnas"


def command_line() -> str:
    """Return the command as it was given."""
    return shlex.join(["defectnas", *sys.argv[1:]])


def runs_flag(runs: Path) -> str:
    """Return the option by which a command finds these runs."""
    return "" if runs == Path("runs").resolve() else f" --runs {shlex.quote(str(runs))}"


def as_typed(run: Path) -> str:
    """Return what names a run on the command line, seen from here."""
    return run.name if run.parent == Path("runs").resolve() else shlex.quote(str(run))
