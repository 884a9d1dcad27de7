"""What `defectnas cluster ...` does, as functions: render manifests, submit a job, run one on the head."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusters.command import Job, make_job
from clusters.profile import VIRTUAL_MACHINES, Profile
from clusters.profile_checks import CREDENTIALS
from clusters.render import FILE_NAMES, Step, aftercare, program_of, render, steps
from orchestrator.fetch import get_run
from orchestrator.profiles import read_profile
from orchestrator.runs import RunNotFoundError, read_run
from orchestrator.storage import is_uri
from search.errors import InputError
from search.secret_texts import without_secrets

_SUBMITTED = ("search", "resume")
_OF_THE_PROFILE = {
    "--runs": "it is storage.runs of the profile",
    "--cluster": "the job runs on the cluster of the profile",
    "--no-ray": "a cluster works by Ray",
}
_PATHS = ("--data", "--config")
_OUTPUT = ("--json", "--json-lines", "--quiet", "-q")


class CommandError(InputError):
    """The command for a cluster cannot run there."""


class FolderTakenError(InputError):
    """The folder for manifests holds something else."""


class MissingToolError(InputError):
    """A program or file that a submission needs is not on this machine."""


class SubmissionError(RuntimeError):
    """A tool that submits has failed."""


@dataclass(frozen=True)
class Rendered:
    """Manifests, and what to do with them.

    Attributes:
        profile: the cluster.
        job: what it will run; None: a cluster that stands and waits.
        folder: where the files are, or would be.
        files: their texts by name.
        steps: the commands that apply them, in order.
        aftercare: commands for later, by what they are for.
    """

    profile: Profile
    job: Job | None
    folder: Path
    files: Mapping[str, str]
    steps: Sequence[Step]
    aftercare: Mapping[str, str]


def plan(
    cluster: Path, words: Sequence[str], *, output: Path | None = None, attempt: int = 1, standing: bool = False
) -> Rendered:
    """Return the manifests of a profile and a command; writes nothing.

    Args:
        cluster: the profile, a TOML file.
        words: the command after `defectnas`; none: a cluster that stands and waits, if standing allows it.
        output: folder that the files are meant for; None: manifests/ID here.
        attempt: 2 and more submit a command again whose job has ended, to go on with its run.
        standing: whether there may be no command.

    Raises:
        InputError: the profile or the command cannot be used.
    """
    profile = read_profile(cluster)
    if not words and (not standing or profile.kind in ("slurm", "address")):
        raise CommandError(f"{cluster}: kind {profile.kind} needs a command: -- search autonad --data /shared/MT")
    if profile.kind == "address" and not profile.jobs:
        raise CommandError(f"{cluster}: jobs: missing; give http://HOST:8265, or use: search --cluster {cluster}")
    return planned(profile, words, output=output, attempt=attempt)


def planned(profile: Profile, words: Sequence[str], *, output: Path | None = None, attempt: int = 1) -> Rendered:
    """Return the manifests of a profile that is read already; arguments and errors as for `plan`."""
    job = _job(profile, words, attempt) if words else None
    folder = output or Path("manifests") / (job.id if job else profile.name)
    folder = folder.absolute()
    return Rendered(
        profile, job, folder, render(profile, job), steps(profile, job, folder), aftercare(profile, job, folder)
    )


def write(rendered: Rendered) -> None:
    """Write the files to their folder: all of them, or none.

    Raises:
        FolderTakenError: the folder holds files that were not rendered; they would be lost.
        OSError: it cannot be written.
    """
    folder = rendered.folder
    if folder.exists():
        strange = [] if not folder.is_dir() else sorted({path.name for path in folder.iterdir()} - set(FILE_NAMES))
        if not folder.is_dir() or strange:
            held = f"holds {strange[0]}" if strange else "is a file"
            raise FolderTakenError(f"--output {folder}: {held}; give a folder for manifests alone")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        building.chmod(0o755)
        for name, text in rendered.files.items():
            path = building / name
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def check_tools(rendered: Rendered) -> None:
    """Check that this machine can submit.

    Raises:
        MissingToolError: a program is missing, or the user's token.
    """
    for step in rendered.steps:
        tool = step.argv[0]
        if tool != "ray" and shutil.which(tool) is None:
            raise MissingToolError(
                f"{tool}: not on this machine; submit from one that has it, or apply by hand what "
                "`defectnas cluster render` writes"
            )
    token = Path(rendered.profile.security.token_file).expanduser()
    if rendered.profile.kind in VIRTUAL_MACHINES and rendered.profile.security.token and not token.is_file():
        raise MissingToolError(f"{token}: missing; make your token with: ray get-auth-token --generate")


def submit(rendered: Rendered, say: Callable[[str], None] = lambda text: None) -> bool:
    """Write the manifests and run the commands that apply them; returns False if the job was there already.

    Args:
        rendered: as `plan` returned it.
        say: is told each command before it is run.

    Raises:
        MissingToolError: see `check_tools`.
        FolderTakenError: see `write`.
        SubmissionError: a command failed; those before it took effect.
    """
    check_tools(rendered)
    if rendered.files:
        write(rendered)
    new = True
    for step in rendered.steps:
        if step.skip_if and _answers(step.skip_if):
            new = False
            continue
        say(str(step))
        argv = [*program_of(step), *step.argv[1:]]
        # What the tools print is for the user's eyes; standard output is the result's.
        done = subprocess.run(argv, stdout=2, check=False)
        if done.returncode:
            raise SubmissionError(f"{step.argv[0]} ended with code {done.returncode}: {step}")
    return new


def check_words(words: Sequence[str], runs: str) -> None:
    """Check that a command can run on a cluster.

    Args:
        words: of the command, after `defectnas`.
        runs: the folder of runs, or the URI of a store.

    Raises:
        CommandError: it is none that can, or it says what the profile says, or names files of this machine.
    """
    if not words or words[0] not in _SUBMITTED:
        given = repr(words[0]) if words else "nothing"
        raise CommandError(f"command {given}: not allowed on a cluster; allowed: {', '.join(_SUBMITTED)}")
    for word in words:
        option, _, _ = word.partition("=")
        if option in _OF_THE_PROFILE:
            raise CommandError(f"{option}: not allowed in a command for a cluster; {_OF_THE_PROFILE[option]}")
        if CREDENTIALS.search(word):
            raise CommandError("a URL of the command holds a password; name where it is kept in [[secrets]]")
    for option, value in _options(words):
        if option == "--storage" and is_uri(runs) and value != runs:
            raise CommandError(f"--storage {value}: another store than storage.runs of the profile, {runs}")
        if option in _PATHS and not value.startswith("/") and "://" not in value:
            raise CommandError(f"{option} {value}: seen from the nodes, so it has to be absolute, as /shared/{value}")


def words_on_head(words: Sequence[str], name: str, runs: str) -> list[str]:
    """Return the command, after `defectnas`, that begins a run or goes on with it, whichever it takes.

    Args:
        words: what was submitted.
        name: of the run.
        runs: the folder of runs; or the URI of a store, and then they are worked on in the user's home here.

    Raises:
        CommandError: it cannot run on a cluster, or another command has begun a run of this name.
        InputError: the store cannot be asked.
    """
    check_words(words, runs)
    place = ["--runs", runs]
    folder = Path(runs)
    if is_uri(runs):
        # A container's own folder may be read-only.
        folder = Path.home() / "defectnas" / "runs"
        place = ["--runs", str(folder), "--storage", runs]
    if words[0] == "resume":
        return [*words, *place]
    whole = [*words, "--name", name, *place]
    if not (folder / name / "run.json").is_file():
        if not is_uri(runs):
            return whole
        try:
            get_run(runs, name, folder)
        except RunNotFoundError:
            return whole
    begun = read_run(folder / name).command
    if begun != without_secrets(shlex.join(["defectnas", *whole])):
        raise CommandError(
            f"--name {name}: the run of this name was begun by another command ({begun}); choose another name, "
            f"or go on with it: resume {name}"
        )
    return ["resume", name, *place, *(word for word in words if word in _OUTPUT)]


def _job(profile: Profile, words: Sequence[str], attempt: int) -> Job:
    check_words(words, profile.runs)
    words = list(words)
    run = None
    if words[0] == "resume":
        run = next((word for word in words[1:] if not word.startswith("-")), None)
        if run is None or "/" in run:
            raise CommandError("resume: needed is the id of a run in storage.runs")
    else:
        run, words = _without_name(words)
        if (
            words[0] == "search"
            and profile.workers
            and not any(option in ("--budget", "--config") for option, _ in _options(words))
        ):
            # Left open, it would be chosen by the head, which has no GPU as a rule.
            words += ["--budget", "paper" if any(group.gpus for group in profile.workers) else "smoke"]
    try:
        return make_job(words, run, attempt, profile.name)
    except ValueError as error:
        raise CommandError(f"--name: {error}") from error


def _without_name(words: Sequence[str]) -> tuple[str | None, list[str]]:
    rest, run = list(words), None
    for index, word in enumerate(words):
        if word == "--name" and index + 1 < len(words):
            run, rest[index : index + 2] = words[index + 1], []
            break
        if word.startswith("--name="):
            run, rest[index : index + 1] = word.partition("=")[2], []
            break
    return run, rest


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the long options of a command with their values, "" where there is none."""
    found = []
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            following = words[index + 1] if index + 1 < len(words) else ""
            found.append((option, value if equals else following))
    return found


def _answers(argv: Sequence[str]) -> bool:
    command = [*program_of(Step(tuple(argv))), *argv[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())
