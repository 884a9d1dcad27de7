"""The predicting form of a searched network equals the network it was made of."""

import copy

import pytest
import torch
from torch import nn

from models.architecture import OPERATOR_NAMES, CellArchitecture
from models.asdet import ASDetNet
from models.cell import RESIDUALS
from models.cell_space import CellSpace
from models.inference import InferenceNet
from search.methods.random_cells import random_architecture


def trained(architecture, **options):
    """Return a network whose norms have seen data and have scales of their own."""
    torch.manual_seed(0)
    space = CellSpace.of_architecture(architecture)
    network = ASDetNet(space, in_channels=2, classes=3, channels=4, **options).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    network.train()(torch.randn(4, 2, 64, 64, dtype=torch.double))
    return network.eval()


def assert_same(network, size=(64, 96)):
    images = torch.randn(2, 2, *size, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(InferenceNet(network)(images), network(images)[0], rtol=1e-9, atol=1e-9)


def cell_of(operator):
    return [[(0, operator), (1, operator)]] * 4


@pytest.mark.parametrize("operator", [name for name in OPERATOR_NAMES if name != "zero"])
def test_every_operator_predicts_the_same(operator):
    network = trained(CellArchitecture.of(cell_of(operator), cell_of(operator)))
    assert_same(network)
    assert_same(network, size=(32, 32))  # one pixel is left in the last cell


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("seed", range(3))
def test_random_cells_with_every_residual_predict_the_same(residual, seed):
    assert_same(trained(random_architecture(OPERATOR_NAMES, seed), residual=residual))


@pytest.mark.parametrize("fusion", ["balanced", "level3"])
def test_every_fusion_and_any_size_predict_the_same(fusion):
    assert_same(trained(random_architecture(OPERATOR_NAMES, 0), fusion=fusion), size=(33, 70))


def test_nodes_without_edges_are_zero():
    cell = [[(0, "sep_conv_3x3"), (1, "identity")], [], [(2, "max_pool_3x3")], []]
    assert_same(trained(CellArchitecture.of(cell, cell)))


def test_the_network_itself_is_left_as_it_was():
    network = trained(random_architecture(OPERATOR_NAMES, 1)).train()
    before = copy.deepcopy(network.state_dict())
    InferenceNet(network)(torch.randn(1, 2, 64, 64, dtype=torch.double))
    assert network.training
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
