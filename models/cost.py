"""What a network costs: parameters, MACs, FLOPs in the usual and in the paper's convention.

Products are the multiply-accumulates of convolutions and matrix products. MACs are products plus 2 per output element
of a batch norm, as the common counters print them: 34.65 G for torchvision's fcn_resnet50 at 256 px. FLOPs are 2 x
MACs. The paper prints twice what thop counts, which takes 4 per element of a batch norm: 277.72 G for the same
network at 512 px, the value of its Table 2 to the last digit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.asdet import ASDetNet


@dataclass(frozen=True)
class Cost:
    """Cost of one image. `parameters` leaves branch heads out: they serve training only."""

    parameters: int
    products: int
    norm_elements: int

    @property
    def macs(self) -> int:
        """Products plus 2 per batch-norm output element."""
        return self.products + 2 * self.norm_elements

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs

    @property
    def flops_paper(self) -> int:
        """2 x (products + 4 per batch-norm output element)."""
        return 2 * (self.products + 4 * self.norm_elements)


def network_cost(network: nn.Module, shape: tuple[int, int, int], run: Callable[[Tensor], Any] | None = None) -> Cost:
    """Return the cost of one image.

    Args:
        network: left as it is; its evaluation mode is what is counted.
        shape: (C, H, W) of the image.
        run: called with the image instead of the network, for another way through it.
    """
    elements = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(count) for m in norms]
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            (run or network)(torch.zeros(1, *shape, device=device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    products = counter.get_total_flops() // 2
    return Cost(parameter_count(network), products, elements)


def parameter_count(network: nn.Module) -> int:
    """Return the parameters of a network, without the branch heads of an `ASDetNet`."""
    total = sum(p.numel() for p in network.parameters())
    if isinstance(network, ASDetNet):
        total -= sum(p.numel() for p in network.fusion.branches.parameters())
    return total
