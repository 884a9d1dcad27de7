"""One alpha step of the bilevel problem (NAS-ASDet Eq. 11), first and second order (DARTS Eq. 7-8)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.asdet import ASDetNet, softmax_shares
from search.distributed import average, average_gradients
from search.training import Problem, own_part

Alphas = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]

FINITE_DIFFERENCE = 0.01
"""epsilon of DARTS Eq. 8 times the norm of the vector."""


def alpha_step(
    network: ASDetNet,
    alphas: Alphas,
    optimizer: torch.optim.Optimizer,
    alpha_batch: Batch,
    problem: Problem,
    *,
    weight_batch: Batch | None = None,
    weight_optimizer: torch.optim.Optimizer | None = None,
) -> Tensor:
    """Do one step of the alphas; returns the loss, detached. The weights and their gradients stay as they are.

    First order unless `weight_batch` and `weight_optimizer` are given: then the gradient is that at the weights which
    the next weight step would reach.

    Args:
        alphas: per cell kind (14, candidates), leaves that require gradients.
        alpha_batch: images and masks from the alphas' share of the training set.
        weight_batch: images and masks from the weights' share.
        weight_optimizer: the SGD whose next step is looked ahead to.
    """
    optimizer.zero_grad(set_to_none=True)
    if weight_batch is None or weight_optimizer is None:
        loss = _first_order(network, alphas, alpha_batch, problem)
    else:
        loss = _second_order(network, alphas, alpha_batch, weight_batch, weight_optimizer, problem)
    average_gradients(list(alphas.values()))
    optimizer.step()
    return loss.detach()


def _first_order(network: ASDetNet, alphas: Alphas, batch: Batch, problem: Problem) -> Tensor:
    with without_weight_gradients(network):
        loss, _ = problem.loss_of(network, *own_part(batch), softmax_shares(alphas))
        loss.backward()
    return loss


def _second_order(
    network: ASDetNet,
    alphas: Alphas,
    alpha_batch: Batch,
    weight_batch: Batch,
    weight_optimizer: torch.optim.Optimizer,
    problem: Problem,
) -> Tensor:
    weights = list(network.parameters())
    before = [w.detach().clone() for w in weights]
    group = weight_optimizer.param_groups[0]
    _look_ahead(weights, _gradients(network, alphas, weight_batch, problem, weights), weight_optimizer)

    loss, _ = problem.loss_of(network, *own_part(alpha_batch), softmax_shares(alphas))
    tables = list(alphas.values())
    gradients = torch.autograd.grad(loss, [*tables, *weights], allow_unused=True)
    direct = gradients[: len(tables)]
    vector = average(_filled(weights, gradients[len(tables) :]))

    epsilon = FINITE_DIFFERENCE / torch.linalg.vector_norm(torch.stack([v.norm() for v in vector]))
    sides = []
    for sign in (1.0, -1.0):
        _assign(weights, [b + sign * epsilon * v for b, v in zip(before, vector, strict=True)])
        sides.append(_gradients(network, alphas, weight_batch, problem, tables))
    _assign(weights, before)
    for table, at_ahead, plus, minus in zip(tables, direct, *sides, strict=True):
        table.grad = at_ahead - group["lr"] * (plus - minus) / (2 * epsilon)
    return loss


def _gradients(network: ASDetNet, alphas: Alphas, batch: Batch, problem: Problem, of: Sequence[Tensor]) -> list[Tensor]:
    loss, _ = problem.loss_of(network, *own_part(batch), softmax_shares(alphas))
    found = torch.autograd.grad(loss, of, allow_unused=True)
    return average(_filled(of, found))


def _filled(of: Sequence[Tensor], found: Sequence[Tensor | None]) -> list[Tensor]:
    return [torch.zeros_like(t) if g is None else g for t, g in zip(of, found, strict=True)]


@torch.no_grad()
def _look_ahead(weights: list[nn.Parameter], gradients: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Move the weights as the next SGD step would: w - lr * (momentum * buffer + gradient + decay * w)."""
    group = optimizer.param_groups[0]
    for weight, gradient in zip(weights, gradients, strict=True):
        step = gradient + group["weight_decay"] * weight
        buffer = optimizer.state[weight].get("momentum_buffer")
        weight.sub_(group["lr"] * (step if buffer is None else step + group["momentum"] * buffer))


@torch.no_grad()
def _assign(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


@contextmanager
def without_weight_gradients(network: nn.Module) -> Iterator[None]:
    """Compute no gradient of the weights within: an alpha step would throw them away."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
