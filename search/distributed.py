"""The little that training must know of being one of several processes (torch.distributed, gloo or NCCL).

A group is made by whoever starts the processes. Without one, `rank` is 0, `world_size` 1 and averaging does nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from search.errors import disk_full, is_disk_full

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process in its group, 0 without one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes in the group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return every tensor's mean over the group, by one all-reduce; the tensors themselves without a group."""
    if world_size() == 1:
        return list(tensors)
    flat = torch.cat([t.flatten() for t in tensors]) / world_size()
    dist.all_reduce(flat)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the group; parameters without one, the same everywhere, are left out.

    All processes step the same network or subnet, so all have gradients of the same parameters.

    DistributedDataParallel is not used: it hooks into `backward` of every parameter, while a step here has gradients
    of the weights alone or of the alphas alone, and one flat all-reduce is what it would send too.
    """
    if world_size() == 1:
        return
    used = [p for p in parameters if p.grad is not None]
    for parameter, mean in zip(used, average([cast(Tensor, p.grad) for p in used]), strict=True):
        parameter.grad = mean


def gather(value: T) -> list[T]:
    """Return what every process of the group says, the first one's first; plain Python values only."""
    if world_size() == 1:
        return [value]
    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return cast(list[T], found)


def save_together(save: Callable[[], None], place: Path) -> None:
    """Let every process of the group write its part; where the disk of one is full, all raise that.

    A process that failed alone would leave the others waiting for it, and be tried again to no avail.

    Args:
        save: writes.
        place: where, for the message.

    Raises:
        OSError: as `disk_full` returns it; or another error of this process alone.
    """
    full = False
    try:
        save()
    except OSError as error:
        if not is_disk_full(error):
            raise
        full = True
    if any(gather(full)):
        raise disk_full(place)


def wait_for_all() -> None:
    """Let every process reach this point."""
    if world_size() > 1:
        dist.barrier()
