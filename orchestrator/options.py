"""The options that commands share; those that give a setting take help, unit and default from it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestrator import launch as settings
from orchestrator.storage import is_uri
from search.errors import InputError
from search.hybrid_settings import EvolutionSettings
from search.settings import RuntimeSettings


class RunNotHereError(InputError):
    """A command that reads local runs was given a store."""


WHAT, WHERE, RECORD, OUTPUT = "What", "Where", "Record", "Output"
"""Panels of the options in --help."""


def _setting(panel: str, cls: type, name: str, *flags: str) -> Any:
    """Return an option that shows the help, unit and default that the setting has."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    unit = f" ({field.metadata['unit']})" if field.metadata.get("unit") else ""
    return typer.Option(
        *flags,
        help=field.metadata["help"] + unit,
        show_default=str(field.default) or "empty",
        rich_help_panel=panel,
    )


def milliseconds(text: str) -> float:
    """Return the milliseconds of a duration such as "12ms", "0.5s" or "12", which are milliseconds.

    Raises:
        typer.BadParameter: it is none, or not above 0.
    """
    number, factor = text.strip(), 1.0
    for unit, milli in (("ms", 1.0), ("s", 1e3)):
        if number.endswith(unit):
            number, factor = number.removesuffix(unit), milli
            break
    try:
        value = factor * float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{text!r} is no duration; allowed are such as 12ms or 0.5s")
    return value


def local_folder(text: str) -> Path:
    """Return the folder of runs, where a command reads what lies here.

    Raises:
        RunNotHereError: it is the URI of a store.
    """
    if is_uri(text):
        raise RunNotHereError(f"--runs {text}: only a folder is allowed here; first: defectnas fetch RUN --runs {text}")
    return Path(text)


RunsOption = Annotated[
    Path, typer.Option("--runs", parser=local_folder, metavar="FOLDER", help="folder of runs", rich_help_panel=RECORD)
]
PlaceOption = Annotated[
    str,
    typer.Option(
        "--runs",
        metavar="FOLDER|URI",
        help="folder of runs; or as s3://BUCKET/runs, for the folder runs and --storage",
        rich_help_panel=RECORD,
    ),
]
StorageOption = Annotated[str | None, _setting(RECORD, settings.StorageSettings, "uri", "--storage")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="print one JSON object on standard output", rich_help_panel=OUTPUT)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="show nothing but the result", rich_help_panel=OUTPUT)]
LinesOption = Annotated[
    bool,
    typer.Option("--json-lines", help="progress as JSON lines on standard error", rich_help_panel=OUTPUT),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="name of the run", show_default="time and method", rich_help_panel=RECORD),
]
BudgetOption = Annotated[
    Literal["demo", "smoke", "short", "paper"] | None,
    typer.Option(
        "--budget",
        help="what settings start from",
        show_default="paper on a GPU, else smoke",
        rich_help_panel=WHAT,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file of settings, see: defectnas config", rich_help_panel=WHAT),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="one setting, as search.epochs=5; repeatable", rich_help_panel=WHAT
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="FOLDER|URI", help="a data set; repeatable", rich_help_panel=WHAT),
]
SeedOption = Annotated[int | None, _setting(WHAT, settings.Launch, "seed", "--seed")]
SeedsOption = Annotated[int | None, _setting(WHAT, settings.Launch, "seeds", "--seeds")]
BaselineOption = Annotated[Literal["none", "random"] | None, _setting(WHAT, settings.Launch, "baseline", "--baseline")]
ObjectiveOption = Annotated[
    Literal["evolution", "pareto", "random"] | None,
    _setting(WHAT, EvolutionSettings, "strategy", "--objective"),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(
        "--latency-limit",
        metavar="12ms",
        parser=milliseconds,
        help="autonad: slower subnets are out",
        show_default="no limit",
        rich_help_panel=WHAT,
    ),
]
UnderOption = Annotated[
    float | None,
    typer.Option(
        "--under",
        metavar="10ms",
        parser=milliseconds,
        help="at most so slow, as measured",
        show_default="any latency, the search's own score",
    ),
]
DeviceOption = Annotated[str | None, _setting(WHERE, RuntimeSettings, "device", "--device")]
CpusOption = Annotated[int | None, _setting(WHERE, settings.ResourceSettings, "cpus", "--cpus")]
GpusOption = Annotated[float | None, _setting(WHERE, settings.ResourceSettings, "gpus", "--gpus")]
WorkersOption = Annotated[int | None, _setting(WHERE, settings.ResourceSettings, "workers", "--workers")]
ParallelOption = Annotated[int | None, _setting(WHERE, settings.ResourceSettings, "parallel", "--parallel")]
ClusterOption = Annotated[str | None, _setting(WHERE, settings.ClusterSettings, "address", "--cluster")]
RayOption = Annotated[
    bool | None,
    typer.Option(
        "--ray/--no-ray",
        help="no-ray: one trial after the other in this process",
        show_default="ray",
        rich_help_panel=WHERE,
    ),
]
TrackingOption = Annotated[
    bool | None,
    typer.Option(
        "--tracking/--no-tracking", help="record with MLflow", show_default="tracking", rich_help_panel=RECORD
    ),
]
UriOption = Annotated[str | None, _setting(RECORD, settings.TrackingSettings, "uri", "--tracking-uri")]
ExperimentOption = Annotated[str | None, _setting(RECORD, settings.TrackingSettings, "experiment", "--experiment")]
