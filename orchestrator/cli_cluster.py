"""The commands `defectnas cluster ...`: manifests from a profile, jobs onto a cluster, and a check of one."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from orchestrator.cli_output import BAD_INPUT, FAILED
from orchestrator.options import JsonOption

cluster_app = typer.Typer(no_args_is_help=True, help="Check a cluster, render its manifests, submit jobs to it.")

# Everything from the first word of the command on is the command's, also where the user left out the --.
_COMMAND = {"allow_interspersed_args": False}

ProfileOption = Annotated[Path, typer.Option("--cluster", metavar="PROFILE.toml", help="the cluster's profile")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="folder for the manifests", show_default="manifests/ID here")
]
AttemptOption = Annotated[
    int, typer.Option("--attempt", min=1, help="2, 3, ...: once more, to go on with the run of a job that has ended")
]
WordsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="-- COMMAND...", help="as search autonad --data /shared/MT --workers 8")
]


@cluster_app.command("render", context_settings=_COMMAND)
def render_(
    cluster: ProfileOption,
    words: WordsArgument = None,
    output: OutputOption = None,
    attempt: AttemptOption = 1,
    json_: JsonOption = False,
) -> None:
    """Write the manifests of a profile and a command, and say how to apply them.

    Without a command (kuberay, aws, gcp, onprem) they are those of a cluster that stands and waits for jobs.
    """
    from orchestrator import clusters_api

    _check_options(words or [])
    rendered = clusters_api.plan(cluster, words or [], output=output, attempt=attempt, standing=True)
    clusters_api.write(rendered)
    if json_:
        _print_json(rendered)
        return
    for name in rendered.files:
        print(rendered.folder / name)
    if "Dockerfile" in rendered.files:
        file, image = shlex.quote(str(rendered.folder / "Dockerfile")), rendered.profile.image.name
        print(f"\nthe image, once, in a checkout: docker build --file {file} --tag {image} . && docker push {image}")
    _print_commands("apply with:", [str(step) for step in rendered.steps])
    _print_commands("then:", [f"{command}    # {what}" for what, command in rendered.aftercare.items()])


@cluster_app.command(context_settings=_COMMAND)
def submit(
    cluster: ProfileOption,
    words: WordsArgument = None,
    output: OutputOption = None,
    attempt: AttemptOption = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write and run nothing; print what would be run")] = False,
    json_: JsonOption = False,
) -> None:
    """Render a job and hand it to its cluster, once: the same command submitted again finds the first.

    Exit codes: 0 it is there, 1 a tool failed, 2 bad input, or a tool is missing.
    """
    from orchestrator import clusters_api

    _check_options(words or [])
    rendered = clusters_api.plan(cluster, words or [], output=output, attempt=attempt)
    new = True
    if not dry_run:
        try:
            new = clusters_api.submit(rendered, lambda text: print(text, file=sys.stderr))
        except clusters_api.SubmissionError as error:
            print(f"defectnas: {error}", file=sys.stderr)
            raise typer.Exit(FAILED) from error
    if json_:
        _print_json(rendered, submitted=new and not dry_run)
        return
    if dry_run:
        _print_commands("would write:", [str(rendered.folder / name) for name in rendered.files])
        _print_commands("would run:", [str(step) for step in rendered.steps])
        return
    job = rendered.job
    assert job is not None  # `plan` refuses a submission without a command
    print(f"{'submitted' if new else 'there already'}: {job.id}, run {job.run} in {rendered.profile.runs}")
    _print_commands("then:", [f"{command}    # {what}" for what, command in rendered.aftercare.items()])


@cluster_app.command(context_settings=_COMMAND)
def run(
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="percent-encoded")],
    name: Annotated[str, typer.Option("--name", help="name of the run")],
    runs: Annotated[str, typer.Option("--runs", help="folder of runs, or URI of a store")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="nodes to wait for, the head included")] = 1,
    wait: Annotated[float, typer.Option("--wait", min=0, help="most seconds to wait for them")] = 1800.0,
) -> None:
    """Run a submitted command on the head of its cluster; go on with its run if it has begun. Manifests call this.

    Exit codes: those of the command; 1 too if the cluster's nodes do not come.
    """
    from clusters.command import decode
    from clusters.connect import ClusterUnreachableError
    from clusters.waiting import TooFewNodesError, wait_for_nodes
    from orchestrator import clusters_api

    command = clusters_api.words_on_head([decode(word) for word in words], name, runs)
    try:
        wait_for_nodes("auto", nodes, wait, lambda text: print(text, file=sys.stderr))
    except (ClusterUnreachableError, TooFewNodesError) as error:
        print(f"defectnas: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    # In the place of this process, so that a signal that ends the job reaches the search itself.
    os.execv(sys.executable, [sys.executable, "-m", "orchestrator.cli", *command])


@cluster_app.command()
def check(
    cluster: Annotated[
        str,
        typer.Option("--cluster", metavar="PROFILE.toml|HOST:PORT|auto", help="a profile also says what to expect"),
    ] = "auto",
    runs: Annotated[
        str | None,
        typer.Option(
            "--runs", help="folder or URI that all nodes should share", show_default="of the profile, else runs/"
        ),
    ] = None,
    node: Annotated[
        str,
        typer.Option(
            "--node",
            metavar="KEY=VALUE",
            help="label of the node that latency is measured on",
            show_default="where a latency slot is, else a GPU",
        ),
    ] = "",
    mib: Annotated[int, typer.Option("--mib", min=1, max=4096, help="size of what is summed and sent (MiB)")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="most seconds for each step")] = 60.0,
    json_: JsonOption = False,
) -> None:
    """Find out whether a cluster can carry a search; run it on one of its nodes.

    Nodes, versions, shared storage, clocks, a broadcast and an all-reduce across nodes, a latency probe.
    Exit codes: 0 nothing failed (there may be warnings), 1 a check failed, 2 bad input.
    """
    from clusters.connect import AddressError
    from orchestrator import cluster_check

    if node and not all(node.partition("=")[::2]):
        raise cluster_check.NoClusterError(f"--node {node}: needed is a label, as defectnas/device=jetson")
    question = cluster_check.question_of(cluster, runs, label=node, mib=mib, timeout_s=timeout)
    # It is another one while the checks run.
    out = sys.stdout
    try:
        report = cluster_check.checked(question, lambda report: _print_report(report, json_, out), sys.stderr)
    except AddressError as error:
        print(f"defectnas: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error
    _print_report(report, json_, out)
    if report.failed:
        raise typer.Exit(FAILED)


@cluster_app.command()
def example(
    kind: Annotated[
        Literal["address", "kuberay", "slurm", "aws", "gcp", "onprem"], typer.Argument(help="what the cluster is")
    ],
) -> None:
    """Print a commented profile to start from: defectnas cluster example kuberay > kuberay.toml."""
    from orchestrator.profiles import EXAMPLES

    sys.stdout.write((EXAMPLES / f"{kind}.toml").read_text(encoding="utf-8"))


def _check_options(words: list[str]) -> None:
    """Read the command as it will be read on the cluster, hours from now: what is misspelt is said here."""
    from orchestrator.cli import app

    group: Any = typer.main.get_command(app)
    if words and words[0] in group.commands:
        group.commands[words[0]].make_context(f"defectnas {words[0]}", words[1:])


def _print_report(report: Any, json_: bool, out: TextIO) -> None:
    if json_:
        print(json.dumps(report.to_dict()), file=out, flush=True)
        return
    from rich.console import Console

    from orchestrator.cluster_tables import report_tables

    Console(file=out, highlight=False).print(report_tables(report.nodes, report.checks))


def _print_commands(title: str, lines: list[str]) -> None:
    if lines:
        print("\n".join(["", title, *(f"  {line}" for line in lines)]))


def _print_json(rendered: Any, **more: Any) -> None:
    job = rendered.job
    values = {
        "id": job.id if job else None,
        "run": job.run if job else None,
        "folder": str(rendered.folder),
        "files": list(rendered.files),
        "commands": [list(step.argv) for step in rendered.steps],
        **more,
    }
    sys.stdout.write(json.dumps(values) + "\n")
