"""One stage of the progressive search as a value: made, saved after every epoch, taken up again.

Source: NAS-ASDet Sec. 3.3, 4.1.5. Whatever form its mixed edges have, a stage starts with the same weights and alphas,
which follow from the trial's seed and the stage's number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from models.architecture import CELL_KINDS
from models.asdet import ASDetNet, initial_alphas, softmax_shares
from models.cell_space import CellSpace
from search.bilevel import Alphas, alpha_step
from search.checkpoint import Checkpoint, pack_module, pack_optimizer, save_checkpoint, unpack, unpack_optimizer
from search.context import Context
from search.data.loaders import seed_of
from search.distributed import rank, world_size
from search.forms import Form, allowed_forms, choose_form
from search.memory import PEAK_OVER_KEPT, OutOfMemory, free_memory, kept_for_backward
from search.training import Problem, detached, sgd, weight_step

MOST_KEPT = 4096
"""Bytes per image, pixel and channel of C that no supernet keeps; 2,400 were measured on the plain form."""

Strengths = dict[str, list[list[float]]]
"""Per cell kind and edge the softmax shares of the candidates."""


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


def resume_stage(context: Context) -> tuple[Stage, History]:
    """Return the stage to go on with and what lies behind it: from a checkpoint, or the first stage at its start."""
    checkpoint = context.load("search")
    if checkpoint is None:
        return _build(context, 0, CellSpace.full(context.settings.network.operators), None), History()
    state = checkpoint.state
    stage = _build(context, state["stage"], CellSpace.from_dict(state["space"]), Form(**state["form"]))
    _restore(stage, checkpoint)
    context.ledger.write("resumed", phase="search", stage=stage.number + 1, epoch=stage.epoch)
    return stage, History.from_dict(state["history"])


def next_stage(context: Context, before: Stage, space: CellSpace) -> Stage:
    """Return the following stage: a new supernet and new alphas, unless the settings carry them over."""
    stage = _build(context, before.number + 1, space, None)
    if context.settings.search.carry_weights:
        _carry_weights(before.network, stage)
    if context.settings.search.carry_alphas:
        _carry_alphas(before, stage)
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

    def prepare(form: Form) -> Callable[[], None]:
        network = _in_form(context.network(space, searching=True), form, context).to(context.device)
        alphas = {k: t.to(context.device).requires_grad_() for k, t in initial_alphas(space, 1e-3, generator).items()}
        optimizers = _optimizers(context, network, alphas)

        def step() -> None:
            alpha_step(network, alphas, optimizers[1], (images, masks), problem_of(context))
            shares = detached(softmax_shares(alphas))
            weight_step(network, optimizers[0], (images, masks), problem_of(context), shares=shares)

        return step

    width, precision = settings.network.channels, context.precision
    shape = f"{space.width} operators, {size} px, batch {batch}, C {width}, {precision}"

    def fitting(forms: list[Form]) -> list[Form]:
        return _fitting(context, space, forms)

    return choose_form(allowed_forms(settings.runtime), fitting, prepare, context.device, shape, context.forms)


def _fitting(context: Context, space: CellSpace, forms: list[Form]) -> list[Form]:
    """Return the forms of which a step fits into the memory that is free.

    Raises:
        OutOfMemory: none does.
    """
    size, batch = context.settings.data.image_size, -(-context.settings.search.batch // world_size())
    free = free_memory(context.device)
    if free is None or MOST_KEPT * batch * size**2 * context.settings.network.channels < free:
        return forms

    def kept(edges: str) -> int:
        def build() -> Callable[[], object]:
            network = _in_form(context.network(space, searching=True), Form(edges, False), context)
            shares = softmax_shares(initial_alphas(space, 1e-3, torch.Generator().manual_seed(0)))
            images = torch.empty(batch, context.pack.colour_channels, size, size)
            return lambda: network(images, shares, branches=True)

        return kept_for_backward(build)

    needed = {edges: PEAK_OVER_KEPT * kept(edges) for edges in sorted({form.edges for form in forms})}
    fitting = [form for form in forms if needed[form.edges] <= free]
    if not fitting:
        least = min(needed.values())
        most = int(context.settings.search.batch * free / least)
        raise OutOfMemory(
            f"data.image_size {size} with search.batch {context.settings.search.batch}: a step of the supernet needs "
            f"about {least / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free on {context.device}; "
            + (f"search.batch {most} would fit" if most else "not even one image fits")
        )
    return fitting


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


def save_stage(context: Context, stage: Stage, history: History) -> None:
    """Write the checkpoint that a killed search goes on from; the first of a group of processes alone writes."""
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


def problem_of(context: Context) -> Problem:
    """Return what the loss of a supernet needs besides the supernet."""
    settings = context.settings
    return Problem(context.classes, settings.loss, context.device, context.precision)


def strengths_of(alphas: Alphas) -> Strengths:
    """Return the softmax of every edge's alphas as plain floats."""
    return {kind: share.detach().double().cpu().tolist() for kind, share in softmax_shares(alphas).items()}
