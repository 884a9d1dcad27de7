"""What tests share: one Ray for the session, and trials that stand in for real ones."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a failure belongs to the change that brought it. Look further with
# `--hypothesis-profile=default --hypothesis-seed=N`.
settings.register_profile("seeded", derandomize=True)
settings.load_profile("seeded")

# One thread: processes that wait for each other's threads on few cores are many times slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DOUBLES = Path(__file__).parent / "doubles"
# Workers and other processes import the stand-ins by name.
sys.path.insert(0, str(DOUBLES))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(DOUBLES), os.environ.get("PYTHONPATH")]))


# Most of their time they wait for processes to start; begun first, the other tests run beside them.
SLOW = (
    *("test_hybrid.py", "test_processes.py", "test_nodes.py", "test_cluster_check.py", "test_cli_autonad.py"),
    *("test_stored_runs.py", "test_tracking.py", "test_growth.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files of tests, the slowest first."""
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray with four CPUs in this process, for tests of what runs on it."""
    from clusters.connect import connected

    with connected("none", cpus=4):
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local S3 server in this process, which this process and its children take for S3; its address."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    yield f"{host}:{port}"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The URI of a new bucket."""
    import uuid

    from pyarrow.fs import S3FileSystem

    name = f"b-{uuid.uuid4().hex[:12]}"
    S3FileSystem(endpoint_override=s3_server, scheme="http", allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"
