"""What a node is asked by `defectnas cluster check`: who it is, what it sees, what its clock says, how busy it is.

These functions run on the nodes, which import them from their own installation; so they say what a search would
find there.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("models", "search", "clusters", "orchestrator")
_SMI_S = 20.0
_PAUSE_S = 0.2


def describe() -> dict[str, Any]:
    """Return what runs here: python, ray, torch, defectnas (versions or None), code (a digest), gpus (see `gpus`)."""
    versions = {name: _version(name) for name in ("ray", "torch", "defectnas")}
    return {"python": platform.python_version(), **versions, "code": code_digest(), "gpus": gpus()}


def code_digest() -> str:
    """Return 12 digits of the sha256 of the program's own source files here: one version may hide many states."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def gpus() -> list[dict[str, Any]]:
    """Return name, memory_mib, driver, load (0 to 1, None if unknown) and programs on it of each NVIDIA GPU here."""
    fields = "uuid,name,memory.total,driver_version,utilization.gpu"
    rows = _smi(f"--query-gpu={fields}")
    users = [row[0] for row in _smi("--query-compute-apps=gpu_uuid,pid")]
    return [
        {
            "name": name,
            "memory_mib": _number(memory),
            "driver": driver,
            "load": None if (percent := _number(load)) is None else percent / 100,
            "programs": users.count(uuid),
        }
        for uuid, name, memory, driver, load in rows
    ]


def write_probe(folder: str, name: str, size: int) -> str:
    """Write a file of random bytes, down to the disk; returns its sha256."""
    data = os.urandom(size)
    with open(Path(folder) / name, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def read_probes(folder: str, names: Sequence[str], wait_s: float) -> dict[str, Any]:
    """Return the sha256 of files as they are seen here, None for one that is not, and the free space.

    Args:
        folder: that holds them.
        names: of the files.
        wait_s: how long to wait for one; a network file system shows what others write a little later.

    Returns:
        {"files": {name: sha256 or None}, "free_bytes": ..., "seconds": until all were there}.
    """
    begun, until = time.monotonic(), time.monotonic() + wait_s
    files: dict[str, str | None] = dict.fromkeys(names)
    while True:
        for name in [name for name, found in files.items() if found is None]:
            path = Path(folder) / name
            if path.is_file():
                files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if None not in files.values() or time.monotonic() > until:
            break
        time.sleep(_PAUSE_S)
    # The folder itself may be what is not seen here; where it would be is asked instead.
    there = next(path for path in (Path(folder), *Path(folder).parents) if path.is_dir())
    return {"files": files, "free_bytes": shutil.disk_usage(there).free, "seconds": time.monotonic() - begun}


def clock() -> float:
    """Return the seconds since 1970 by the clock here."""
    return time.time()


def receive(wrapped: Sequence[Any]) -> tuple[float, int]:
    """Fetch an object of bytes from Ray's object store; returns seconds and the sum of a byte from each page.

    Args:
        wrapped: its ObjectRef in a list, because Ray would fetch a bare one before this is called.
    """
    import ray

    begun = time.perf_counter()
    array = ray.get(wrapped[0])
    return time.perf_counter() - begun, int(array[::4096].sum())


def busy_cpus(seconds: float = 0.5) -> float | None:
    """Return how many CPUs of this host are at work while this process rests; None where Linux does not say."""
    first = _jiffies()
    time.sleep(seconds)
    second = _jiffies()
    if first is None or second is None or second["total"] == first["total"]:
        return None
    share = (second["busy"] - first["busy"]) / (second["total"] - first["total"])
    return share * (os.cpu_count() or 1)


def free_port() -> int:
    """Return a TCP port that nothing listens on here, at this moment."""
    import socket

    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _smi(query: str) -> list[list[str]]:
    """Return the rows that nvidia-smi prints, none where there is no such program or no GPU."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _jiffies() -> Mapping[str, int] | None:
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    times = [int(value) for value in line.split()[1:9]]
    idle = times[3] + times[4]
    return {"busy": sum(times) - idle, "total": sum(times)}
