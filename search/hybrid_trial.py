"""One AutoNAD trial from its folder, as `search.trial` runs one of NAS-ASDet: files in, files out.

Beside what every trial folder holds there are `supernet.safetensors`, `latencies.jsonl`, `latency_table.json`,
`candidates.jsonl`, `candidates.parquet`, `candidates.json` and a folder under `finalists/` for each retraining.
"""

import json
import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.checkpoint import write_atomically
from search.context import Context
from search.hybrid_workers import Hands, save_weights
from search.latency import kendall_tau
from search.ledger import Emit, read_events
from search.methods.autonad import run
from search.one_shot import train_supernet
from search.trial import environment, open_context, read_trial

_SCORES = ("iou", "f1", "pa", "miou", "mf1")
_COST = ("parameters", "macs", "flops", "latency_ms", "latency_on")


def run_hybrid_trial(
    folder: Path, emit: Emit | None, hands: Callable[[Context], Hands], device: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Run an AutoNAD trial, or go on where it stopped; returns the content of metrics.json.

    Args:
        folder: with trial.json in it.
        emit: gets every event of the ledger, for a display.
        hands: returns who does the work.
        device: as for `open_context`, where this process only drives.

    Raises:
        InputError: trial.json, the pack, the limits or a checkpoint cannot be used.
    """
    done = folder / "metrics.json"
    if done.exists():
        return json.loads(done.read_text())
    trial = read_trial(folder)
    context = open_context(folder, trial, emit, device)
    context.ledger.write("started", phase="supernet", **environment(context))
    finalists = run(context, hands(context))
    metrics = _metrics(context, trial, finalists)
    _promote(folder, finalists[0])
    write_atomically(done, json.dumps(metrics, indent=1, allow_nan=False).encode())
    context.ledger.write("finished", seconds=metrics["seconds"], metrics=metrics)
    return metrics


def train_here(context: Context) -> None:
    """Train the supernet of a context in this process and save it."""
    save_weights(context, train_supernet(context))


def _metrics(context: Context, trial: dict[str, Any], finalists: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of metrics.json: of the best candidate the mean over its retrainings, and all finalists."""
    first = finalists[0]["architecture_digest"]
    winner = [f for f in finalists if f["architecture_digest"] == first and f["role"] == "finalist"]
    drawn = [f for f in finalists if f["role"] == "random"]
    seconds = phase_seconds(context)
    return {
        "method": trial["method"],
        "data": trial["name"],
        "seed": context.seed,
        **means(winner),
        "test": winner[0]["test"],
        "nothing": winner[0]["nothing"],
        "inherited": winner[0]["inherited"],
        **{name: winner[0][name] for name in (*_COST, "architecture_digest", "classes")},
        **({"random": means(drawn) | {name: drawn[0][name] for name in ("inherited", *_COST)}} if drawn else {}),
        "ranking": ranking(finalists),
        **({"latency_table": table} if (table := latency_table(context)) else {}),
        "quarantined": _quarantined(context),
        "finalists": [{k: v for k, v in f.items() if k not in ("test", "nothing")} for f in finalists],
        "search_seconds": seconds["supernet"] + seconds["latency"] + seconds["evolve"],
        "retrain_seconds": sum(f["retrain_seconds"] for f in finalists),
        "seconds": seconds | {"retrain": sum(f["retrain_seconds"] for f in finalists)},
        "data_digest": context.pack.digest,
        "split": context.pack.split,
        "image_size": context.settings.data.image_size,
    }


def _quarantined(context: Context) -> list[dict[str, str]]:
    """Return the finalists that could not be retrained, and why."""
    events = read_events(context.folder / "ledger.jsonl")
    lost = [e for e in events if e["event"] == "quarantined" and e["phase"] == "retrain"]
    return [{name: e[name] for name in ("digest", "role", "error")} for e in lost]


def means(retrained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean test scores of one architecture's retrainings, and "std", their sample standard deviations.

    One retraining has no "std".
    """
    scores = {name: [float(f[name]) for f in retrained] for name in _SCORES}
    found: dict[str, Any] = {name: statistics.fmean(values) for name, values in scores.items()}
    return found | ({"std": {k: statistics.stdev(v) for k, v in scores.items()}} if len(retrained) > 1 else {})


def ranking(finalists: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how inherited scores rank the architectures that were retrained.

    Returns:
        over: how many. tau_validation, tau_test: Kendall's tau of the inherited mIoU and the retrained one on the same
        validation images, and on the test images (means over seeds); None where all of one side are equal.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for finalist in finalists:
        groups.setdefault(finalist["architecture_digest"], []).append(finalist)

    def mean(name: str) -> list[float]:
        return [sum(f[name] for f in group) / len(group) for group in groups.values()]

    inherited = [group[0]["inherited"]["miou"] for group in groups.values()]
    taus = {"tau_validation": kendall_tau(inherited, mean("validation_miou"))}
    taus["tau_test"] = kendall_tau(inherited, mean("miou"))
    return {"over": len(groups), **{name: None if math.isnan(tau) else tau for name, tau in taus.items()}}


def latency_table(context: Context) -> dict[str, Any] | None:
    """Return how well the latency table predicts, read off the ledger; None where there is no table.

    Returns:
        records: it was estimated from. residual_ms: what it leaves unexplained of them, None where that cannot be told.
        tau: Kendall's, of its latencies and the measured ones of the candidates that it was not estimated from; None
        where there are too few. over: how many those are.
    """
    events = list(read_events(context.folder / "ledger.jsonl"))
    estimated = [e for e in events if e["event"] == "latency"]
    if not estimated:
        return None
    table = {name: estimated[-1][name] for name in ("records", "residual_ms")}
    # The first choice is the search's; a random search beside it goes by no table.
    chosen = next(e for e in events if e["event"] == "chosen")
    return {**table, "tau": chosen["table_tau"], "over": chosen["table_tau_over"]}


def phase_seconds(context: Context) -> dict[str, float]:
    """Return the seconds of the phases before retraining, over all attempts, read off the ledger."""
    seconds = {"supernet": 0.0, "latency": 0.0, "evolve": 0.0}
    for event in read_events(context.folder / "ledger.jsonl"):
        if event["event"] == "epoch" and event["phase"] == "supernet":
            seconds["supernet"] += event["seconds"]
        elif event["event"] == "latency":
            seconds["latency"] += event["seconds"]
        elif event["event"] == "generation":
            seconds["evolve"] += event["seconds"]
    return seconds


def _promote(folder: Path, winner: dict[str, Any]) -> None:
    """Put the weights and pictures of the winner where those of every trial are."""
    source = folder / "finalists" / winner["folder"]
    write_atomically(folder / "weights.safetensors", (source / "weights.safetensors").read_bytes())
    shutil.copytree(source / "pictures", folder / "pictures", dirs_exist_ok=True)
