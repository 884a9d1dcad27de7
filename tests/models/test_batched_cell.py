"""The batched form against the plain one: values, all gradients, every residual, layout and subset of operators."""

import copy
import random

import pytest
import torch

from models.architecture import OPERATOR_NAMES
from models.asdet import ASDetNet, initial_alphas, softmax_shares
from models.cell_space import EDGES, CellSpace

TOLERANCE = 1e-9


def subset_space(keep, seed=0):
    """A space as it is after pruning: other operators on every edge."""
    generator = random.Random(seed)

    def edges():
        drawn = [sorted(generator.sample(OPERATOR_NAMES, keep), key=OPERATOR_NAMES.index) for _ in EDGES]
        return tuple(map(tuple, drawn))

    return CellSpace(edges(), edges())


def networks(space, **options):
    torch.manual_seed(0)
    plain = ASDetNet(space, in_channels=1, classes=1, channels=4, searching=True, **options).double()
    batched = copy.deepcopy(plain).batch_edges()
    alphas = initial_alphas(space, 1.0, torch.Generator().manual_seed(1))
    return plain, batched, {k: v.double().requires_grad_() for k, v in alphas.items()}


def outputs_and_gradients(network, images, alphas):
    logits = network(images, softmax_shares(alphas), branches=True)
    target = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    loss = ((logits - target) ** 2).mean()
    network.zero_grad()
    alpha_gradients = torch.autograd.grad(loss, list(alphas.values()), retain_graph=True)
    loss.backward()
    return logits.detach(), alpha_gradients


def plain_gradients(network):
    """Gradients under plain names, read through the same view as the weights."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for own, other in zip(twin.parameters(), network.parameters(), strict=True):
            own.copy_(torch.zeros_like(own) if other.grad is None else other.grad)
    return twin.plain_state()


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()


@pytest.mark.parametrize("residual", ["pool_repeat", "pool_pad", "none", "proj", "factorized"])
def test_full_space_equals_the_plain_sum_with_every_residual(residual):
    _assert_equal(CellSpace.full(), (32, 32), residual=residual)


@pytest.mark.parametrize("keep", [7, 4, 2, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_pruned_spaces_equal_the_plain_sum(keep, seed):
    _assert_equal(subset_space(keep, seed), (64, 32))


@pytest.mark.parametrize("layout", [True, False])
def test_oblong_images_and_both_memory_orders(layout):
    _assert_equal(CellSpace.full(), (32, 96), layout=layout)


@pytest.mark.parametrize("name", OPERATOR_NAMES[1:])
def test_each_operator_alone(name):
    """On 1 x 1 maps too, where the last group is one unit: its scale once was a view that backward misread."""
    edge = (("zero", name),) * 14
    _assert_equal(CellSpace(edge, edge), (32, 32))


def _assert_equal(space, size, layout=False, **options):
    plain, batched, alphas = networks(space, **options)
    if layout:
        batched.lay_out(256, "cpu")
    images = torch.randn(3, 1, *size, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    expected, expected_alphas = outputs_and_gradients(plain, images, alphas)
    found, found_alphas = outputs_and_gradients(batched, images, alphas)
    assert relative(found, expected) < TOLERANCE
    for a, b in zip(found_alphas, expected_alphas, strict=True):
        assert relative(a, b) < TOLERANCE or b.abs().max() < TOLERANCE
    expected_weights, found_weights = plain_gradients(plain), plain_gradients(batched)
    assert found_weights.keys() == expected_weights.keys()
    scale = max(g.abs().max() for g in expected_weights.values())
    for name, gradient in expected_weights.items():
        assert (found_weights[name] - gradient).abs().max() < TOLERANCE * scale, name


def test_taking_over_copies_the_weights_and_counts_the_same():
    plain, batched, _ = networks(CellSpace.full())
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in batched.parameters())
    state = batched.plain_state()
    for name, value in plain.plain_state().items():
        assert torch.equal(state[name], value), name


def test_plain_state_shares_memory_with_the_network():
    _, batched, _ = networks(CellSpace.full())
    with torch.no_grad():
        for value in batched.plain_state().values():
            value.zero_()
    assert all(not p.any() for p in batched.parameters())
