"""The settings of AutoNAD alone; those that both methods share are in `search.settings`."""

from dataclasses import dataclass
from typing import Any, Literal

from models.hybrid_architecture import BLOCK_OPERATORS, EDGE_OPERATORS
from models.hybrid_space import HybridSpace
from search.setting import setting

BlockOperator = Literal["attention", "convolution", "mlp"]
EdgeOperator = Literal["conv1x1", "conv3x3", "conv5x5", "dilated3x3", "depthwise3x3"]
Widths = tuple[int, ...]
Ratios = tuple[float, ...]


@dataclass(frozen=True)
class SpaceSettings:
    """The hybrid space (Table I, Sec. IV-A, IV-C) and who shares weights in its supernet."""

    widths: tuple[Widths, ...] = setting(
        ((32,), (32, 64, 96), (128, 160, 192), (192, 224, 256)), "per stage the widths, multiples of 32 (Table I)"
    )
    depths: tuple[Widths, ...] = setting(((1, 2, 3),) * 4, "per stage the numbers of blocks (Table I)")
    ratios: tuple[Ratios, ...] = setting(
        ((7.5, 8.0, 8.5), (7.5, 8.0, 8.5), (3.5, 4.0, 4.5), (3.5, 4.0, 4.5)),
        "per stage the hidden over the input width of a block's FFN (Table I)",
    )
    operators: tuple[BlockOperator, ...] = setting(BLOCK_OPERATORS, "of a block; Table V compares subsets")
    kernels: tuple[int, ...] = setting((3,), "of a convolution block, odd [not stated]")
    edge_operators: tuple[EdgeOperator, ...] = setting(EDGE_OPERATORS, "of an edge of the feature aggregation")
    pool_sizes: tuple[int, ...] = setting((1, 2, 3, 4, 5, 6), "of a pyramid pooling branch (Sec. IV-C)")
    decoder_width: int = setting(
        256, "channels of all levels of the feature aggregation [not stated]", ge=32, multiple_of=32
    )
    sharing: Literal["cross", "entangled", "classical"] = setting(
        "cross", "who shares weights: all choices of a place, those of one operator, none (Table VII)"
    )


@dataclass(frozen=True)
class SupernetSettings:
    """Training of the supernet (Sec. V-B)."""

    epochs: int = setting(800, "passes over the training tiles; 800 NEU, 2000 MSD, 3000 MT", unit="epochs", ge=1)
    warmup_epochs: int = setting(20, "first epochs, in which lr rises linearly [not stated]", unit="epochs", ge=0)
    batch: int = setting(8, "tiles per step, of all workers together [not stated]", unit="tiles", ge=1)
    accumulate: int = setting(1, "parts that a worker's tiles of a step are passed in", unit="parts", ge=1)
    steps: int = setting(0, "most steps of an epoch, 0 for a pass over all tiles", unit="steps", ge=0)
    lr: float = setting(5e-4, "AdamW learning rate, used as given", gt=0)
    linear_scaling: bool = setting(False, "multiply lr by the batch over 8")
    weight_decay: float = setting(0.05, "AdamW weight decay of all but norms and biases [not stated]", ge=0)
    clip: float = setting(5.0, "largest norm of the gradient, 0 for none [not stated]", ge=0)
    drop_path: float = setting(0.1, "stochastic depth of the last block, rising from 0 [not stated]", ge=0, lt=1)
    validation_fraction: float = setting(
        0.2, "share of the training images that candidates are scored on [not stated]", gt=0, lt=1
    )
    validate_every: int = setting(10, "epochs between scores of the probe subnets (Fig. 6)", unit="epochs", ge=1)
    probes: int = setting(
        4, "random subnets among the probes, beside the smallest and the largest", unit="subnets", ge=0
    )


@dataclass(frozen=True)
class LatencySettings:
    """How latency is measured, and the prior made of it (Sec. IV-D, Fig. 5)."""

    device: str = setting("auto", "where it is measured: auto (as the search), cpu, cuda, cuda:N")
    node: str = setting("", "label of the cluster's node that measures, as defectnas/device=t4; empty: any node")
    batch: int = setting(1, "images per pass, as deployed", unit="images", ge=1)
    size: int = setting(0, "side of the images, as deployed; 0: data.image_size", unit="px", ge=0)
    warmup: int = setting(3, "passes before the clock starts", unit="passes", ge=0)
    repeats: int = setting(15, "timed passes, whose median counts", unit="passes", ge=1)
    records: int = setting(200, "random subnets that the table is estimated from", unit="subnets", ge=0)
    temperature: float = setting(
        0.5, "of the prior's softmax, over the standard deviation of a block's latencies [not stated]", gt=0
    )
    floor: float = setting(0.3, "share of the prior that is uniform [not stated]", ge=0, le=1)
    replay: str = setting("", "earlier run, id or folder, whose measurements are used instead of new ones; empty: none")


@dataclass(frozen=True)
class EvolutionSettings:
    """The choice of the subnet (Algorithm 1, Sec. V-B) and what goes beyond it."""

    strategy: Literal["evolution", "pareto", "random"] = setting(
        "evolution", "evolution: Algorithm 1; pareto: NSGA-II on mIoU, latency, parameters; random: equal cost"
    )
    population: int = setting(100, "candidates of the first generation", unit="subnets", ge=2)
    generations: int = setting(50, "generations, the first included", unit="generations", ge=1)
    children: int = setting(20, "candidates of every later generation [not stated]", unit="subnets", ge=1)
    parents: int = setting(10, "the best so many are parents", unit="subnets", ge=1)
    mutation: float = setting(0.2, "p_m: chance that a gene changes", ge=0, le=1)
    crossover: float = setting(0.4, "p_c: chance that a pair is crossed", ge=0, le=1)
    literal: bool = setting(False, "read p_m and p_c as Algorithm 1 is written, once per generation")
    latency_points: float = setting(
        5.0, "mIoU points that the mean latency of the first population costs; makes lambda [not stated]", ge=0
    )
    penalty: float = setting(-1.0, "lambda itself; below 0: from latency_points", unit="mIoU points per ms")
    baseline: bool = setting(False, "beside it a random search of equal cost on the same supernet")
    latency_limit_ms: float = setting(0.0, "slower candidates are out; 0: no limit", unit="ms", ge=0)
    parameter_limit: int = setting(0, "larger candidates are out; 0: no limit", unit="parameters", ge=0)
    timeout: float = setting(
        600.0,
        "most that measuring or scoring one candidate takes; then its worker is replaced and it is tried again; 0: any",
        unit="s",
        ge=0,
    )
    mac_limit: float = setting(0.0, "costlier candidates are out; 0: no limit", unit="GMACs", ge=0)


@dataclass(frozen=True)
class FinetuneSettings:
    """Retraining of the winner, or of the front (Sec. V-B)."""

    epochs: int = setting(500, "passes over the training tiles", unit="epochs", ge=1)
    batch: int = setting(8, "tiles per step [not stated]", unit="tiles", ge=1)
    steps: int = setting(0, "most steps of an epoch, 0 for a pass over all tiles", unit="steps", ge=0)
    lr: float = setting(1e-4, "Adam learning rate", gt=0)
    power: float = setting(0.9, "of the polynomial decay of lr", gt=0)
    inherit: bool = setting(True, "begin with the supernet's weights, else with new ones [not stated]")
    finalists: int = setting(1, "candidates that are retrained; with pareto the whole front if 0", ge=0)
    spread: bool = setting(
        False, "finalists from all over the ranking, the best among them, to learn how well inherited scores rank"
    )
    seeds: int = setting(1, "times that each is retrained, with consecutive seeds", unit="seeds", ge=1)
    select: Literal["best_val", "last"] = setting("best_val", "which epoch's weights are tested [not stated]")


def space_of(settings: SpaceSettings) -> HybridSpace:
    """Return the space of the settings.

    Raises:
        InvalidSpace: its choices make none.
    """
    return HybridSpace(
        settings.widths,
        settings.depths,
        settings.ratios,
        settings.operators,
        settings.kernels,
        settings.edge_operators,
        settings.pool_sizes,
    )


def probe_names(probes: int) -> tuple[str, ...]:
    """Return what the probe subnets are called, in the order in which they are scored.

    Args:
        probes: how many of them are random.
    """
    return ("smallest", "largest", *(f"random {number}" for number in range(1, probes + 1)))


HYBRID_BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        "data": {"image_size": 96, "task": "multiclass", "augment": ("hflip", "vflip")},
        "space": {
            "widths": ((32,), (32, 64), (64, 96), (96, 128)),
            "depths": ((1, 2),) * 4,
            "ratios": ((2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0)),
            "decoder_width": 64,
        },
        # Both so that so few steps lead somewhere: with equal classes most of them go by before a rare one is seen.
        "loss": {"class_power": 0.5},
        "supernet": {"lr": 2e-3, "epochs": 40, "warmup_epochs": 3, "steps": 25, "validate_every": 10, "probes": 2},
        "latency": {"records": 60, "repeats": 7, "warmup": 2},
        "evolution": {"population": 16, "generations": 5, "children": 8, "parents": 5},
        "finetune": {"epochs": 15, "steps": 40, "lr": 5e-4},
        "runtime": {"precision": "auto"},
    },
    "short": {
        "data": {"image_size": 200, "task": "multiclass", "augment": ("hflip", "vflip")},
        "supernet": {"epochs": 150, "warmup_epochs": 10},
        "evolution": {"population": 50, "generations": 15},
        "finetune": {"epochs": 100},
        "runtime": {"precision": "auto"},
    },
    "paper": {
        "data": {"image_size": 200, "task": "multiclass", "augment": ("hflip", "vflip", "rotate90")},
        "runtime": {"precision": "auto"},
    },
}
"""What each budget changes of the defaults for AutoNAD, by section."""
