"""Each tile is changed on its own, its mask with it, and what is drawn is a function of the seed."""

import pytest
import torch

from search.data.augment import AUGMENTATIONS, BRIGHTNESS, CONTRAST, NOISE, augment
from search.settings import Augmentation

GEOMETRIC = {
    "hflip": [lambda t: t, lambda t: t.flip(-1)],
    "vflip": [lambda t: t, lambda t: t.flip(-2)],
    "rotate90": [lambda t, k=k: torch.rot90(t, k, (-2, -1)) for k in range(4)],
}


def tiles(count=64, channels=1, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 + 0.6 * torch.rand(count, channels, size, size, generator=generator)
    return images, (images[:, 0] > 0.5).long()


def test_the_setting_and_the_table_agree():
    assert set(AUGMENTATIONS) == set(Augmentation.__args__)


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("channels", [1, 3])
def test_geometry_moves_image_and_mask_alike(name, channels):
    images, masks = tiles(channels=channels)
    changed, changed_masks = augment(images, masks, (name,), seed=3)
    chosen = []
    for k in range(len(images)):
        fits = [n for n, move in enumerate(GEOMETRIC[name]) if torch.equal(changed[k], move(images[k]))]
        assert len(fits) == 1
        assert torch.equal(changed_masks[k], GEOMETRIC[name][fits[0]](masks[k]))
        chosen.append(fits[0])
    # Every change occurs, about equally often.
    expected = len(images) / len(GEOMETRIC[name])
    assert all(0.4 * expected < chosen.count(n) < 1.7 * expected for n in range(len(GEOMETRIC[name])))


@pytest.mark.parametrize("name", ["brightness", "contrast", "noise"])
def test_photometry_leaves_masks_and_stays_in_range(name):
    images, masks = tiles()
    changed, changed_masks = augment(images, masks, (name,), seed=3)
    assert torch.equal(changed_masks, masks)
    assert changed.min() >= 0
    assert changed.max() <= 1
    differences = (changed - images).abs().amax(dim=(1, 2, 3))
    assert (differences > 0).all()
    assert differences.unique().numel() == len(images)


def test_brightness_and_contrast_scale_within_bounds():
    images, masks = tiles()
    factor = (augment(images, masks, ("brightness",), 0)[0] / images).mean(dim=(1, 2, 3))
    assert ((factor - 1).abs() <= BRIGHTNESS + 1e-5).all()
    assert factor.std() > BRIGHTNESS / 4
    factor = augment(images, masks, ("contrast",), 0)[0].std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert ((factor - 1).abs() <= CONTRAST + 0.02).all()
    assert factor.std() > CONTRAST / 4


def test_noise_is_within_its_strength():
    images, masks = tiles()
    strength = (augment(images, masks, ("noise",), 0)[0] - images).std(dim=(1, 2, 3))
    assert strength.max() < 1.2 * NOISE
    assert strength.max() > 0.5 * NOISE


def test_the_seed_decides_everything():
    images, masks = tiles()
    names = tuple(AUGMENTATIONS)
    first = augment(images, masks, names, 1)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    second = augment(images, masks, names[::-1], 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], augment(images, masks, names, 2)[0])


def test_inputs_are_not_changed_and_types_are_plain():
    images, masks = tiles()
    before, masks_before = images.clone(), masks.clone()
    changed, changed_masks = augment(images, masks, tuple(AUGMENTATIONS), 1)
    assert torch.equal(images, before)
    assert torch.equal(masks, masks_before)
    assert type(changed) is torch.Tensor
    assert type(changed_masks) is torch.Tensor
    assert (changed.dtype, changed_masks.dtype) == (torch.float32, torch.int64)
    assert changed.shape == images.shape


def test_no_names_change_nothing():
    images, masks = tiles()
    changed, changed_masks = augment(images, masks, (), 1)
    assert torch.equal(changed, images)
    assert torch.equal(changed_masks, masks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_the_same_changes():
    images, masks = tiles()
    here = augment(images, masks, tuple(AUGMENTATIONS), 1)
    there = augment(images.cuda(), masks.cuda(), tuple(AUGMENTATIONS), 1)
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=0, atol=1e-6)
    assert torch.equal(there[1].cpu(), here[1])
