"""`search --cluster ray://HOST:10001`: the search becomes a job of that cluster, whose output is followed here.

Ray Client itself would leave the driver, the run folder and its checkpoints on this machine, where no node sees them.
The jobs of a cluster are taken by its dashboard, on the same host.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from clusters.profile import Profile, Storage
from orchestrator.cli_output import FAILED, INTERRUPTED
from search.errors import InputError

SCHEME = "ray://"
_JOBS_PORT = 8265
_HERE = ("--cluster", "--runs")
_ANSWERS_S = 5.0


class RemoteError(InputError):
    """A search cannot be handed to the cluster of a Ray Client address."""


def is_client_address(address: str | None) -> bool:
    """Return whether the setting `cluster.address` is one of Ray Client."""
    return address is not None and address.startswith(SCHEME)


def search_there(address: str, runs: str, words: Sequence[str], json_: bool) -> int:
    """Submit the command of a search and follow its output on standard error; returns its exit code.

    Args:
        address: ray://HOST[:PORT].
        runs: folder of runs as the nodes see it, or the URI of a store.
        words: of the command, after `defectnas`, as typed.
        json_: print the result's JSON object on standard output.

    Raises:
        InputError: the address, runs or the command cannot be used there; nothing takes jobs at the address.
    """
    from orchestrator import clusters_api
    from orchestrator.storage import is_uri

    jobs = _jobs_of(address)
    if not is_uri(runs) and not runs.startswith("/"):
        raise RemoteError(
            f"--runs {runs}: with --cluster {SCHEME}... seen from the nodes: absolute, or s3://BUCKET/runs"
        )
    mount, _, name = runs.rpartition("/")
    storage = Storage(runs=runs) if is_uri(runs) else Storage(mount=mount, runs=name)
    profile = Profile(kind="address", address=address, jobs=jobs, storage=storage)
    rendered = clusters_api.planned(profile, _without(words, _HERE))
    os.environ.update(_access(address, jobs))
    try:
        new = clusters_api.submit(rendered)
    except clusters_api.SubmissionError as error:
        print(f"defectnas: {error}", file=sys.stderr)
        return FAILED
    job = rendered.job
    assert job is not None  # there is always a command
    print(f"{'submitted' if new else 'there already'}: {job.id}, run {job.run} in {runs}, by {jobs}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", *_follow(jobs, job.id)], stdout=2, check=False)
    except KeyboardInterrupt:
        print(f"it goes on; stop it with: {rendered.aftercare['stop']}", file=sys.stderr)
        return INTERRUPTED
    return _ended(jobs, job.id, json_)


def _jobs_of(address: str) -> str:
    parts = urlsplit(address)
    if not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise RemoteError(f"cluster {address!r}: needed is ray://HOST:PORT, as ray://10.0.0.1:10001")
    return f"http://{parts.hostname}:{_JOBS_PORT}"


def _access(address: str, jobs: str) -> dict[str, str]:
    """Return the environment by which the cluster's jobs are reached.

    Raises:
        RemoteError: nothing answers there.
    """
    try:
        with urllib.request.urlopen(f"{jobs}/api/version", timeout=_ANSWERS_S):
            return {}
    except urllib.error.HTTPError as error:
        # Asked without a token; `ray job` shows the user's where it is told to.
        return {"RAY_AUTH_MODE": "token"} if error.code in (401, 403) else {}
    except OSError as error:
        raise RemoteError(
            f"cluster {address!r}: its jobs are taken at {jobs}, and nothing answers there ({error}); "
            "on one of its nodes: --cluster HOST:PORT; through a tunnel: a profile with jobs = ..., and cluster submit"
        ) from error


def _follow(jobs: str, job: str) -> list[str]:
    return ["ray.scripts.scripts", "job", "logs", "--address", jobs, "--follow", job]


def _ended(jobs: str, job: str, json_: bool) -> int:
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(jobs)
    info: Any = client.get_job_info(job)
    if json_:
        found = [line for line in client.get_job_logs(job).splitlines() if line.startswith('{"run": ')]
        if found:
            sys.stdout.write(json.dumps(json.loads(found[-1])) + "\n")
    if info.status == JobStatus.SUCCEEDED:
        return 0
    print(f"defectnas: {job} {info.status.lower()}: {info.message}", file=sys.stderr)
    return info.driver_exit_code if (info.driver_exit_code or 0) > 0 else FAILED


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the words without some options and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept
