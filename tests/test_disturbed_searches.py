"""Every kind of fault once, in a whole search on several simulated nodes: `pytest -m faults`, about half an hour.

A plain `pytest` leaves them out. `.ci/run` takes some; `python -m benchmarks.faults` repeats them and counts.
"""

import pytest

from benchmarks.fault_trials import prepare
from benchmarks.faults import KINDS, inject, objections


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("faults"))


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS, ids=[kind.replace(" ", "-") for kind in KINDS])
def test_a_disturbed_search_loses_nothing_and_finds_the_same(ground, kind):
    row = inject(kind, ground, 0, 1)
    if row["cannot"]:
        pytest.skip(row["cannot"])
    assert objections({kind: row}) == [], row["errors"]
