"""What must hold before hours of training begin: a step fits into memory, and the processes of a group agree."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn

from models.autonad import AutoNADNet, Room
from models.hybrid_architecture import HybridArchitecture, HybridBlock
from models.hybrid_space import HybridSpace
from search.context import Context
from search.distributed import gather, world_size
from search.errors import InputError
from search.memory import PEAK_OVER_KEPT, OutOfMemory, free_memory, kept_for_backward

_ADAM_COPIES = 3
"""Of the weights: the gradient and two moments."""


class RanksDisagree(InputError):
    """The processes of a group would not train the same thing."""


def check_supernet(context: Context, network: nn.Module, space: HybridSpace, epoch: int) -> None:
    """Check in every process of a group that the training of a supernet can begin; all raise, or none.

    A process that went on alone would wait for the others for ever.

    Args:
        context: of the trial, in this process.
        network: the supernet as it begins.
        space: of the supernet.
        epoch: that the training goes on from.

    Raises:
        RanksDisagree: settings, data, torch, weights or epoch are not the same everywhere.
        OutOfMemory: a step of the largest subnet does not fit; the message says what would.
    """
    refused = ""
    try:
        settings = context.settings.supernet
        step = step_memory(context, largest_subnets(space))
        check_memory(context, step, network, "supernet", settings.batch, settings.accumulate)
        # Now, and not after hours of searching; by one process, which is what retrains.
        check_memory(context, step, network, "finetune", context.settings.finetune.batch, alone=True)
    except OutOfMemory as error:
        refused = str(error)
    told = {
        "settings": context.settings.digest(),
        "data": context.pack.digest,
        "torch": torch.__version__,
        "weights": digest_of_weights(network),
        "epoch": str(epoch),
    }
    everyone = gather({"refused": refused, **told})
    agree([{name: one[name] for name in told} for one in everyone])
    for number, one in enumerate(everyone):
        if one["refused"]:
            raise OutOfMemory(one["refused"] if len(everyone) == 1 else f"worker {number}: {one['refused']}")


def agree(everyone: Sequence[Mapping[str, str]]) -> None:
    """Check that all processes of a group say the same.

    Args:
        everyone: what each says, by topic, the first process first.

    Raises:
        RanksDisagree: two do not.
    """
    for number, one in enumerate(everyone):
        for topic, text in one.items():
            if text != everyone[0][topic]:
                raise RanksDisagree(
                    f"worker {number} of the group disagrees with worker 0 in {topic}: {text[:16]}, not "
                    f"{everyone[0][topic][:16]}; all nodes need the same run folder, data packs and packages"
                )


def digest_of_weights(network: nn.Module) -> str:
    """Return the sha256 (hex) of all parameters and buffers, in their order."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def largest_subnets(space: HybridSpace) -> list[HybridArchitecture]:
    """Return the largest subnet with each block operator alone: which of them needs most is not known before."""
    found = []
    for operator, kernel in space.blocks:
        largest = space.largest()
        stages = tuple(
            dataclasses.replace(s, blocks=tuple(HybridBlock(operator, b.ratio, kernel) for b in s.blocks))
            for s in largest.stages
        )
        found.append(dataclasses.replace(largest, stages=stages))
    return found


def check_memory(
    context: Context,
    step: tuple[int, int],
    network: nn.Module,
    section: str,
    batch: int,
    accumulate: int = 1,
    alone: bool = False,
) -> None:
    """Check that a training step fits into the memory that is free; nothing is computed.

    Args:
        context: of the trial.
        step: what a training step keeps, see `step_memory`.
        network: whose weights have gradients and moments.
        section: of the settings that have the batch, for the message.
        batch: tiles of a step, of all processes.
        accumulate: parts that a process passes its tiles in.
        alone: one process takes the whole step, whatever group this one is in.

    Raises:
        OutOfMemory: it does not.
    """
    free = free_memory(context.device)
    if free is None:
        return
    processes = 1 if alone else world_size()
    if context.device.type == "cpu" and not alone:
        # Those of the group that share this machine's memory take their steps at the same time.
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    own = -(-batch // processes)
    state = _ADAM_COPIES * sum(p.numel() * p.element_size() for p in network.parameters())
    fixed, each = step
    needed = state + PEAK_OVER_KEPT * (fixed + each * -(-own // accumulate))
    if needed <= free:
        return
    most = math.floor(((free - state) / PEAK_OVER_KEPT - fixed) / each)
    size, mib = context.settings.data.image_size, 2**20
    advice = "not even one tile at a time fits"
    if most >= 1:
        advice = f"{section}.batch {most * processes * accumulate} would fit"
        if section == "supernet":
            parts = next(n for n in range(accumulate + 1, own + 1) if -(-own // n) <= most)
            advice += f", or supernet.accumulate {parts}"
    raise OutOfMemory(
        f"data.image_size {size} with {section}.batch {batch}: a training step needs about {needed / mib:,.0f} MiB and "
        f"{free / mib:,.0f} MiB are free on {context.device}; {advice}"
    )


def step_memory(context: Context, architectures: Sequence[HybridArchitecture]) -> tuple[int, int]:
    """Return the bytes that a step keeps for backward whatever its tiles, and those of each tile; the most of all."""
    size, most = context.settings.data.image_size, (0, 0)
    for architecture in architectures:
        with torch.device("meta"):
            network = AutoNADNet(
                Room.of_architecture(architecture),
                in_channels=context.pack.colour_channels,
                classes=context.classes,
                width=context.settings.space.decoder_width,
            )
        kept = []
        for tiles in (1, 2):
            images = torch.empty(tiles, context.pack.colour_channels, size, size, device="meta")
            forward = partial(network, images, architecture)
            kept.append(kept_for_backward(lambda: forward, fake=False))  # noqa: B023 - called here
        each = kept[1] - kept[0]
        most = max(most, (kept[0] - each, each), key=sum)
    return most
