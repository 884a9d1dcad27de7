import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clusters.connect import ClusterUnreachableError, connected, find_cluster

ALONE = """
import os, sys, tempfile
from clusters.connect import connected
import ray
with connected("auto") as cluster:
    folder = ray._private.worker._global_node.get_session_dir_path()
    print(cluster.address, cluster.cpus >= 1, cluster.node_cpus == cluster.cpus, folder)
    @ray.remote
    def niceness():
        return os.nice(0)
    print(ray.get(niceness.remote()) == os.nice(0))
print(ray.is_initialized())
"""


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_of(folder: str) -> list[str]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if folder in text:
            found.append(text)
    return found


def test_ray_begun_here_leaves_no_process_and_no_file(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    # No cluster of this machine is found through a temporary folder of its own; sockets need a short one.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as root:
        environment["TMPDIR"] = root
        done = subprocess.run(
            [sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        first, same_niceness, connected_after = done.stdout.splitlines()
        address, *facts, folder = first.split()
        assert address == "None"
        assert facts == ["True", "True"]
        assert folder.startswith(root)
        assert (same_niceness, connected_after) == ("True", "False")
        assert processes_of(folder.split("/session")[0]) == []
        assert not Path(folder).parent.exists()
        assert [name for name in os.listdir(root) if name.startswith("dn-")] == []


GUARDED = """
import os, stat
from pathlib import Path
from clusters.connect import connected, needs_token
with connected("none", dashboard=True, cpus=1):
    import ray
    @ray.remote
    def answer():
        return 42
    assert ray.get(answer.remote()) == 42
    print(needs_token(ray.get_runtime_context().gcs_address))
    folder = ray._private.worker._global_node.get_session_dir_path()
    root = folder.split("/session")[0]
    listening = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening[fields[9]] = fields[1].rpartition(":")[0]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if root.encode() not in environment and int(process.name) != os.getpid():
                continue
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        found += [listening[link[8:-1]] for link in links if link.startswith("socket:[") and link[8:-1] in listening]
    print(len(found) >= 3, sorted(set(found)))
mode = stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode)
print(oct(mode), os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"))
print(ray._private.ray_constants.ENABLE_RAY_CLUSTER)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("token", ["none", "readable"])
def test_ray_begun_here_asks_for_the_users_token_and_is_reached_from_this_machine_alone(token):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as root:
        if token == "readable":
            # As Ray itself makes it.
            (Path(root) / ".ray").mkdir()
            (Path(root) / ".ray" / "auth_token").write_text("0" * 64)
        environment = {**kept, "HOME": root, "TMPDIR": root}
        command = [sys.executable, "-c", GUARDED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        asks, several, mode, constant = done.stdout.splitlines()
        assert asks == "True"
        loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
        assert several.startswith("True")
        assert set(listed(several.removeprefix("True "))) <= loopback
        assert mode == "0o600 None"
        assert constant == "True"


def listed(text: str) -> list[str]:
    return [part.strip(" '[]") for part in text.split(",")]


def test_importing_it_keeps_uv_from_building_an_environment_per_node():
    code = "import clusters.connect, ray._private.ray_constants as c; print(c.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ENABLE_UV")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("address", ["nonsense", "ray://127.0.0.1:10001", "host:", ":6379"])
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(ClusterUnreachableError, match="needed is HOST:PORT"), connected(address):
        pass


def test_an_address_where_nothing_answers_is_refused_at_once():
    address = f"127.0.0.1:{closed_port()}"
    with pytest.raises(ClusterUnreachableError, match="no Ray answers there"), connected(address):
        pass


def test_ray_address_is_looked_at_first(monkeypatch):
    address = f"127.0.0.1:{closed_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert find_cluster() == address
    with pytest.raises(ClusterUnreachableError, match="no Ray answers there"), connected("auto"):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find_cluster() is None


def test_a_cluster_that_has_ended_is_not_found(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert find_cluster() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port()}\n")
    assert find_cluster() is None


def test_a_cluster_that_runs_is_found_joined_and_left_running(monkeypatch, tmp_path, ray_session):
    import ray

    address = ray.get_runtime_context().gcs_address
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    assert find_cluster() == address
    code = (
        "import sys; from clusters.connect import connected\n"
        "with connected('auto') as cluster: print(cluster.address, cluster.cpus)"
    )
    # A shell knows nothing of the authentication that Ray turned on for itself.
    environment = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_MODE"}
    # Unlike one begun with `ray start`, this one listens on loopback alone, which who joins it has to know.
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [address, "4"], done.stderr
    assert ray.cluster_resources()["CPU"] == 4
