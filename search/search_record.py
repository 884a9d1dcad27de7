"""What a search writes into the ledger: stages, epochs with every share, prunings."""

import numpy as np

from models.architecture import CELL_KINDS
from models.cell_space import CellSpace
from search.context import Context
from search.stage import Stage, strengths_of
from search.training import Progress


def record_stage(context: Context, stage: Stage) -> None:
    """Write the event of a stage's begin."""
    settings = context.settings.search
    context.ledger.write(
        "stage",
        phase="search",
        stage=stage.number + 1,
        stages=len(settings.keep),
        candidates=stage.space.width,
        epochs=settings.epochs,
        form=stage.form.edges,
        channels_last=stage.form.channels_last,
    )


def record_epoch(context: Context, stage: Stage, progress: Progress, rate: float, seconds: float) -> None:
    """Write the event of a finished epoch.

    Args:
        context: of the trial.
        stage: with `epoch` counting the finished one.
        progress: sums over the epoch.
        rate: learning rate of the weights.
        seconds: that the epoch took.
    """
    settings = context.settings.search
    strengths = strengths_of(stage.alphas)
    candidates = stage.space.to_dict()
    context.ledger.write(
        "epoch",
        phase="search",
        stage=stage.number + 1,
        stages=len(settings.keep),
        epoch=stage.epoch,
        epochs=settings.epochs,
        step=stage.number * settings.epochs + stage.epoch,
        steps=len(settings.keep) * settings.epochs,
        loss=progress.mean("loss", progress.steps),
        alpha_loss=progress.mean("alpha_loss", progress.steps),
        iou=progress.iou(),
        seconds=seconds,
        lr=rate,
        entropy={kind: _entropy(strengths[kind]) for kind in CELL_KINDS},
        share={kind: _mean_share(strengths[kind], candidates[kind]) for kind in CELL_KINDS},
        alphas=strengths,
        candidates=candidates,
    )


def record_pruning(context: Context, stage: Stage, space: CellSpace) -> None:
    """Write the event of the pruning to `space`."""
    kept, before = space.to_dict(), stage.space.to_dict()
    removed = {
        kind: [[n for n in old if n not in new] for old, new in zip(before[kind], kept[kind], strict=True)]
        for kind in CELL_KINDS
    }
    context.ledger.write("pruned", stage=stage.number + 1, kept=kept, removed=removed)


def _entropy(strengths: list[list[float]]) -> float:
    """Return the mean entropy of the edges' shares, nats."""
    p = np.asarray(strengths)
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum(1).mean())


def _mean_share(strengths: list[list[float]], candidates: list[list[str]]) -> dict[str, float]:
    """Return per operator its mean share over all edges; where it is no candidate it has none."""
    totals: dict[str, float] = {}
    for shares, names in zip(strengths, candidates, strict=True):
        for share, name in zip(shares, names, strict=True):
            totals[name] = totals.get(name, 0.0) + share / len(strengths)
    return totals
