"""Finding out that a training has diverged, before its numbers decide anything or are written down."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from search.distributed import average
from search.errors import InputError


class Diverged(InputError):
    """The loss or the parameters of a training are no finite numbers any more; the same attempt would end the same."""


def check_finite(where: str, losses: Sequence[Tensor], parameters: Iterable[Tensor], remedy: str) -> None:
    """Raise if a loss or a parameter is not finite. Called once an epoch: it waits for the device.

    In a group every process calls this, and all raise if one of them must.

    Args:
        where: phase and epoch, as the message begins.
        losses: detached scalars, sums over the epoch: one infinite step shows in them.
        parameters: what was trained. The last step may spoil them without a loss that tells.
        remedy: which settings to change.

    Raises:
        Diverged: one of them is infinite or not a number.
    """
    with torch.no_grad():
        norm = torch.stack([parameter.detach().float().norm() for parameter in parameters]).sum()
    found = average([torch.stack([*(loss.float() for loss in losses), norm])])[0].tolist()
    if all(math.isfinite(value) for value in found):
        return
    wrong = [value for value in found[:-1] if not math.isfinite(value)]
    what = f"the loss is {wrong[0]}" if wrong else f"the norm of what is trained is {found[-1]}"
    raise Diverged(f"{where}: {what}; {remedy}")
