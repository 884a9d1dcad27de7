"""Files written whole or not at all, locks that name their holder, and YAML without its traps."""

import fcntl
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from search.errors import InputError

_LONGEST_BUILD_S = 6 * 3600.0


class InUseError(InputError):
    """Another process holds the lock of this folder."""


class InvalidYamlError(InputError):
    """A text that is not YAML, or gives one key twice."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text or bytes to path so that whoever reads it sees the old content or the new one.

    Raises:
        OSError: the file cannot be written (full disk, no permission); path is then untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a run is read by others as any file that the user writes.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            # Writing, unlike opening, does not say where.
            error.filename = error.filename or str(path)
        raise


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON, atomically; ValueError if a number is infinite or none."""
    write_atomically(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextmanager
def hold(path: Path, what: str, wait_s: float = 0.3) -> Iterator[None]:
    """Hold the lock file `path` (flock) for the time of a with-block; a process that dies lets go of it.

    Args:
        path: the lock file; made if missing, never removed (removing it would let two processes hold "it").
        what: what is locked, for the message.
        wait_s: seconds to wait for another holder; not 0, because `is_held` takes the lock for an instant.

    Raises:
        InUseError: another process holds it after wait_s seconds.
    """
    with open(path, "a+", encoding="utf-8") as file:
        until = time.monotonic() + wait_s
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise InUseError(f"{what} is in use by {_holder(file)}; wait for it to end, or stop it")
            time.sleep(0.05)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def built_once(target: Path) -> Iterator[Path | None]:
    """Yield a folder to write into that becomes `target` after the with-block; None where that is there already.

    Of several processes of a machine one builds, and the others wait for it; a build that fails leaves nothing.
    """
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with hold(target.parent / f".{target.name}.lock", f"{target}", wait_s=_LONGEST_BUILD_S):
        if target.exists():
            yield None
            return
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield building
            building.chmod(0o755)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock file `path`."""
    try:
        with open(path, encoding="utf-8") as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        who = json.loads(file.read())
        return f"pid {who['pid']} on host {who['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `off` is a text, `1e-3` a number, and a repeated key an error."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = key_node.value
        if key in seen and key != "<<":
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would not read as a text."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """Return the value of a YAML text; numbers, texts and booleans as YAML 1.2 has them.

    Args:
        text: the YAML text.
        origin: the file or option that it comes from, for the message.

    Raises:
        InvalidYamlError: it is not YAML, or a mapping has a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidYamlError(
            f"{origin}:{where} not valid YAML: {getattr(error, 'problem', None) or error}"
        ) from error


def dump_yaml(values: Any) -> str:
    """Return values as YAML text, in the order given, that `parse_yaml` reads back equal."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
