"""The command that a cluster runs: what the user typed, in a form that no shell on the way can misread."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.profile import Profile

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:,@+=-")
_LONGEST_ID = 40


@dataclass(frozen=True)
class Job:
    """One submission.

    Attributes:
        id: of the submission; the same command has the same one, so a second launch finds the first. A lower-case
            DNS label of at most 40 letters, as Kubernetes wants it.
        run: name of the run that it begins or goes on with.
        words: the command after `defectnas`, without --name and --runs.
    """

    id: str
    run: str
    words: tuple[str, ...]


def make_job(words: Sequence[str], run: str | None = None, attempt: int = 1, cluster: str = "") -> Job:
    """Return the job of a command.

    Args:
        words: the command after `defectnas`.
        run: name of the run; None names it by the command itself.
        attempt: above 1, the id differs from that of earlier attempts, and the run is the same.
        cluster: name of the cluster, which a run named by its command depends on.

    Raises:
        ValueError: run is not a plain folder name.
    """
    if run is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", run):
        raise ValueError(f"{run!r} names no run; allowed are letters, digits, '.', '_' and '-'")
    digest = hashlib.sha256("\0".join([cluster, *words]).encode()).hexdigest()
    stem = "-".join(word for word in words[:2] if re.fullmatch(r"[a-z]+", word)) or "job"
    run = run or f"{stem}-{digest[:8]}"
    id_ = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if not re.match(r"[a-z]", id_):
        id_ = f"run-{id_}".strip("-")
    suffix = f"-{attempt}" if attempt > 1 else ""
    if id_ != run or suffix or len(id_) > _LONGEST_ID:
        # Names that differ only in what was left out, and the second attempt at A and the first at A-2, are two jobs.
        suffix = f"-{hashlib.sha256(run.encode()).hexdigest()[:6]}{suffix}"
    return Job(id_[: _LONGEST_ID - len(suffix)].rstrip("-") + suffix, run, tuple(words))


def entrypoint(profile: Profile, job: Job, *, nodes: str | None = None) -> str:
    """Return the shell command that runs a job on the head of its cluster; it goes on with a run that has begun.

    Args:
        profile: the cluster.
        job: what to run.
        nodes: a shell word for the number of nodes to wait for; None: what the profile says.
    """
    program = f"{profile.image.bin}/defectnas" if profile.image.bin else "defectnas"
    count = nodes or str(profile.nodes_at_start)
    options = f"--name {shlex.quote(job.run)} --runs {shlex.quote(profile.runs)} --nodes {count}"
    return " ".join([program, "cluster", "run", options, "--", *(encode(word) for word in job.words)])


def encode(word: str) -> str:
    """Return a word in letters that mean nothing to any shell; `decode` returns the word.

    A job's command passes through several shells (Ray's job server quotes as Windows does, KubeRay not at all), so
    quoting for one of them is not enough. Words that are plain already stay as they are.
    """
    if not word:
        return "%"
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in word.encode("utf-8", "surrogateescape"))


def decode(word: str) -> str:
    """Return the word that `encode` was given."""
    if word == "%":
        return ""
    parts = re.split(r"%([0-9A-F]{2})", word)
    raw = b"".join(
        bytes.fromhex(part) if index % 2 else part.encode("utf-8", "surrogateescape")
        for index, part in enumerate(parts)
    )
    return raw.decode("utf-8", "surrogateescape")
