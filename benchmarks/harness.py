"""What the benchmarks share: options, timing in turn, and how results are printed."""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.result import give

Part = Callable[[argparse.Namespace, torch.device], dict[str, Any]]


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return milliseconds per name: median, least and most of `rounds`, taken in turn.

    Each is run once unseen before it is timed: it would find the caches and the memory of the one before it, which
    costs the fastest the most.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median_ms": 1e3 * statistics.median(s), "min_ms": 1e3 * min(s), "max_ms": 1e3 * max(s)}
        for name, s in seconds.items()
    }


def parser_of(module: str, about: str | None, parts: Mapping[str, Part], rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"counted runs of each variant, default {rounds}")
    parser.add_argument("--threads", type=int, default=2, help="torch threads, default 2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default=",".join(parts), help=f"parts, default {','.join(parts)}")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    return parser


def run(parser: argparse.ArgumentParser, parts: Mapping[str, Part], shape: str) -> None:
    """Run the parts asked for; a table on standard error, one JSON object on standard output."""
    arguments = parser.parse_args()
    if unknown := set(arguments.only.split(",")) - set(parts):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "rounds": arguments.rounds,
        "shape": shape,
    }
    for name in arguments.only.split(","):
        result[name] = parts[name](arguments, device)
        for group, rows in result[name].items():
            print(f"\n{name}, {group}", file=sys.stderr)
            for label, row in rows.items():
                cells = "  ".join(f"{key} {value:,.2f}" for key, value in row.items())
                print(f"  {label:24s} {cells}", file=sys.stderr)
    give(result, arguments.json)
