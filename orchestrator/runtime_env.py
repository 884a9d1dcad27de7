"""How the code reaches the nodes of a cluster, where it is not installed there."""

from pathlib import Path
from typing import Any, Literal

from search.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
_NOT_SENT = ("/.git", "/.venv", "/tests", "/docs", "/benchmarks", "/runs", "/shared", "/.ci")


class NoSourceTreeError(InputError):
    """The code is to be sent, and this is an installed package."""


def runtime_env(kind: Literal["none", "uv"], root: Path = ROOT) -> dict[str, Any] | None:
    """Return Ray's runtime environment of a setting; None where the nodes have the code themselves.

    Ray's own hook for `uv run`, which clusters/connect.py turns off, sends the folder that one happens to be in, and
    the path of uv on this machine. This sends the source tree, and takes uv from the PATH of the nodes.

    Args:
        kind: `cluster.runtime_env`.
        root: of the source tree.

    Raises:
        NoSourceTreeError: there is no source tree to send.
    """
    if kind == "none":
        return None
    if not (root / "uv.lock").is_file():
        raise NoSourceTreeError(
            f"cluster.runtime_env: uv sends the source tree, and {root} is none (no uv.lock); "
            "run from a checkout, or install the package on the nodes and give none"
        )
    return {
        "working_dir": str(root),
        "excludes": list(_NOT_SENT),
        "py_executable": "uv run --frozen --no-dev python",
        "env_vars": {"UV_COMPILE_BYTECODE": "1"},
    }
