"""Counting, against a network whose numbers are known."""

import torch
from torch import nn
from torchvision.models.segmentation import fcn_resnet50

from models.architecture import OPERATOR_NAMES
from models.asdet import ASDetNet
from models.cell_space import CellSpace
from models.cost import network_cost, parameter_count
from search.methods.random_cells import random_architecture


def test_fcn_resnet50_has_the_parameters_and_macs_that_are_known():
    with torch.device("meta"):
        network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
    cost = network_cost(network, (3, 256, 256), run=lambda x: network(x.to("meta")))
    assert round(cost.parameters / 1e6, 3) == 32.947
    assert round(cost.macs / 1e9, 2) == 34.65
    assert cost.flops == 2 * cost.macs


def test_fcn_resnet50_at_512_px_has_the_flops_that_the_paper_prints():
    with torch.device("meta"):
        network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
    cost = network_cost(network, (3, 512, 512), run=lambda x: network(x.to("meta")))
    assert round(cost.flops_paper / 1e9, 2) == 277.72


def test_counting_leaves_mode_and_statistics_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    cost = network_cost(network, (1, 5, 5))
    assert (cost.products, cost.norm_elements, cost.parameters) == (2 * 9 * 9, 18, 2 * 9 + 2 + 4)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_branch_heads_are_not_counted():
    space = CellSpace.of_architecture(random_architecture(OPERATOR_NAMES, 0))
    network = ASDetNet(space, in_channels=1, classes=1, channels=4)
    branches = sum(p.numel() for p in network.fusion.branches.parameters())
    assert parameter_count(network) == sum(p.numel() for p in network.parameters()) - branches
