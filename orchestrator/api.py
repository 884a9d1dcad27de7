"""What the commands do, as functions: one per command, used by the command line itself.

from orchestrator import api
result = api.search(data=["../KSDD"], budget="smoke", seeds=2)
result.best.metrics["iou"]
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from orchestrator.attempt import RUN_TRIAL
from orchestrator.candidates import BestCandidate, best_of
from orchestrator.config import Layer, data_sets_layer, file_layer, resolve, set_layer
from orchestrator.launch import Launch, TrackingSettings
from orchestrator.live import Watch
from orchestrator.pipeline import OF_RAY, ClusterError, check_for_ray, launch_of, launch_run, override, run_trials
from orchestrator.pipeline import tracking_uri as resolved_tracking_uri
from orchestrator.profiles import resolve_address
from orchestrator.report import Listing, RunResult, result_of, results_in
from orchestrator.runs import RunNotFoundError, RunRecord, find_run, read_run
from orchestrator.schema import model_of
from orchestrator.storage import is_uri
from orchestrator.unchanged import check_unchanged
from search.errors import InputError

if TYPE_CHECKING:
    from orchestrator.comparison import Comparison
    from search.data.report import Report

RUNS = Path("runs")


class TwoStoresError(InputError):
    """Two stores are given for one run."""


class NoStoreError(InputError):
    """There is no MLflow store beside the runs, or where one was said to be."""


class PortInUseError(InputError):
    """The port of the UI cannot be listened on."""


class TrackingError(RuntimeError):
    """The tracking store did not take everything."""


_KEYS: Mapping[str, tuple[str, str]] = {
    "method": ("", "method"),
    "baseline": ("", "baseline"),
    "seed": ("", "seed"),
    "seeds": ("", "seeds"),
    "cpus": ("resources", "cpus"),
    "gpus": ("resources", "gpus"),
    "workers": ("resources", "workers"),
    "parallel": ("resources", "parallel"),
    "cluster": ("cluster", "address"),
    "ray": ("cluster", "ray"),
    "storage": ("storage", "uri"),
    "tracking": ("tracking", "enabled"),
    "tracking_uri": ("tracking", "uri"),
    "experiment": ("tracking", "experiment"),
    "objective": ("evolution", "strategy"),
    "latency_limit_ms": ("evolution", "latency_limit_ms"),
    "device": ("runtime", "device"),
}
"""Section and name of the setting that each option gives."""


class WhereOptions(TypedDict, total=False):
    """Where and beside what trials run; an option that is absent or None leaves the setting as it is.

    cpus, gpus: of one trial. workers: processes of the DDP group inside a trial. parallel: most trials at
    once. cluster: HOST:PORT, "auto", "none" or a profile (.toml). ray: False runs the trials one by one here.
    storage: URI of a store that the run is mirrored to, and restored from where it is not here.
    """

    cpus: int | None
    gpus: float | None
    workers: int | None
    parallel: int | None
    cluster: str | None
    ray: bool | None
    storage: str | None


class LaunchOptions(WhereOptions, total=False):
    """What a launch is asked for; docs/configuration.md describes the settings behind the options.

    data: folders of data sets, or their URIs. budget: demo, smoke, short or paper. config: a YAML file. settings: texts
    as "search.epochs=5". method, baseline, seed, seeds, tracking, tracking_uri, experiment: the settings.
    Of AutoNAD: objective, what is searched for (evolution, pareto, random); latency_limit_ms. device: that computes.
    """

    data: Sequence[str | Path]
    budget: str | None
    config: Path | None
    settings: Sequence[str]
    method: str | None
    baseline: str | None
    seed: int | None
    seeds: int | None
    tracking: bool | None
    tracking_uri: str | None
    experiment: str | None
    objective: str | None
    latency_limit_ms: float | None
    device: str | None


def config(watch: Watch | None = None, **options: Unpack[LaunchOptions]) -> Launch:
    """Return the resolved configuration of a launch, checked.

    Raises:
        ConfigError: a setting is unknown, out of bounds or at odds with another.
    """
    path, budget = options.get("config"), options.get("budget")
    layers = [file_layer(path)] if path is not None else []
    layers.append(data_sets_layer(options.get("data", ())))
    layers.extend(_option_layers(options))
    layers.append(set_layer(options.get("settings", ())))
    if budget is not None or any("budget" in layer.values for layer in layers):
        return _at_address(resolve(layers, budget=budget))
    # What is wrong is said at once, and not after the seconds that it takes to look for a GPU.
    resolve(layers, default_budget="smoke")
    return _at_address(resolve(layers, default_budget=_budget_of_this_machine(watch)))


def schema() -> dict[str, Any]:
    """Return the JSON schema of `--config` files: every setting with its type, bounds, default and help."""
    return model_of(Launch).model_json_schema()


def search(
    *,
    runs: str | Path = RUNS,
    name: str | None = None,
    watch: Watch | None = None,
    command: str = "orchestrator.api.search",
    function: str = RUN_TRIAL,
    **options: Unpack[LaunchOptions],
) -> RunResult:
    """Search, retrain and test on every data set and seed; returns when all trials have ended.

    Args:
        runs: the folder of runs; or a URI, which is `RUNS` here and the option storage.
        name: the run's id; None gives it one of time and method.
        watch: shows how it goes; None shows nothing.
        command: kept in the run's record.
        function: module:function that runs one trial.
        **options: see `LaunchOptions`.

    Raises:
        InputError: the configuration or a data set cannot be used; nothing is written then.
        Stopped: Ctrl-C or SIGTERM.
    """
    watch = watch or Watch("quiet")
    folder = _here(runs, options)
    return launch_run(config(watch, **options), folder.resolve(), name, command, watch, function)


def demo(
    *,
    runs: str | Path = RUNS,
    watch: Watch | None = None,
    command: str = "orchestrator.api.demo",
    function: str = RUN_TRIAL,
    **options: Unpack[LaunchOptions],
) -> RunResult:
    """Generate a small data set under `runs` and search on it; arguments and errors as for `search`."""
    here = _here(runs, options)
    folder = here.resolve() / "demo-data"
    if not folder.exists():
        # Written beside and renamed, so that an interrupted demo leaves no half data set for the next.
        building = folder.with_name(f".demo-data.{os.getpid()}")
        try:
            data_synthesize(building)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    options = {"budget": "demo", **options, "data": [folder]}
    return search(runs=here, watch=watch, command=command, function=function, **options)


def resume(
    run: str,
    *,
    runs: str | Path = RUNS,
    watch: Watch | None = None,
    function: str = RUN_TRIAL,
    **options: Unpack[WhereOptions],
) -> RunResult:
    """Go on with a run: finished trials stay, failed ones are tried again, others continue.

    Args:
        run: id of a run in `runs`, or the path of its folder; or id of one in the store, which is then restored.
        runs: the folder of runs; or a URI, which is `RUNS` here and the option storage.
        watch: shows how it goes; None shows nothing.
        function: module:function that runs one trial.
        **options: see `WhereOptions`; for this launch only.

    Raises:
        InputError: there is no such run, it is in use, its files are damaged, or its config.yaml has been edited in
            what decides the trials.
        Stopped: Ctrl-C or SIGTERM.
    """
    folder = _found(run, _here(runs, options), options.get("storage"), watch)
    sections: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        if value is not None:
            section, name = _KEYS[option]
            sections.setdefault(section, {})[name] = value
    begun = launch_of(folder)
    check_unchanged(folder, begun)
    launch = _at_address(override(begun, sections))
    # Only what is given now: what the run was made with is for Ray, and is left unused without it.
    check_for_ray(launch, [name for name in OF_RAY if options.get(name) is not None])
    try:
        return run_trials(folder, launch, watch or Watch("quiet"), function)
    except ClusterError as error:
        if options.get("cluster") is not None or launch.cluster.address in ("auto", "none"):
            raise
        raise ClusterError(
            f"{error}; the run was begun there; to go on elsewhere: --cluster auto|none|HOST:PORT"
        ) from error


def places(runs: str | Path, storage: str | None) -> tuple[Path, str]:
    """Return the local folder of runs and the URI of the store, "" for none; `runs` may be the URI.

    Raises:
        TwoStoresError: two different stores are given.
    """
    if not is_uri(runs):
        return Path(runs), storage or ""
    if storage and storage != str(runs):
        raise TwoStoresError(f"--runs {runs} and --storage {storage} are two stores; give one")
    return RUNS, str(runs)


def fetch(run: str, storage: str, *, runs: Path = RUNS) -> Path:
    """Restore a run from a store, to look at or to go on with; returns its new folder.

    Args:
        run: the run's id.
        storage: URI of the store.
        runs: the local folder of runs.

    Raises:
        InputError: the store is away or has no such run, what it has is damaged, or there is one of this name here.
    """
    from orchestrator.fetch import get_run

    return get_run(storage, run, runs)


def stored(storage: str) -> list[str]:
    """Return the ids of the runs in a store.

    Raises:
        InputError: the URI is none, or the store is away or refuses.
    """
    from orchestrator.fetch import stored_runs

    return stored_runs(storage)


def show(run: str, *, runs: Path = RUNS) -> RunResult:
    """Return a run's trials with their states and metrics.

    Raises:
        InputError: there is no such run, or its files are damaged.
    """
    return result_of(find_run(run, runs))


def best(
    run: str, *, runs: Path = RUNS, under_ms: float | None = None, tell: Callable[[str], None] = lambda line: None
) -> list[BestCandidate]:
    """Return the best candidate that each trial of an AutoNAD search has scored; nothing is searched anew.

    Args:
        run: id of a run in `runs`, or the path of its folder.
        runs: the folder of runs.
        under_ms: highest mIoU among those at most so slow; None: the search's own choice.
        tell: gets the line that says why a trial has none, where another has one.

    Raises:
        InputError: there is no such run, it has scored no candidates, or none is as fast.
    """
    return best_of(find_run(run, runs), under_ms, tell)


def compare(
    names: Sequence[str],
    *,
    runs: Path = RUNS,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    picture: Path | None = None,
) -> "Comparison":
    """Return the architectures of runs side by side, read back from MLflow.

    Args:
        names: ids of runs, or paths of their folders; a run whose folder is not here is looked for in the store by
            its id, the youngest where several have it.
        runs: the folder of runs.
        tracking_uri: of the store; None: the embedded one beside the runs.
        experiment: in it; None: that of the settings.
        picture: PNG file for the Pareto picture; None draws none.

    Raises:
        InputError: a run is not in the store, or nothing of it can be compared.
        TrackingError: the store cannot be reached.
    """
    from orchestrator.comparison import read_comparison
    from orchestrator.drawing_comparison import draw_comparison
    from orchestrator.tracking import MlflowStore, StoreAwayError, StoreRefusedError, resolve_uri
    from orchestrator.tracking_uri import database_file

    uri = resolve_uri(tracking_uri or "", runs.resolve())
    # MLflow would make the database, and nothing is written where nothing is found.
    if (file := database_file(uri)) is not None and not file.is_file():
        where = f"{runs}: no MLflow store there (mlflow.db)" if not tracking_uri else f"{file}: no MLflow store there"
        raise NoStoreError(f"{where}; it begins with the first tracked run")
    records = {name: _record_of(name, runs) for name in names}
    ids = [record.id if record else name for name, record in records.items()]
    created = {record.id: record.created for record in records.values() if record}
    try:
        store = MlflowStore(uri, experiment or TrackingSettings().experiment, runs.resolve(), create=False)
        comparison = read_comparison(store, ids, created)
    except (StoreAwayError, StoreRefusedError) as error:
        raise TrackingError(f"the runs could not be read back ({error})") from error
    if picture is not None:
        draw_comparison(comparison, picture)
    return comparison


def show_all(*, runs: Path = RUNS) -> Listing:
    """Return all runs, newest first, and what is wrong with those whose files are damaged."""
    return results_in(runs)


def track(
    run: str, *, runs: Path = RUNS, tracking_uri: str | None = None, experiment: str | None = None
) -> tuple[int, str]:
    """Send MLflow what it does not have yet of a run; returns the number of events sent, and to which URI.

    Args:
        run: id of a run in `runs`, or the path of its folder.
        runs: the folder of runs.
        tracking_uri: instead of the one that the run was made with.
        experiment: likewise.

    Raises:
        InputError: there is no such run, or the URI is not one.
        TrackingError: the store cannot be reached, or refuses the run.
    """
    from orchestrator import tracking

    folder = find_run(run, runs)
    given = {"uri": tracking_uri, "experiment": experiment}
    launch = override(launch_of(folder), {"tracking": {k: v for k, v in given.items() if v is not None}})
    uri = resolved_tracking_uri(launch, folder.parent)
    try:
        return tracking.catch_up(folder, uri, launch.tracking.experiment), uri
    except (tracking.StoreAwayError, tracking.StoreRefusedError) as error:
        raise TrackingError(f"{run}: not everything could be sent ({error}); try again later") from error


def ui(*, runs: Path = RUNS, port: int = 5000, host: str = "127.0.0.1") -> tuple["subprocess.Popen[bytes]", str]:
    """Begin to serve the MLflow UI on the store beside the runs; returns the server's process and the page to open.

    Args:
        runs: the folder of runs.
        port: TCP port.
        host: address to listen on; the default is reachable from this machine only.

    Raises:
        NoStoreError: no run has been tracked beside these runs.
        PortInUseError: something listens on the port.
    """
    from orchestrator.tracking import ENVIRONMENT, embedded_uri, newest_experiment, ui_command

    if not (runs / "mlflow.db").is_file():
        raise NoStoreError(f"{runs}: no MLflow store there (mlflow.db); it begins with the first tracked run")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(f"--port {port} on {host}: {error.strerror}; choose another") from error
    experiment = newest_experiment(embedded_uri(runs))
    # MLflow would open with its pages for language models, and does so again from its list of experiments.
    page = f"experiments/{experiment}/runs" if experiment else "experiments"
    url = f"http://{host}:{port}/#/{page}?workflowType=machine_learning"
    return subprocess.Popen(ui_command(runs, port, host), env={**ENVIRONMENT, **os.environ}), url


def data_check(path: Path, *, reader: str = "auto", sheet: Path | None = None, split: Path | None = None) -> "Report":
    """Return what a data set holds and what is wrong with it.

    Args:
        path: folder of the data set.
        reader: how it is laid out; auto recognises it.
        sheet: PNG file for the report as pictures; None draws none.
        split: folder for the lists of the proposed group-safe split; None writes none.

    Raises:
        InputError: no reader understands the folder, or there is no split to write.
    """
    from search.data.check import check
    from search.data.report import write_split
    from search.data.sheet import draw_sheet

    report = check(path, reader)
    if split is not None:
        write_split(report, split)
    if sheet is not None:
        draw_sheet(report, sheet)
    return report


def data_synthesize(folder: Path, *, images: int = 48, size: int = 96, seed: int = 0) -> Path:
    """Write a data set of generated surfaces with cracks, spots and scratches; returns its folder.

    Args:
        folder: to write to, new or empty.
        images: how many.
        size: side of the images, px.
        seed: of everything random.

    Raises:
        InputError: the folder holds something already.
    """
    from search.data.synthetic import write_dataset

    return write_dataset(folder, images=images, size=size, seed=seed)


def _record_of(name: str, runs: Path) -> RunRecord | None:
    """Return the record of a run whose folder is here, None for any other."""
    try:
        return read_run(find_run(name, runs))
    except RunNotFoundError:
        return None


def _at_address(launch: Launch) -> Launch:
    """Return the launch with the address of a cluster where it names a profile: the profile may change, a run not."""
    return override(launch, {"cluster": {"address": resolve_address(launch.cluster.address)}})


def _here(runs: str | Path, options: Any) -> Path:
    """Return the local folder of runs; a URI in its place becomes the option storage."""
    folder, uri = places(runs, options.get("storage"))
    options["storage"] = uri or None
    return folder


def _found(run: str, runs: Path, storage: str | None, watch: Watch | None) -> Path:
    """Return the folder of a run, restored from the store if it is not here."""
    try:
        return find_run(run, runs)
    except RunNotFoundError:
        if not storage:
            raise
    folder = fetch(run, storage, runs=runs)
    if watch is not None:
        watch.note(f"restored {folder} from {storage}")
    return folder.resolve()


def _option_layers(options: Mapping[str, Any]) -> list[Layer]:
    layers = []
    for option, (section, name) in _KEYS.items():
        if (value := options.get(option)) is not None:
            values = {section: {name: value}} if section else {name: value}
            layers.append(Layer("--" + option.replace("_", "-"), values))
    return layers


def _budget_of_this_machine(watch: Watch | None) -> str:
    # Costs seconds to import, so only asked where nothing else names a budget.
    import torch

    if torch.cuda.is_available():
        return "paper"
    if watch is not None:
        watch.note("no GPU on this machine: budget smoke (--budget paper for the paper's own numbers)")
    return "smoke"
