"""Addresses of tracking stores: the embedded one, those that a user gives, and the UI of the embedded one."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from search.errors import InputError
from search.secret_texts import has_password, without_secrets

ENVIRONMENT: Mapping[str, str] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""What MLflow reads from its environment, unless the user has set it. Retrying is the tracker's part."""

_DATABASES = ("postgresql", "mysql", "mssql")
_SCHEMES = ("sqlite", *_DATABASES, "http", "https", "databricks")


PASSWORD = (
    "holds a password, and settings are written down; leave it out and set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD in the environment"
)
"""What is said of a URI with a password, after the URI."""


class TrackingUriError(InputError):
    """A tracking URI that MLflow does not understand, or that loses what is recorded."""


def embedded_uri(runs: Path) -> str:
    """Return the URI of the SQLite store beside the runs, as an absolute path."""
    return f"sqlite:///{runs.resolve() / 'mlflow.db'}"


def resolve_uri(uri: str, runs: Path) -> str:
    """Return the tracking URI to use: the embedded store for an empty one, an absolute path for SQLite.

    Raises:
        TrackingUriError: another kind of address; the message has no password.
    """
    if not uri:
        return embedded_uri(runs)
    scheme = re.split(r"[+:]", uri, maxsplit=1)[0]
    shown = without_secrets(uri)
    if has_password(uri):
        raise TrackingUriError(f"tracking.uri: {shown!r} {PASSWORD}")
    if scheme not in _SCHEMES:
        raise TrackingUriError(
            f"tracking.uri: {shown!r} is no tracking URI; allowed are sqlite:////PATH/mlflow.db, "
            f"http(s)://HOST:PORT and databases ({', '.join(_SCHEMES[1:4])})"
        )
    if scheme != "sqlite":
        return uri
    path = uri.partition(":///")[2]
    if not path or path.startswith(":memory:"):
        raise TrackingUriError(f"tracking.uri: {shown!r} names no file; write sqlite:////PATH/mlflow.db")
    return f"sqlite:///{Path(path).resolve()}"


def with_password(uri: str) -> str:
    """Return the URI of a database with the user and password of the environment; other stores ask for them themselves.

    Args:
        uri: as `resolve_uri` returns it.
    """
    scheme, _, rest = uri.partition("://")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if not password or scheme.split("+")[0] not in _DATABASES:
        return uri
    user, at, place = rest.rpartition("@")
    user = user if at else quote(os.environ.get("MLFLOW_TRACKING_USERNAME", ""), safe="")
    return f"{scheme}://{user}:{quote(password, safe='')}@{place}"


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for a store of another kind.

    Args:
        uri: as `resolve_uri` returns it.
    """
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def ui_command(runs: Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """Return the command that serves MLflow's UI on the embedded store; run it with `ENVIRONMENT` added.

    Args:
        runs: the folder of runs.
        port: TCP port.
        host: address to listen on; the default is reachable from this machine only.
    """
    artifacts = ["--default-artifact-root", (runs.resolve() / "mlartifacts").as_uri()]
    place = ["--host", host, "--port", str(port), "--workers", "1"]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        embedded_uri(runs),
        *artifacts,
        *place,
    ]
