"""What one trial works with: its folder, settings, data, device, ledger and checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.asdet import ASDetNet
from models.cell_space import CellSpace
from search.checkpoint import Checkpoint, load_checkpoint
from search.data.loaders import batches
from search.data.pack import Pack
from search.errors import InputError
from search.ledger import Ledger
from search.losses import logit_maps
from search.settings import Settings


class DeviceMissing(InputError):
    """The device that was asked for is not there."""


@dataclass(frozen=True)
class Context:
    """One trial: one data set, one seed, one method."""

    folder: Path
    settings: Settings
    pack: Pack
    device: torch.device
    threads: int
    ledger: Ledger
    forms: Path

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.settings.seed

    @property
    def classes(self) -> int:
        """Defect classes of the data set."""
        return len(self.pack.classes)

    @property
    def digest(self) -> str:
        """Of everything that decides the result: settings and data."""
        return f"{self.settings.digest()}-{self.pack.digest}"

    def network(self, space: CellSpace, *, searching: bool) -> ASDetNet:
        """Return a new network of a space in plain form, on the CPU; weights from torch's global generator."""
        settings = self.settings.network
        return ASDetNet(
            space,
            in_channels=self.pack.colour_channels,
            classes=logit_maps(self.classes, self.settings.loss),
            channels=settings.channels,
            stem_multiplier=settings.stem_multiplier,
            residual=settings.residual,
            fusion=settings.fusion,
            fusion_reduction=settings.fusion_reduction,
            searching=searching,
        )

    @property
    def precision(self) -> str:
        """Of autocast, on the device of this process: "bfloat16" or "float32"."""
        asked = self.settings.runtime.precision
        if asked != "auto":
            return asked
        return "bfloat16" if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    def batches(self, indices: np.ndarray, size: int, *key: int | str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one pass over training tiles, shuffled and augmented as the seed and a key decide.

        A last batch that is not full is left out, unless it is the only one.
        """
        return batches(
            self.pack.train,
            indices,
            size,
            pack=self.pack,
            augment=self.settings.data.augment,
            key=(self.seed, *key),
            shuffle=True,
            drop_last=len(indices) >= size,
            device=self.device,
        )

    def load(self, name: str) -> Checkpoint | None:
        """Return the newest whole checkpoint of a phase and cut the ledger to where it was then.

        Without one the phase begins anew, and the ledger loses what it says of it.

        Raises:
            CheckpointDamaged, CheckpointMismatch: see `load_checkpoint`.
        """
        checkpoint = load_checkpoint(self.folder / "checkpoint", name, self.digest)
        if checkpoint is None:
            self.ledger.cut_phase(name)
            return None
        self.ledger.cut(checkpoint.state["events"])
        for text in checkpoint.damaged:
            self.ledger.write("checkpoint_damaged", text=text, used=checkpoint.step)
        return checkpoint

    def state(self, **values: Any) -> dict[str, Any]:
        """Return the JSON state of a checkpoint: values, the digest and the length of the ledger."""
        return {"digest": self.digest, "events": self.ledger.count, **values}


def choose_device(name: str, setting: str = "runtime.device") -> torch.device:
    """Return the device of a setting; auto is a GPU where there is one.

    Args:
        name: auto, cpu, cuda or cuda:N.
        setting: that has the name, for the message.

    Raises:
        DeviceMissing: the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceMissing(f"{setting}: {name!r}; allowed are auto, cpu, cuda, cuda:N") from error
    present = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in ("cpu", "cuda") or (device.index or 0) >= present:
        raise DeviceMissing(f"{setting}: {name} is not on this machine, which has {torch.cuda.device_count()} GPUs")
    return device
