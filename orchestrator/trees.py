"""A folder in a store: its files in chunks that are named by their digest, and manifests that say which make it up.

    <place>/objects/<sha256>                     a chunk; never changed once it is there
    <place>/manifests/<number>-<owner>.json      the files of one state, written after all of its chunks

So a state is there as a whole or not at all, the states before it stay whole while the next is written, and a file
that grew sends its last chunk alone.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from orchestrator.storage import Store
from search.errors import InputError

CHUNK = 8 << 20
FORMAT = 1
MANIFESTS, OBJECTS = "manifests", "objects"
_AT_ONCE = 8

T = TypeVar("T")


class DamagedStorageError(InputError):
    """What lies in a store is not what was put there."""


class OutsideError(DamagedStorageError):
    """A name that would be written outside of its folder: not damage, but somebody's work."""


@dataclass(frozen=True)
class StoredFile:
    """A file as its size in bytes and the sha256 of each of its chunks, in order."""

    size: int
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """One state of a folder.

    Attributes:
        sequence: number of the state; a later one has a higher.
        owner: who wrote it.
        time: when, Unix, s.
        files: by name, relative, with slashes.
    """

    sequence: int
    owner: str
    time: float
    files: Mapping[str, StoredFile]

    @property
    def name(self) -> str:
        """Of the object that holds it."""
        return f"{MANIFESTS}/{self.sequence:08d}-{self.owner[:8]}.json"

    def objects(self) -> set[str]:
        """Return the names of all chunks."""
        return {chunk for file in self.files.values() for chunk in file.chunks}

    def to_bytes(self) -> bytes:
        """Return it as JSON that holds its own digest."""
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps({"sha256": _digest_of(body), "body": body}).encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest of bytes that `Manifest.to_bytes` gave.

    Args:
        data: the bytes.
        where: they come from, for the message.

    Raises:
        DamagedStorageError: they are truncated or altered, of another version, or name a file outside of the folder.
    """
    try:
        values = json.loads(data)
        body: dict[str, Any] = values["body"]
        if _digest_of(body) != values["sha256"]:
            raise ValueError("its digest differs")
        if body.pop("format") != FORMAT:
            raise ValueError("of another version of this program")
        files = {
            name: StoredFile(int(file["size"]), tuple(map(_checked_chunk, file["chunks"])))
            for name, file in body.pop("files").items()
        }
        manifest = Manifest(**body, files=files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStorageError(
            f"{where}: damaged manifest ({error}); remove it, and the one before counts"
        ) from error
    for name in files:
        check_inside(name, where)
    return manifest


def check_inside(name: str, where: str) -> None:
    """Check that the name of a file stays inside of the folder that it is put into.

    Raises:
        OutsideError: it is absolute, empty, or goes up.
    """
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and parts and not {".", "..", "/"} & set(parts)
    if not plain or "\\" in name or "\0" in name or any(ord(letter) < 32 for letter in name):
        raise OutsideError(f"{where}: names the file {name!r}, which is not inside of the folder; nothing is read")


def put_files(store: Store, files: Mapping[str, Path], known: set[str]) -> dict[str, StoredFile]:
    """Upload files; returns what a manifest says of them.

    Args:
        store: place of the tree.
        files: by name; they must not change meanwhile.
        known: chunks that are there; those uploaded are added, also where a later one fails.

    Raises:
        StorageAwayError, StorageRefusedError: not all could be uploaded.
    """
    return dict(zip(files, _at_once(lambda path: _put_file(store, path, known), files.values()), strict=True))


def _at_once(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Return the results of all items, several at once; the first failure drops what has not begun."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            return list(threads.map(work, items))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _put_file(store: Store, path: Path, known: set[str]) -> StoredFile:
    size, names = 0, []
    with path.open("rb") as file:
        for data in iter(lambda: file.read(CHUNK), b""):
            name = hashlib.sha256(data).hexdigest()
            if name not in known:
                store.write(f"{OBJECTS}/{name}", data)
                known.add(name)
            size += len(data)
            names.append(name)
    return StoredFile(size, tuple(names))


def get_files(store: Store, manifest: Manifest, folder: Path) -> None:
    """Write the files of a manifest into a folder, new or empty.

    Raises:
        DamagedStorageError: a chunk is missing or is not what was put there.
        StorageAwayError, StorageRefusedError: the store cannot be asked.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def get(name: str) -> None:
        check_inside(name, store.uri)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            for data in _chunks(store, manifest, name):
                out.write(data)

    _at_once(get, manifest.files)


def _chunks(store: Store, manifest: Manifest, name: str) -> Iterator[bytes]:
    file, size = manifest.files[name], 0
    for chunk in file.chunks:
        data = store.read(f"{OBJECTS}/{chunk}")
        if data is None or hashlib.sha256(data).hexdigest() != chunk:
            what = "is missing" if data is None else "is damaged: its content does not match its digest"
            raise DamagedStorageError(
                f"{store.uri}/{OBJECTS}/{chunk}: {what} ({name}); "
                f"remove {manifest.name} to go back to the state before, if one is left"
            )
        size += len(data)
        yield data
    if size != file.size:
        raise DamagedStorageError(f"{store.uri}/{manifest.name}: {name} has {size} bytes and not {file.size}")


def manifests(store: Store) -> list[str]:
    """Return the names of the manifests of a tree, newest first."""
    names = (f"{MANIFESTS}/{name}" for name in store.entries(MANIFESTS))
    return sorted((n for n in names if re.fullmatch(rf"{MANIFESTS}/\d{{8}}-\w+\.json", n)), reverse=True)


def read_manifest(store: Store, name: str) -> Manifest | None:
    """Return a manifest, None where it has gone.

    Raises:
        DamagedStorageError: see `parse_manifest`.
    """
    data = store.read(name)
    return None if data is None else parse_manifest(data, f"{store.uri}/{name}")


def newest_manifest(store: Store) -> Manifest | None:
    """Return the newest manifest that is whole, None where there was never any.

    Raises:
        DamagedStorageError: there are manifests, and none is whole; or one names a file outside of its folder.
    """
    first: DamagedStorageError | None = None
    for name in manifests(store):
        try:
            if (found := read_manifest(store, name)) is not None:
                return found
        except OutsideError:
            raise
        except DamagedStorageError as error:
            first = first or error
    if first is not None:
        raise first
    return None


def _checked_chunk(name: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise ValueError(f"{name!r} is no sha256")
    return name


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
