"""Predicting whole images: tiles through the network, stitched, thresholded, scored against the untouched masks."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.data.loaders import batches
from search.data.pack import Pack, TileSet
from search.data.windows import stitch
from search.metrics import Confusion, confusion

EVALUATION_BATCH = 8


Predictor = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to logits (B, K, H, W)."""


def evaluate(
    predictor: Predictor,
    pack: Pack,
    tiles: TileSet,
    indices: np.ndarray,
    *,
    softmax: bool,
    threshold: float,
    device: torch.device,
) -> list[Confusion]:
    """Return one confusion matrix per source image of `indices`, in their order.

    Args:
        indices: of the tiles; all tiles of an image or none.
        softmax: the logits are K + 1 softmax maps, not K sigmoid maps.
        threshold: probability above which a pixel is a defect (sigmoid maps).
    """
    return [
        confusion(tiles.truth(source), classify(probabilities, softmax, threshold), len(pack.classes))
        for source, probabilities in predict(predictor, pack, tiles, indices, softmax=softmax, device=device)
    ]


def predict(
    predictor: Predictor, pack: Pack, tiles: TileSet, indices: np.ndarray, *, softmax: bool, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield (source, probabilities (K, H, W) on the CPU) per image, at the image's own size."""
    order = np.asarray(sorted(indices.tolist(), key=lambda i: tiles.tiles[i].source))
    stream = batches(
        tiles, order, EVALUATION_BATCH, pack=pack, key=("evaluate",), shuffle=False, drop_last=False, device=device
    )
    windows: dict[int, list[int]] = {}
    for index in order.tolist():
        windows.setdefault(tiles.tiles[index].source, []).append(index)
    maps: list[Tensor] = []
    waiting = iter(windows.items())
    source, own = next(waiting)
    with torch.no_grad():
        for images, _ in stream:
            logits = predictor(images).float()
            maps.extend((torch.softmax(logits, 1) if softmax else torch.sigmoid(logits)).cpu())
            while own and len(maps) >= len(own):
                size, boxes = tiles.sources[source], [tiles.tiles[i] for i in own]
                yield source, stitch(torch.stack(maps[: len(own)]), boxes, size.height, size.width)
                maps = maps[len(own) :]
                source, own = next(waiting, (source, []))


def classify(probabilities: Tensor, softmax: bool, threshold: float) -> NDArray[np.uint8]:
    """Return the class of every pixel, (H, W), of probabilities (K, H, W)."""
    if softmax:
        return probabilities.argmax(0).to(torch.uint8).numpy()
    best, index = probabilities.max(0)
    return torch.where(best > threshold, index + 1, 0).to(torch.uint8).numpy()


def predict_nothing(tiles: TileSet, classes: int) -> list[Confusion]:
    """Return the confusion matrices of an empty prediction: what a score has to beat."""
    truths = [tiles.truth(source) for source in range(len(tiles.sources))]
    return [confusion(truth, np.zeros_like(truth), classes) for truth in truths]
