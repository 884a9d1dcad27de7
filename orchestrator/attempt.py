"""One attempt at a trial, wherever it runs: alone on its folder, its failure written down in it."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.files import hold, write_atomically, write_json
from orchestrator.group import run_in_group
from orchestrator.runs import FAILURE, read_json, trial_folder
from search.errors import is_disk_full
from search.secret_texts import without_secrets

Listener = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of a trial and one of its events."""

RUN_TRIAL = "search.trial:run_trial"
RUN_HYBRID = "orchestrator.hybrid:run_trial"
"""The function that runs a trial, as module:function so that workers import it themselves."""

_HANDOVER_S = 60.0
_BULKY = frozenset({"alphas", "kept", "removed", "entropy", "share"})


class TrialFailedError(Exception):
    """The trial raised; its error.txt holds the traceback. `final`: a new attempt would fail alike."""

    def __init__(self, message: str, final: bool):
        super().__init__(message, final)
        self.final = final


def attempt(folder: Path, function: str, emit: Callable[[dict[str, Any]], None]) -> None:
    """Run or resume the trial of a folder in this process.

    Args:
        folder: the trial's folder.
        function: module:function of `search.trial.run_trial`'s signature.
        emit: gets each event of the trial, without the values that fill pages.

    Raises:
        TrialFailedError: the trial raised; error.txt is written.
        OSError: the disk is so full that error.txt could not be written.
        InUseError: another process still works on the trial after a minute.
    """
    # The worker of a killed launch may outlive it by seconds; two writers would spoil the ledger.
    with hold(folder / "lock", f"trial {folder.name}", wait_s=_HANDOVER_S):
        forget_failure(folder)
        try:
            workers = read_json(folder / "trial.json").get("workers", 1)
            run_in_group(function, folder, lambda event: emit(_light(event)), workers)
        except Exception as error:
            # Where the disk has no room for this either, that is raised.
            line, final = _line(error, folder), _is_final(error)
            write_failure(folder, line, final, _traceback(error))
            raise TrialFailedError(line, final) from error


def write_failure(folder: Path, line: str, final: bool, more: str = "") -> None:
    """Write down in a trial's folder why it failed.

    Args:
        folder: of the trial.
        line: why, in one line.
        final: a new attempt would end the same.
        more: a traceback, or what else is known.
    """
    write_json(folder / FAILURE, {"error": line, "final": final})
    write_atomically(folder / "error.txt", f"{line}\n\n{without_secrets(more)}")


def forget_failure(folder: Path) -> None:
    """Remove what an earlier attempt at a trial left of its failure."""
    for name in ("error.txt", FAILURE):
        (folder / name).unlink(missing_ok=True)


def run_here(
    run: Path, names: Sequence[str], on_event: Listener, *, retries: int = 0, function: str = RUN_TRIAL
) -> None:
    """Run trials one after the other in this process; a failed one is left behind and the next begins.

    Args:
        run: the run's folder.
        names: names of the trials.
        on_event: gets each event.
        retries: new attempts at a trial that raised, but for bad input.
        function: as for `attempt`.
    """
    for name in names:
        for _ in range(retries + 1):
            try:
                attempt(trial_folder(run, name), function, lambda event, name=name: on_event(name, event))  # type: ignore[misc]
                break
            except TrialFailedError as failure:
                on_event(name, {"event": "failed"})
                if failure.final:
                    break


def _light(event: Mapping[str, Any]) -> dict[str, Any]:
    light = {key: value for key, value in event.items() if key not in _BULKY}
    # A stage counts its candidates; an epoch lists them.
    if not isinstance(light.get("candidates", 0), int):
        del light["candidates"]
    return light


def _is_final(error: BaseException) -> bool:
    """Return whether the same attempt would end the same: bad input, here or in a worker, or a disk that is full."""
    return bool(getattr(error, "final", False)) or is_disk_full(error)


def _line(error: BaseException, folder: Path) -> str:
    if is_disk_full(error):
        # What is thrown while a file is written names none.
        place = getattr(error, "filename", None) or folder
        return full_disk_line(place)
    # What broke may show the address that it asked, with its password. What the user can mend needs no name of a class.
    return without_secrets(str(error) if _is_final(error) else f"{type(error).__name__}: {error}")


def full_disk_line(place: Path | str) -> str:
    """Return what is said of a full disk; `place` lies on it."""
    return f"the disk is full ({place}); free some space, then resume the run"


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
