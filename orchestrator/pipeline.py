"""The main path on one page: pack the data, create the run, run its trials, read off the result.

Everything that a run needs to go on lies in its folder, so a launch and its resumption are the same from
`run_trials` on.
"""

import dataclasses
import io
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.attempt import RUN_HYBRID, RUN_TRIAL, Listener, run_here
from orchestrator.config import file_layer, resolve
from orchestrator.files import write_json
from orchestrator.interrupts import interruptible
from orchestrator.launch import Launch, Trial
from orchestrator.live import Watch
from orchestrator.prepare import check_storage, mirror_of, pack_data, restore, sharing
from orchestrator.report import RunResult, result_of
from orchestrator.resources import TooFewResourcesError, TrialResources, check_group, drive_only, share_out, spare
from orchestrator.runs import (
    RunRecord,
    check_name,
    create_run,
    find_run,
    lock_run,
    new_run_id,
    read_json,
    read_run,
    trial_folder,
    unfinished,
)
from orchestrator.runtime_env import runtime_env
from orchestrator.stored_packs import digest_in
from search.errors import InputError
from search.secret_texts import without_secrets

if TYPE_CHECKING:
    from clusters.connect import Cluster

_TRACKER_PATIENCE_S = 30.0


class NoDataError(InputError):
    """A launch without a data set."""


class ClusterError(InputError):
    """The Ray cluster that was asked for cannot be joined."""


class NoRayError(InputError):
    """Resources are given that only Ray can share out, and there is to be no Ray."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the launch; `run` is the folder to resume."""

    def __init__(self, run: Path):
        super().__init__(str(run))
        self.run = run


def launch_run(
    launch: Launch, runs: Path, name: str | None, command: str, watch: Watch, function: str = RUN_TRIAL
) -> RunResult:
    """Run a launch from its configuration to its result.

    Args:
        launch: what was asked.
        runs: the folder of runs.
        name: the run's id; None gives it one of time and method.
        command: the command line, for the record.
        watch: shows how it goes.
        function: module:function that runs a trial.

    Raises:
        InputError: there is no data set, one cannot be used or divided, no node has what is asked for, or the name is
            taken; no run folder is made.
        Stopped: Ctrl-C or SIGTERM.
    """
    resources = dataclasses.asdict(launch.resources)
    check_for_ray(launch, [name for name in OF_RAY if resources[name] != "auto"])
    if not launch.data_sets:
        raise NoDataError("no data set: give --data FOLDER (repeatable), or data_sets in the --config file")
    if name is not None:
        check_name(runs, name)
    tracking_uri(launch, runs)
    _check_cluster(launch)
    _check_devices(launch)
    runtime_env(launch.cluster.runtime_env)
    taken = check_storage(launch, name)
    if launch.latency.replay:
        launch = override(launch, {"latency": {"replay": str(find_run(launch.latency.replay, runs).resolve())}})
    packs = pack_data(launch.trials(), runs / "packs", watch, launch.storage.cache)
    with interruptible() as install_handlers, _joined(launch, install_handlers) as cluster:
        if cluster is not None:
            _divided(launch, len(launch.trials()), _grown(cluster))
        run = _create(launch, packs, runs, name, command, taken)
        watch.note(f"run {run}")
        with lock_run(run):
            _go_on(run, launch, watch, function, nullcontext(cluster), is_new=True)
    return result_of(run)


def run_trials(run: Path, launch: Launch, watch: Watch, function: str = RUN_TRIAL) -> RunResult:
    """Run what is left of a run folder: the unfinished trials, and the failed ones again.

    It goes on also while its store is away, which is told later.

    Raises:
        InUseError: another process works on the run.
        ClusterError: the cluster cannot be joined.
        TooFewResourcesError: no node has what is asked for.
        Stopped: Ctrl-C or SIGTERM.
    """
    with interruptible() as install_handlers, lock_run(run):
        _go_on(run, launch, watch, function, _joined(launch, install_handlers))
    return result_of(run)


def _go_on(
    run: Path,
    launch: Launch,
    watch: Watch,
    function: str,
    joined: "AbstractContextManager[Cluster | None]",
    *,
    is_new: bool = False,
) -> None:
    left = unfinished(run, read_run(run).trials)
    trials = [trial for trial in launch.trials() if trial.record in left]
    try:
        restore(run, trials, launch, watch)
        with watch.follow(trials), mirror_of(run, launch, watch, may_wait=not is_new):
            if trials:
                with _tracker(run, launch), joined as cluster:
                    _run(run, trials, launch, watch, function, cluster)
    except KeyboardInterrupt:
        raise Stopped(run) from None


def launch_of(run: Path) -> Launch:
    """Return the launch that a run folder was made for."""
    return resolve([file_layer(run / "config.yaml")])


def _commit() -> str:
    """Return the git commit of the source tree, with "-dirty" if files differ from it; empty without git."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _create(
    launch: Launch, packs: Mapping[str, Path], runs: Path, name: str | None, command: str, taken: Sequence[str]
) -> Path:
    now = datetime.now(UTC)
    trials = launch.trials()
    record = RunRecord(
        id=name or new_run_id(runs, launch.method, now, taken),
        method=launch.method,
        created=now.isoformat(timespec="seconds"),
        command=without_secrets(command),
        version=version("defectnas"),
        trials=tuple(trial.record for trial in trials),
        commit=_commit(),
    )
    hybrid = launch.method == "autonad"
    contents = {
        trial.record.name: {
            "method": trial.record.method,
            "data": trial.data_set.path,
            "name": trial.data_set.name,
            "pack": str(packs[trial.record.name]),
            "pack_digest": digest_in(packs[trial.record.name]),
            "forms": str(runs / "forms.json"),
            # AutoNAD divides its supernet among workers itself, by Ray Train.
            "workers": 1 if hybrid else launch.resources.workers,
            **(_group_of(launch) if hybrid else {}),
            "settings": trial.settings.to_dict(),
        }
        for trial in trials
    }
    return create_run(runs, record, launch.to_yaml(), contents)


def _group_of(launch: Launch) -> dict[str, float]:
    """Return what trial.json says of the workers of a supernet."""
    asked = launch.resources
    scorers = {} if asked.scorers == "auto" else {"scorers": asked.scorers}
    return {"supernet_workers": asked.workers, "least_workers": asked.least_workers, "wait": asked.wait, **scorers}


def _run(
    run: Path, trials: Sequence[Trial], launch: Launch, watch: Watch, function: str, cluster: "Cluster | None"
) -> None:
    names = [trial.record.name for trial in trials]
    asked, hybrid = launch.resources, launch.method == "autonad"
    if hybrid and function == RUN_TRIAL:
        function = RUN_HYBRID
    if cluster is None:
        _fix_threads(run, names, spare(_own_cpus()))
        run_here(run, names, _drawn_at_its_end(run, watch), retries=asked.retries, function=function)
        return
    from orchestrator.fleet import run_fleet
    from orchestrator.growing import await_one

    near, cluster = sharing(run, cluster, watch)
    # New nodes are not among those that see the run, where some do not.
    try:
        resources = _divided(launch, len(names), _grown(cluster) if near is None else cluster)
    except TooFewResourcesError as error:
        where = "" if near is None else f"; only nodes that see {run} count: give --runs as a folder that all nodes see"
        raise TooFewResourcesError(f"{error}{where}") from error
    if hybrid:
        if resources.parallel > 1 and len(names) > 1:
            watch.note("resources.parallel: trials side by side disturb each other's latencies")
        _fix_threads(run, names, 1 if asked.cpus == "auto" else asked.cpus)
    else:
        _fix_threads(run, names, max(1, resources.cpus // asked.workers))
    watch.note(_placed(resources, cluster.address))
    if near is None:
        await_one(resources, cluster, asked.wait, watch.note)
    on_event = _drawn_at_its_end(run, watch)
    # A trial of AutoNAD waits for its workers, which are watched themselves.
    silence_s = 0.0 if hybrid else launch.runtime.silence
    run_fleet(run, names, resources, on_event, retries=asked.retries, function=function, near=near, silence_s=silence_s)


@contextmanager
def _joined(launch: Launch, then: Callable[[], None]) -> "Iterator[Cluster | None]":
    """Join or start Ray for the time of a with-block, None without Ray; `then` is called once it is there."""
    if not launch.cluster.ray:
        yield None
        return
    from clusters.connect import ClusterUnreachableError, connected

    asked = launch.cluster
    # Ray and Tune print; standard output is the result's.
    with redirect_stdout(io.StringIO()):
        try:
            sent = runtime_env(asked.runtime_env)
            with connected(asked.address, dashboard=asked.dashboard, runtime_env=sent) as cluster:
                then()
                yield cluster
        except ClusterUnreachableError as error:
            raise ClusterError(str(error)) from error


def _drawn_at_its_end(run: Path, watch: Watch) -> Listener:
    """Return a listener that shows each event and draws each trial that is done, tracked or not."""

    def on_event(name: str, event: Mapping[str, Any]) -> None:
        watch.event(name, event)
        if event["event"] != "finished":
            return
        from orchestrator.drawing import draw_trial

        try:
            draw_trial(trial_folder(run, name))
        except Exception as error:
            # The result is there; that it has no pictures must not end the other trials.
            watch.note(f"{name}: not drawn ({type(error).__name__}: {error})")

    return on_event


def _grown(cluster: "Cluster") -> "Cluster":
    from clusters.growth import reach

    return reach(cluster)


def _divided(launch: Launch, trials: int, cluster: "Cluster") -> TrialResources:
    """Return what each of some trials gets of a cluster.

    Raises:
        TooFewResourcesError: the cluster does not have what is asked for.
    """
    if launch.method == "autonad":
        check_group(launch.resources, launch.runtime.device, cluster.gpus)
        return drive_only(launch.resources)
    offered = {name: getattr(cluster, name) for name in ("cpus", "gpus", "node_cpus", "node_gpus")}
    return share_out(launch.resources, trials, **offered)


OF_RAY = ("cpus", "gpus", "parallel")
"""Settings of `resources` that only Ray can keep."""


def check_for_ray(launch: Launch, given: Sequence[str]) -> None:
    """Check that resources are given only where there is to be Ray.

    Args:
        launch: what was asked.
        given: names of settings of `resources`.

    Raises:
        NoRayError: Ray alone could keep them; the trials would run as if they had not been given.
    """
    if given and not launch.cluster.ray:
        names = ", ".join(f"--{name}" for name in given)
        raise NoRayError(f"{names}: without Ray the trials run one by one on what this machine has; leave out {names}")


def _check_cluster(launch: Launch) -> None:
    """Find out before anything is written that the cluster is not there."""
    from clusters.connect import ClusterUnreachableError, check_address

    try:
        if launch.cluster.ray:
            check_address(launch.cluster.address)
    except ClusterUnreachableError as error:
        raise ClusterError(str(error)) from error


def _check_devices(launch: Launch) -> None:
    """Find out before anything is written that a device is not there, where trials run on this machine."""
    from clusters.connect import find_cluster

    address = launch.cluster.address
    here = not launch.cluster.ray or address == "none" or (address == "auto" and find_cluster() is None)
    for setting, name in (("runtime.device", launch.runtime.device), ("latency.device", launch.latency.device)):
        if here and name not in ("auto", "cpu"):
            # Here, because it imports torch.
            from search.context import choose_device

            choose_device(name, setting)


def _fix_threads(run: Path, names: Sequence[str], threads: int) -> None:
    """Write the number of threads where it was left open, so that a resumption rounds the same."""
    for name in names:
        path = trial_folder(run, name) / "trial.json"
        content = read_json(path)
        runtime = content["settings"]["runtime"]
        if runtime["threads"] == 0:
            runtime["threads"] = threads
            write_json(path, content)


def _own_cpus() -> int:
    # What the scheduler allows, where the system can say it: a container may have fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _placed(resources: TrialResources, address: str | None) -> str:
    where = f"Ray cluster {address}" if address else "Ray in this process"
    if not resources.cpus:
        return f"{where}: {resources.parallel} trial(s) at once, each with all of it"
    gpus = f" and {resources.gpus:g} GPU(s)" if resources.gpus else ""
    return f"{where}: {resources.cpus} CPU(s){gpus} a trial, at most {resources.parallel} trial(s) at once"


def tracking_uri(launch: Launch, runs: Path) -> str:
    """Return the MLflow tracking URI of a launch.

    Raises:
        InputError: it is not one that MLflow understands.
    """
    from orchestrator.tracking_uri import resolve_uri

    return resolve_uri(launch.tracking.uri, runs)


def _tracker(run: Path, launch: Launch) -> AbstractContextManager[Any]:
    if not launch.tracking.enabled:
        return nullcontext()
    from orchestrator.tracking import Tracker

    uri = tracking_uri(launch, run.parent)
    return Tracker(run, uri, launch.tracking.experiment, patience_s=_TRACKER_PATIENCE_S)


def override(launch: Launch, sections: Mapping[str, Mapping[str, Any]]) -> Launch:
    """Return the launch with some settings of some sections replaced, as a resumption elsewhere needs it."""
    replaced = {name: dataclasses.replace(getattr(launch, name), **values) for name, values in sections.items()}
    return dataclasses.replace(launch, **replaced)
