"""What a node computes for `defectnas cluster check`: an all-reduce with the others, and a small network, timed."""

import os
import statistics
import time
from datetime import timedelta
from typing import Any

from clusters.check import busy_cpus, gpus

_REPEATS = 3
_WARMUP, _RUNS = 5, 30
_SIDE, _CHANNELS = 64, 16


def all_reduce(
    rank: int, world: int, address: str, port: int, mib: int, gpu: bool, timeout_s: float
) -> tuple[bool, float]:
    """Sum a tensor over a group of processes, of which this is one; returns whether the sum is right, and ms.

    Args:
        rank: of this process, from 0; the first one listens.
        world: processes of the group.
        address: of the node of the first.
        port: that it listens on.
        mib: size of the tensor, in MiB of float32.
        gpu: NCCL on the GPU that Ray gave this process, else gloo.
        timeout_s: seconds after which whoever waits for another gives up.
    """
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    patience = timedelta(seconds=timeout_s)
    # Both ways, because who listens on a host with several addresses is reached by one that the others know.
    store = dist.TCPStore(address, port, world, is_master=rank == 0, timeout=patience)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=patience)
    try:
        right, times_ms = True, []
        for _ in range(1 + _REPEATS):
            values = torch.full((mib * 2**18,), float(rank + 1), device=device)
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(values)
            if gpu:
                torch.cuda.synchronize()
            times_ms.append(1e3 * (time.perf_counter() - begun))
            right = right and bool((values == world * (world + 1) / 2).all())
        # The first one also makes the connections.
        return right, statistics.median(times_ms[1:])
    finally:
        dist.destroy_process_group()


def probe_latency(gpu: bool) -> dict[str, Any]:
    """Return the latency of a small network here, and what else computed on the device just before.

    Args:
        gpu: on the first GPU that this process sees, else on the CPU.

    Returns:
        on (cpu or cuda), device (name), threads, cpus, median_ms, iqr_ms, load (busy CPUs, or the share of the GPU;
        None if unknown), programs (that compute on the GPU besides this one; 0 on a CPU).
    """
    import torch

    from search.latency import conditions_here, measure

    # Before anything of this process is on the device.
    before = _own_gpu() if gpu else None
    load = before["load"] if before else busy_cpus()
    device = torch.device("cuda", 0) if gpu and torch.cuda.is_available() else torch.device("cpu")
    if gpu and device.type == "cpu":
        raise RuntimeError("torch finds no GPU here, although the node offers one")
    layers = [torch.nn.Conv2d(3 if i == 0 else _CHANNELS, _CHANNELS, 3, padding=1) for i in range(4)]
    network = torch.nn.Sequential(*layers).to(device)
    images = torch.rand(1, 3, _SIDE, _SIDE, device=device)
    found = measure(lambda: network(images), device, warmup=_WARMUP, repeats=_RUNS)
    return {
        "on": device.type,
        "device": conditions_here(device, (3, _SIDE, _SIDE), 1).device_name,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "median_ms": found.median_ms,
        "iqr_ms": found.iqr_ms,
        "load": load,
        "programs": before["programs"] if before else 0,
    }


def _own_gpu() -> dict[str, Any] | None:
    """Return what is known of the first GPU that this process may use."""
    found = gpus()
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    number = int(first) if first.isdigit() else 0
    return found[number] if number < len(found) else None
