"""Every setting of a search as a frozen value, with its default, unit and bounds written once.

The defaults are the paper's numbers (`--budget paper`); `BUDGETS` holds what the smaller budgets change.
The orchestrator derives the validation, the `--set` keys and the configuration reference from the
metadata given here, so a setting exists as soon as its field does. A value that the paper does not state
is marked "[not stated]" in its help text; the reason of each is in docs/departures.md.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from search.hybrid_settings import (
    EvolutionSettings,
    FinetuneSettings,
    LatencySettings,
    SpaceSettings,
    SupernetSettings,
)
from search.setting import setting

Augmentation = Literal["hflip", "vflip", "rotate90", "brightness", "contrast", "noise"]


@dataclass(frozen=True)
class DataSettings:
    """How images become training tiles and test scores."""

    image_size: int = setting(256, "side of the square tile that the network sees", unit="px", ge=32, multiple_of=8)
    colour: Literal["grey", "rgb"] = setting("grey", "channels of the network's input")
    task: Literal["binary", "multiclass"] = setting("binary", "binary merges all defect classes into one")
    split: str = setting(
        "auto",
        "train/test division: auto (a given grouped one, else a given one, else grouped, else random), "
        "given, grouped, random, or the name of one that the data set brings (fold0)",
    )
    test_fraction: float = setting(0.3, "share of the images kept for testing where the split is made here", gt=0, lt=1)
    window: int | Literal["auto", "off"] = setting(
        "auto",
        "side of the windows cut from long images; auto: the short side where the long one is 1.8 times it or more",
        unit="px",
        ge=16,
    )
    stride: int | Literal["auto"] = setting("auto", "step between windows; auto: half a window", unit="px", ge=1)
    alpha_fraction: float = setting(
        0.6,
        "share of the training images that the alphas learn from; the weights learn from the rest (Sec. 4.1.5)",
        gt=0,
        lt=1,
    )
    augment: tuple[Augmentation, ...] = setting((), "random changes of training tiles, image and mask together")


@dataclass(frozen=True)
class NetworkSettings:
    """The NAS-ASDet network around the searched cells."""

    channels: int = setting(
        16, "width C of a node in the first cell; doubles at every reduction [not stated]", ge=4, multiple_of=2
    )
    stem_multiplier: int = setting(4, "the stem has this many times C channels [not stated]", ge=1)
    operators: tuple[str, ...] = setting(
        (
            "zero",
            "identity",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "sep_conv_7x7",
            "dil_conv_3x3",
            "dil_conv_5x5",
            "max_pool_3x3",
            "avg_pool_3x3",
            "channel_att",
            "spatial_att",
        ),
        "candidate operators of every edge (Table 1)",
    )
    residual: Literal["pool_repeat", "pool_pad", "none", "proj", "factorized"] = setting(
        "pool_repeat", "res(C_k-1) of a reduction cell (Eq. 3) [not stated]"
    )
    fusion: Literal["adaptive", "balanced", "level1", "level2", "level3", "level4", "level5"] = setting(
        "adaptive", "how the five levels are joined (Eq. 5-10; the others are Fig. 8)"
    )
    fusion_reduction: int = setting(16, "hidden units of the fusion weights are channels over this (Table 3)", ge=1)


@dataclass(frozen=True)
class LossSettings:
    """NAS-ASDet: BCE + Dice at the output and at the five branches (Eq. 16). AutoNAD: cross-entropy, `class_power`."""

    dice_weight: float = setting(1.0, "weight of the Dice term [not stated]", ge=0)
    dice_over: Literal["image", "batch"] = setting("image", "what one Dice value is computed over [not stated]")
    positive_weight: float = setting(1.0, "weight of defect pixels in the BCE term [not stated]", gt=0)
    branch_weight: float = setting(1.0, "weight of each of the five branch losses (Eq. 16)", ge=0)
    multiclass: Literal["sigmoid", "softmax"] = setting("sigmoid", "K sigmoid maps, or softmax over K+1 [not stated]")
    class_power: float = setting(
        0.0,
        "AutoNAD: a class weighs its share of the training pixels to minus this power; 0: all alike [not stated]",
        ge=0,
        le=1,
    )


@dataclass(frozen=True)
class SearchSettings:
    """The progressive bilevel search (Sec. 3.3, 4.1.5)."""

    keep: tuple[int, ...] = setting((7, 4, 2, 1), "operators left per edge after each stage; the last is 1")
    epochs: int = setting(70, "epochs of each stage, the warm-up included", unit="epochs", ge=1)
    warmup_epochs: int = setting(20, "first epochs of each stage that train weights only", unit="epochs", ge=0)
    batch: int = setting(4, "tiles per step", unit="tiles", ge=2)
    steps: int = setting(0, "most steps of an epoch, 0 for a pass over all tiles", unit="steps", ge=0)
    order: Literal["first", "second"] = setting("first", "order of the bilevel gradient (DARTS Eq. 7)")
    alpha_lr: float = setting(2e-3, "Adam learning rate of the alphas", gt=0)
    alpha_weight_decay: float = setting(1e-3, "L2 penalty of the alphas", ge=0)
    weight_lr: float = setting(5e-3, "SGD learning rate of the weights", gt=0)
    momentum: float = setting(0.9, "SGD momentum", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "L2 penalty of the weights", ge=0)
    schedule: Literal["cosine", "constant"] = setting("cosine", "course of weight_lr within a stage [not stated]")
    clip: float = setting(5.0, "largest norm of the weight gradient, 0 for none [not stated]", ge=0)
    alpha_init: float = setting(1e-3, "standard deviation of the initial alphas [not stated]", ge=0)
    zero_can_win: bool = setting(False, "an edge may end on zero and is then deleted [not stated]")
    edge_score: Literal["last_stage", "first_stage"] = setting(
        "last_stage", "whose probabilities rank the edges in the two-strongest rule (Eq. 14) [not stated]"
    )
    carry_weights: bool = setting(False, "surviving operators keep their weights from stage to stage [not stated]")
    carry_alphas: bool = setting(False, "surviving operators keep their alphas, re-centred [not stated]")


@dataclass(frozen=True)
class RetrainSettings:
    """Training of the chosen network from new weights (Sec. 4.1.5)."""

    epochs: int = setting(500, "passes over the training tiles", unit="epochs", ge=1)
    batch: int = setting(4, "tiles per step", unit="tiles", ge=2)
    steps: int = setting(0, "most steps of an epoch, 0 for a pass over all tiles", unit="steps", ge=0)
    lr: float = setting(5e-3, "SGD learning rate", gt=0)
    momentum: float = setting(0.9, "SGD momentum", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "L2 penalty", ge=0)
    schedule: Literal["cosine", "constant"] = setting("cosine", "course of lr [not stated]")
    clip: float = setting(5.0, "largest norm of the gradient, 0 for none [not stated]", ge=0)
    deep_supervision: bool = setting(True, "keep the five branch losses while retraining [not stated]")
    select: Literal["last", "best_val"] = setting(
        "last", "which epoch's weights are tested; best_val needs validation_fraction"
    )
    validation_fraction: float = setting(0.0, "share of the training images held out to select by", ge=0, lt=1)
    ema: float = setting(0.0, "decay of the averaged weights that are tested, 0 for none", ge=0, lt=1)
    test_threshold: float = setting(
        0.5, "probability above which a pixel is a defect, in the test and in validation", gt=0, lt=1
    )


@dataclass(frozen=True)
class RuntimeSettings:
    """Where and how the arithmetic runs; none of these changes what is computed, but rounding: `precision` by much."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    threads: int = setting(0, "torch threads per trial, 0: the CPUs given to the trial", ge=0)
    form: Literal["auto", "plain", "batched"] = setting(
        "auto", "how mixed edges are computed; auto takes the faster in a short timed trial per stage and device"
    )
    channels_last: Literal["auto", "on", "off"] = setting("auto", "memory order of the feature maps; auto as for form")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "float32", "of autocast; batch norm stays in float32; auto: bfloat16 on a GPU that computes in it"
    )
    checkpoint_every: int = setting(1, "epochs between checkpoints", unit="epochs", ge=1)
    silence: float = setting(
        3600.0,
        "with Ray: longest that a trial of NAS-ASDet or a retraining of AutoNAD may take for an epoch, for what comes "
        "before the first or after the last; then its process is replaced and goes on from the checkpoint; 0: any time",
        unit="s",
        ge=0,
    )


@dataclass(frozen=True)
class Settings:
    """All settings of one trial: one data set, one seed, one method."""

    seed: int = setting(0, "seed of everything random in the trial", ge=0)
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    supernet: SupernetSettings = field(default_factory=SupernetSettings)
    latency: LatencySettings = field(default_factory=LatencySettings)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries and lists, ready for JSON or YAML."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Rebuild what `to_dict` gave.

        Raises:
            TypeError: values has a key that no setting has.
        """
        sections = {f.name: f.default_factory for f in dataclasses.fields(cls) if f.name != "seed"}
        built = {name: section(**_tuples(values.get(name, {}))) for name, section in sections.items()}  # type: ignore[operator]
        unknown = set(values) - set(built) - {"seed"}
        if unknown:
            raise TypeError(f"unknown settings {sorted(unknown)}; allowed are seed, {', '.join(built)}")
        return cls(seed=values.get("seed", 0), **built)

    def digest(self) -> str:
        """Return the sha256 (hex) of what decides the result.

        How it is computed (`runtime`) is left out but for the precision: bfloat16 has eight bits, which scores show.
        """
        values = self.to_dict() | {"runtime": {"precision": self.runtime.precision}}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        "data": {"image_size": 64, "augment": ("hflip", "vflip")},
        "network": {"channels": 8},
        "search": {
            "epochs": 4,
            "warmup_epochs": 1,
            "steps": 12,
            "weight_lr": 0.025,
            "alpha_lr": 0.02,
            # With 48 steps a stage, new weights in each would leave the alphas nothing but noise to go by.
            "carry_weights": True,
            "carry_alphas": True,
        },
        "retrain": {"epochs": 40, "steps": 40, "lr": 0.015},
        # Timing the forms would take longer than the search itself.
        "runtime": {"form": "batched", "channels_last": "on"},
    },
    "short": {
        "data": {"image_size": 128, "augment": ("hflip", "vflip")},
        "search": {"epochs": 15, "warmup_epochs": 5},
        "retrain": {"epochs": 100},
    },
    "paper": {},
}
"""What each budget changes of the defaults, by section. `paper` is the defaults."""
