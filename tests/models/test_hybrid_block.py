"""The three operators of a block against the equations as they are written (AutoNAD Eq. 3-26)."""

import pytest
import torch
from torch.nn import functional as F

from models.hybrid_block import HybridBlock, spatial_shift

OPERATORS = ("attention", "convolution", "mlp")
WIDTHS = (32, 64, 96)


def block_of(width=96, reduction=1, kernel=3, seed=0):
    torch.manual_seed(seed)
    choices = [(width, name, 2.0, kernel if name == "convolution" else 0) for name in OPERATORS]
    block = HybridBlock(choices, reduction, drop_path=0.0).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def maps(width, height=9, breadth=11, seed=1):
    return torch.randn(2, height, breadth, width, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def shifted(x, down, right):
    """Return x (B, C, H, W) with x[i + down, j + right] at (i, j), zeros from outside."""
    padded = F.pad(x, (5, 5, 5, 5))
    return padded[:, :, 5 + down : 5 + down + x.shape[2], 5 + right : 5 + right + x.shape[3]]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kernel", [3, 5])
def test_convolution_is_mixing_then_shifting_and_summing(width, kernel):
    block, x, heads = block_of(kernel=5), maps(width), width // 32
    roles = torch.stack([t.unflatten(-1, (heads, 32)) for t in block.step_one(x)], dim=3)  # (B, H, W, role, head, c)
    first = (5 - kernel) // 2
    total = torch.zeros(2, width, 9, 11, dtype=torch.double)
    for a in range(kernel):
        for b in range(kernel):
            mixing = block.mix[:heads, :, :heads, first + a, first + b]  # W^P, Eq. 14
            mixed = torch.einsum("bhwrlc,mrl->bhwmc", roles, mixing).flatten(3)
            total += shifted(mixed.permute(0, 3, 1, 2), a - kernel // 2, b - kernel // 2)  # Eq. 15
    found = block._convolve(x, kernel)
    torch.testing.assert_close(found, total.permute(0, 2, 3, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", WIDTHS)
def test_convolution_is_one_convolution_with_the_composed_kernel(width):
    block, x, heads = block_of(), maps(width), width // 32
    layers = (block.query, block.key, block.value)
    weights = torch.stack([layer.weight[:width, :width].view(heads, 32, width) for layer in layers])
    kernel = torch.einsum("mrlab,rlci->mciab", block.mix[:heads, :, :heads], weights).flatten(0, 1)
    for layer in layers:
        torch.nn.init.zeros_(layer.bias)
    expected = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(block._convolve(x, 3), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_attention_is_eq_4_and_5_with_keys_and_values_reduced_after_their_projection(width, reduction):
    block, x = block_of(reduction=reduction), maps(width)
    q, k, v = block.step_one(x)
    k, v = (
        F.avg_pool2d(t.permute(0, 3, 1, 2), reduction, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)
        for t in (k, v)
    )
    expected = []
    for head in range(width // 32):
        part = slice(32 * head, 32 * head + 32)
        one, other, value = (t[..., part].flatten(1, 2) for t in (q, k, v))
        expected.append(torch.softmax(one @ other.transpose(1, 2) / 32**0.5, -1) @ value)
    found = block._attend(x).flatten(1, 2)
    torch.testing.assert_close(found, torch.cat(expected, -1), rtol=1e-9, atol=1e-9)


def test_spatial_shift_is_eq_18_and_19_and_out_of_place():
    x = maps(32)
    kept, quarter = x.clone(), 8
    first, second = x.clone(), x.clone()
    a, b, c, d = (slice(quarter * k, quarter * (k + 1)) for k in range(4))
    first[:, 1:, :, a], first[:, :-1, :, b] = x[:, :-1, :, a], x[:, 1:, :, b]
    first[:, :, 1:, c], first[:, :, :-1, d] = x[:, :, :-1, c], x[:, :, 1:, d]
    second[:, :, 1:, a], second[:, :, :-1, b] = x[:, :, :-1, a], x[:, :, 1:, b]
    second[:, 1:, :, c], second[:, :-1, :, d] = x[:, :-1, :, c], x[:, 1:, :, d]
    assert torch.equal(spatial_shift(x, "rows first"), first)
    assert torch.equal(spatial_shift(x, "columns first"), second)
    assert torch.equal(x, kept)


def test_spatial_shift_is_a_roll_away_from_the_edges():
    x = maps(32)
    rolled = [
        torch.roll(group, step, axis)
        for group, step, axis in zip(x.chunk(4, -1), (1, -1, 1, -1), (1, 1, 2, 2), strict=True)
    ]
    inner = (slice(None), slice(1, -1), slice(1, -1))
    assert torch.equal(spatial_shift(x, "rows first")[inner], torch.cat(rolled, -1)[inner])


@pytest.mark.parametrize("width", WIDTHS)
def test_mlp_is_split_attention_over_the_three_branches(width):
    block, x = block_of(), maps(width)
    q, k, v = block.step_one(x)
    branches = torch.stack([spatial_shift(q, "rows first"), spatial_shift(k, "columns first"), v])
    mean = branches.sum(0).mean((1, 2))
    hidden = F.gelu(mean @ block.squeeze.weight[: width // 4, :width].T + block.squeeze.bias[: width // 4])
    logits = torch.stack([hidden @ layer.weight[:width, : width // 4].T + layer.bias[:width] for layer in block.excite])
    expected = (logits.softmax(0)[:, :, None, None] * branches).sum(0)
    torch.testing.assert_close(block._shift_and_weigh(x), expected, rtol=1e-9, atol=1e-9)


def moved(function, x, place):
    changed = x.clone()
    changed[:, place[0], place[1]] += 1.0
    return ((function(changed) - function(x)).abs().amax((0, 3)) > 1e-12).nonzero().tolist()


def test_a_token_moves_only_its_neighbourhood_in_convolution():
    block, x = block_of(), maps(64)
    around = [[i, j] for i in range(3, 6) for j in range(4, 7)]
    assert moved(lambda t: block._convolve(t, 3), x, (4, 5)) == around


def test_a_token_moves_only_itself_and_its_four_neighbours_in_the_shift():
    cross = [[3, 5], [4, 4], [4, 6], [5, 5]]
    for order in ("rows first", "columns first"):
        assert moved(lambda t, order=order: spatial_shift(t, order), maps(32), (4, 5)) == cross


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_block_leaves_tokens_in_their_place(operator):
    """With one picture moved by whole cells inside a large constant one, the result moves with it."""
    block = block_of(reduction=1)
    choice = (32, operator, 2.0, 3 if operator == "convolution" else 0)
    picture = torch.zeros(1, 16, 16, 32, dtype=torch.double)
    picture[:, 5:8, 5:8] = maps(32, 3, 3)[:1]
    there = block(torch.roll(picture, (2, 3), (1, 2)), choice)
    back = torch.roll(there, (-2, -3), (1, 2))
    inner = (slice(None), slice(3, 11), slice(3, 11))
    torch.testing.assert_close(block(picture, choice)[inner], back[inner], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_narrow_choice_uses_leading_channels_of_every_role(operator):
    """A block of exactly the narrow size with the leading rows of each role computes the same."""
    wide, narrow = block_of(96), block_of(32)
    choice = (32, operator, 2.0, 3 if operator == "convolution" else 0)
    with torch.no_grad():
        for name, parameter in narrow.named_parameters():
            parameter.copy_(wide.get_parameter(name)[tuple(slice(0, size) for size in parameter.shape)])
    torch.testing.assert_close(wide(maps(32), choice), narrow(maps(32), choice), rtol=0, atol=0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_a_choice_uses_gets_gradients_and_nothing_else_does(operator):
    block, own = block_of(96), {"attention": (), "convolution": ("mix",), "mlp": ("squeeze", "excite")}
    choice = (64, operator, 1.5, 3 if operator == "convolution" else 0)
    block(maps(64), choice).square().sum().backward()
    hidden = 96
    used = {"position.weight": hidden, "expand.weight": hidden, "query.weight": 64, "norm1.weight": 64}
    for name, count in used.items():
        gradient = block.get_parameter(name).grad.flatten(1) if block.get_parameter(name).dim() > 1 else None
        rows = block.get_parameter(name).grad.abs().flatten() if gradient is None else gradient.abs().sum(1)
        assert (rows[:count] > 0).all(), name
        assert not rows[count:].any(), name
    others = {part for parts in own.values() for part in parts} - set(own[operator])
    for name, parameter in block.named_parameters():
        if name.split(".")[0] in others:
            assert parameter.grad is None, name
        if name.split(".")[0] in own[operator]:
            assert parameter.grad.abs().sum() > 0, name


def test_stochastic_depth_drops_samples_and_keeps_the_mean():
    block = block_of(32)
    block.drop_path = 0.5
    x, choice = maps(32), (32, "mlp", 2.0, 0)
    assert torch.equal(block(x, choice), block(x, choice))  # in evaluation nothing is dropped
    torch.manual_seed(0)
    residual = torch.ones(4000, 1, 1, 1, dtype=torch.double)
    kept = block.train()._drop(residual)
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert kept.mean() == pytest.approx(1.0, abs=0.05)
