"""NAS-ASDet: the mixed edges and the fusion as the paper writes them, against ours.

    python -m benchmarks.asdet [--rounds 7] [--threads 2] [--device cpu] [--only PARTS] [--json FILE]

"plain" is one module per operator, summed one by one, with the fusion at full resolution and alpha steps that compute
the gradients of the weights too, as public DARTS code does. Variants are timed in turn, so that a change of the
machine's speed meets all of them; what counts are the ratios.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import harness
from benchmarks.harness import interleaved
from models.architecture import OPERATOR_NAMES
from models.asdet import ASDetNet, initial_alphas, softmax_shares
from models.cell_space import CellSpace
from models.inference import InferenceNet
from search.losses import segmentation_loss
from search.memory import kept_for_backward
from search.methods.random_cells import random_architecture
from search.settings import LossSettings

CHANNELS = 16
BATCH = 4
FORMS = ("plain", "batched", "batched, channels-last")
NO_KERNEL = set(
    """
    _local_scalar_dense _nnpack_available _reshape_alias _unsafe_view alias as_strided as_strided_ chunk detach detach_
    empty empty_like empty_strided expand expand_as flatten is_nonzero item lift_fresh narrow new_empty permute reshape
    resize_ resize_as_ resolve_conj resolve_neg result_type select set_ slice split split_with_sizes squeeze t to
    transpose unbind unfold unsafe_split unsqueeze view
    """.split()
)
"""Operators that launch nothing: they only make a new view or reserve memory."""
WHOLE = {"mkldnn_convolution", "_slow_conv2d_forward", "convolution_backward", "bmm", "baddbmm", "addmm", "mm"}


def supernet(form: str, size: int, device: torch.device | None) -> tuple[ASDetNet, dict[str, Tensor]]:
    """Return a stage-1 supernet and its alphas, on a device or where they are made."""
    torch.manual_seed(0)
    space = CellSpace.full()
    network = ASDetNet(space, in_channels=1, classes=1, channels=CHANNELS, searching=True)
    if form != "plain":
        network.batch_edges()
    if form.endswith("channels-last"):
        network.lay_out(size, device.type if device else "cpu")
    alphas = initial_alphas(space, 1e-3, torch.Generator().manual_seed(0))
    if device is not None:
        network, alphas = network.to(device), {k: v.to(device) for k, v in alphas.items()}
    return network, {k: v.requires_grad_() for k, v in alphas.items()}


def step(form: str, kind: str, size: int, device: torch.device, batch: int = BATCH) -> Callable[[], None]:
    """Return a function that does one forward and backward of a weight or an alpha step; no optimiser."""
    network, alphas = supernet(form, size, device)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 1, size, size, generator=generator).to(device)
    masks = (torch.rand(batch, size, size, generator=generator) < 0.05).long().to(device)
    forward = network.as_written if form == "plain" else network
    if kind == "alpha" and form != "plain":
        network.requires_grad_(False)

    def run() -> None:
        for tensor in (*network.parameters(), *alphas.values()):
            tensor.grad = None
        shares = softmax_shares(alphas)
        if kind == "weights":
            shares = {k: v.detach() for k, v in shares.items()}
        logits = forward(images, shares, branches=True)
        segmentation_loss(logits, masks, 1, LossSettings()).backward()

    return run


def steps(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time weight and alpha steps of all forms at 64 px."""
    found: dict[str, Any] = {}
    for kind in ("weights", "alpha"):
        found[kind] = interleaved({f: step(f, kind, 64, device) for f in FORMS}, arguments.rounds, device)
        _compare(found[kind], "median_ms")
    return found


def launches(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Count the operators that do work in one forward and backward (on a GPU: its kernels), at 64 px."""
    found: dict[str, Any] = {}
    for kind in ("weights", "alpha"):
        found[kind] = {form: {"launches": _count(step(form, kind, 64, device), device)} for form in FORMS[:2]}
        _compare(found[kind], "launches")
    return found


def _count(run: Callable[[], None], device: torch.device) -> int:
    run()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        run()
    events = profiler.events() or []
    if device.type == "cuda":
        return sum(e.device_type.name == "CUDA" for e in events)
    return sum(_kernels(event) for event in events if event.cpu_parent is None)


def _kernels(event: Any) -> int:
    """Count an operator that works: a convolution as one, anything else by what it calls."""
    name = event.name.removeprefix("aten::")
    if name in WHOLE:
        return 1
    below = sum(_kernels(child) for child in event.cpu_children)
    return below or int(event.name.startswith("aten::") and name not in NO_KERNEL)


def inference(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time one image through three derived networks: fusion as written, at low resolution, the inference form."""
    found: dict[str, Any] = {}
    for size, seed in itertools.product((256, 512), (1, 2, 3)):
        torch.manual_seed(0)
        space = CellSpace.of_architecture(random_architecture(OPERATOR_NAMES, seed))
        network = ASDetNet(space, in_channels=1, classes=1, channels=CHANNELS).to(device).eval()
        image = torch.randn(1, 1, size, size, device=device)

        def run(forward: Callable[[Tensor], Tensor], image: Tensor = image) -> Callable[[], None]:
            def once() -> None:
                with torch.no_grad():
                    forward(image)

            return once

        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "plain": network.as_written,
            "low-resolution fusion": network,
            "inference": InferenceNet(network),
        }
        group = f"{size} px, architecture {seed}"
        found[group] = interleaved({k: run(v) for k, v in ways.items()}, arguments.rounds, device)
        _compare(found[group], "median_ms")
    return found


def memory(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Count what a weight step keeps for backward at 64, 256 and 512 px; measure the peak where it fits."""
    found: dict[str, Any] = {}
    for size in (64, 256, 512):
        found[f"{size} px"] = {}
        for form in FORMS[:2]:
            row = {"kept_for_backward_mib": _kept(form, size)}
            if size <= arguments.peak_up_to:
                row["peak_mib"] = _peak(form, size, device)
            found[f"{size} px"][form] = row
        _compare(found[f"{size} px"], "kept_for_backward_mib")
    return found


def _kept(form: str, size: int) -> float:
    """Return the MiB that a forward pass keeps for backward; nothing is allocated."""

    def build() -> Callable[[], object]:
        network, alphas = supernet(form, size, None)
        images = torch.randn(BATCH, 1, size, size)
        forward = network.as_written if form == "plain" else network
        return lambda: forward(images, softmax_shares(alphas), branches=True)

    return kept_for_backward(build) / 2**20


def _peak(form: str, size: int, device: torch.device) -> float:
    """Return the peak MiB of two weight steps in a process of its own, above what it held before."""
    code = f"from benchmarks.asdet import peak_of_steps; print(peak_of_steps({form!r}, {size}, {str(device)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def peak_of_steps(form: str, size: int, device_name: str) -> float:
    """Return the peak MiB of two weight steps in this process above what it holds now."""
    device = torch.device(device_name)
    if device.type == "cuda":
        run = step(form, "weights", size, device)
        torch.cuda.reset_peak_memory_stats(device)
        run(), run()
        return torch.cuda.max_memory_allocated(device) / 2**20
    run = step(form, "weights", size, device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux)
    before = _resident("VmRSS")
    run(), run()
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    """Return a memory figure of this process, MiB."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(key))
    return int(line.split()[1]) / 1024


def _compare(rows: dict[str, dict[str, float]], key: str) -> None:
    """Add to every row how many times less it takes than the plain one."""
    for row in rows.values():
        row["plain_over_this"] = rows["plain"][key] / row[key]


PARTS: dict[str, harness.Part] = {
    "steps": steps,
    "launches": launches,
    "inference": inference,
    "memory": memory,
}


def main() -> None:
    parser = harness.parser_of("benchmarks.asdet", __doc__, PARTS, rounds=7)
    parser.add_argument("--peak-up-to", type=int, default=256, help="largest image whose peak is measured, px")
    harness.run(parser, PARTS, f"batch {BATCH}, {CHANNELS} channels")


if __name__ == "__main__":
    main()
