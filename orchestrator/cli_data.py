"""The commands `defectnas data ...`: check a data set, and generate one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli_output import FAILED, print_json
from orchestrator.options import JsonOption

data_app = typer.Typer(no_args_is_help=True, help="Check and generate data sets.")


@data_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="folder of the data set")],
    reader: Annotated[str, typer.Option("--reader", help="how it is laid out; auto recognises it")] = "auto",
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="PNG file of the picture sheet", show_default="NAME-check.png here"),
    ] = None,
    no_sheet: Annotated[bool, typer.Option("--no-sheet", help="draw no picture sheet")] = False,
    write_split: Annotated[
        Path | None,
        typer.Option("--write-split", help="folder for the lists of the proposed split", show_default="not written"),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Report counts, sizes, classes, damaged files, duplicates and leaks; in words and as a picture sheet.

    Exit codes: 0 nothing is wrong, or only warnings; 1 errors were found; 2 no data set there.
    """
    from orchestrator import api

    picture = None if no_sheet else sheet or Path(f"{path.resolve().name}-check.png")
    report = api.data_check(path, reader=reader, sheet=picture, split=write_split)
    if json_:
        print_json({**report.to_dict(), "sheet": picture and str(picture.resolve())})
    else:
        print("\n".join(report.lines()))
        for what, where in (("picture sheet", picture), ("proposed split", write_split)):
            if where is not None:
                print(f"{what}: {where}")
    if report.count("error"):
        raise typer.Exit(FAILED)


@data_app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="to write to, new or empty")],
    images: Annotated[int, typer.Option("--images", min=8, help="how many images")] = 48,
    size: Annotated[int, typer.Option("--size", min=32, help="side of the images (px)")] = 96,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of everything random")] = 0,
    json_: JsonOption = False,
) -> None:
    """Write a data set of generated surfaces with cracks, spots and scratches."""
    from orchestrator import api

    written = api.data_synthesize(folder, images=images, size=size, seed=seed)
    if json_:
        print_json({"folder": str(written.resolve()), "images": images, "size": size, "seed": seed})
    else:
        print(f"{images} images of {size} px in {written}")
        print(f"search on them with: defectnas search asdet --data {shlex.quote(str(written))}")
