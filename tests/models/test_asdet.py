"""The network of NAS-ASDet: sizes, both orders of the fusion, padding, variants."""

import pytest
import torch

from models.adaptive_fusion import AdaptiveFusion
from models.asdet import ASDetNet, initial_alphas, softmax_shares
from models.cell_space import CellSpace
from models.operators import OPERATORS
from search.methods.random_cells import random_architecture


def derived(seed=0, **options):
    torch.manual_seed(seed)
    space = CellSpace.of_architecture(random_architecture(tuple(OPERATORS), seed))
    return ASDetNet(
        space, in_channels=options.pop("in_channels", 1), classes=options.pop("classes", 1), channels=4, **options
    )


def test_features_have_the_five_strides_and_doubling_widths():
    features = derived().features(torch.randn(2, 1, 64, 96), None)
    assert [tuple(f.shape) for f in features] == [(2, 16 * 2**i, 32 >> i, 48 >> i) for i in range(5)]


@pytest.mark.parametrize("fusion", ["adaptive", "balanced", "level1", "level2", "level3", "level4", "level5"])
@pytest.mark.parametrize("classes", [1, 3])
def test_low_resolution_fusion_equals_the_fusion_as_written(fusion, classes):
    network = derived(fusion=fusion, classes=classes).double().eval()
    images = torch.randn(2, 1, 96, 64, dtype=torch.double)
    for branches in (True, False):
        logits = network(images, branches=branches)
        assert logits.shape == (6 if branches else 1, 2, classes, 96, 64)
        torch.testing.assert_close(logits, network.as_written(images, branches=branches), rtol=0, atol=1e-12)


def test_fusion_gradients_equal_those_as_written():
    torch.manual_seed(0)
    fusion = AdaptiveFusion((16, 32, 64, 128, 256), 2, 16, "adaptive").double()
    features = [torch.randn(2, 16 << i, 32 >> i, 32 >> i, dtype=torch.double, requires_grad=True) for i in range(5)]
    weights = list(fusion.parameters())
    both = [run(features, (64, 64), True).pow(2).sum() for run in (fusion, fusion.as_written)]
    found, expected = (torch.autograd.grad(value, [*features, *weights]) for value in both)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (65, 70), (33, 100)])
def test_any_size_is_padded_and_cropped(size):
    assert derived().eval()(torch.randn(1, 1, *size)).shape == (1, 1, 1, *size)


def test_channels_last_changes_nothing_but_rounding():
    network = derived().double().eval()
    images = torch.randn(2, 1, 128, 128, dtype=torch.double)
    before = network(images)
    torch.testing.assert_close(network.lay_out(128, "cpu")(images), before, rtol=0, atol=1e-12)


def test_supernet_runs_on_one_image_and_alphas_get_gradients():
    space = CellSpace.full()
    network = ASDetNet(space, in_channels=3, classes=2, channels=4, searching=True)
    alphas = {k: v.requires_grad_() for k, v in initial_alphas(space, 1e-3, torch.Generator().manual_seed(0)).items()}
    network(torch.randn(1, 3, 64, 64), softmax_shares(alphas), branches=True).sum().backward()
    assert all(table.grad.abs().sum() > 0 for table in alphas.values())


@pytest.mark.parametrize("options", [{"fusion": "level9"}, {"residual": "dense"}])
def test_unknown_variants_are_refused_with_what_is_allowed(options):
    with pytest.raises(ValueError, match="allowed are"):
        derived(**options)
