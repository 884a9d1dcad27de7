"""What lies in a store, brought to this machine: data sets and runs, each checked and then there as a whole."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.files import built_once
from orchestrator.mirror import Position, remember
from orchestrator.runs import RunExistsError, RunNotFoundError, check_name
from orchestrator.storage import Entry, StorageAwayError, StorageRefusedError, Store, open_store
from orchestrator.trees import DamagedStorageError, Manifest, check_inside, get_files, newest_manifest
from search.errors import InputError

_AT_ONCE = 8
_RUN_CHANGED = 3


class NoDataThereError(InputError):
    """The URI of a data set names no files."""


def cache_folder(setting: str) -> Path:
    """Return the folder that what is fetched is kept in: the setting, else the user's cache."""
    if setting:
        return Path(setting).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "defectnas"


def get_data(uri: str, cache: Path, count: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Return a local folder with the data set of a URI, fetched unless what is there is what was fetched before.

    Args:
        uri: of the data set's folder.
        cache: see `cache_folder`.
        count: called with (files fetched, files in all).

    Raises:
        NoDataThereError: there are no files.
        InputError: the URI is none, the store is away or refuses, or what was fetched is not what was listed.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    with _now_or_never():
        store = open_store(uri)
        listed = {name: entry for name, entry in store.entries().items() if not name.endswith("/")}
        if not listed:
            raise NoDataThereError(f"--data {uri}: no files there; needed is the folder of a data set")
        for name in listed:
            check_inside(name, uri)
        stamp = [store.uri, sorted((name, entry.size, entry.mtime_ns) for name, entry in listed.items())]
        key = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]
        # Readers and packs are named by the folder, so it keeps its name.
        target = cache / "data" / key / (store.root.rpartition("/")[2] or "data")
        with built_once(target) as building:
            if building is not None:
                _get_listed(store, listed, building, count)
    return target


def _get_listed(store: Store, listed: dict[str, Entry], folder: Path, count: Callable[[int, int], None]) -> None:
    def get(name: str) -> None:
        data, path = store.read(name), folder / name
        if data is None or len(data) != listed[name].size:
            raise DamagedStorageError(f"{store.uri}/{name}: not of the size that was listed; it was changed meanwhile")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        # Packs are known by these times: all machines then agree on them.
        os.utime(path, ns=(listed[name].mtime_ns, listed[name].mtime_ns))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            for done, _ in enumerate(threads.map(get, listed), start=1):
                count(done, len(listed))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if {n: e for n, e in store.entries().items() if not n.endswith("/")} != listed:
        raise DamagedStorageError(f"{store.uri}: was changed while it was read; try again when it rests")


def get_run(uri: str, name: str, runs: Path) -> Path:
    """Restore a run from the newest whole state in a store; returns its new folder.

    Args:
        uri: of the folder of runs in the store.
        name: the run's id.
        runs: the local folder of runs.

    Raises:
        RunNotFoundError: the store has no such run.
        RunExistsError, RunNameError: there is a local one of this name, or it can be none.
        DamagedStorageError: the state is not what was put there; nothing is written.
        StorageRefusedError: the store is away or refuses.
    """
    check_name(runs, name)
    with _now_or_never():
        store = open_store(uri).below(name)
        manifest = newest_manifest(store)
        if manifest is None:
            raise RunNotFoundError(f"no run {name!r} at {uri}; there are {', '.join(stored_runs(uri)) or 'none'}")
        runs.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=runs))
        try:
            manifest = _get_state(store, manifest, building)
            if "run.json" not in manifest.files:
                raise DamagedStorageError(f"{store.uri}/{manifest.name}: not the state of a run, run.json is missing")
            # No owner: whoever wrote the state may be alive, and is not this folder.
            remember(building / "state", Position(uri.rstrip("/"), "", manifest.sequence))
            building.chmod(0o755)
            (building / "state").rename(runs / name)
        except FileExistsError as error:
            raise RunExistsError(f"{runs / name}: this name is taken") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return runs / name


def _get_state(store: Store, manifest: Manifest, building: Path) -> Manifest:
    """Write a state below `building`; the newest again where its driver went on and removed what was being read."""
    for attempt in range(_RUN_CHANGED):
        try:
            get_files(store, manifest, building / "state")
            return manifest
        except DamagedStorageError:
            newer = newest_manifest(store)
            if newer is None or newer.sequence == manifest.sequence or attempt == _RUN_CHANGED - 1:
                raise
            shutil.rmtree(building / "state")
            manifest = newer
    raise AssertionError


def stored_runs(uri: str) -> list[str]:
    """Return the ids of the runs in a store.

    Raises:
        StorageRefusedError: the store is away or refuses.
    """
    with _now_or_never():
        return [name for name in open_store(uri).folders() if name != "packs"]


@contextmanager
def _now_or_never() -> Iterator[None]:
    """Turn a store that is away into bad input: what was asked cannot begin without it."""
    try:
        yield
    except StorageAwayError as error:
        raise StorageRefusedError(str(error)) from error
