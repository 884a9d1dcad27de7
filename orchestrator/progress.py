"""How far a trial is, as a value that its events move on; no terminal, no clock."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search.settings import Settings

# An alternating step adds an alpha step without weight gradients to the weight step.
_ALTERNATING = 1.6
# Edges that a chosen cell keeps, of those that the supernet computes.
_KEPT_EDGES = 8 / 14
_SMOOTHING = 0.3


@dataclass(frozen=True)
class Standing:
    """Where a trial stands.

    Attributes:
        costs: expected cost of every epoch, search then retraining, in units of a bare weight epoch.
        phase: waiting, search, supernet, latency, evolve, retrain, test, done or failed.
        stage: stage of the search from 1, of `stages`; 0 outside of it.
        epoch: epochs done of this stage or of the retraining, of `epochs`; with AutoNAD also subnets measured,
            generations, subnets retrained.
        loss: training loss of the last epoch.
        iou: training IoU of the last epoch, or the test IoU of a trial that is done; in [0, 1].
        started: unix time of the first event seen, in seconds.
        ended: unix time of the last event of a trial that is done or failed.
        done: epochs done in all.
        rate: seconds per unit of cost, smoothed; None before the first epoch.
    """

    costs: tuple[float, ...]
    search_epochs: int
    phase: str = "waiting"
    stage: int = 0
    stages: int = 0
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    iou: float | None = None
    started: float | None = None
    ended: float | None = None
    done: int = 0
    rate: float | None = None

    def remaining_s(self) -> float | None:
        """Return the estimated seconds to the end of retraining; None before there is anything to go by."""
        return None if self.rate is None else self.rate * sum(self.costs[self.done :])


def not_begun(settings: Settings, method: str) -> Standing:
    """Return the progress of a trial that has not begun."""
    if method == "autonad":
        return Standing(_hybrid_costs(settings), settings.supernet.epochs + settings.evolution.generations)
    searched = _search_costs(settings) if method == "asdet" else []
    return Standing((*searched, *_retrain_costs(settings)), len(searched))


def advance(standing: Standing, event: Mapping[str, Any], now: float) -> Standing:
    """Return the progress after an event of the ledger, or of the fleet (failed, retried).

    Args:
        standing: before.
        event: as the ledger has it.
        now: unix time in seconds, for events that bring none.
    """
    time = event.get("time", now)
    standing = replace(standing, started=standing.started or time)
    match event["event"]:
        case "started" | "resumed":
            return replace(standing, phase=event.get("phase", "search"), ended=None)
        case "stage":
            found = {"stage": event["stage"], "stages": event["stages"], "epochs": event["epochs"]}
            return replace(standing, phase="search", epoch=0, loss=None, iou=None, **found)
        case "epoch":
            return _epoch(standing, event)
        case "generation":
            found = {"epoch": event["generation"], "epochs": event["generations"], "iou": event["miou"], "loss": None}
            return replace(standing, phase="evolve", done=len(standing.costs) - 1, **found)
        case "progress":
            # Of these nothing is known that a remaining time could be told from.
            counted = {"epoch": event["done"], "epochs": event["of"], "loss": None, "iou": None, "rate": None}
            standing = replace(standing, phase=event["phase"], stage=0, **counted)
            measured = event["phase"] == "latency" and event["done"] == event["of"]
            return replace(standing, phase="evolve", epoch=0, epochs=0) if measured else standing
        case "finalist":
            return replace(standing, phase="retrain", epoch=event["done"], epochs=event["of"], iou=event["miou"])
        case "architecture":
            return replace(standing, phase="retrain", stage=0, epoch=0, epochs=0, loss=None, iou=None)
        case "finished":
            return replace(standing, phase="done", iou=event["metrics"]["iou"], ended=time, done=len(standing.costs))
        case "failed":
            return replace(standing, phase="failed", ended=time)
        case "retried":
            return replace(standing, phase="waiting", ended=None)
    return standing


def _epoch(standing: Standing, event: Mapping[str, Any]) -> Standing:
    retraining = event["phase"] == "retrain"
    done = event["step"] + (standing.search_epochs if retraining else 0)
    cost = standing.costs[min(done, len(standing.costs)) - 1]
    measured = event["seconds"] / cost
    known = standing.rate is not None and standing.phase == event["phase"]
    rate = measured if not known else standing.rate + _SMOOTHING * (measured - standing.rate)
    last = retraining and event["epoch"] == event["epochs"]
    return replace(
        standing,
        phase="test" if last else event["phase"],
        stage=event.get("stage", 0),
        stages=event.get("stages", standing.stages),
        epoch=event["epoch"],
        epochs=event["epochs"],
        loss=event["loss"],
        iou=event["iou"],
        done=min(done, len(standing.costs)),
        rate=rate,
    )


def _hybrid_costs(settings: Settings) -> tuple[float, ...]:
    """Return one unit per epoch of the supernet, and one for all that follows, which nothing is known of before."""
    return (*((1.0,) * settings.supernet.epochs), 1.0)


def _search_costs(settings: Settings) -> list[float]:
    search = settings.search
    candidates = [len(settings.network.operators), *search.keep[:-1]]
    tiles = _tiles_an_epoch(settings)[0]
    return [
        tiles * (count + 1) * (1 if epoch < search.warmup_epochs else _ALTERNATING)
        for count, epoch in itertools.product(candidates, range(search.epochs))
    ]


def _retrain_costs(settings: Settings) -> list[float]:
    return [_tiles_an_epoch(settings)[1] * (_KEPT_EDGES + 1)] * settings.retrain.epochs


def _tiles_an_epoch(settings: Settings) -> tuple[float, float]:
    """Return the tiles of an epoch of the search and of the retraining, in a unit of their own."""
    search, retrain = settings.search, settings.retrain
    if search.steps and retrain.steps:
        return float(search.steps * search.batch), float(retrain.steps * retrain.batch)
    return 1 - settings.data.alpha_fraction, 1.0
