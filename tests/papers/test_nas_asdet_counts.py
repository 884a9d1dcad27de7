"""Counts that the reproduction of NAS-ASDet must hit exactly."""

import pytest
import torch
import torchvision.models as tv

from models.architecture import OPERATOR_NAMES, CellArchitecture
from models.asdet import ASDetNet
from models.cell_space import CellSpace
from models.cost import network_cost, parameter_count
from search.methods.random_cells import random_architecture


def network(space, searching=False):
    with torch.device("meta"):
        return ASDetNet(space, in_channels=3, classes=1, channels=16, searching=searching)


def test_supernet_parameters_with_branches_and_alphas():
    supernet = network(CellSpace.full(), searching=True)
    alphas = 2 * 14 * 11
    assert sum(p.numel() for p in supernet.parameters()) + alphas == 17_485_074


def test_fixed_part_of_the_derived_network():
    pools = [[(0, "avg_pool_3x3"), (1, "avg_pool_3x3")]] * 4
    assert parameter_count(network(CellSpace.of_architecture(CellArchitecture.of(pools, pools)))) == 977_985


@pytest.mark.parametrize("seed", [0, 1])
def test_cost_grows_with_the_area(seed):
    derived = network(CellSpace.of_architecture(random_architecture(OPERATOR_NAMES, seed)))
    derived = derived.to_empty(device="cpu")
    written = [network_cost(derived, (3, s, s), derived.as_written) for s in (64, 256, 512)]
    once = derived.fusion.squeeze.weight.numel() + derived.fusion.excite.weight.numel()
    gates = [c.products - once for c in written]
    # All but the fusion's fully connected layers (and those of channel attention) grow with the area.
    assert gates[1] / gates[0] == pytest.approx(16, rel=5e-3)
    assert gates[2] / gates[0] == pytest.approx(64, rel=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_low_resolution_fusion_costs_less_than_the_fusion_as_written(seed):
    derived = network(CellSpace.of_architecture(random_architecture(OPERATOR_NAMES, seed))).to_empty(device="cpu")
    assert network_cost(derived, (3, 256, 256)).macs < network_cost(derived, (3, 256, 256), derived.as_written).macs


TABLE_3 = {
    # extractor: (builder of the trunk that the paper counted, channels of its five taps, printed parameters in M)
    "vgg16": (lambda: tv.vgg16(weights=None).features, (64, 128, 256, 512, 512), 15.0),
    "resnet50": (lambda: _without(tv.resnet50(weights=None), "fc"), (64, 256, 512, 1024, 2048), 25.4),
    "googlenet": (
        lambda: tv.googlenet(weights=None, aux_logits=False, init_weights=False),
        (64, 192, 480, 832, 1024),
        7.5,
    ),
    "mobilenet_v3_small": (lambda: tv.mobilenet_v3_small(weights=None), (16, 16, 24, 48, 576), 2.6),
    "densenet121": (lambda: tv.densenet121(weights=None), (64, 256, 512, 1024, 1024), 9.0),
}


def _without(module, name):
    setattr(module, name, torch.nn.Identity())
    return module


@pytest.mark.parametrize("name", TABLE_3)
def test_two_bias_free_layers_of_fusion_weights_explain_table_3(name):
    build, taps, printed = TABLE_3[name]
    with torch.device("meta"):
        trunk = sum(p.numel() for p in build().parameters())
    total = sum(taps)
    assert round((trunk + 2 * total * (total // 16)) / 1e6, 1) == printed
    one_layer = round((trunk + total * total) / 1e6, 1)
    assert one_layer > printed
