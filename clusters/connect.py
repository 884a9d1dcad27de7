"""Find, start and leave Ray: a cluster where there is one, else Ray in this process, gone without a trace."""

import logging
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray reads its environment when it is imported, which is why it is imported as late as in `_quiet_init`.
_ENVIRONMENT = {
    # Begun by `uv run`, it would upload the folder and build a second environment on every node.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Keeps a warning about GPUs of CPU trials off the terminal.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray lowers the priority of its workers; here they do the work that everything else waits for.
    "RAY_worker_niceness": "0",
    # Messages held back to count their repetitions would be printed when the program ends, after its result.
    "RAY_DEDUP_LOGS": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

_SOCKET_PATH_ROOM = 40


class ClusterUnreachableError(ConnectionError):
    """No Ray answers at the address of a cluster, or it is one that cannot be joined."""


class AddressError(ClusterUnreachableError):
    """The address is not one that a cluster can have, or be joined by."""


@dataclass(frozen=True)
class Cluster:
    """What a connected Ray offers.

    Attributes:
        address: HOST:PORT of the cluster joined; None where Ray was started in this process.
        cpus: CPUs of all nodes.
        gpus: GPUs of all nodes.
        node_cpus: CPUs of the largest node, the most that one trial can have.
        node_gpus: GPUs of the largest node.
    """

    address: str | None
    cpus: int
    gpus: int
    node_cpus: int
    node_gpus: int


@contextmanager
def connected(
    address: str = "auto",
    *,
    dashboard: bool = False,
    cpus: int | None = None,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[Cluster]:
    """Join or start Ray for the time of a with-block, and leave it as it was found.

    A cluster that was joined runs on. Ray started here ends with its processes, and its files go; it takes commands
    with the user's token only, from this machine only. Import ray and what imports it inside of the block: how to
    authenticate is decided before.

    Args:
        address: HOST:PORT; "auto": RAY_ADDRESS or a cluster begun with `ray start` on this machine, else
            Ray in this process; "none": always Ray in this process.
        dashboard: start the dashboard too, where Ray is started here. Nothing here needs it; it costs memory
            and processes.
        cpus: CPUs that Ray started here offers; None: those of the machine.
        runtime_env: by which the nodes of a cluster that is joined make the environment of workers, as Ray has it;
            None: theirs is used.

    Raises:
        ClusterUnreachableError: no Ray answers at the address, or it cannot be joined.
    """
    joined = None if address == "none" else find_cluster() if address == "auto" else address
    if joined is not None:
        if needs_token(joined):
            _turn_authentication_on()
            _keep_token_private()
        with _quiet_init(address=joined, runtime_env=dict(runtime_env) if runtime_env else None):
            yield offer(joined)
        return
    _make_token()
    folder = tempfile.mkdtemp(prefix="dn-", dir=_short_folder())
    try:
        begin = {"include_dashboard": dashboard, "num_cpus": cpus, "_temp_dir": folder}
        with _quiet_init(address="local", beginning=_on_loopback, **begin):
            yield offer(None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_cluster() -> str | None:
    """Return HOST:PORT of the cluster of RAY_ADDRESS, or of one begun with `ray start` here, else None."""
    if address := os.environ.get("RAY_ADDRESS"):
        return None if address == "local" else address
    # `ray.init(address="auto")` would also join Ray that another program started for itself; this file is
    # written by `ray start` alone. It outlives its cluster, so whether Ray answers decides.
    root = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    try:
        address = (root / "ray" / "ray_current_cluster").read_text().strip()
        needs_token(address)
    except (OSError, ClusterUnreachableError):
        return None
    return address


def check_address(address: str) -> None:
    """Check that a setting of `connected` names a cluster that answers, or none.

    Raises:
        ClusterUnreachableError: no Ray answers there.
    """
    named = os.environ.get("RAY_ADDRESS", "local") if address == "auto" else address
    if named not in ("none", "local"):
        needs_token(named)


def needs_token(address: str) -> bool:
    """Return whether the cluster at HOST:PORT asks for the user's token, as clusters do since Ray 2.59.

    Asked here, because `ray.init` shows none by itself, and goes on trying for most of a minute where no cluster is.

    Raises:
        ClusterUnreachableError: no Ray answers there.
    """
    import grpc  # type: ignore[import-untyped]

    if address.startswith("ray://"):
        raise AddressError(
            f"cluster {address!r}: Ray Client leaves the search and its files here, where no node sees them; "
            "needed is HOST:PORT of the head node, from one of the cluster's nodes; the command "
            "`defectnas search --cluster ray://HOST:PORT` submits a job"
        )
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise AddressError(f"cluster {address!r}: needed is HOST:PORT of the head node, as 10.0.0.1:6379")
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=5)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return True
            reason = error.code().name.lower().replace("_", " ")
            raise ClusterUnreachableError(f"cluster {address!r}: no Ray answers there ({reason})") from error
    return False


def token_file() -> Path | None:
    """Return the file that Ray reads the user's token from, None where an environment variable holds it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _make_token() -> None:
    """Make the token of a user who has none, as Ray would, but for the user's eyes only."""
    path = token_file()
    if path is None or os.environ.get("RAY_AUTH_MODE", "token") != "token" or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    # Where it cannot be made, Ray says so itself.
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    _keep_token_private()


def _keep_token_private() -> None:
    """Take the right to read the user's token from others: Ray makes the file readable for all."""
    path = token_file()
    with suppress(OSError):
        if path is not None and path.stat().st_uid == os.getuid() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray that is started here listen on 127.0.0.1 alone; by itself it listens on every address of the machine."""
    from ray._private import ray_constants

    # On a Mac and on Windows Ray does so by itself: by this constant here, by the variable in its processes.
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    variable, constant = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        del os.environ[name]
        if variable is not None:
            os.environ[name] = variable


def _turn_authentication_on() -> None:
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise ClusterUnreachableError("the cluster asks for a token, and RAY_AUTH_MODE turns tokens off; unset it")
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise ClusterUnreachableError("the cluster asks for a token: set RAY_AUTH_MODE=token before Ray is imported")
    os.environ["RAY_AUTH_MODE"] = "token"


@contextmanager
def _quiet_init(beginning: Callable[[], AbstractContextManager[None]] = nullcontext, **options: Any) -> Iterator[None]:
    import ray

    try:
        # Its processes inherit the environment of this moment; those of others, later, shall not.
        with beginning():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **options)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterUnreachableError(f"cluster {options['address']!r}: cannot be joined ({reason})") from error
    try:
        yield
    finally:
        ray.shutdown(wait_for_processes=True)


def offer(address: str | None, among: Collection[str] | None = None) -> Cluster:
    """Return what the living nodes of the connected Ray offer.

    Args:
        address: of the cluster, see `Cluster`.
        among: ids of the nodes to count; None: all.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"] and (among is None or node["NodeID"] in among)]
    nodes = [node["Resources"] for node in alive]
    cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
    return Cluster(address, sum(cpus), sum(gpus), max(cpus, default=0), max(gpus, default=0))


def _short_folder() -> str:
    """Return where temporary folders go, or /tmp where that is too long for Ray's sockets (107 bytes)."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _SOCKET_PATH_ROOM else "/tmp"
