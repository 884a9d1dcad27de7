"""What a trial took, as metrics `cost/..`: wall time and processor time of its phases.

Processor seconds are the time for which processors were held: `gpu_seconds` on CUDA, else `cpu_seconds` of every
thread.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]

_SEARCHING = ("supernet", "latency", "evolve")


Used = Sequence[tuple[str | None, float]]
"""Devices ("cpu", "cuda", "cuda:N"; None where it is not known) and seconds that workers computed on them."""


def processor_seconds(used: Used, about: Event) -> dict[str, float]:
    """Return processor seconds by unit.

    Args:
        used: by the workers.
        about: what names the "threads" of each.
    """
    values: dict[str, float] = {}
    for device, seconds in used:
        if device is not None:
            unit, held = ("gpu_seconds", 1) if device.startswith("cuda") else ("cpu_seconds", about.get("threads", 1))
            values[unit] = values.get(unit, 0.0) + float(seconds) * held
    return values


def cost_values(
    stage_seconds: Sequence[float], others: Mapping[str, float | None], started: Mapping[str, Any]
) -> dict[str, float]:
    """Return seconds and processor seconds per search stage and for the other phases of a trial of NAS-ASDet.

    Args:
        stage_seconds: wall time of each search stage.
        others: wall time of "search", "retrain", "test"; None where it is not known.
        started: the last "started" event, for device, threads and workers.
    """
    device, workers = str(started.get("device", "cpu")), int(started.get("workers", 1))
    named = {f"search_stage_{number}": s for number, s in enumerate(stage_seconds, start=1)}
    named |= {phase: s for phase, s in others.items() if s is not None}
    values = {f"cost/{phase}_seconds": float(s) for phase, s in named.items()}
    for phase, s in named.items():
        held = processor_seconds([(device, workers * s)], started)
        values |= {f"cost/{phase}_{unit}": amount for unit, amount in held.items()}
    return values


def stage_seconds(events: Iterable[Event]) -> list[float]:
    """Return the seconds of the epochs of each search stage so far, for a trial that did not finish."""
    epochs = {e["step"]: e for e in events if e["event"] == "epoch" and e["phase"] == "search"}
    stages: dict[int, float] = {}
    for event in epochs.values():
        stages[int(event["stage"])] = stages.get(int(event["stage"]), 0.0) + float(event["seconds"])
    return [stages[number] for number in sorted(stages)]


def hybrid_cost_values(events: Sequence[Event]) -> dict[str, float]:
    """Return seconds and processor seconds of the phases of an AutoNAD trial so far, and of "search" as a whole.

    Who drives a trial computes nothing: devices are those that the workers name in their events. The seconds of
    "retrain" are those of all retrainings, which may have run side by side.
    """
    values: dict[str, float] = {}
    started: Event = {}
    for event in events:
        started = event if event["event"] == "started" else started
        part = _part_of(event)
        if part is None:
            continue
        phase, wall_s, used = part
        for unit, amount in {"seconds": wall_s, **processor_seconds(used, started)}.items():
            for name in (phase, "search") if phase in _SEARCHING else (phase,):
                key = f"cost/{name}_{unit}"
                values[key] = values.get(key, 0.0) + amount
    return values


def processor_seconds_of(event: Event, started: Event) -> dict[str, float]:
    """Return by unit the processor seconds of what an event of an AutoNAD trial ends: an epoch, a generation.

    Args:
        event: of the ledger.
        started: the last "started" event, for the threads of each worker.
    """
    part = _part_of(event)
    return {} if part is None else processor_seconds(part[2], started)


def _part_of(event: Event) -> tuple[str, float, Used] | None:
    """Return the phase of AutoNAD that an event ends a part of, the part's wall time, and what its workers used.

    Events of older versions do not name every device.
    """
    match event["event"]:
        case "epoch" if event["phase"] == "supernet":
            return "supernet", event["seconds"], [(event.get("device"), event["seconds"] * event.get("workers", 1))]
        case "latency":
            return "latency", event["seconds"], [(event["conditions"]["device"], event["seconds"])]
        case "generation":
            measured = (event.get("measured_on"), event.get("measure_seconds", 0.0))
            return "evolve", event["seconds"], [measured, *event.get("device_seconds", {}).items()]
        case "finalist" if "retrain_seconds" in event:
            return "retrain", event["retrain_seconds"], [(event.get("device"), event["retrain_seconds"])]
    return None
