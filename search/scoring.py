"""Scoring subnets with inherited weights on validation tiles that are decoded once."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.autonad import AutoNADNet
from models.hybrid_architecture import HybridArchitecture
from search.context import Context
from search.data.loaders import batches
from search.metrics import mean_scores

SCORING_BATCH = 8


@dataclass(frozen=True)
class InheritedScore:
    """The score of a subnet, with the digest of what was really evaluated.

    Attributes:
        digest: of the architecture.
        miou, mf1: over the classes, the background among them, from one confusion matrix (Sec. V-B); in [0, 1].
        miou_defects, mf1_defects: the same without the background.
        absent: classes in neither truth nor prediction, left out of the means.
        seconds: that scoring took.
        device: where, "cpu" or "cuda"; None in what an older version wrote.
    """

    digest: str
    miou: float
    mf1: float
    miou_defects: float | None
    mf1_defects: float | None
    absent: tuple[str, ...]
    seconds: float
    device: str | None = None


class Scorer:
    """A network and the tiles that its subnets are scored on.

    Args (constructor):
        network: supernet, or a subnet on its own.
        tiles: batches of normalised images (B, C, S, S) and class masks (B, S, S), on the network's device.
        class_names: of the defect classes.
        precision: "float32" or "bfloat16" (autocast).
    """

    def __init__(
        self,
        network: AutoNADNet,
        tiles: list[tuple[Tensor, Tensor]],
        class_names: tuple[str, ...],
        precision: str = "float32",
    ) -> None:
        self.network, self.tiles, self.class_names, self.precision = network, tiles, class_names, precision

    @classmethod
    def on_validation(cls, context: Context, network: AutoNADNet, indices: np.ndarray) -> "Scorer":
        """Return a scorer on some of the training tiles; they are decoded here, once."""
        stream = batches(
            context.pack.train,
            indices,
            SCORING_BATCH,
            pack=context.pack,
            key=("score",),
            shuffle=False,
            drop_last=False,
            device=context.device,
        )
        return cls(network, list(stream), tuple(context.pack.classes), context.precision)

    def score(self, architecture: HybridArchitecture) -> InheritedScore:
        """Return the score of a subnet; the network's training mode is left as it was."""
        start = time.perf_counter()
        pooled = self.confusion(architecture)
        values = mean_scores(pooled, self.class_names)
        return InheritedScore(
            digest=architecture.digest(),
            miou=values["miou"],
            mf1=values["mf1"],
            miou_defects=values["miou_defects"],
            mf1_defects=values["mf1_defects"],
            absent=tuple(values["absent"]),
            seconds=time.perf_counter() - start,
            device=self.tiles[0][0].device.type,
        )

    def confusion(self, architecture: HybridArchitecture) -> np.ndarray:
        """Return the (K + 1, K + 1) pixel counts over all tiles, rows truth, columns prediction."""
        size = len(self.class_names) + 1
        training = self.network.training
        self.network.eval()
        counts = torch.zeros(size * size, dtype=torch.int64, device=self.tiles[0][0].device)
        try:
            with torch.inference_mode():
                for images, masks in self.tiles:
                    with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                        logits = self.network(images, architecture)
                    # Not argmax, which on the CPU takes many times as long over an axis that is not the last.
                    joint = masks * size + logits.max(1).indices
                    counts += torch.bincount(joint.flatten(), minlength=size * size)
        finally:
            self.network.train(training)
        return counts.view(size, size).cpu().numpy()
