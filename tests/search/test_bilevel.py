"""Alpha steps: which gradients are computed, and that both orders are what the equations say."""

import copy

import pytest
import torch
from torch.func import functional_call

from models.asdet import ASDetNet, initial_alphas, softmax_shares
from models.cell_space import CellSpace
from search import bilevel
from search.bilevel import alpha_step
from search.losses import segmentation_loss
from search.settings import LossSettings
from search.training import Problem, detached, learning_rate, sgd, weight_step


@pytest.fixture
def setting():
    torch.manual_seed(0)
    edge = (("identity", "avg_pool_3x3", "channel_att"),) * 14
    space = CellSpace(edge, edge)
    network = ASDetNet(space, in_channels=1, classes=1, channels=4, searching=True).double()
    alphas = {k: v.double().requires_grad_() for k, v in initial_alphas(space, 0.5, torch.Generator()).items()}
    problem = Problem(1, LossSettings(), torch.device("cpu"))

    def batch(seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(4, 1, 64, 64, generator=generator, dtype=torch.double)
        return images, (images[:, 0] > 1).long()

    return network, alphas, problem, batch


def state(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def same(network, before):
    return all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("order", ["first", "second"])
def test_an_alpha_step_moves_alphas_and_nothing_else(setting, order):
    network, alphas, problem, batch = setting
    weight_optimizer = sgd(network.parameters(), 0.01, 0.9, 1e-4)
    weight_step(network, weight_optimizer, batch(0), problem, shares=detached(softmax_shares(alphas)))
    before, tables = state(network), copy.deepcopy(alphas)
    optimizer = torch.optim.Adam(alphas.values(), lr=0.01)
    more = {"weight_batch": batch(1), "weight_optimizer": weight_optimizer} if order == "second" else {}
    alpha_step(network, alphas, optimizer, batch(2), problem, **more)
    assert same(network, before)
    assert all(p.requires_grad for p in network.parameters())
    assert all(not torch.equal(alphas[k], tables[k]) for k in alphas)


def test_a_weight_step_moves_weights_and_nothing_else(setting):
    network, alphas, problem, batch = setting
    before, tables = state(network), copy.deepcopy(alphas)
    optimizer = sgd(network.parameters(), 0.01, 0.9, 1e-4)
    weight_step(network, optimizer, batch(0), problem, shares=detached(softmax_shares(alphas)), clip=5)
    assert not same(network, before)
    assert all(torch.equal(alphas[k], tables[k]) and alphas[k].grad is None for k in alphas)


def test_second_order_is_the_derivative_through_the_weight_step(setting, monkeypatch):
    """DARTS Eq. 7 by differentiating twice; the finite difference of Eq. 8 tends to it, kinks apart."""
    network, alphas, problem, batch = setting
    rate, decay = 0.02, 1e-3
    names, weights = zip(*network.named_parameters(), strict=True)

    def loss_at(values, images, masks):
        inputs = (images, softmax_shares(alphas))
        logits = functional_call(network, dict(zip(names, values, strict=True)), inputs, {"branches": True})
        return segmentation_loss(logits, masks, 1, problem.loss)

    gradients = torch.autograd.grad(loss_at(weights, *batch(1)), weights, create_graph=True)
    ahead = [w - rate * (g + decay * w) for w, g in zip(weights, gradients, strict=True)]
    expected = torch.autograd.grad(loss_at(ahead, *batch(2)), list(alphas.values()))

    monkeypatch.setattr(bilevel, "FINITE_DIFFERENCE", 1e-5)
    optimizer, weight_optimizer = torch.optim.SGD(alphas.values(), lr=0.0), sgd(weights, rate, 0.0, decay)
    alpha_step(network, alphas, optimizer, batch(2), problem, weight_batch=batch(1), weight_optimizer=weight_optimizer)
    for table, gradient in zip(alphas.values(), expected, strict=True):
        torch.testing.assert_close(table.grad, gradient, rtol=1e-5, atol=1e-7)


def test_learning_rate_falls_as_a_cosine_or_stays():
    assert learning_rate(0.1, "constant", 7, 10) == 0.1
    rates = [learning_rate(0.1, "cosine", e, 10) for e in range(11)]
    assert rates[0] == 0.1
    assert rates[5] == pytest.approx(0.05)
    assert rates[10] == pytest.approx(0)
