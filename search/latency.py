"""How long one forward pass takes here, and under which conditions that was found out.

Source: AutoNAD Sec. IV-D: the latency of a subnet is its inference on the target hardware. A step of training says
little about that, so a subnet is timed apart from it: warmed up, synchronised, the median of repeats.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from models.autonad import AutoNADNet, Room
from models.canonical import from_text, to_text
from models.hybrid_architecture import HybridArchitecture
from search.errors import InputError

PRECISIONS = ("float32", "bfloat16")
"""The second is autocast, as in training."""


class InvalidConditions(InputError):
    """Conditions that no measurement can have, or a text that holds none."""


class ConditionsDiffer(InputError):
    """Latencies that were measured under different conditions, and are therefore not of one table."""


class NotPlain(InputError):
    """A supernet, which slices its weights as it runs, was to be timed in place of what is extracted from it."""


class InvalidRepeats(InputError):
    """Counts of warm-up runs and repeats that measure nothing."""


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on besides the architecture.

    Attributes:
        device: "cpu" or "cuda".
        device_name: of the processor or the GPU.
        threads: that compute on a CPU; 0 on a GPU, where they do not matter.
        torch_version: with that of CUDA.
        shape: (C, H, W) of one image.
        batch: images per forward pass.
        precision: one of `PRECISIONS`.
    """

    device: str
    device_name: str
    threads: int
    torch_version: str
    shape: tuple[int, int, int]
    batch: int
    precision: str

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise InvalidConditions(f"device {self.device!r}; allowed are cpu, cuda")
        if len(self.shape) != 3 or min(self.shape) < 1 or self.batch < 1:
            raise InvalidConditions(f"shape {self.shape}, batch {self.batch}; (C, H, W) and batch, each at least 1")
        if self.precision not in PRECISIONS:
            raise InvalidConditions(f"precision {self.precision!r}; allowed are {', '.join(PRECISIONS)}")

    def require_same(self, other: "Conditions") -> None:
        """Do nothing if the other conditions are these.

        Raises:
            ConditionsDiffer: they are not; the message names each that differs.
        """
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        differing = ", ".join(f"{name} {one} and {two}" for name, one, two in pairs if one != two)
        if differing:
            raise ConditionsDiffer(f"latencies under different conditions do not belong together: {differing}")

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        shape = " x ".join(map(str, (self.batch, *self.shape)))
        return f"{self.device_name}{threads}, {shape}, {self.precision}"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, of JSON's types."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Conditions":
        """Rebuild what `to_dict` gave.

        Raises:
            InvalidConditions: a part is missing, too much or of a wrong kind.
        """
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            raise InvalidConditions(f"conditions of {sorted(values)}; needed are {sorted(names)}")
        try:
            channels, height, width = (int(side) for side in values["shape"])
            threads, batch = int(values["threads"]), int(values["batch"])
        except (TypeError, ValueError) as error:
            raise InvalidConditions(f"not conditions: {error}") from error
        texts = [str(values[key]) for key in ("device", "device_name", "torch_version", "precision")]
        return cls(texts[0], texts[1], threads, texts[2], (channels, height, width), batch, texts[3])

    def to_json(self) -> str:
        """Return the canonical JSON text."""
        return to_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Conditions":
        """Rebuild from JSON text.

        Raises:
            InvalidConditions: the text is not JSON or holds no conditions.
        """
        return cls.from_dict(from_text(text, InvalidConditions, "conditions"))


@dataclass(frozen=True)
class Latency:
    """Of one forward pass.

    Attributes:
        median_ms: of the repeats.
        iqr_ms: from their first to their third quartile.
        runs: how many repeats there were, without the warm-up.
    """

    median_ms: float
    iqr_ms: float
    runs: int


@dataclass(frozen=True)
class LatencyRecord:
    """The latency of one architecture; under which conditions, whoever collects the records knows."""

    architecture: HybridArchitecture
    median_ms: float
    iqr_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return {"architecture", "median_ms", "iqr_ms"}."""
        return {"architecture": self.architecture.to_dict(), "median_ms": self.median_ms, "iqr_ms": self.iqr_ms}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatencyRecord":
        """Rebuild what `to_dict` gave.

        Raises:
            InvalidArchitecture: the architecture is none.
        """
        architecture = HybridArchitecture.from_dict(values["architecture"])
        return cls(architecture, float(values["median_ms"]), float(values["iqr_ms"]))


def conditions_here(
    device: torch.device, shape: tuple[int, int, int], batch: int, precision: str = "float32"
) -> Conditions:
    """Return the conditions of a measurement in this process.

    Args:
        device: that the network runs on.
        shape: (C, H, W) of one image.
        batch: images per forward pass.
        precision: one of `PRECISIONS`.

    Raises:
        InvalidConditions: a value that is not allowed.
    """
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else _processor()
    threads = 0 if cuda else torch.get_num_threads()
    return Conditions(device.type, name, threads, str(torch.__version__), shape, batch, precision)


def measure(run: Callable[[], object], device: torch.device, *, warmup: int, repeats: int) -> Latency:
    """Return the latency of `run`, timed by the wall clock around each of its repeats.

    The wall clock and not the GPU's events: launching kernels is part of what a user waits for, and in a small network
    most of it.

    Args:
        run: does one forward pass; it is called `warmup + repeats` times, in inference mode.
        device: that it runs on; waited for before and after each repeat if it is a GPU.
        warmup: calls that are not timed.
        repeats: calls that are.

    Raises:
        InvalidRepeats: `warmup` below 0 or `repeats` below 1.
    """
    if warmup < 0 or repeats < 1:
        raise InvalidRepeats(f"warmup {warmup}, repeats {repeats}; at least 0 and 1")
    times_ms = []
    with torch.inference_mode():
        for _ in range(warmup):
            run()
        for _ in range(repeats):
            _wait_for(device)
            start = time.perf_counter()
            run()
            # A GPU's work goes on after the call has returned.
            _wait_for(device)
            times_ms.append(1e3 * (time.perf_counter() - start))
    first, median, third = np.quantile(times_ms, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, third - first, repeats)


def measure_architecture(
    network: nn.Module,
    architecture: HybridArchitecture,
    conditions: Conditions,
    device: torch.device,
    *,
    warmup: int,
    repeats: int,
) -> LatencyRecord:
    """Return the latency of an architecture's own network, in evaluation mode; its mode is as before afterwards.

    Building, extraction and the making of the input are not in it.

    Args:
        network: what `models.autonad.extract` gave for the architecture, on the device.
        architecture: what it is called with.
        conditions: must be those of this process.
        device: that the network is on.
        warmup: forward passes that are not timed.
        repeats: forward passes that are.

    Raises:
        NotPlain: the network has room for more than the architecture.
        ConditionsDiffer: the conditions are not those of this process.
        InvalidRepeats: see `measure`.
    """
    if isinstance(network, AutoNADNet) and network.room != Room.of_architecture(architecture):
        raise NotPlain("the network has room for other architectures; time extract(network, architecture)")
    conditions.require_same(conditions_here(device, conditions.shape, conditions.batch, conditions.precision))
    # A generator of its own, so that a measurement between two steps changes no random number of the training.
    images = torch.rand(conditions.batch, *conditions.shape, generator=torch.Generator().manual_seed(0)).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=conditions.precision == "bfloat16")
    with _evaluating(network), autocast:
        latency = measure(lambda: network(images, architecture), device, warmup=warmup, repeats=repeats)
    return LatencyRecord(architecture, latency.median_ms, latency.iqr_ms)


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Return Kendall's tau-b of two rankings, in [-1, 1]; NaN where one of them has no two different values.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 1945.

    Args:
        first: n values.
        second: n values for the same things, in the same order.

    Raises:
        ValueError: the numbers of values differ.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise ValueError(f"values of shapes {one.shape} and {two.shape}; two lists of one length are needed")
    # Every pair counts twice, above as below: concordant less discordant over the pairs that are no ties in either.
    signs_one, signs_two = np.sign(one[:, None] - one), np.sign(two[:, None] - two)
    untied = math.sqrt((signs_one**2).sum() * (signs_two**2).sum())
    return float((signs_one * signs_two).sum() / untied) if untied else math.nan


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode and each of its modules back into its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _processor() -> str:
    """Return the name of the CPU; `platform` says on Linux only of which family it is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
