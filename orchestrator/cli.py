"""The command line: options in, a call of `orchestrator.api`, a table or JSON out.

Standard output carries results alone; everything said on the way goes to standard error. Heavy modules are
imported by the commands that need them, so that `--help` answers at once.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from orchestrator.cli_cluster import cluster_app
from orchestrator.cli_data import data_app
from orchestrator.cli_output import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    as_typed,
    command_line,
    end,
    print_failures,
    print_json,
    print_result,
    program,
    stdout,
    watch_of,
)
from orchestrator.options import (
    BaselineOption,
    BudgetOption,
    ClusterOption,
    ConfigOption,
    CpusOption,
    DataOption,
    DeviceOption,
    ExperimentOption,
    GpusOption,
    JsonOption,
    LatencyOption,
    LinesOption,
    NameOption,
    ObjectiveOption,
    ParallelOption,
    PlaceOption,
    QuietOption,
    RayOption,
    RunsOption,
    SeedOption,
    SeedsOption,
    SetOption,
    StorageOption,
    TrackingOption,
    UnderOption,
    UriOption,
    WorkersOption,
)
from search.errors import InputError, is_disk_full

# Typer has no public name for the class of all wrong uses of the command line.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class _Group(TyperGroup):
    """Turns what the commands raise into one line and an exit code."""

    def make_context(self, *words: Any, **more: Any) -> Any:
        try:
            return super().make_context(*words, **more)
        except _UsageError as error:
            raise _refused(error) from error

    def invoke(self, ctx: Any) -> Any:
        from orchestrator.pipeline import Stopped

        try:
            return super().invoke(ctx)
        except _UsageError as error:
            raise _refused(error) from error
        except InputError as error:
            code, text = BAD_INPUT, "\n".join(f"defectnas: {line}" for line in str(error).splitlines())
        except OSError as error:
            code, text = BAD_INPUT, f"defectnas: {_unusable(error)}"
        except Stopped as stopped:
            code, text = INTERRUPTED, f"stopped; go on with: {program()} resume {as_typed(stopped.run)}"
        except KeyboardInterrupt:
            code, text = INTERRUPTED, "stopped before there was a run"
        print(text, file=sys.stderr)
        raise typer.Exit(code)


def _refused(error: Any) -> Exception:
    """Print what is wrong with the command line; returns what ends the program, the error itself if it is help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    said = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    of = error.ctx.command_path if error.ctx else "defectnas"
    print(f"defectnas: {said}; see: {of} --help", file=sys.stderr)
    return typer.Exit(BAD_INPUT)


def _unusable(error: OSError) -> str:
    """Return what a file or folder that cannot be used has; an error of another kind is raised again."""
    if is_disk_full(error):
        return f"the disk is full ({error.filename or 'while writing'})"
    if error.filename is None or error.errno is None:
        raise error
    return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"


app = typer.Typer(
    name="defectnas",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural architecture search for pixel-level surface-defect detection.",
)
app.add_typer(data_app, name="data")
app.add_typer(cluster_app, name="cluster")


@app.command()
def search(
    method: Annotated[
        Literal["asdet", "random", "autonad"],
        typer.Argument(help="asdet: NAS-ASDet; random: one of its cells, drawn and trained the same; autonad: AutoNAD"),
    ],
    data: DataOption = None,
    budget: BudgetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    seeds: SeedsOption = None,
    baseline: BaselineOption = None,
    objective: ObjectiveOption = None,
    latency_limit: LatencyOption = None,
    device: DeviceOption = None,
    name: NameOption = None,
    runs: PlaceOption = "runs",
    storage: StorageOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    parallel: ParallelOption = None,
    cluster: ClusterOption = None,
    ray: RayOption = None,
    tracking: TrackingOption = None,
    tracking_uri: UriOption = None,
    experiment: ExperimentOption = None,
    json_: JsonOption = False,
    json_lines: LinesOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search an architecture for each data set and seed, retrain it, test it and record it.

    Exit codes: 0 all trials done, 1 a trial failed, 2 bad input, 130 stopped (and can be resumed).
    """
    from orchestrator import api
    from orchestrator.cli_remote import is_client_address, search_there

    if cluster is not None and is_client_address(cluster):
        raise typer.Exit(search_there(cluster, runs, sys.argv[1:], json_))
    result = api.search(
        method=method,
        data=data or [],
        budget=budget,
        config=config,
        settings=set_ or [],
        seed=seed,
        seeds=seeds,
        baseline=baseline,
        objective=objective,
        latency_limit_ms=latency_limit,
        device=device,
        name=name,
        runs=runs,
        storage=storage,
        cpus=cpus,
        gpus=gpus,
        workers=workers,
        parallel=parallel,
        cluster=cluster,
        ray=ray,
        tracking=tracking,
        tracking_uri=tracking_uri,
        experiment=experiment,
        watch=watch_of(quiet, json_lines),
        command=command_line(),
    )
    end(result, json_)


@app.command()
def demo(
    runs: PlaceOption = "runs",
    storage: StorageOption = None,
    set_: SetOption = None,
    ray: RayOption = None,
    tracking: TrackingOption = None,
    json_: JsonOption = False,
    json_lines: LinesOption = False,
    quiet: QuietOption = False,
) -> None:
    """Generate defect images, search on them, retrain, test: the main job, small, without a GPU."""
    from orchestrator import api

    result = api.demo(
        runs=runs,
        storage=storage,
        settings=set_ or [],
        ray=ray,
        tracking=tracking,
        watch=watch_of(quiet, json_lines),
        command=command_line(),
    )
    end(result, json_)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="id of a run, or its folder")],
    runs: PlaceOption = "runs",
    storage: StorageOption = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    parallel: ParallelOption = None,
    cluster: ClusterOption = None,
    ray: RayOption = None,
    json_: JsonOption = False,
    json_lines: LinesOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go on with a run where it stopped: finished trials stay, failed ones are tried again."""
    from orchestrator import api

    where = {"cpus": cpus, "gpus": gpus, "parallel": parallel, "cluster": cluster, "ray": ray, "storage": storage}
    result = api.resume(run, runs=runs, watch=watch_of(quiet, json_lines), **where)  # type: ignore[arg-type]
    end(result, json_)


@app.command()
def fetch(
    run: Annotated[str | None, typer.Argument(help="id of a run in the store; none: list them")] = None,
    runs: PlaceOption = "runs",
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Restore a run from a store, to look at it here; to go on with it: defectnas resume."""
    from orchestrator import api

    here, uri = api.places(runs, storage)
    if run is None:
        found = api.stored(uri)
        print_json({"storage": uri, "runs": found}) if json_ else print("\n".join(found) or f"no runs at {uri}")
        return
    folder = api.fetch(run, uri, runs=here)
    print_json({"run": run, "folder": str(folder.resolve())}) if json_ else print(folder)


@app.command()
def show(
    run: Annotated[str | None, typer.Argument(help="id of a run, or its folder; none: all runs")] = None,
    runs: RunsOption = Path("runs"),
    json_: JsonOption = False,
) -> None:
    """List the runs, newest first, with state, best score and cost; or the trials of one run."""
    from orchestrator import api
    from orchestrator.report import run_summary
    from orchestrator.tables import runs_table

    if run is not None:
        result = api.show(run, runs=runs)
        if json_:
            print_json({**run_summary(result), **result.to_dict()})
        else:
            print_result(result)
        print_failures(result)
        return
    listing = api.show_all(runs=runs)
    if json_:
        print_json({"runs": [run_summary(result) for result in listing.results]})
    elif listing.results:
        console = stdout()
        console.print(runs_table(listing.results, console.width))
    for reason in listing.damaged:
        print(f"left out: {reason}", file=sys.stderr)
    if not (listing.results or listing.damaged or json_):
        print(f"no runs in {runs}; begin one with: {program()} demo", file=sys.stderr)


@app.command()
def best(
    run: Annotated[str, typer.Argument(help="id of a run of autonad, or its folder")],
    under: UnderOption = None,
    runs: RunsOption = Path("runs"),
    json_: JsonOption = False,
) -> None:
    """Name the best candidate that each trial of a search has scored, as fast as asked; searches nothing anew."""
    from orchestrator import api
    from orchestrator.tables import candidates_table

    found = api.best(run, runs=runs, under_ms=under, tell=lambda line: print(line, file=sys.stderr))
    if json_:
        print_json({"run": run, "under_ms": under, "best": [row.to_dict() for row in found]})
    else:
        console = stdout()
        console.print(candidates_table(found, console.width))


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="ids of runs, or their folders")],
    runs: RunsOption = Path("runs"),
    tracking_uri: UriOption = None,
    experiment: ExperimentOption = None,
    picture: Annotated[Path, typer.Option("--picture", help="PNG file of the Pareto picture")] = Path("comparison.png"),
    no_picture: Annotated[bool, typer.Option("--no-picture", help="draw no picture")] = False,
    json_: JsonOption = False,
) -> None:
    """Put the architectures of runs side by side, read back from MLflow: scores, costs, the front, what differs."""
    from orchestrator import api
    from orchestrator.comparison_tables import comparison_tables

    drawn = None if no_picture else picture
    try:
        found = api.compare(names, runs=runs, tracking_uri=tracking_uri, experiment=experiment, picture=drawn)
    except api.TrackingError as error:
        print(f"defectnas: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    if json_:
        print_json({**found.to_dict(), "picture": drawn and str(drawn.resolve())})
        return
    console = stdout()
    for table in comparison_tables(found, console.width):
        console.print(table)
    for trial in found.unfinished:
        print(f"left out, not done: {trial}", file=sys.stderr)
    if drawn is not None:
        print(f"picture: {drawn}")


@app.command()
def config(
    method: Annotated[Literal["asdet", "random", "autonad"] | None, typer.Argument(show_default="asdet")] = None,
    data: DataOption = None,
    budget: BudgetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema of --config files instead")] = False,
) -> None:
    """Print every setting as a launch would use it, as YAML that --config reads."""
    from orchestrator import api

    if schema:
        print_json(api.schema())
        return
    launch = api.config(
        watch_of(False, False),
        method=method,
        data=data or [],
        budget=budget,
        config=config,
        settings=set_ or [],
    )
    if json_:
        print_json(dataclasses.asdict(launch))
    else:
        sys.stdout.write(launch.to_yaml())


@app.command()
def track(
    run: Annotated[str, typer.Argument(help="id of a run, or its folder")],
    runs: RunsOption = Path("runs"),
    tracking_uri: UriOption = None,
    experiment: ExperimentOption = None,
    json_: JsonOption = False,
) -> None:
    """Send MLflow what it missed of a run, as after an outage of the tracking server."""
    from orchestrator import api

    try:
        sent, uri = api.track(run, runs=runs, tracking_uri=tracking_uri, experiment=experiment)
    except api.TrackingError as error:
        print(f"defectnas: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    if json_:
        print_json({"run": run, "uri": uri, "events": sent})
    else:
        print(f"{sent} events sent to {uri}")


@app.command()
def ui(
    runs: RunsOption = Path("runs"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port")] = 5000,
    host: Annotated[str, typer.Option("--host", help="address to listen on")] = "127.0.0.1",
) -> None:
    """Serve the MLflow UI on the store beside the runs, until Ctrl-C."""
    from orchestrator import api
    from orchestrator.interrupts import interruptible

    with interruptible():
        process, url = api.ui(runs=runs, port=port, host=host)
        print(f"MLflow UI at {url} (Ctrl-C ends it)", file=sys.stderr)
        with process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.terminate()
                code = 0
    raise typer.Exit(code)


def main() -> None:
    """Run the command line."""
    app(prog_name="defectnas")


if __name__ == "__main__":
    main()
