"""Parameters added up place by place against those of the network itself."""

import random

import pytest
import torch

from models.autonad import AutoNADNet, Room
from models.hybrid_cost import parameters_of
from models.hybrid_space import HybridSpace


@pytest.mark.parametrize("seed", range(8))
def test_the_parameters_are_those_of_the_network(seed):
    architecture = HybridSpace(kernels=(3, 5)).sample(random.Random(seed))
    given = {"in_channels": 1 + 2 * (seed % 2), "classes": 1 + seed, "width": 64 * (1 + seed % 3)}
    with torch.device("meta"):
        network = AutoNADNet(Room.of_architecture(architecture), **given)
    assert parameters_of(architecture, **given) == sum(parameter.numel() for parameter in network.parameters())
