"""The main path on one page: pack the data, create the run, run its trials, read off the result.

Everything that a run needs to go on lies in its folder, so a launch and its resumption are the same from
`run_trials` on.
"""

import dataclasses
import io
import os
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.attempt import RUN_HYBRID, RUN_TRIAL, run_here
from orchestrator.config import file_layer, resolve
from orchestrator.files import write_atomically, write_json
from orchestrator.interrupts import interruptible
from orchestrator.launch import Launch, StorageSettings, Trial
from orchestrator.live import Watch
from orchestrator.report import RunResult, result_of
from orchestrator.resources import TrialResources, drive_only, share_out, spare
from orchestrator.runs import (
    RunExistsError,
    RunNotFoundError,
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
from orchestrator.storage import is_uri, open_store, reachable
from orchestrator.stored_packs import digest_in, get_pack
from search.errors import InputError
from search.secret_texts import without_secrets

_TRACKER_PATIENCE_S = 30.0


class NoDataError(InputError):
    """A launch without a data set."""


class ClusterError(InputError):
    """The Ray cluster that was asked for cannot be joined."""


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
        InputError: there is no data set, one cannot be used, or the name is taken; no run folder is made.
        Stopped: Ctrl-C or SIGTERM.
    """
    if not launch.data_sets:
        raise NoDataError("no data set: give --data FOLDER (repeatable), or data_sets in the --config file")
    if name is not None:
        check_name(runs, name)
    tracking_uri(launch, runs)
    _check_cluster(launch)
    runtime_env(launch.cluster.runtime_env)
    taken = _check_storage(launch, name)
    if launch.latency.replay:
        launch = override(launch, {"latency": {"replay": str(find_run(launch.latency.replay, runs).resolve())}})
    packs = pack_data(launch.trials(), runs / "packs", watch, launch.storage.cache)
    run = _create(launch, packs, runs, name, command, taken)
    watch.note(f"run {run}")
    return run_trials(run, launch, watch, function, is_new=True)


def run_trials(
    run: Path, launch: Launch, watch: Watch, function: str = RUN_TRIAL, *, is_new: bool = False
) -> RunResult:
    """Run what is left of a run folder: all of a new one, the unfinished and failed of an old one.

    An old one goes on also while its store is away, which is told later.

    Raises:
        InUseError: another process works on the run.
        ClusterError: the cluster cannot be joined.
        Stopped: Ctrl-C or SIGTERM.
    """
    with lock_run(run), interruptible() as install_handlers:
        left = unfinished(run, read_run(run).trials)
        trials = [trial for trial in launch.trials() if trial.record in left]
        try:
            _restore(run, trials, launch, watch)
            with watch.follow(trials), _mirror(run, launch, watch, may_wait=not is_new):
                if trials:
                    with _tracker(run, launch):
                        _run(run, trials, launch, watch, function, install_handlers)
        except KeyboardInterrupt:
            raise Stopped(run) from None
    return result_of(run)


def launch_of(run: Path) -> Launch:
    """Return the launch that a run folder was made for."""
    return resolve([file_layer(run / "config.yaml")])


def pack_data(trials: Sequence[Trial], packs_folder: Path, watch: Watch, cache: str = "") -> dict[str, Path]:
    """Open every data set, then pack each as its trials need it; returns the pack's folder by trial name.

    Args:
        trials: of the launch.
        packs_folder: the folder of packs.
        watch: shows how far it is.
        cache: folder for data sets that are fetched, see `StorageSettings`.

    Raises:
        InputError: a data set cannot be used.
    """
    from search.data.readers import open_dataset

    data_sets = {trial.data_set.name: trial.data_set for trial in trials}
    opened = {name: open_dataset(_data_here(item.path, watch, cache), item.reader) for name, item in data_sets.items()}
    packs: dict[Any, Path] = {}
    for trial in trials:
        key = (trial.data_set.name, trial.settings.data, trial.settings.seed)
        if key not in packs:
            packs[key] = _packed(opened[trial.data_set.name], trial, packs_folder, watch)
    return {trial.record.name: packs[trial.data_set.name, trial.settings.data, trial.settings.seed] for trial in trials}


def _data_here(place: str, watch: Watch, cache: str) -> Path:
    if not is_uri(place):
        return Path(place)
    from orchestrator.fetch import cache_folder, get_data

    with watch.counting(f"fetching {place}") as count:
        return get_data(place, cache_folder(cache), count)


def _packed(data_set: Any, trial: Trial, cache: Path, watch: Watch) -> Path:
    from search.data.pack import build_pack

    name, seed = trial.data_set.name, trial.settings.seed
    with watch.counting(f"packing {name}") as count:
        pack = build_pack(data_set, trial.settings.data, seed, cache, count)
    tiles = f"{len(pack.train.tiles)} training and {len(pack.test.tiles)} test tiles"
    watch.note(f"{name}, seed {seed}: {len(data_set.samples)} images, {tiles} of {pack.image_size} px")
    return pack.folder


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


def _group_of(launch: Launch) -> dict[str, int]:
    """Return what trial.json says of the workers of a supernet."""
    return {"supernet_workers": launch.resources.workers, "least_workers": launch.resources.least_workers}


def _restore(run: Path, trials: Sequence[Trial], launch: Launch, watch: Watch) -> None:
    """Make trials ready to begin or go on, also on another machine: no old error, packs and other files in place."""
    files = {trial.record.name: trial_folder(run, trial.record.name) for trial in trials}
    for folder in files.values():
        (folder / "error.txt").unlink(missing_ok=True)
    contents = {name: read_json(folder / "trial.json") for name, folder in files.items()}
    packs, lost = {}, []
    for trial in trials:
        content = contents[trial.record.name]
        if not Path(content["pack"]).is_dir():
            found = _stored_pack(content, launch.storage, run.parent / "packs", watch)
            packs.update({trial.record.name: found} if found else {})
            lost.extend([] if found else [trial])
    packs |= pack_data(lost, run.parent / "packs", watch, launch.storage.cache)
    for name, content in contents.items():
        new = dict(content)
        if name in packs:
            new |= {"pack": str(packs[name]), "pack_digest": digest_in(packs[name])}
        if (run / "forms.json").exists():
            # It came with the run from another machine, with what was decided there.
            new["forms"] = str(run / "forms.json")
        new.pop("storage", None)
        if launch.storage.uri:
            new["storage"] = {"uri": launch.storage.uri, "cache": launch.storage.cache}
        if new != content:
            write_json(files[name] / "trial.json", new)


def _stored_pack(content: Mapping[str, Any], storage: StorageSettings, packs: Path, watch: Watch) -> Path | None:
    """Return the pack of a trial, fetched from the store; None where that does not have it."""
    if not storage.uri or not content.get("pack_digest"):
        return None
    name = Path(content["pack"]).name
    try:
        found = get_pack(open_store(storage.uri), content["pack_digest"], name, packs)
    except (RunNotFoundError, OSError) as error:
        watch.note(f"{name} is packed anew ({error})")
        return None
    watch.note(f"{name} fetched from {storage.uri}")
    return found


def _check_storage(launch: Launch, name: str | None) -> Sequence[str]:
    """Find out before anything is written that the store is not there; returns the runs that it has.

    Raises:
        RunExistsError: a run of this name among them.
        InputError: the store is away or refuses.
    """
    if not launch.storage.uri:
        return ()
    taken = reachable(launch.storage.uri).folders()
    if name in taken:
        place = f"{launch.storage.uri}/{name}"
        raise RunExistsError(f"{place}: this name is taken; choose another --name, or: defectnas resume {name}")
    return taken


def _mirror(run: Path, launch: Launch, watch: Watch, may_wait: bool) -> AbstractContextManager[Any]:
    if not launch.storage.uri:
        return nullcontext()
    from orchestrator.mirror import Mirror

    contents = [read_json(trial_folder(run, trial.name) / "trial.json") for trial in read_run(run).trials]
    packs = {Path(content["pack"]) for content in contents}
    digests = {digest_in(pack): pack for pack in packs}
    watch.note(f"mirrored to {launch.storage.uri}/{run.name}")
    return Mirror(
        run,
        launch.storage.uri,
        packs={digest: pack for digest, pack in digests.items() if digest is not None},
        extra={"forms.json": run.parent / "forms.json"},
        every_s=launch.storage.every,
        may_wait=may_wait,
        note=watch.note,
    )


def _run(
    run: Path,
    trials: Sequence[Trial],
    launch: Launch,
    watch: Watch,
    function: str,
    install_handlers: Callable[[], None],
) -> None:
    names = [trial.record.name for trial in trials]
    if launch.method == "autonad" and function == RUN_TRIAL:
        function = RUN_HYBRID
    retries = launch.resources.retries
    if not launch.cluster.ray:
        _fix_threads(run, names, spare(_own_cpus()))
        run_here(run, names, watch.event, retries=retries, function=function)
        return
    # Ray and Tune print; standard output is the result's.
    with redirect_stdout(io.StringIO()):
        from clusters.connect import ClusterUnreachableError, connected

        try:
            asked_for = launch.cluster
            sent = runtime_env(asked_for.runtime_env)
            with connected(asked_for.address, dashboard=asked_for.dashboard, runtime_env=sent) as cluster:
                from orchestrator.fleet import run_fleet

                install_handlers()
                asked = launch.resources
                near, cluster = _sharing(run, cluster, watch)
                if launch.method == "autonad":
                    resources = drive_only(asked)
                    _fix_threads(run, names, 1 if asked.cpus == "auto" else asked.cpus)
                else:
                    nodes = {"node_cpus": cluster.node_cpus, "node_gpus": cluster.node_gpus}
                    resources = share_out(asked, len(names), cpus=cluster.cpus, gpus=cluster.gpus, **nodes)
                    _fix_threads(run, names, max(1, resources.cpus // asked.workers))
                watch.note(_placed(resources, cluster.address))
                run_fleet(run, names, resources, watch.event, retries=retries, function=function, near=near)
        except ClusterUnreachableError as error:
            raise ClusterError(str(error)) from error


def _sharing(run: Path, cluster: Any, watch: Watch) -> tuple[dict[str, str] | None, Any]:
    """Return the labels of the nodes that see the run's folder, and what they offer; (None, all) if all of them do."""
    import ray

    from clusters.connect import Cluster
    from orchestrator.nodes import TOKEN, among, nodes_that_see

    token = uuid.uuid4().hex
    write_atomically(run / TOKEN, token)
    seeing, blind = nodes_that_see(run, token)
    if not blind:
        return None, cluster
    watch.note(f"{len(blind)} of {len(seeing) + len(blind)} nodes do not see {run}; trials are driven on the others")
    near = [node["Resources"] for node in ray.nodes() if node["NodeID"] in seeing]
    cpus, gpus = ([int(node.get(kind, 0)) for node in near] for kind in ("CPU", "GPU"))
    return among(seeing), Cluster(cluster.address, sum(cpus), sum(gpus), max(cpus), max(gpus))


def _check_cluster(launch: Launch) -> None:
    """Find out before anything is written that the cluster is not there."""
    from clusters.connect import ClusterUnreachableError, check_address

    try:
        if launch.cluster.ray:
            check_address(launch.cluster.address)
    except ClusterUnreachableError as error:
        raise ClusterError(str(error)) from error


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
