"""A block of the encoder: three operators in the unified two-step form, then a feed-forward network.

Source: AutoNAD Eq. 3-26. Step I (Eq. 23), three 1x1 projections q, k, v, and the output projection are the same for
all three operators; step II differs. Maps are (B, H, W, C), a head is 32 channels, of h = C / 32.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hybrid_space import HEAD_WIDTH
from models.sliced import SlicedConv, SlicedLinear, SlicedNorm, centre

BlockChoice = tuple[int, str, float, int]
"""(width, operator, ratio, kernel)."""

SQUEEZE = 4
"""Split attention squeezes C channels to C over this (Sec. IV-A; its reference [27])."""


class HybridBlock(nn.Module):
    """One block, large enough for some choices.

    Args (constructor):
        choices: what it must be able to be.
        reduction: of the sides of keys and values in attention.
        drop_path: chance that a sample skips the operator, and again the feed-forward network, while training.
    """

    def __init__(self, choices: Sequence[BlockChoice], reduction: int, drop_path: float) -> None:
        super().__init__()
        width = max(choice[0] for choice in choices)
        heads = width // HEAD_WIDTH
        operators = {choice[1] for choice in choices}
        kernel = max(choice[3] for choice in choices)
        hidden = max(hidden_width(choice[0], choice[2]) for choice in choices)
        self.reduction, self.drop_path = reduction, drop_path
        self.norm1, self.norm2 = SlicedNorm(width), SlicedNorm(width)
        self.query, self.key, self.value = (SlicedLinear(width, width) for _ in range(3))
        self.project = SlicedLinear(width, width)
        if "convolution" in operators:
            # W^P of Eq. 14 per kernel position: (heads out, roles, heads in, k, k), the same for a head's 32 channels.
            self.mix = nn.Parameter(torch.randn(heads, 3, heads, kernel, kernel) / (3 * heads * kernel**2) ** 0.5)
        if "mlp" in operators:
            self.squeeze = SlicedLinear(width, width // SQUEEZE)
            self.excite = nn.ModuleList(SlicedLinear(width // SQUEEZE, width) for _ in range(3))
        self.expand, self.contract = SlicedLinear(width, hidden), SlicedLinear(hidden, width)
        self.position = SlicedConv(hidden, hidden, 3, depthwise=True)

    def forward(self, x: Tensor, choice: BlockChoice) -> Tensor:
        """Return (B, H, W, C) of x (B, H, W, C), C the width of the choice."""
        width, operator, ratio, kernel = choice
        y = self.norm1(x)
        if operator == "attention":
            y = self._attend(y)
        elif operator == "convolution":
            y = self._convolve(y, kernel)
        else:
            y = self._shift_and_weigh(y)
        x = x + self._drop(self.project(y, width))
        return x + self._drop(self._feed_forward(self.norm2(x), hidden_width(width, ratio)))

    def step_one(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each (B, H, W, C) (Eq. 23)."""
        width = x.shape[-1]
        return self.query(x, width), self.key(x, width), self.value(x, width)

    def _attend(self, x: Tensor) -> Tensor:
        """Eq. 24, without the output projection."""
        batch, height, width, channels = x.shape
        reduced = x
        if self.reduction > 1:
            # Means of whole squares: projecting them equals taking the mean of projections, at a fraction of the work.
            reduced = F.avg_pool2d(x.permute(0, 3, 1, 2), self.reduction, ceil_mode=True, count_include_pad=False)
            reduced = reduced.permute(0, 2, 3, 1)
        q, k, v = self.query(x, channels), self.key(reduced, channels), self.value(reduced, channels)
        heads = (t.reshape(batch, -1, channels // HEAD_WIDTH, HEAD_WIDTH).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(*heads)
        return y.transpose(1, 2).reshape(batch, height, width, channels)

    def _convolve(self, x: Tensor, kernel: int) -> Tensor:
        """Eq. 25, without the output projection.

        Mixing 3h maps into k x k maps and summing those shifted (Eq. 14, 15) is a k x k convolution of the 3h maps, one
        and the same for each of the 32 channels of a head. These are therefore laid out as groups that share a kernel.
        """
        channels = x.shape[-1]
        heads = channels // HEAD_WIDTH
        # Rows of the projections in the order (channel of a head, role, head), so that a group's maps are neighbours.
        layers = (self.query, self.key, self.value)
        weight = torch.stack([layer.weight[:channels, :channels] for layer in layers])
        weight = weight.view(3, heads, HEAD_WIDTH, channels).permute(2, 0, 1, 3).reshape(3 * channels, channels)
        biases = torch.stack([cast(Tensor, layer.bias)[:channels] for layer in layers])
        bias = biases.view(3, heads, HEAD_WIDTH).permute(2, 0, 1).reshape(3 * channels)
        maps = F.linear(x, weight, bias).permute(0, 3, 1, 2)
        mix = centre(self.mix, kernel)[:heads, :, :heads].reshape(heads, 3 * heads, kernel, kernel)
        y = F.conv2d(maps, mix.repeat(HEAD_WIDTH, 1, 1, 1), padding=kernel // 2, groups=HEAD_WIDTH)
        # (channel of a head, head) back to (head, channel of a head).
        y = y.permute(0, 2, 3, 1).unflatten(-1, (HEAD_WIDTH, heads))
        return y.transpose(-1, -2).flatten(-2)

    def _shift_and_weigh(self, x: Tensor) -> Tensor:
        """Eq. 26, without the output projection: spatial shifts of q and k, then split attention over the three."""
        q, k, v = self.step_one(x)
        branches = (spatial_shift(q, "rows first"), spatial_shift(k, "columns first"), v)
        mean = sum(branch.mean((1, 2)) for branch in branches)
        channels = x.shape[-1]
        hidden = F.gelu(self.squeeze(mean, channels // SQUEEZE))
        weights = torch.stack([layer(hidden, channels) for layer in self.excite]).softmax(0)
        return sum(w[:, None, None] * branch for w, branch in zip(weights, branches, strict=True))

    def _feed_forward(self, x: Tensor, hidden: int) -> Tensor:
        """Linear, depthwise 3x3 (it carries position), GELU, linear."""
        channels = x.shape[-1]
        return self.contract(F.gelu(self.position(self.expand(x, hidden), hidden, 3)), channels)

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth: a sample's residual is dropped, those kept are scaled up."""
        if not self.training or not self.drop_path:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path)


def hidden_width(width: int, ratio: float) -> int:
    """Return the hidden units of a block's feed-forward network."""
    return int(width * ratio)


def spatial_shift(x: Tensor, order: str) -> Tensor:
    """Return x (B, H, W, C) with its four channel groups each shifted by one position; Eq. 18 or 19.

    Rows and columns that nothing is shifted into keep their values.

    Args:
        x: the maps; left as they are.
        order: "rows first" (Eq. 18: down, up, right, left) or "columns first" (Eq. 19: right, left, down, up).
    """
    groups = x.chunk(4, dim=-1)
    axes = (1, 1, 2, 2) if order == "rows first" else (2, 2, 1, 1)
    shifted = []
    for group, axis, forward in zip(groups, axes, (True, False, True, False), strict=True):
        size = group.shape[axis]
        if forward:
            parts = [group.narrow(axis, 0, 1), group.narrow(axis, 0, size - 1)]
        else:
            parts = [group.narrow(axis, 1, size - 1), group.narrow(axis, size - 1, 1)]
        shifted.append(torch.cat(parts, dim=axis))
    return torch.cat(shifted, dim=-1)
