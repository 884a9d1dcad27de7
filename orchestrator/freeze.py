"""One state of a run folder that is being written to, as files that no longer change.

The files of a run are made so that a search goes on from any moment at which it is killed. A state that is copied has
to be one such moment: no checkpoint that is newer than the ledger it counts on, no result without its weights.

Files that are replaced as a whole are looked at, copied and looked at again: if none of them has changed, they were
all as copied at the moment between. Files that only grow are copied in that moment, those first that tell of others;
what grew meanwhile is behind it.
"""

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

GROWING = ("ledger.jsonl", "random.jsonl", "candidates.jsonl", "latencies.jsonl")
"""Files that are appended to, each before what it tells of."""

_LEFT_OUT = frozenset({"lock"})
_TRIES = 20
_LINKED_FROM = 1 << 20


class RestlessError(OSError):
    """The files changed at each look; the next one may find them at rest."""


@dataclass(frozen=True)
class Seen:
    """By what a file is known to have changed."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Frozen:
    """A file of the state: how it was seen, and a copy of it; no copy where the caller has this one already."""

    seen: Seen
    copy: Path | None


def freeze(
    folder: Path, copies: Path, done: Mapping[str, Seen], extra: Mapping[str, Path] | None = None
) -> dict[str, Frozen]:
    """Return one state of a folder by file name; locks, hidden files and links are left out.

    Args:
        folder: of the run.
        copies: folder for the copies, on the same disk; emptied first.
        done: files that need no copy if they are still as seen there.
        extra: further files by the name that they get, where the folder has none of it.

    Raises:
        RestlessError: the files changed during each of several tries.
    """
    for attempt in range(_TRIES):
        shutil.rmtree(copies, ignore_errors=True)
        before = _look(folder, extra or {})
        whole = {n: (p, s) for n, (p, s) in before.items() if p.name not in GROWING}
        growing = sorted(before.keys() - whole.keys(), key=lambda name: (GROWING.index(Path(name).name), name))
        frozen: dict[str, Frozen] | None = None
        try:
            frozen = {n: _take(p, copies / n, s, done.get(n)) for n, (p, s) in whole.items()}
            for name in growing:
                path = before[name][0]
                frozen[name] = _take(path, copies / name, _seen(path), done.get(name))
        except FileNotFoundError:
            frozen = None
        after = {n: v for n, v in _look(folder, extra or {}).items() if v[0].name not in GROWING}
        if frozen is not None and after == whole:
            return dict(sorted(frozen.items()))
        time.sleep(0.005 * attempt)
    raise RestlessError(f"{folder}: its files changed during each of {_TRIES} looks")


def _look(folder: Path, extra: Mapping[str, Path]) -> dict[str, tuple[Path, Seen]]:
    found = {}
    for name, path in (*_files(folder, ""), *extra.items()):
        try:
            if name not in found and path.is_file():
                found[name] = (path, _seen(path))
        except FileNotFoundError:
            continue
    return found


def _files(folder: Path, prefix: str) -> Iterable[tuple[str, Path]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _LEFT_OUT or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", Path(entry.path)


def _seen(path: Path) -> Seen:
    status = path.stat()
    return Seen(status.st_size, status.st_mtime_ns, status.st_ino)


def _take(path: Path, copy: Path, seen: Seen, done: Seen | None) -> Frozen:
    if seen == done:
        return Frozen(seen, None)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if seen.size >= _LINKED_FROM and path.name not in GROWING:
        try:
            # What is this large is replaced and never written into, so that a second name keeps it as it is.
            os.link(path, copy)
            return Frozen(seen, copy)
        except OSError:
            pass
    with path.open("rb") as source, copy.open("wb") as target:
        # What is appended meanwhile is not read.
        left = seen.size
        while left and (data := source.read(min(left, 1 << 20))):
            target.write(data)
            left -= len(data)
    return Frozen(seen, copy)
