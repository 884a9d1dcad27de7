"""Bytes under names in an object store or on a far disk, by one URI: s3://, gs://, abfs:// or file://.

By pyarrow.fs and not fsspec: it is a dependency already, is what Ray itself uses, and speaks S3, Google's and Azure's
protocol without a package for each. Credentials come from the environment or the provider's own files alone, on every
node for itself; a URI that holds one is refused, because URIs are written down.
"""

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from orchestrator.files import write_atomically
from search.errors import InputError

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "file")
_ALLOWED = "allowed are s3://BUCKET/PATH, gs://BUCKET/PATH, abfs://CONTAINER@ACCOUNT.../PATH and file:///PATH"
_QUERY = ("region", "endpoint_override", "scheme")
_CONNECT_S = 5.0
_ATTEMPTS = 3
_GOOGLE_S = 30
_REFUSED = {
    "NO_SUCH_BUCKET": "there is no such bucket; create it first, or give another URI",
    "ACCESS_DENIED": "access denied",
    "403": "access denied",
    "INVALID_ACCESS_KEY_ID": "the store does not know the access key",
    "INVALID_CLIENT_TOKEN_ID": "the store does not know the access key",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is not that of the access key",
    "PERMISSION_DENIED": "access denied",
    "UNAUTHENTICATED": "there are no credentials",
}
_CREDENTIALS = (
    "credentials come from the environment or the provider's own files, as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, or the role of the machine"
)


class StorageUriError(InputError):
    """A text that is no URI of a store, or that holds a password."""


class StorageRefusedError(InputError):
    """The store does not let us: no such bucket, no credentials, no permission. Waiting does not help."""


class StorageAwayError(OSError):
    """The store cannot be reached or does not answer as it should; later it may."""


@dataclass(frozen=True)
class Entry:
    """What a listing says of one object: bytes, and when it was last written (ns since 1970)."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Store:
    """A place in a store, below which names with slashes hold bytes.

    Attributes:
        uri: of the place, without a last slash; holds no secret.
        root: of the place, as the file system names it.
        filesystem: of pyarrow.
    """

    uri: str
    root: str
    filesystem: Any

    def below(self, name: str) -> "Store":
        """Return the place of a name in this one."""
        return Store(f"{self.uri}/{name}", f"{self.root}/{name}", self.filesystem)

    def write(self, name: str, data: bytes) -> None:
        """Write an object; whoever reads it sees the old one or the new one, whole.

        Raises:
            StorageRefusedError, StorageAwayError: it could not be written.
        """
        with _asking(self.uri):
            path = f"{self.root}/{name}"
            if self._is_disk():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(Path(path), data)
                return
            # An object appears when the stream is closed, and not before.
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)

    def read(self, name: str) -> bytes | None:
        """Return an object, None where there is none.

        Raises:
            StorageRefusedError, StorageAwayError: the store cannot be asked.
        """
        with _asking(self.uri):
            try:
                with self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    def entries(self, folder: str = "") -> dict[str, Entry]:
        """Return all objects below a name, by what follows it; none where there is nothing.

        Raises:
            StorageRefusedError, StorageAwayError: the store cannot be asked.
        """
        from pyarrow.fs import FileType

        return {
            name: Entry(info.size, info.mtime_ns or 0)
            for name, info in self._listed(folder, recursive=True)
            if info.type == FileType.File
        }

    def folders(self) -> list[str]:
        """Return the first parts of all names, sorted.

        Raises:
            StorageRefusedError, StorageAwayError: the store cannot be asked.
        """
        from pyarrow.fs import FileType

        return sorted(n for n, info in self._listed("", recursive=False) if info.type == FileType.Directory)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises:
            StorageRefusedError, StorageAwayError: the store cannot be asked.
        """
        with _asking(self.uri):
            try:
                self.filesystem.delete_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return

    def _listed(self, folder: str, recursive: bool) -> list[tuple[str, Any]]:
        from pyarrow.fs import FileSelector

        base = f"{self.root}/{folder}".rstrip("/")
        with _asking(self.uri):
            try:
                infos = self.filesystem.get_file_info(FileSelector(base, recursive=recursive))
            except FileNotFoundError:
                return []
        return [(info.path[len(base) + 1 :], info) for info in infos]

    def _is_disk(self) -> bool:
        return self.filesystem.type_name == "local"


def is_uri(text: str | Path) -> bool:
    """Return whether a text names a place in a store and not a folder."""
    return "://" in str(text)


def check_uri(uri: str) -> None:
    """Check that a text is a URI of a store, without asking the store.

    Raises:
        StorageUriError: it is not, or it holds a password; the message shows none.
    """
    parts = urlsplit(uri)
    shown = _without_secrets(uri)
    if parts.scheme not in SCHEMES:
        raise StorageUriError(f"storage {shown!r}: {_ALLOWED}")
    if parts.password is not None or (parts.username is not None and not parts.scheme.startswith("abfs")):
        raise StorageUriError(
            f"storage {shown!r}: a URI is written down and may hold no user or password; {_CREDENTIALS}"
        )
    if strange := [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if name not in _QUERY]:
        raise StorageUriError(
            f"storage {shown!r}: {strange[0]!r} is not allowed after '?'; allowed: {', '.join(_QUERY)}"
        )
    if (parts.scheme == "file") == bool(parts.netloc) or (parts.scheme == "file" and not parts.path.strip("/")):
        raise StorageUriError(f"storage {shown!r}: names no bucket or path; {_ALLOWED}")


@functools.lru_cache(maxsize=32)
def open_store(uri: str) -> Store:
    """Return the place of a URI; nothing is asked of the store but, at most, the region of its bucket.

    Raises:
        StorageUriError: see `check_uri`.
        StorageRefusedError, StorageAwayError: the store cannot be asked.
    """
    check_uri(uri)
    parts = urlsplit(uri)
    plain = uri.partition("?")[0].rstrip("/")
    if parts.scheme != "s3":
        from pyarrow.fs import FileSystem

        # Left to itself, Google's client tries for a quarter of an hour before it says anything.
        limited = f"?retry_limit_seconds={_GOOGLE_S}" if parts.scheme in ("gs", "gcs") else ""
        with _asking(plain):
            filesystem, root = FileSystem.from_uri(re.sub("^gcs:", "gs:", plain) + limited)
        return Store(plain, root.rstrip("/"), filesystem)
    options = dict(parse_qsl(parts.query))
    shown = f"{plain}?{parts.query}" if parts.query else plain
    with _asking(shown):
        filesystem = _s3(parts.netloc, options)
    return Store(plain, f"{parts.netloc}{parts.path}".rstrip("/"), filesystem)


def reachable(uri: str) -> Store:
    """Return the place of a URI after the store has answered once, with one clear line where it does not.

    Raises:
        InputError: the URI is none, or the store is away or refuses.
    """
    store = open_store(uri)
    try:
        store.folders()
    except StorageAwayError as error:
        raise StorageRefusedError(str(error)) from error
    return store


def _s3(bucket: str, options: dict[str, str]) -> Any:
    """Return S3, or what speaks its protocol at the endpoint of the URI or of AWS_ENDPOINT_URL."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = named.rpartition("://")
    endpoint = options.get("endpoint_override") or host.rstrip("/")
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and not endpoint:
        region = resolve_s3_region(bucket)
    return S3FileSystem(
        region=region or "us-east-1",
        endpoint_override=endpoint or None,
        scheme=options.get("scheme") or scheme or "https",
        connect_timeout=_CONNECT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        # A small object is then one request, and not the three of an upload in parts.
        allow_delayed_open=True,
    )


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    try:
        yield
    except (StorageAwayError, InputError):
        raise
    except OSError as error:
        text = str(error).partition("\n")[0][:300]
        if isinstance(error, PermissionError):
            raise StorageRefusedError(f"storage {uri}: no permission ({text})") from None
        for code, said in _REFUSED.items():
            if re.search(rf"\b{code}\b", text):
                more = "" if code == "NO_SUCH_BUCKET" else f"; {_CREDENTIALS}"
                raise StorageRefusedError(f"storage {uri}: {said}{more}") from None
        raise StorageAwayError(f"storage {uri}: {text}") from error


def _without_secrets(uri: str) -> str:
    """Return a URI without user, password and what follows its '?'."""
    plain = uri.partition("?")[0]
    if plain.startswith("abfs"):
        return re.sub(r":[^/@:]*@", ":***@", plain)
    return re.sub(r"(://)[^/@]*@", r"\1***@", plain)
