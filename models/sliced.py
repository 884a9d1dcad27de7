"""Layers of which a subnet uses the leading channels and the centre of the kernel (AutoNAD Eq. 27, 28).

Maps are (B, H, W, C) with the channels last in memory: norms and 1x1 projections work on the last axis, and a
convolution sees the same memory as a channels-last (B, C, H, W) tensor.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Choice = tuple[Any, ...]
"""What is chosen at one place of a network: widths, an operator, a ratio, a kernel."""

SHARINGS = ("cross", "entangled", "classical")
"""Who shares weights: all choices of a place; those with the same operator; none (Table VII)."""

NORM_EPS = 1e-6


class SlicedLinear(nn.Module):
    """A linear map of which the leading rows and columns are used.

    Args (constructor):
        inputs, outputs: the most of each.
        bias: has one.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, outputs: int) -> Tensor:
        """Return (..., outputs) of x (..., inputs)."""
        return F.linear(x, self.weight[:outputs, : x.shape[-1]], None if self.bias is None else self.bias[:outputs])


class SlicedNorm(nn.Module):
    """Layer norm over the channels, of which the leading ones are used."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., C) of x (..., C)."""
        channels = x.shape[-1]
        return F.layer_norm(x, (channels,), self.weight[:channels], self.bias[:channels], NORM_EPS)


class SlicedConv(nn.Module):
    """A convolution of which leading channels and the centre of the kernel are used.

    Args (constructor):
        inputs, outputs, kernel: the most of each.
        depthwise: one filter per channel; `inputs` is then what counts.
        bias: has one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, depthwise: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.weight = nn.Parameter(torch.empty(outputs, 1 if depthwise else inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        # Normal with the variance of He's fan-out rule, as usual for such encoders.
        nn.init.normal_(self.weight, std=(2.0 / (kernel * kernel * (1 if depthwise else outputs))) ** 0.5)

    def forward(self, x: Tensor, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
        """Return (B, H / stride, W / stride, outputs) of x (B, H, W, C); padding keeps the size at stride 1."""
        weight = centre(self.weight, kernel)[:outputs]
        groups = outputs if self.depthwise else 1
        if not self.depthwise:
            weight = weight[:, : x.shape[-1]]
        bias = None if self.bias is None else self.bias[:outputs]
        padding = dilation * (kernel - 1) // 2
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, dilation, groups).permute(0, 2, 3, 1)


def centre(weight: Tensor, kernel: int) -> Tensor:
    """Return the central (kernel, kernel) of the last two axes (Eq. 27)."""
    start = (weight.shape[-1] - kernel) // 2
    return weight[..., start : start + kernel, start : start + kernel]


class Variants(nn.Module):
    """The weights behind one place of a supernet: one set, or several that choices are divided among.

    Args (constructor):
        sharing: one of `SHARINGS`.
        choices: all that may be chosen at this place.
        build: returns the module for some choices that share, large enough for each.
        operator: returns the operator of a choice, "" where there is none to choose.
    """

    def __init__(
        self,
        sharing: str,
        choices: Iterable[Choice],
        build: Callable[[list[Any]], nn.Module],
        operator: Callable[[Any], str] = lambda choice: "",
    ) -> None:
        super().__init__()
        if sharing not in SHARINGS:
            raise ValueError(f"sharing {sharing!r}; allowed are {', '.join(SHARINGS)}")
        self.sharing, self.operator = sharing, operator
        groups: dict[str, list[Choice]] = {}
        for choice in choices:
            groups.setdefault(self._key(choice), []).append(choice)
        self.sets = nn.ModuleDict({name: build(members) for name, members in groups.items()})

    def of(self, choice: Choice) -> Any:
        """Return the module that has the weights of a choice."""
        return self.sets[self._key(choice)]

    def _key(self, choice: Choice) -> str:
        if self.sharing == "classical":
            return "-".join(map(str, choice)).replace(".", "_")  # names of modules may not contain dots
        return (self.operator(choice) if self.sharing == "entangled" else "") or "all"
