"""Pictures of predictions: image, truth and prediction side by side, the worst, the middling and the best."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from search.metrics import Confusion, headline, scores

SHOWN = 9
LONGEST = 480
SHORTEST = 200
GAP = 6
BAND = 16
COLOURS = np.array(
    [[0, 0, 0], [230, 60, 50], [60, 130, 230], [250, 190, 40], [70, 180, 90], [170, 90, 200], [240, 120, 180]], np.uint8
)


def pick_shown(confusions: list[Confusion], names: tuple[str, ...], most: int = SHOWN) -> list[tuple[int, float]]:
    """Return (image, IoU) of the images to show: a third each of the worst, the middling and the best."""
    ious = [headline(scores([matrix], names))["iou"] for matrix in confusions]
    ranked = sorted(range(len(ious)), key=lambda i: (ious[i], i))
    if len(ranked) > most:
        third, middle = most // 3, len(ranked) // 2
        ranked = [*ranked[:third], *ranked[middle - third // 2 :][:third], *ranked[-third:]]
    return [(i, ious[i]) for i in dict.fromkeys(ranked)]


def draw_overlay(
    path: Path, picture: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8], iou: float
) -> None:
    """Write one PNG: the image, the image with the true defects, the image with the predicted ones.

    Args:
        picture: (H, W, C). truth, prediction: (H, W) class values.
        iou: printed above, in [0, 1].
    """
    grey = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    height, width = grey.shape[:2]
    # Small tiles are enlarged, so that single pixels and the captions can be read.
    scale = min(max(1.0, SHORTEST / min(height, width)), LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    views = (grey, _tint(grey, truth), _tint(grey, prediction))
    panels = [Image.fromarray(view).resize(size, resample) for view in views]
    sheet = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1] + BAND), "white")
    draw = ImageDraw.Draw(sheet)
    captions = ("image", "truth", f"prediction, IoU {100 * iou:.0f} %")
    for column, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = column * (size[0] + GAP)
        sheet.paste(panel, (left, BAND))
        draw.text((left + 2, 2), caption, fill="black")
    sheet.save(path)


def _tint(grey: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    defect = classes[..., None] > 0
    colours = COLOURS[1 + (classes.astype(int) - 1) % (len(COLOURS) - 1)]
    return np.where(defect, (0.35 * grey + 0.65 * colours).astype(np.uint8), grey)
