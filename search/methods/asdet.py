"""NAS-ASDet: progressive differentiable search with deep supervision (Sec. 3.3, 4.1.5).

Four stages of bilevel optimisation; after each, the weakest operators of every edge leave, and the next stage searches
the smaller space with a new supernet. The state of the search is a value that is saved after every epoch, so a
killed search goes on with the same numbers.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch

from models.architecture import CELL_KINDS, CellArchitecture
from models.asdet import ASDetNet, initial_alphas, softmax_shares
from models.cell_space import CellSpace
from search.bilevel import Alphas, Batch, alpha_step
from search.checkpoint import Checkpoint, pack_module, pack_optimizer, save_checkpoint, unpack, unpack_optimizer
from search.context import Context
from search.data.loaders import batches, divide, seed_of
from search.distributed import rank
from search.forms import Form, allowed_forms, choose_form
from search.training import (
    Problem,
    Progress,
    detached,
    learning_rate,
    own_part,
    set_learning_rate,
    sgd,
    weight_step,
)

Strengths = dict[str, list[list[float]]]


@dataclass
class Stage:
    """One stage while it runs: what is trained, and how far it is.

    Attributes:
        number: from 0.
        epoch: epochs that are finished.
        space: what is searched in this stage.
        form: how its mixed edges are computed.
        seconds: of this stage so far, over all attempts.
    """

    number: int
    epoch: int
    space: CellSpace
    form: Form
    network: ASDetNet
    alphas: Alphas
    weight_optimizer: torch.optim.SGD
    alpha_optimizer: torch.optim.Adam
    seconds: float = 0.0


@dataclass(frozen=True)
class History:
    """What earlier stages leave behind: seconds of each, and the spaces and strengths that may rank the edges."""

    seconds: tuple[float, ...] = ()
    spaces: tuple[CellSpace, ...] = ()
    strengths: tuple[Strengths, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        spaces = [space.to_dict() for space in self.spaces]
        return {"seconds": list(self.seconds), "spaces": spaces, "strengths": list(self.strengths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "History":
        """Rebuild what `to_dict` gave."""
        spaces = tuple(CellSpace.from_dict(space) for space in values["spaces"])
        return cls(tuple(values["seconds"]), spaces, tuple(values["strengths"]))

    def with_stage(self, stage: Stage, strengths: Strengths) -> "History":
        """Return the history with a finished stage added."""
        return History((*self.seconds, stage.seconds), (*self.spaces, stage.space), (*self.strengths, strengths))


def choose_architecture(context: Context) -> tuple[CellArchitecture, list[float]]:
    """Search, or go on searching; returns the architecture and the seconds of each stage.

    Source: NAS-ASDet Eq. 11-15.
    """
    settings = context.settings.search
    stage, history = _resume(context)
    while True:
        _train(context, stage, history)
        strengths = _strengths(stage.alphas)
        history = history.with_stage(stage, strengths)
        keep = settings.keep[stage.number]
        space = stage.space.prune(strengths, keep, zero_can_win=settings.zero_can_win)
        _log_pruning(context, stage, space)
        if stage.number + 1 == len(settings.keep):
            ranked = -1 if settings.edge_score == "last_stage" else 0
            return space.derive(history.strengths[ranked], history.spaces[ranked]), list(history.seconds)
        stage = _next(context, stage, space)
        _save(context, stage, history)


def _train(context: Context, stage: Stage, history: History) -> None:
    """Run the epochs of a stage that are left, saving after each."""
    settings = context.settings.search
    weight_indices, alpha_indices = divide(context.pack.train, context.settings.data.alpha_fraction, context.seed)
    for epoch in range(stage.epoch, settings.epochs):
        start = time.perf_counter()
        rate = learning_rate(settings.weight_lr, settings.schedule, epoch, settings.epochs)
        set_learning_rate(stage.weight_optimizer, rate)
        progress = _epoch(context, stage, epoch, weight_indices, alpha_indices)
        stage.epoch = epoch + 1
        seconds = time.perf_counter() - start
        stage.seconds += seconds
        _log_epoch(context, stage, progress, rate, seconds)
        if stage.epoch % context.settings.runtime.checkpoint_every == 0 or stage.epoch == settings.epochs:
            _save(context, stage, history)


def _epoch(
    context: Context, stage: Stage, epoch: int, weight_indices: np.ndarray, alpha_indices: np.ndarray
) -> Progress:
    """Pass once over the weights' tiles; behind the warm-up an alpha step goes before every weight step."""
    settings = context.settings.search
    problem = _problem(context)
    alpha_batches = _cycle(context, alpha_indices, stage.number, epoch)
    progress = Progress()
    for batch in islice(_pass(context, weight_indices, ("weights", stage.number, epoch)), settings.steps or None):
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


def _pass(context: Context, indices: np.ndarray, key: tuple[int | str, ...]) -> Iterator[Batch]:
    size = context.settings.search.batch
    return batches(
        context.pack.train,
        indices,
        size,
        pack=context.pack,
        augment=context.settings.data.augment,
        key=(context.seed, *key),
        shuffle=True,
        drop_last=len(indices) >= size,
        device=context.device,
    )


def _cycle(context: Context, indices: np.ndarray, stage: int, epoch: int) -> Iterator[Batch]:
    """Yield alpha batches without end, reshuffled at every pass."""
    for number in count():
        yield from _pass(context, indices, ("alphas", stage, epoch, number))


# --- a stage: made, saved, taken up again -----------------------------------------------------------------------


def _resume(context: Context) -> tuple[Stage, History]:
    checkpoint = context.load("search")
    if checkpoint is None:
        stage = _build(context, 0, CellSpace.full(context.settings.network.operators), None)
        _log_stage(context, stage)
        return stage, History()
    state = checkpoint.state
    stage = _build(context, state["stage"], CellSpace.from_dict(state["space"]), Form(**state["form"]))
    _restore(stage, checkpoint)
    context.ledger.write("resumed", phase="search", stage=stage.number + 1, epoch=stage.epoch)
    return stage, History.from_dict(state["history"])


def _next(context: Context, before: Stage, space: CellSpace) -> Stage:
    """Return the following stage: a new supernet and new alphas, unless the settings carry them over."""
    stage = _build(context, before.number + 1, space, None)
    if context.settings.search.carry_weights:
        _carry_weights(before.network, stage)
    if context.settings.search.carry_alphas:
        _carry_alphas(before, stage)
    _log_stage(context, stage)
    return stage


def _build(context: Context, number: int, space: CellSpace, form: Form | None) -> Stage:
    """Return a stage at its start, in the given form or in the fastest; the same weights whichever form it is."""
    settings = context.settings.search
    seed = seed_of(context.seed, "stage", number)
    chosen = form or _fastest_form(context, space)
    torch.manual_seed(seed)
    network = _in_form(context.network(space, searching=True), chosen, context).to(context.device)
    generator = torch.Generator().manual_seed(seed)
    drawn = initial_alphas(space, settings.alpha_init, generator)
    alphas = {kind: table.to(context.device).requires_grad_() for kind, table in drawn.items()}
    return Stage(number, 0, space, chosen, network, alphas, *_optimizers(context, network, alphas))


def _optimizers(context: Context, network: ASDetNet, alphas: Alphas) -> tuple[torch.optim.SGD, torch.optim.Adam]:
    settings = context.settings.search
    weight_optimizer = sgd(network.parameters(), settings.weight_lr, settings.momentum, settings.weight_decay)
    # DEPARTURE(adam-betas): the paper gives Adam a "momentum of 0.9"; that is beta1, beta2 is torch's 0.999.
    alpha_optimizer = torch.optim.Adam(
        alphas.values(), lr=settings.alpha_lr, betas=(0.9, 0.999), weight_decay=settings.alpha_weight_decay
    )
    return weight_optimizer, alpha_optimizer


def _in_form(network: ASDetNet, form: Form, context: Context) -> ASDetNet:
    if form.edges == "batched":
        network.batch_edges()
    return network.lay_out(context.settings.data.image_size, context.device.type) if form.channels_last else network


def _fastest_form(context: Context, space: CellSpace) -> Form:
    """Return the form for this many candidates per edge, see `forms.choose_form`."""
    settings = context.settings
    size, batch = settings.data.image_size, settings.search.batch
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, context.pack.colour_channels, size, size, generator=generator).to(context.device)
    masks = (torch.rand(batch, size, size, generator=generator) < 0.1).long().to(context.device)

    def prepare(form: Form) -> Any:
        network = _in_form(context.network(space, searching=True), form, context).to(context.device)
        alphas = {k: t.to(context.device).requires_grad_() for k, t in initial_alphas(space, 1e-3, generator).items()}
        optimizers = _optimizers(context, network, alphas)

        def step() -> None:
            alpha_step(network, alphas, optimizers[1], (images, masks), _problem(context))
            shares = detached(softmax_shares(alphas))
            weight_step(network, optimizers[0], (images, masks), _problem(context), shares=shares)

        return step

    width, precision = settings.network.channels, settings.runtime.precision
    shape = f"{space.width} operators, {size} px, batch {batch}, C {width}, {precision}"
    return choose_form(allowed_forms(settings.runtime), prepare, context.device, shape, context.forms)


def _carry_weights(network: ASDetNet, stage: Stage) -> None:
    """Give the operators that survived the weights that they had."""
    old, plain = network.plain_state(), stage.network.plain_state()
    with torch.no_grad():
        for name, target in plain.items():
            # `plain_state` shares memory with the network, stacked or not.
            target.copy_(old[name])


def _carry_alphas(before: Stage, stage: Stage) -> None:
    """Give the survivors their alphas, re-centred to mean 0 per edge."""
    for kind in CELL_KINDS:
        pairs = zip(before.space.candidates(kind), stage.space.candidates(kind), strict=True)
        rows = [[old.index(name) for name in new] for old, new in pairs]
        kept = before.alphas[kind].detach().gather(1, torch.tensor(rows, device=before.alphas[kind].device))
        stage.alphas[kind].data.copy_(kept - kept.mean(1, keepdim=True))


def _save(context: Context, stage: Stage, history: History) -> None:
    if rank() != 0:
        return
    tensors = {
        **pack_module("network", stage.network),
        **{f"alphas.{kind}": table for kind, table in stage.alphas.items()},
        **pack_optimizer("weight_optimizer", stage.weight_optimizer),
        **pack_optimizer("alpha_optimizer", stage.alpha_optimizer),
    }
    state = context.state(
        stage=stage.number,
        epoch=stage.epoch,
        space=stage.space.to_dict(),
        form={"edges": stage.form.edges, "channels_last": stage.form.channels_last},
        seconds=stage.seconds,
        history=history.to_dict(),
    )
    step = stage.number * (context.settings.search.epochs + 1) + stage.epoch
    save_checkpoint(context.folder / "checkpoint", "search", step, tensors, state)


def _restore(stage: Stage, checkpoint: Checkpoint) -> None:
    stage.network.load_state_dict(unpack("network", checkpoint.tensors))
    with torch.no_grad():
        for kind, table in stage.alphas.items():
            table.copy_(checkpoint.tensors[f"alphas.{kind}"])
    unpack_optimizer("weight_optimizer", checkpoint.tensors, stage.weight_optimizer)
    unpack_optimizer("alpha_optimizer", checkpoint.tensors, stage.alpha_optimizer)
    stage.epoch, stage.seconds = checkpoint.state["epoch"], checkpoint.state["seconds"]


# --- what is written down ---------------------------------------------------------------------------------------


def _problem(context: Context) -> Problem:
    settings = context.settings
    return Problem(context.classes, settings.loss, context.device, settings.runtime.precision)


def _strengths(alphas: Alphas) -> Strengths:
    """Return the softmax of every edge's alphas as plain floats."""
    return {kind: share.detach().double().cpu().tolist() for kind, share in softmax_shares(alphas).items()}


def _log_stage(context: Context, stage: Stage) -> None:
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


def _log_epoch(context: Context, stage: Stage, progress: Progress, rate: float, seconds: float) -> None:
    settings = context.settings.search
    strengths = _strengths(stage.alphas)
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


def _log_pruning(context: Context, stage: Stage, space: CellSpace) -> None:
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
