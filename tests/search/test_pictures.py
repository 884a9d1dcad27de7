"""Pictures of predictions: which images are shown, and what is drawn."""

import numpy as np
from PIL import Image

from search.metrics import confusion
from search.pictures import draw_overlay, pick_shown


def test_the_worst_the_middling_and_the_best_are_shown():
    truth = np.zeros((10, 10), np.uint8)
    truth[:, 0] = 1
    matrices = []
    for hits in range(11):
        prediction = np.zeros_like(truth)
        prediction[:hits, 0] = 1
        matrices.append(confusion(truth, prediction, 1))
    shown = pick_shown(matrices, ("defect",), most=6)
    assert [i for i, _ in shown] == [0, 1, 4, 5, 9, 10]
    assert [round(iou, 1) for _, iou in shown] == [0.0, 0.1, 0.4, 0.5, 0.9, 1.0]
    assert len(pick_shown(matrices[:3], ("defect",), most=6)) == 3


def test_defects_are_tinted_in_their_panel_only(tmp_path):
    picture = np.full((200, 200, 1), 128, np.uint8)
    truth, prediction = np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.uint8)
    truth[50:60, 50:60], prediction[100:110, 100:110] = 1, 2
    draw_overlay(tmp_path / "o.png", picture, truth, prediction, 0.25)
    sheet = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
    assert sheet.shape == (216, 612, 3)

    def coloured(panel, row, column):
        r, g, b = sheet[16 + row, panel * 206 + column]
        return max(r, g, b) - min(r, g, b) > 60

    assert [coloured(panel, 55, 55) for panel in range(3)] == [False, True, False]
    assert [coloured(panel, 105, 105) for panel in range(3)] == [False, False, True]
