"""Nodes that do not share a disk with who drives: which they are, and what a worker on one of them needs.

A worker of a trial opens the trial's folder. On a node that does not see it, it first makes a folder of its own from a
`Ticket`, which was sent to it by Ray: trial.json as it is, and the pack from the store of the run. Scores and latencies
return as values; what a retraining wrote returns as bytes, and the driver puts it where it belongs.
"""

import dataclasses
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.files import write_atomically
from orchestrator.orphans import end_with
from search.errors import InputError
from search.watchdog import watched

TOKEN = ".token"
_RETURNED = frozenset({"checkpoint", "lock", "job.json"})
_PROBE_S = 120.0

MakeWorker = Callable[[Path], Callable[[Any], Any]]
"""Makes a worker of a trial from its folder."""


class NoSharedDiskError(InputError):
    """Nodes that do not see the folder of a run would have to."""


@dataclass(frozen=True)
class Ticket:
    """What a worker needs to be one of a trial on any node.

    Attributes:
        folder: of the trial, where it is driven.
        token: content of its file `TOKEN`: another machine may have another folder of this path.
        trial: text of its trial.json.
    """

    folder: Path
    token: str
    trial: str


@dataclass(frozen=True)
class Job:
    """One retraining: name of its folder in `finalists`, and the content of its job.json."""

    name: str
    content: bytes


def put_token(folder: Path) -> str:
    """Put a new token into a folder, by which `sees` knows it; returns it."""
    token = uuid.uuid4().hex
    write_atomically(folder / TOKEN, token)
    return token


def issue(folder: Path) -> Ticket:
    """Return the ticket of a trial that is driven on this machine."""
    return Ticket(folder, put_token(folder), (folder / "trial.json").read_text(encoding="utf-8"))


def sees(folder: Path, token: str) -> bool:
    """Return whether this machine sees the folder that a token was put into."""
    try:
        return (folder / TOKEN).read_text(encoding="utf-8") == token
    except OSError:
        return False


def nodes_that_see(folder: Path, token: str) -> tuple[list[str], list[str]]:
    """Return the ids of the nodes of the connected Ray that see the folder of a token, and of those that do not."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ids = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    if len(ids) == 1:
        return ids, []
    probe = ray.remote(num_cpus=0, max_retries=0)(sees)
    asked = {
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(folder, token): node
        for node in ids
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    for reference in silent:
        ray.cancel(reference, force=True)
    seeing = []
    for reference in answered:
        # A node that is lost at this moment sees nothing.
        with suppress(ray.exceptions.RayError):
            if ray.get(reference):
                seeing.append(asked[reference])
    return sorted(seeing), sorted(set(ids) - set(seeing))


def among(nodes: Sequence[str]) -> dict[str, str]:
    """Return the label selector of these nodes."""
    return {"ray.io/node-id": f"in({','.join(nodes)})"}


def materialise(ticket: Ticket) -> Path:
    """Return a folder from which a worker of a trial can be made on this node: the trial's own, or one made here.

    A process that works in the trial's own ends soon after the process that drives the trial.

    Raises:
        NoSharedDiskError: this node does not see the trial, and there is no store to fetch its pack from.
        InputError: the store does not have the pack, or is away.
    """
    if sees(ticket.folder, ticket.token):
        end_with(ticket.folder / "lock")
        return ticket.folder
    trial: dict[str, Any] = json.loads(ticket.trial)
    storage: Mapping[str, str] | None = trial.get("storage")
    if not storage:
        raise NoSharedDiskError(
            f"this node does not see {ticket.folder}, and the run has no store to fetch its pack from; "
            "give --runs as a folder that all nodes see, or --storage s3://BUCKET/PATH"
        )
    from orchestrator.fetch import cache_folder
    from orchestrator.storage import open_store
    from orchestrator.stored_packs import get_pack

    cache = cache_folder(storage["cache"])
    pack = get_pack(open_store(storage["uri"]), trial["pack_digest"], Path(trial["pack"]).name, cache / "packs")
    key = hashlib.sha256(f"{ticket.folder}\n{ticket.trial}".encode()).hexdigest()[:16]
    folder = cache / "trials" / key / ticket.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    here = {**trial, "pack": str(pack), "forms": str(folder / "forms.json")}
    write_atomically(folder / "trial.json", json.dumps(here))
    return folder


def made_on_node(ticket: Ticket, make_worker: MakeWorker) -> Callable[[Any], Any]:
    """Make a worker on whichever node this is."""
    return make_worker(materialise(ticket))


def retrainer_on_node(ticket: Ticket, make_worker: MakeWorker, silence_s: float) -> Callable[[Job], Any]:
    """Make a retrainer on whichever node this is; it returns its result and the files that it wrote elsewhere.

    Its process ends if an epoch takes longer than silence_s; 0: any time.
    """
    folder = materialise(ticket)
    retrain = make_worker(folder)

    def work(job: Job) -> tuple[Any, dict[str, bytes]]:
        with watched(silence_s):
            return retrained(job)

    def retrained(job: Job) -> tuple[Any, dict[str, bytes]]:
        place = folder / "finalists" / job.name
        if folder == ticket.folder:
            return retrain(place), {}
        if not (place / "job.json").exists() or (place / "job.json").read_bytes() != job.content:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            write_atomically(place / "job.json", job.content)
        result = retrain(place)
        return result, _files(place)

    return work


@dataclass(frozen=True)
class ReturningPool:
    """A pool of `retrainer_on_node`, to whom job folders are given and who leaves them filled."""

    pool: Any

    def map(self, items: Sequence[Path]) -> Iterator[Any]:
        """Yield the outcome of every job folder, after its files are in it."""
        for outcome in self.pool.map([Job(path.name, (path / "job.json").read_bytes()) for path in items]):
            if outcome.error is not None:
                yield outcome
                continue
            result, files = outcome.value
            _put(items[outcome.index], files)
            yield dataclasses.replace(outcome, value=result)


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if name.partition("/")[0] not in _RETURNED}


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    # metrics.json says that the job is done, so it comes last.
    for name in sorted(files, key=lambda name: (name == "metrics.json", name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, files[name])
