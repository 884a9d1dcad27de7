"""A profile and a command become files, and the commands that bring those onto the cluster. Nothing is run here."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clusters import kuberay
from clusters.command import Job, entrypoint
from clusters.container import DOCKERIGNORE, dockerfile
from clusters.machines import log_command, ray_up, submit_command
from clusters.profile import VIRTUAL_MACHINES, Profile
from clusters.slurm import batch_script
from clusters.yaml_text import to_yaml

_HEADING = "Written by `defectnas cluster render` from a profile: change that, not this."

FILE_NAMES = (
    "access.yaml",
    "storage.yaml",
    "rayjob.yaml",
    "raycluster.yaml",
    "job.sh",
    "cluster.yaml",
    "Dockerfile",
    "Dockerfile.dockerignore",
)
"""All names that `render` ever gives."""


@dataclass(frozen=True)
class Step:
    """One command of a submission.

    Attributes:
        argv: the command.
        skip_if: a command that says, by writing anything, that the job is there already; then argv is left out.
    """

    argv: tuple[str, ...]
    skip_if: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the command as one types it."""
        return shlex.join(self.argv)


def render(profile: Profile, job: Job | None) -> dict[str, str]:
    """Return the files of a profile, text by name.

    Args:
        profile: the cluster, complete and checked.
        job: what to run; None: a cluster that stands and waits (kuberay, aws, gcp, onprem).

    Raises:
        ValueError: kind slurm or address without a job: there is nothing that could stand.
    """
    files: dict[str, str] = {}
    if profile.kind == "kuberay":
        files["access.yaml"] = to_yaml(kuberay.access(profile), _HEADING)
        if claims := kuberay.storage(profile):
            files["storage.yaml"] = to_yaml(claims, _HEADING)
        if job is None:
            files["raycluster.yaml"] = to_yaml([kuberay.ray_cluster(profile)], _HEADING)
        else:
            files["rayjob.yaml"] = to_yaml([kuberay.ray_job(profile, job)], _HEADING)
    elif profile.kind in VIRTUAL_MACHINES:
        files["cluster.yaml"] = to_yaml([ray_up(profile)], _HEADING)
    elif job is None:
        raise ValueError(f"kind {profile.kind}: nothing stands there without a command; give one after --")
    elif profile.kind == "slurm":
        files["job.sh"] = batch_script(profile, job)
    if profile.image.name:
        files |= {"Dockerfile": dockerfile(profile), "Dockerfile.dockerignore": DOCKERIGNORE}
    return files


def steps(profile: Profile, job: Job | None, folder: Path) -> list[Step]:
    """Return the commands that bring the rendered files onto the cluster, in order.

    Args:
        profile: the cluster.
        job: as for `render`.
        folder: where the files were written.
    """
    if profile.kind == "kuberay":
        names = ["access.yaml", *(["storage.yaml"] if profile.storage.size_gib else [])]
        names.append("raycluster.yaml" if job is None else "rayjob.yaml")
        # Applying what is there already changes nothing, so this needs no look beforehand.
        return [Step(("kubectl", "apply", *(f"--filename={folder / name}" for name in names)))]
    if profile.kind == "slurm" and job is not None:
        queued = ("squeue", "--me", "--noheader", f"--name={job.id}", "--format=%i")
        return [Step(("sbatch", str(folder / "job.sh")), skip_if=queued)]
    if profile.kind in VIRTUAL_MACHINES:
        file = str(folder / "cluster.yaml")
        # Of a cluster that stands, `ray up` would end Ray, and with it what runs there.
        up = [Step(("ray", "up", "--yes", "--no-restart", file))]
        return up if job is None else [*up, Step(("ray", "exec", file, submit_command(profile, job)))]
    if profile.kind == "address" and job is not None:
        options = ("--address", profile.jobs, "--submission-id", job.id, "--no-wait")
        words = tuple(shlex.split(entrypoint(profile, job)))
        known = ("ray", "job", "status", "--address", profile.jobs, job.id)
        return [Step(("ray", "job", "submit", *options, "--", *words), skip_if=known)]
    return []


def aftercare(profile: Profile, job: Job | None, folder: Path) -> Mapping[str, str]:
    """Return the commands to use afterwards: what each is for, and the command."""
    file = shlex.quote(str(folder / "cluster.yaml"))
    if profile.kind == "kuberay" and job is not None:
        space, name = f"--namespace {profile.kuberay.namespace}", f"rayjob/{job.id}"
        logs = f"kubectl {space} logs --follow --selector job-name={job.id}"
        return {"watch": f"kubectl {space} get {name}", "log": logs, "stop": f"kubectl {space} delete {name}"}
    if profile.kind == "kuberay":
        return {"stop": f"kubectl delete --filename={shlex.quote(str(folder / 'raycluster.yaml'))}"}
    if profile.kind == "slurm" and job is not None:
        return {"watch": f"squeue --me --name={job.id}", "stop": f"scancel --name={job.id}"}
    if profile.kind in VIRTUAL_MACHINES:
        port = profile.ray.dashboard_port
        look = {"dashboard": f"ray dashboard {file} --remote-port {port}"}
        log = {"log": f"ray exec {file} {shlex.quote(log_command(profile, job))}"} if job else {}
        return {**look, **log, "stop": f"ray down --yes {file}"}
    if profile.kind == "address" and job is not None:
        where = f"--address {shlex.quote(profile.jobs)} {job.id}"
        return {"log": f"ray job logs --follow {where}", "stop": f"ray job stop {where}"}
    return {}


def program_of(step: Step) -> tuple[str, ...]:
    """Return how a step's tool is called here: `ray` is the one of this environment, which need not be on PATH."""
    if step.argv[0] == "ray":
        return (sys.executable, "-m", "ray.scripts.scripts")
    return (step.argv[0],)
