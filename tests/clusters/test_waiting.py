"""Waiting for the nodes of a cluster that is starting."""

import pytest
import ray

from clusters.connect import ClusterUnreachableError
from clusters.waiting import TooFewNodesError, wait_for_nodes


def test_without_a_cluster_it_gives_up_in_the_time_given(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ClusterUnreachableError, match="no Ray cluster on this machine; RAY_ADDRESS names one"):
        wait_for_nodes("auto", 1, 0)
    with pytest.raises(ClusterUnreachableError, match="no Ray answers there"):
        wait_for_nodes("127.0.0.1:1", 1, 0)


def test_nodes_that_never_come_are_counted(monkeypatch, ray_session):
    from clusters import waiting

    said = []
    monkeypatch.setattr(waiting, "_PAUSE_S", 0.01)
    assert waiting._counted(1, 0.0, 0.0, said.append) == 1
    with pytest.raises(TooFewNodesError, match="1 of 3 nodes are there after 5 s"):
        waiting._counted(3, 0.0, 5.0, said.append)
    assert said == ["1 of 3 nodes are there"]
    assert ray.is_initialized()
