"""The loss of Eq. 16 against numbers worked out by hand, and its gradients' direction."""

import pytest
import torch

from search.losses import class_weights, logit_maps, segmentation_loss, targets, weighted_cross_entropy
from search.settings import LossSettings

MASKS = torch.tensor([[[0, 1], [0, 0]], [[2, 2], [0, 0]]])


def test_one_map_is_bce_plus_dice_averaged_over_images():
    logits = torch.zeros(1, 2, 1, 2, 2)
    masks = (MASKS > 0).long()
    bce = torch.log(torch.tensor(2.0))
    dice = (1 - (2 * 0.5 + 1) / (2 + 1 + 1) + 1 - (2 * 1.0 + 1) / (2 + 2 + 1)) / 2
    assert segmentation_loss(logits, masks, 1, LossSettings()).item() == pytest.approx(bce.item() + dice, abs=1e-6)


def test_total_is_the_output_plus_five_branches():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, 1, 2, 2, generator=generator)
    masks = (MASKS > 0).long()
    each = [segmentation_loss(logits[i : i + 1], masks, 1, LossSettings()) for i in range(6)]
    assert segmentation_loss(logits, masks, 1, LossSettings()).item() == pytest.approx(sum(each).item(), rel=1e-6)
    half = LossSettings(branch_weight=0.5)
    expected = each[0] + 0.5 * sum(each[1:])
    assert segmentation_loss(logits, masks, 1, half).item() == pytest.approx(expected.item(), rel=1e-6)


def test_targets_of_sigmoid_and_softmax_maps():
    sigmoid = targets(MASKS, 2, softmax=False)
    assert sigmoid.shape == (2, 2, 2, 2)
    assert torch.equal(sigmoid[:, 0], (MASKS == 1).float())
    softmax = targets(MASKS, 3, softmax=True)
    assert torch.equal(softmax.sum(1), torch.ones(2, 2, 2))


@pytest.mark.parametrize("multiclass", ["sigmoid", "softmax"])
@pytest.mark.parametrize("over", ["image", "batch"])
def test_a_perfect_prediction_has_the_least_loss(multiclass, over):
    settings = LossSettings(multiclass=multiclass, dice_over=over)
    maps = logit_maps(2, settings)
    assert maps == (3 if multiclass == "softmax" else 2)
    perfect = (targets(MASKS, maps, multiclass == "softmax")[None] * 2 - 1) * 20
    assert segmentation_loss(perfect, MASKS, 2, settings).item() < 1e-3
    assert segmentation_loss(-perfect, MASKS, 2, settings).item() > 1


def test_positive_weight_counts_defect_pixels_more():
    masks = (MASKS > 0).long()
    logits = torch.full((1, 2, 1, 2, 2), -3.0)
    plain, weighted = (
        segmentation_loss(logits, masks, 1, LossSettings(positive_weight=w, dice_weight=0)) for w in (1, 4)
    )
    assert weighted > 2 * plain


def test_a_class_weighs_its_share_to_minus_the_power_and_a_pixel_one_in_the_mean():
    masks = torch.zeros(2, 4, 8, dtype=torch.uint8)
    masks[0, 0, :4] = 1  # 4 of 64 pixels; 60 are background, and class 2 has none
    shares = torch.tensor([60 / 64, 4 / 64, 0.0])
    for power in (0.0, 0.5, 1.0):
        weights = class_weights(masks.numpy(), 2, power)
        assert (weights * shares).sum().item() == pytest.approx(1.0)
        assert weights[1] / weights[0] == pytest.approx(15.0**power)
        assert weights[2] == 0


def test_weighted_cross_entropy_by_hand_and_in_parts():
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(4, 3, 5, 5, generator=generator), torch.randint(0, 3, (4, 5, 5), generator=generator)
    weights = torch.tensor([0.5, 2.0, 3.0])
    picked = -torch.log_softmax(logits, 1).gather(1, masks[:, None])[:, 0]
    whole = weighted_cross_entropy(logits, masks, weights)
    assert whole.item() == pytest.approx((picked * weights[masks]).mean().item(), rel=1e-6)
    # One part is nearly all background, the other nearly all defects: the mean of the parts is still the whole.
    masks[:2], masks[2:] = 0, 2
    parts = [weighted_cross_entropy(logits[k : k + 2], masks[k : k + 2], weights) for k in (0, 2)]
    whole = weighted_cross_entropy(logits, masks, weights)
    assert whole.item() == pytest.approx(sum(parts).item() / 2, rel=1e-6)
    alike = weighted_cross_entropy(logits, masks, torch.ones(3))
    assert alike.item() == pytest.approx(weighted_cross_entropy(logits, masks, None).item(), rel=1e-6)
