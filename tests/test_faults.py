"""Whole searches on several nodes that are real processes, disturbed, against one that nothing disturbs.

The other kinds of faults, and more of these, are injected by `python -m benchmarks.faults`; `.ci/run` does most once.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = ("node removed in evolution", "candidate poisonous")
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What became of one fault of each kind; in a process of its own, as a Ray of several nodes needs it."""
    file = tmp_path_factory.mktemp("faults") / "faults.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--each", "1", "--only", ",".join(KINDS), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert file.exists(), done.stderr[-3000:]
    return json.loads(file.read_text())["kinds"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_survived_with_nothing_lost_and_the_same_winner(rows, kind):
    row = rows[kind]
    assert row["errors"] == []
    assert (row["survived"], row["lost"]) == (1, 0)
    # A candidate that is left out changes the generations behind it; nothing else may change a search.
    assert row["same"] == (kind != "candidate poisonous")
