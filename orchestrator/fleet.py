"""Many trials at once: one Ray Tune trial each. The only file that imports ray.tune.

Tune places the trials, keeps them apart and starts one again whose process died. Everything that a trial
needs to go on lies in its own folder, so Tune's checkpoints and results are not used.
"""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clusters import connect  # first: it sets what Ray reads on import

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"

import ray
from ray import tune

from orchestrator.attempt import RUN_TRIAL, Listener, TrialFailedError, attempt, full_disk_line, write_failure
from orchestrator.nodes import among
from orchestrator.orphans import end_with
from orchestrator.resources import TrialResources
from orchestrator.runs import trial_folder
from search.errors import is_disk_full
from search.secret_texts import without_secrets
from search.watchdog import beat, watched

_LITTLE = 0.01
"""Tune takes no trial that asks for nothing."""


def run_fleet(
    run: Path,
    names: Sequence[str],
    resources: TrialResources,
    on_event: Listener,
    *,
    retries: int = 2,
    function: str = RUN_TRIAL,
    near: Sequence[str] | None = None,
    silence_s: float = 0.0,
) -> None:
    """Run trials side by side on the connected Ray; returns when each has ended, well or not.

    A trial that raised or whose process died leaves error.txt in its folder and never stops the others.

    Args:
        run: the run's folder.
        names: names of the trials.
        resources: what each trial gets, and how many run at once.
        on_event: gets each event of each trial, in this process.
        retries: new attempts at a trial that raised or whose process died; bad input is not tried again.
        function: module:function that runs a trial.
        near: ids of the nodes that see the run's folder; None: all do.
        silence_s: a trial that tells nothing for so long has its process ended, and counts as died; 0: any time.
    """
    each = {"CPU": resources.cpus, "GPU": resources.gpus} if resources.cpus else _a_little(near)
    where = {} if near is None else {"bundle_label_selector": [among(near)]}
    # Beside the trials and not in a temporary folder: Tune checks that every node sees its storage.
    storage = run / ".tune"
    for noisy in ("ray.tune", "ray.train", "ray._private"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        results = tune.Tuner(
            tune.with_resources(_trainable, tune.PlacementGroupFactory([each], **where)),
            param_space={
                "name": tune.grid_search(list(names)),
                "run": str(run),
                "function": function,
                "gpus": resources.gpus,
                "silence_s": silence_s,
            },
            tune_config=tune.TuneConfig(
                max_concurrent_trials=resources.parallel, trial_dirname_creator=lambda trial: trial.trial_id
            ),
            run_config=tune.RunConfig(
                name="fleet",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=retries),
                callbacks=[_Forward(on_event)],
                verbose=0,
            ),
        ).fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    for name in names:
        folder = trial_folder(run, name)
        # A process that was killed has written nothing itself.
        if not (folder / "metrics.json").exists() and not (folder / "error.txt").exists():
            errors = [result.error for result in results if (result.config or {}).get("name", name) == name]
            if any(errors):
                why = without_secrets("".join(f"{error}\n" for error in errors))
                write_failure(folder, f"the process of the trial ended: {why.splitlines()[0]}", False, why)
            else:
                # It ended by itself, and could not write why.
                write_failure(folder, full_disk_line(folder), True)


def _a_little(near: Sequence[str] | None) -> dict[str, float]:
    """Return what a trial asks for that only drives: a little of a CPU, or of a node where there are none.

    A head often has no CPUs to give, and without a shared disk it is the only node that sees the run.
    """
    if near is None or connect.offer(None, near).cpus:
        return {"CPU": _LITTLE}
    node = next(node for node in ray.nodes() if node["Alive"] and node["NodeID"] in near)
    return {f"node:{node['NodeManagerAddress']}": _LITTLE}


def _trainable(config: dict[str, Any]) -> None:
    """Run one trial in a worker process."""
    if config["gpus"] == 0:
        # Ray leaves all GPUs visible to a worker that was given none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    end_with(Path(config["run"]) / "lock")
    folder = trial_folder(Path(config["run"]), config["name"])

    def tell(event: Mapping[str, Any]) -> None:
        beat()
        tune.report({"event": event})

    try:
        with watched(config["silence_s"]):
            attempt(folder, config["function"], tell)
    except (TrialFailedError, OSError) as failure:
        if not (failure.final if isinstance(failure, TrialFailedError) else is_disk_full(failure)):
            raise
        # Ended as if well, because Tune would try again what an exception ended.
        tune.report({"event": {"event": "failed"}})


class _Forward(tune.Callback):  # type: ignore[misc]
    """Hands the events that trials report to a listener, and says when a process has died."""

    def __init__(self, on_event: Listener | None = None):
        self._on_event = on_event

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles its callbacks to be restored, which is never done here; a terminal cannot be pickled.
        return (_Forward, ())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        """Hand on one event."""
        if "event" in result:
            self._tell(trial, result["event"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Say that a trial is begun again."""
        self._tell(trial, {"event": "retried"})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Say that a trial is given up."""
        self._tell(trial, {"event": "failed"})

    def _tell(self, trial: Any, event: Mapping[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(trial.config["name"], event)
