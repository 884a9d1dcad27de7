"""Scores against numbers worked out by hand, and their conventions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.metrics import confusion, headline, scores


def mask(*rows):
    return np.array(rows, np.uint8)


def test_binary_scores_by_hand():
    truths = [mask([1, 1], [0, 0]), mask([0, 0], [0, 1])]
    predictions = [mask([1, 0], [0, 0]), mask([0, 0], [1, 1])]
    values = scores([confusion(t, p, 1) for t, p in zip(truths, predictions, strict=True)], ["defect"])
    assert values["iou_image"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert values["f1_image"] == pytest.approx(2 / 3)
    assert values["iou_pooled"] == pytest.approx(2 / 4)
    assert values["f1_pooled"] == pytest.approx(2 * 2 / 6)
    assert values["two_class_iou"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert (values["recall"], values["precision"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert values["pixel_accuracy"] == pytest.approx(6 / 8)
    assert headline(values) == {"iou": values["iou_image"], "f1": values["f1_image"], "pa": values["two_class_iou"]}


def test_an_image_without_defect_and_prediction_is_right_and_left_out_of_defective_only():
    empty, found = np.zeros((2, 2), np.uint8), mask([1, 0], [0, 0])
    matrices = [confusion(empty, empty, 1), confusion(found, empty, 1)]
    values = scores(matrices, ["defect"])
    assert values["iou_image"] == pytest.approx(0.5)
    assert values["iou_image_defective_only"] == 0
    assert values["precision"] is None


def test_classes_that_occur_nowhere_have_no_score_and_do_not_pull_the_mean():
    truth = mask([1, 0], [0, 0])
    values = scores([confusion(truth, truth, 3)], ["a", "b", "c"])
    assert values["classes"]["a"]["iou"] == 1
    assert values["classes"]["b"]["iou"] is None
    assert values["iou_pooled"] == 1


def test_the_wrong_class_lowers_iou_but_counts_as_found_in_recall():
    values = scores([confusion(mask([1, 0]), mask([2, 0]), 2)], ["a", "b"])
    assert values["iou_image"] == 0
    assert values["recall"] == 1


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 1)


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_scores_equal_a_direct_count(seed, classes):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes + 1, (7, 5)).astype(np.uint8)
    prediction = generator.integers(0, classes + 1, (7, 5)).astype(np.uint8)
    values = scores([confusion(truth, prediction, classes)], [str(k) for k in range(1, classes + 1)])
    for k in range(1, classes + 1):
        union = ((truth == k) | (prediction == k)).sum()
        expected = ((truth == k) & (prediction == k)).sum() / union if union else None
        assert values["classes"][str(k)]["iou"] == pytest.approx(expected)
    assert values["pixel_accuracy"] == pytest.approx((truth == prediction).mean())
