"""Whether a run's config.yaml still says what the run was begun with.

What a trial does was written into its trial.json when the run was made, and so was the list of trials into run.json. A
config.yaml that was edited afterwards would change none of it, so a resumption refuses it rather than overlook it.
Where the work is done (`cluster`, `storage`, `tracking` and the rest of `resources`) is read from it anew each time.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from orchestrator.launch import Launch
from orchestrator.runs import BrokenRunError, RunRecord, read_json, read_run, trial_folder
from search.errors import InputError

_LEFT = object()


class ChangedConfigError(InputError):
    """config.yaml was edited after the run was begun."""


def check_unchanged(run: Path, launch: Launch) -> None:
    """Compare what a run's config.yaml says with what the run was begun with.

    Args:
        run: the run's folder.
        launch: read from its config.yaml.

    Raises:
        ChangedConfigError: they differ; the message names one key.
        BrokenRunError: run.json or a trial.json is missing or damaged.
    """
    for text in chain(_trial_list(read_run(run), launch), _settings(run, launch)):
        raise ChangedConfigError(
            f"{run / 'config.yaml'}: {text}; a run goes on as it was begun: "
            "put that back, or begin a new run: defectnas search --config"
        )


def _trial_list(record: RunRecord, launch: Launch) -> Iterator[str]:
    """Yield what makes other trials than the run has."""
    now = [trial.record for trial in launch.trials()]
    if tuple(now) == record.trials:
        return
    for key, name in (("data_sets", "data"), ("seeds", "seed"), ("method or baseline", "method")):
        before, after = (sorted({getattr(trial, name) for trial in trials}) for trials in (record.trials, now))
        if before != after:
            yield f"{key}: the trials of the run have {_listed(before)}, this makes {_listed(after)}"
    yield "data_sets: their order is not that of the run"


def _settings(run: Path, launch: Launch) -> Iterator[str]:
    """Yield what a trial was not begun with."""
    for trial in launch.trials():
        path = trial_folder(run, trial.record.name) / "trial.json"
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise BrokenRunError(f"{path}: not a trial, it has no settings")
        before, now = _flat(content["settings"]), _flat(trial.settings.to_dict())
        if now["runtime.threads"] == 0:
            # A number that was left open has been fixed when the run began.
            now["runtime.threads"] = before.get("runtime.threads")
        begun = {"resources.workers": content.get("supernet_workers", content.get("workers"))}
        begun["resources.least_workers"] = content.get("least_workers", launch.resources.least_workers)
        before |= begun
        now |= {key: getattr(launch.resources, key.partition(".")[2]) for key in begun}
        for key in sorted(before.keys() | now.keys()):
            old, new = before.get(key, _LEFT), now.get(key, _LEFT)
            if old != new:
                yield f"{key}: {_shown(new)}, but {trial.record.name} was begun with {_shown(old)}"


def _flat(values: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Return nested settings under their dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{key}{name}.") if isinstance(value, Mapping) else {f"{key}{name}": value}
    return flat


def _shown(value: Any) -> str:
    return "nothing" if value is _LEFT else repr(value)


def _listed(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"
