"""Whether nodes share the place of runs: each writes there and reads what the others wrote, in a folder or a store."""

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clusters.nodes import Crew
from orchestrator.cluster_verdicts import Check, storage_check
from orchestrator.files import hold, is_held
from orchestrator.storage import StorageAwayError, is_uri, open_store, reachable
from search.errors import InputError

_PROBE_BYTES = 2**16
_VISIBLE_S = 10.0


LOCK = "lock"


def check_storage(runs: str, team: Crew, write: Any, read: Any, held: Any, timeout_s: float) -> Check:
    """Return whether all nodes share the place of runs.

    Args:
        runs: a folder, or the URI of a store.
        team: the nodes.
        write: as `clusters.check.write_probe`, for a folder.
        read: as `clusters.check.read_probes`, for a folder.
        held: as `held_in`, for a folder.
        timeout_s: for each of the two.
    """
    return (
        _in_store(runs, team, timeout_s) if is_uri(runs) else _in_folder(Path(runs), team, write, read, held, timeout_s)
    )


def held_in(folder: str) -> bool:
    """Return whether a process, on whichever node, is seen from here to hold the lock of a folder."""
    return is_held(Path(folder) / LOCK)


def put_probe(uri: str, name: str, size: int) -> str:
    """Write an object of random bytes; returns its sha256."""
    data = os.urandom(size)
    open_store(uri).write(name, data)
    return hashlib.sha256(data).hexdigest()


def get_probes(uri: str, place: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the sha256 of objects, None for one that is not there, as `clusters.check.read_probes` does of files."""
    store, begun = open_store(uri), time.monotonic()
    found = {name: store.read(f"{place}/{name}") for name in names}
    files = {name: None if data is None else hashlib.sha256(data).hexdigest() for name, data in found.items()}
    return {"files": files, "free_bytes": None, "seconds": time.monotonic() - begun}


def _in_store(uri: str, team: Crew, timeout_s: float) -> Check:
    advice = "credentials, AWS_ENDPOINT_URL and the way to the store are needed on every node, this one included"
    place = f"check-{uuid.uuid4().hex}"
    try:
        store = reachable(uri)
    except InputError as error:
        return Check("storage", "failure", f"this machine: {error}", advice)
    try:
        wrote = team.ask(put_probe, lambda i, node: (uri, f"{place}/{node.id}", _PROBE_BYTES), timeout_s)
        names = [answer.node.id for answer in wrote if answer.error is None]
        read = team.ask(get_probes, lambda i, node: (uri, place, names), timeout_s)
    finally:
        # What cannot be removed is a few KiB that no run takes for its own.
        with suppress(StorageAwayError, InputError):
            for name in store.entries(place):
                store.delete(f"{place}/{name}")
    return storage_check(uri, wrote, read, advice)


def _in_folder(runs: Path, team: Crew, write: Any, read: Any, held: Any, timeout_s: float) -> Check:
    made = [path for path in (runs, *runs.parents) if not path.exists()]
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".check-", dir=runs))
        # As files of a run are: for every user of the nodes.
        folder.chmod(0o777)
    except OSError as error:
        advice = "give --runs, a folder that every node sees"
        return Check("storage", "failure", f"{runs}: this machine cannot write there ({error})", advice)
    try:
        wrote = team.ask(write, lambda i, node: (str(folder), node.id, _PROBE_BYTES), timeout_s)
        names = [answer.node.id for answer in wrote if answer.error is None]
        wait_s = min(_VISIBLE_S, timeout_s / 2)
        seen = team.ask(read, lambda i, node: (str(folder), names, wait_s), timeout_s)
        try:
            with hold(folder / LOCK, str(folder)):
                locked = team.ask(held, lambda i, node: (str(folder),), timeout_s)
        except OSError as error:
            return Check("storage", "failure", f"{runs}: nothing can be locked there ({error})", "mount it with locks")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            # What was made for this alone and is still empty.
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    advice = f"mount one shared file system at {runs} on every node, writable; or give another --runs"
    return storage_check(str(runs), wrote, seen, advice, locked)
