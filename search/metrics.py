"""Scores of predicted masks, each by its own name and all from one confusion matrix per image.

The paper prints IoU, F1 and "PA" without saying how they are averaged. Its numbers fit foreground IoU and F1
averaged over images, and a PA that behaves like two-class mean IoU; those three are the headline scores here
(docs/departures.md, "pa-two-class"). All scores are in [0, 1].

Conventions: an image whose truth and prediction are both empty has IoU and F1 1. A class that occurs in neither the
truth nor the predictions of the whole set has no scores (None) and is left out of means.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Confusion = NDArray[np.int64]
"""(K + 1, K + 1) pixel counts, rows truth, columns prediction, 0 is background."""


def confusion(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> Confusion:
    """Return the confusion matrix of one image.

    Args:
        truth: (H, W) class values 0..classes. prediction: the same.
        classes: K, defect classes.

    Raises:
        ValueError: shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in size")
    size = classes + 1
    joint = truth.astype(np.int64).ravel() * size + prediction.astype(np.int64).ravel()
    return np.bincount(joint, minlength=size * size).reshape(size, size)


def scores(confusions: Sequence[Confusion], class_names: Sequence[str]) -> dict[str, Any]:
    """Return every score of a set of images (see the module's text for conventions).

    Args:
        confusions: one matrix per image, at least one.
        class_names: names of the K defect classes.

    Returns:
        iou_image, f1_image: over images, the mean of the image's mean over the classes in its truth or prediction.
        iou_pooled, f1_pooled: from the pixels of all images together, mean over classes.
        two_class_iou: over images, the mean of foreground IoU and background IoU, all defects as one class.
        recall, precision: pooled, all defects as one class. pixel_accuracy: pooled, background included.
        iou_image_defective_only, f1_image_defective_only: over images with a defect in the truth.
        classes: the pooled scores of each class and in how many images it occurs.
    """
    if not confusions:
        raise ValueError("scores of no image")
    pooled = np.sum(confusions, axis=0)
    per_image = [_image_scores(matrix) for matrix in confusions]
    defective = [s for s, m in zip(per_image, confusions, strict=True) if m[1:].sum() > 0]
    merged = _merge(pooled)
    classes = {name: _class_scores(confusions, pooled, k + 1) for k, name in enumerate(class_names)}
    return {
        "images": len(confusions),
        "iou_image": _mean([s["iou"] for s in per_image]),
        "f1_image": _mean([s["f1"] for s in per_image]),
        "iou_pooled": _mean([c["iou"] for c in classes.values()]),
        "f1_pooled": _mean([c["f1"] for c in classes.values()]),
        "two_class_iou": _mean([s["two_class_iou"] for s in per_image]),
        "recall": _ratio(merged[1, 1], merged[1].sum()),
        "precision": _ratio(merged[1, 1], merged[:, 1].sum()),
        "pixel_accuracy": _ratio(np.trace(pooled), pooled.sum()),
        "iou_image_defective_only": _mean([s["iou"] for s in defective]),
        "f1_image_defective_only": _mean([s["f1"] for s in defective]),
        "classes": classes,
    }


def mean_scores(pooled: Confusion, class_names: Sequence[str]) -> dict[str, Any]:
    """Return mean IoU and F1 over the classes of one confusion matrix (AutoNAD Sec. V-B).

    A class in neither the truth nor the prediction has no score and is left out of the means.

    Args:
        pooled: (K + 1, K + 1) counts of all images together.
        class_names: names of the K defect classes.

    Returns:
        miou, mf1: with the background, as the paper's. miou_defects, mf1_defects: without it, None if no class is left.
        pixel_accuracy. classes: per class, "background" first, its "iou" and "f1". absent: classes left out.
    """
    classes = {}
    for k, name in enumerate(("background", *class_names)):
        hit, union, total = _counts(pooled, k)
        classes[name] = {"iou": _ratio(hit, union), "f1": _ratio(2 * hit, total)}
    values: dict[str, Any] = {}
    for short in ("iou", "f1"):
        every = [row[short] for row in classes.values()]
        values |= {f"m{short}": _mean(every), f"m{short}_defects": _mean(every[1:])}
    absent = [name for name, row in classes.items() if row["iou"] is None]
    return {**values, "pixel_accuracy": _ratio(np.trace(pooled), pooled.sum()), "classes": classes, "absent": absent}


def headline(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the three scores that stand for the paper's columns: iou, f1, pa (= two-class mean IoU)."""
    # DEPARTURE(pa-two-class): the paper's "PA" fits no accuracy, but two-class mean IoU.
    return {"iou": values["iou_image"], "f1": values["f1_image"], "pa": values["two_class_iou"]}


def _image_scores(matrix: Confusion) -> dict[str, float]:
    ious, f1s = [], []
    for k in range(1, len(matrix)):
        hit, union, total = _counts(matrix, k)
        if total:
            ious.append(hit / union)
            f1s.append(2 * hit / total)
    merged = _merge(matrix)
    both = []
    for k in (0, 1):
        hit, union, _ = _counts(merged, k)
        both.append(hit / union if union else 1.0)
    return {
        "iou": float(np.mean(ious)) if ious else 1.0,
        "f1": float(np.mean(f1s)) if f1s else 1.0,
        "two_class_iou": float(np.mean(both)),
    }


def _class_scores(confusions: Sequence[Confusion], pooled: Confusion, k: int) -> dict[str, Any]:
    hit, union, total = _counts(pooled, k)
    return {
        "iou": _ratio(hit, union),
        "f1": _ratio(2 * hit, total),
        "recall": _ratio(hit, pooled[k].sum()),
        "precision": _ratio(hit, pooled[:, k].sum()),
        "images": sum(bool(matrix[k].sum()) for matrix in confusions),
    }


def _counts(matrix: Confusion, k: int) -> tuple[float, float, float]:
    """Return hits, union, and truth plus prediction of class k."""
    hit, total = float(matrix[k, k]), float(matrix[k].sum() + matrix[:, k].sum())
    return hit, total - hit, total


def _merge(matrix: Confusion) -> Confusion:
    """Return the 2 x 2 matrix of background against any defect; a defect of the wrong class counts as found."""
    return np.array([[matrix[0, 0], matrix[0, 1:].sum()], [matrix[1:, 0].sum(), matrix[1:, 1:].sum()]], dtype=np.int64)


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
