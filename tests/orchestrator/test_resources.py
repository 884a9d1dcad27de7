import pytest

from orchestrator.launch import ResourceSettings
from orchestrator.resources import TooFewResourcesError, TrialResources, share_out


def shared(trials, cpus=2, gpus=0, node_cpus=None, node_gpus=None, **asked):
    nodes = {"node_cpus": node_cpus or cpus, "node_gpus": gpus if node_gpus is None else node_gpus}
    return share_out(ResourceSettings(**asked), trials, cpus=cpus, gpus=gpus, **nodes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"trials": 1}, (1, 0, 1)),
        ({"trials": 2}, (1, 0, 2)),
        ({"trials": 6}, (1, 0, 2)),
        ({"trials": 2, "cpus": 16}, (7, 0, 2)),
        ({"trials": 3, "cpus": 16, "parallel": 1}, (15, 0, 1)),
        ({"trials": 8, "cpus": 16, "gpus": 2}, (4, 1, 2)),
        ({"trials": 1, "cpus": 16, "gpus": 1}, (4, 1, 1)),
        ({"trials": 4, "cpus": 4, "gpus": 4}, (1, 1, 4)),
    ],
)
def test_what_a_machine_offers_is_shared_out(given, expected):
    assert shared(**given) == TrialResources(*expected)


def test_a_group_of_workers_gets_a_gpu_each_and_the_cpus_of_all():
    assert shared(2, cpus=32, gpus=8, workers=4) == TrialResources(16, 4, 2)
    assert shared(1, cpus=2, workers=2) == TrialResources(2, 0, 1)


def test_a_trial_stays_on_one_node():
    assert shared(1, cpus=64, node_cpus=16) == TrialResources(16, 0, 1)


@pytest.mark.parametrize("asked", [{"cpus": 3}, {"gpus": 1}, {"gpus": 0.5}])
def test_more_than_any_node_has_is_refused_instead_of_waited_for(asked):
    with pytest.raises(TooFewResourcesError, match="the largest node has 2 and 0"):
        share_out(ResourceSettings(**asked), 1, cpus=2, gpus=0, node_cpus=2, node_gpus=0)
    with pytest.raises(TooFewResourcesError, match="the largest node has 16 and 2"):
        shared(1, cpus=32, gpus=4, node_cpus=16, node_gpus=2, workers=4)


def test_half_a_gpu_each_is_two_trials_a_gpu():
    resources = share_out(ResourceSettings(gpus=0.5), 4, cpus=16, gpus=1, node_cpus=16, node_gpus=1)
    assert (resources.gpus, resources.parallel) == (0.5, 2)
