"""NAS-ASDet: progressive differentiable search with deep supervision (Sec. 3.3, 4.1.5).

Four stages of bilevel optimisation; after each, the weakest operators of every edge leave, and the next stage searches
the smaller space with a new supernet. The state of the search is a value that is saved after every epoch, so a
killed search goes on with the same numbers.
"""

import time
from collections.abc import Iterator
from itertools import count, islice

import numpy as np

from models.architecture import CellArchitecture
from models.asdet import softmax_shares
from search.bilevel import Batch, alpha_step
from search.context import Context
from search.data.loaders import divide
from search.divergence import check_finite
from search.search_record import record_epoch, record_pruning, record_stage
from search.stage import History, Stage, next_stage, problem_of, resume_stage, save_stage, strengths_of
from search.training import Progress, detached, learning_rate, own_part, set_learning_rate, weight_step


def choose_architecture(context: Context) -> tuple[CellArchitecture, list[float]]:
    """Search, or go on searching; returns the architecture and the seconds of each stage.

    Source: NAS-ASDet Eq. 11-15.
    """
    settings = context.settings.search
    stage, history = resume_stage(context)
    if stage.number == 0 and not stage.epoch:
        record_stage(context, stage)
    while True:
        _train(context, stage, history)
        strengths = strengths_of(stage.alphas)
        history = history.with_stage(stage, strengths)
        keep = settings.keep[stage.number]
        space = stage.space.prune(strengths, keep, zero_can_win=settings.zero_can_win)
        record_pruning(context, stage, space)
        if stage.number + 1 == len(settings.keep):
            ranked = -1 if settings.edge_score == "last_stage" else 0
            return space.derive(history.strengths[ranked], history.spaces[ranked]), list(history.seconds)
        stage = next_stage(context, stage, space)
        record_stage(context, stage)
        save_stage(context, stage, history)


def _train(context: Context, stage: Stage, history: History) -> None:
    """Run the epochs of a stage that are left, saving after each; raises `Diverged`."""
    settings = context.settings.search
    weight_indices, alpha_indices = divide(context.pack.train, context.settings.data.alpha_fraction, context.seed)
    for epoch in range(stage.epoch, settings.epochs):
        start = time.perf_counter()
        rate = learning_rate(settings.weight_lr, settings.schedule, epoch, settings.epochs)
        set_learning_rate(stage.weight_optimizer, rate)
        progress = _epoch(context, stage, epoch, weight_indices, alpha_indices)
        check_finite(
            f"search: stage {stage.number + 1}, epoch {epoch + 1}",
            [progress.sums[name] for name in ("loss", "alpha_loss") if name in progress.sums],
            [*stage.network.parameters(), *stage.alphas.values()],
            "lower search.weight_lr or search.alpha_lr, or set search.clip",
        )
        stage.epoch = epoch + 1
        seconds = time.perf_counter() - start
        stage.seconds += seconds
        record_epoch(context, stage, progress, rate, seconds)
        if stage.epoch % context.settings.runtime.checkpoint_every == 0 or stage.epoch == settings.epochs:
            save_stage(context, stage, history)


def _epoch(
    context: Context, stage: Stage, epoch: int, weight_indices: np.ndarray, alpha_indices: np.ndarray
) -> Progress:
    """Pass once over the weights' tiles; behind the warm-up an alpha step goes before every weight step."""
    settings = context.settings.search
    problem = problem_of(context)
    alpha_batches = _cycle(context, alpha_indices, stage.number, epoch)
    progress = Progress()
    for batch in islice(
        context.batches(weight_indices, context.settings.search.batch, "weights", stage.number, epoch),
        settings.steps or None,
    ):
        if epoch >= settings.warmup_epochs:
            second = settings.order == "second"
            alpha_loss = alpha_step(
                stage.network,
                stage.alphas,
                stage.alpha_optimizer,
                next(alpha_batches),
                problem,
                weight_batch=batch if second else None,
                weight_optimizer=stage.weight_optimizer if second else None,
            )
            progress.add(alpha_loss=alpha_loss)
        shares = detached(softmax_shares(stage.alphas))
        loss, logits = weight_step(
            stage.network, stage.weight_optimizer, batch, problem, shares=shares, clip=settings.clip
        )
        progress.steps += 1
        progress.add(loss=loss)
        progress.add_overlap(logits, own_part(batch)[1])
    return progress


def _cycle(context: Context, indices: np.ndarray, stage: int, epoch: int) -> Iterator[Batch]:
    """Yield alpha batches without end, reshuffled at every pass."""
    for number in count():
        yield from context.batches(indices, context.settings.search.batch, "alphas", stage, epoch, number)
