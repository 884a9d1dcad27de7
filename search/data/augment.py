"""Random changes of training tiles, image and mask together; torchvision transforms over a batch.

Each tile of a batch is changed on its own. Everything random comes from one generator that is passed in, so
that torch's own random state is neither used nor touched.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

BRIGHTNESS = 0.2
"""Largest relative change of brightness."""
CONTRAST = 0.2
"""Largest relative change of contrast."""
NOISE = 0.03
"""Largest standard deviation of the noise, image values being in [0, 1]."""


class _PerTile(v2.Transform):  # type: ignore[misc]
    """A transform whose parameters are drawn for each tile of a batch, from a generator of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        images = flat_inputs[0]
        return {name: value.to(images.device) for name, value in self.draw(images).items()}

    def draw(self, images: Tensor) -> dict[str, Tensor]:
        """Return the parameters for images (B, C, S, S), one of each per tile, on the CPU."""
        raise NotImplementedError

    def _uniform(self, images: Tensor, low: float, high: float) -> Tensor:
        share = torch.rand(len(images), 1, 1, 1, generator=self._generator)
        return low + (high - low) * share


class _Flip(_PerTile):
    """Mirror every other tile, at random."""

    def __init__(self, generator: torch.Generator, mirror: Callable[[Tensor], Tensor]) -> None:
        super().__init__(generator)
        self._mirror = mirror

    def draw(self, images: Tensor) -> dict[str, Tensor]:
        return {"chosen": torch.rand(len(images), generator=self._generator) < 0.5}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        chosen = params["chosen"].view(-1, *[1] * (inpt.ndim - 1))
        return tv_tensors.wrap(torch.where(chosen, self._mirror(inpt), inpt), like=inpt)


class _Rotate90(_PerTile):
    """Turn each tile by 0, 90, 180 or 270 degrees."""

    def draw(self, images: Tensor) -> dict[str, Tensor]:
        return {"turns": torch.randint(4, (len(images),), generator=self._generator)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        turned = inpt.as_subclass(Tensor).clone()
        for turns in (1, 2, 3):
            chosen = params["turns"] == turns
            turned[chosen] = torch.rot90(turned[chosen], turns, (-2, -1))
        return tv_tensors.wrap(turned, like=inpt)


class _Photometric(_PerTile):
    """Change images and leave masks as they are."""

    _transformed_types = (tv_tensors.Image,)


class _Brightness(_Photometric):
    def draw(self, images: Tensor) -> dict[str, Tensor]:
        return {"factor": self._uniform(images, 1 - BRIGHTNESS, 1 + BRIGHTNESS)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap((inpt * params["factor"]).clamp(0, 1), like=inpt)


class _Contrast(_Photometric):
    def draw(self, images: Tensor) -> dict[str, Tensor]:
        return {"factor": self._uniform(images, 1 - CONTRAST, 1 + CONTRAST)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        mean = inpt.mean(dim=(1, 2, 3), keepdim=True)
        return tv_tensors.wrap((mean + (inpt - mean) * params["factor"]).clamp(0, 1), like=inpt)


class _Noise(_Photometric):
    def draw(self, images: Tensor) -> dict[str, Tensor]:
        strength = self._uniform(images, 0, NOISE)
        return {"noise": strength * torch.randn(images.shape, generator=self._generator)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap((inpt + params["noise"]).clamp(0, 1), like=inpt)


AUGMENTATIONS: dict[str, Callable[[torch.Generator], v2.Transform]] = {
    "hflip": lambda generator: _Flip(generator, functional.horizontal_flip),
    "vflip": lambda generator: _Flip(generator, functional.vertical_flip),
    "rotate90": _Rotate90,
    "brightness": _Brightness,
    "contrast": _Contrast,
    "noise": _Noise,
}
"""The changes, by the names that the setting `data.augment` takes; applied in this order."""


def augment(images: Tensor, masks: Tensor, names: tuple[str, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return a batch of tiles changed at random, each tile on its own.

    The result is a function of the arguments alone; on a GPU the same changes are drawn as on the CPU.

    Args:
        images: (B, C, S, S), float in [0, 1].
        masks: (B, S, S), integer.
        names: of `AUGMENTATIONS`; their order does not count.
        seed: of everything random, 0 or more.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [make(generator) for name, make in AUGMENTATIONS.items() if name in names]
    if not chosen:
        return images, masks
    changed, changed_masks = v2.Compose(chosen)(tv_tensors.Image(images), tv_tensors.Mask(masks))
    return changed.as_subclass(Tensor), changed_masks.as_subclass(Tensor)
