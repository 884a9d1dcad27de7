"""Adaptive fusion of the five levels, the output head and the five branch heads (NAS-ASDet Eq. 5-10, 16).

Two forms of one module. `forward` computes at low resolution: a 1x1 head commutes with bilinear upsampling (the
weights of the interpolation sum to 1), and the mean of an image upsampled by a whole factor is the mean of the
image, so the S x H/2 x W/2 tensor of Eq. 6 need never exist. `as_written` is the paper's order of operations, the
oracle of the tests; both are equal but for rounding.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 5
FUSIONS = ("adaptive", "balanced", *(f"level{i}" for i in range(1, LEVELS + 1)))


class AdaptiveFusion(nn.Module):
    """Five feature maps to one logit map per class, and one more per branch.

    Args (constructor):
        channels: channels of Fea_1..Fea_5; S is their sum.
        classes: K logit maps.
        reduction: hidden units of the fusion weights are S over this.
        fusion: "adaptive" (Eq. 7-9), "balanced" (V_f = 1) or "level1".."level5" (that level alone), Fig. 8.
    """

    def __init__(self, channels: tuple[int, ...], classes: int, reduction: int, fusion: str) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion {fusion!r}; allowed are {', '.join(FUSIONS)}")
        self.channels, self.fusion = channels, fusion
        self.levels = tuple(range(LEVELS)) if not fusion.startswith("level") else (int(fusion[-1]) - 1,)
        total = sum(channels[i] for i in self.levels)
        if fusion == "adaptive":
            # DEPARTURE(fusion-two-layers): the text shows one FC and sigmoid(ReLU(.)); the parameter counts of all
            # five rows of Table 3 fit two bias-free FCs, S -> S/16 -> S, and exclude one of S x S.
            self.squeeze = nn.Linear(total, total // reduction, bias=False)
            self.excite = nn.Linear(total // reduction, total, bias=False)
        self.head = nn.Conv2d(total, classes, 1)
        self.branches = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in channels)

    def forward(self, features: list[Tensor], size: tuple[int, int], branches: bool) -> Tensor:
        """Return the logits at input size, (1 or 6, B, K, H, W): the output, then the five branches if asked.

        Args:
            features: Fea_1..Fea_5, (B, c_i, H / 2^i, W / 2^i).
            size: (H, W) of the input image, px.
            branches: also compute the branch heads (deep supervision).
        """
        maps: dict[int, Tensor] = {}
        branch_maps: list[Tensor] = []
        slices = self._head_slices(features)
        heads = cast(list[nn.Conv2d], list(self.branches))
        for i, feature in enumerate(features):
            rows = [slices[i]] if i in self.levels else []
            if branches:
                own = heads[i].weight[:, :, 0, 0]
                rows.append(own.expand(feature.shape[0], *own.shape))
            if not rows:
                continue
            low = _pointwise(feature, torch.cat(rows, dim=1) if len(rows) > 1 else rows[0])
            parts = list(low.chunk(len(rows), dim=1))
            if i in self.levels:
                maps[i] = parts.pop(0)
            if branches:
                branch_maps.append(_upsample(parts[0] + _bias(heads[i]), size))
        output = self._join(maps, features) + _bias(self.head)
        return torch.stack([_upsample(output, size), *branch_maps])

    def as_written(self, features: list[Tensor], size: tuple[int, int], branches: bool) -> Tensor:
        """Return what `forward` returns, computed in the paper's order at full resolution (Eq. 5-10)."""
        chosen = [features[i] for i in self.levels]
        resized = [_upsample(feature, chosen[0].shape[2:]) for feature in chosen]
        fused = torch.cat(resized, dim=1)
        if self.fusion == "adaptive":
            weight = torch.sigmoid(self.excite(F.relu(self.squeeze(fused.mean((2, 3))))))
            fused = fused * weight[:, :, None, None]
        outputs = [_upsample(self.head(fused), size)]
        if branches:
            outputs += [_upsample(b(f), size) for b, f in zip(self.branches, features, strict=True)]
        return torch.stack(outputs)

    def _head_slices(self, features: list[Tensor]) -> dict[int, Tensor]:
        """Return per level its slice of the head times its fusion weights, (B, K, c_i)."""
        head = self.head.weight[:, :, 0, 0].unsqueeze(0)
        if self.fusion == "adaptive":
            means = torch.cat([features[i].mean((2, 3)) for i in self.levels], dim=1)
            head = head * torch.sigmoid(self.excite(F.relu(self.squeeze(means)))).unsqueeze(1)
        else:
            head = head.expand(features[0].shape[0], -1, -1)
        widths = [self.channels[i] for i in self.levels]
        return dict(zip(self.levels, head.split(widths, dim=2), strict=True))

    def _join(self, maps: dict[int, Tensor], features: list[Tensor]) -> Tensor:
        if len(self.levels) == 1:
            return maps[self.levels[0]]
        return sum((_upsample(maps[i], features[0].shape[2:]) for i in self.levels[1:]), start=maps[0])


def _bias(head: nn.Conv2d) -> Tensor:
    assert head.bias is not None
    return head.bias[:, None, None]


def _pointwise(feature: Tensor, weight: Tensor) -> Tensor:
    """Return the 1x1 convolution with weights of each image's own: (B, c, h, w), (B, K, c) -> (B, K, h, w)."""
    b, _, h, w = feature.shape
    return torch.bmm(weight, feature.flatten(2)).view(b, -1, h, w)


def _upsample(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
