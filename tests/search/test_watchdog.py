"""A process that hangs ends, and says where; one that makes progress does not."""

import subprocess
import sys

import pytest

from search import distributed
from search.distributed import save_together
from search.errors import is_disk_full

HANGS = """
import ctypes, time
from search.watchdog import beat, watched
def hang():
    # Holds the lock of the interpreter: no thread of Python runs any more.
    ctypes.PyDLL(None).sleep(60)
with watched(0.5):
    for _ in range(4):
        time.sleep(0.2)
        beat()
print("alive", flush=True)
time.sleep(0.7)
with watched(0):
    time.sleep(0.1)
print("alive", flush=True)
with watched(0.5):
    hang()
"""


def test_a_process_that_is_silent_for_too_long_ends_and_says_where():
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["alive", "alive"]
    assert "in hang" in done.stderr


def fill():
    with open("/dev/full", "w") as file:
        file.write("x")


def test_all_processes_of_a_group_hear_that_the_disk_of_one_is_full(monkeypatch, tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}") as raised:
        save_together(fill, tmp_path)
    assert is_disk_full(raised.value)
    told = []
    monkeypatch.setattr(distributed, "gather", lambda full: told.append(full) or [True, full])
    with pytest.raises(OSError, match="No space left"):
        save_together(lambda: None, tmp_path)
    assert told == [False]
    with pytest.raises(PermissionError):
        save_together(lambda: (_ for _ in ()).throw(PermissionError()), tmp_path)
