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


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray with four CPUs in this process, for tests of what runs on it."""
    from clusters.connect import connected

    with connected("none", cpus=4):
        yield
