"""AutoNAD: a supernet trained once, then the subnet chosen by a latency-aware evolution, then retrained (Sec. IV, V-B).

Four phases, each of which finds what it did before in the trial's folder and goes on: `supernet.safetensors`;
`latencies.jsonl` and `latency_table.json`; `candidates.jsonl`, one line per scored candidate as results arrive; a
folder per finalist. Who computes is not decided here: `Hands` brings the workers, one in this process or many.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load, save

from models.autonad import AutoNADNet
from models.hybrid_architecture import HybridArchitecture
from models.hybrid_space import HybridSpace
from search.candidates import CandidateLedger, write_table
from search.checkpoint import write_atomically
from search.context import Context, choose_device
from search.errors import InputError
from search.finetune import Weights, cost_of, plain_network, run_job, write_job
from search.hybrid_settings import EvolutionSettings, space_of
from search.latency import Conditions, LatencyRecord, conditions_here, kendall_tau, measure_architecture
from search.latency_table import LatencyTable
from search.ledger import read_events
from search.one_shot import division, new_supernet, sampled_subnet
from search.population import Generation, Limits, Outcome, Price, Search, choose, finalists
from search.scoring import InheritedScore, Scorer
from search.trial import open_context, read_trial

GIGA = 1e9


class NothingLegal(InputError):
    """The limits leave no architecture of the space."""


class Pool(Protocol):
    """Workers that each item is given to one of."""

    def map(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Yield the outcome of every item, in the order of completion."""
        ...


@dataclass(frozen=True)
class Measured:
    """A latency and under which conditions it was measured, which only the worker knows."""

    record: LatencyRecord
    conditions: Conditions


@dataclass(frozen=True)
class _Found:
    index: int
    value: Any
    error: str | None


MakeWorker = Callable[[], Callable[[Any], Any]]


@dataclass(frozen=True)
class Hands:
    """Who does the work.

    Attributes:
        train: trains the supernet of a context, or goes on, and leaves `supernet.safetensors` in its folder.
        pool: opens a pool for "score", "measure" or "retrain"; a worker is a function that returns a function.
        share: puts weights where every worker gets them at little cost; returns a function that fetches them.
    """

    train: Callable[[Context], None]
    pool: Callable[[MakeWorker, str], AbstractContextManager[Pool]]
    share: Callable[[Weights], Callable[[], Weights]]


def run(context: Context, hands: Hands) -> list[dict[str, Any]]:
    """Run all phases, or what is left of them; returns the metrics of the retrained finalists, best candidate first.

    Raises:
        InputError: the limits leave nothing, or a file of the trial is damaged.
    """
    space = space_of(context.settings.space)
    limits = limits_of(context)
    with hands.pool(partial(make_measurer, context.folder), "measure") as measurers:
        _check_limits(context, space, limits, measurers)
    if not (context.folder / "supernet.safetensors").exists():
        hands.train(context)
    fetch = hands.share(load_weights(context.folder))
    with (
        hands.pool(partial(make_measurer, context.folder), "measure") as measurers,
        hands.pool(partial(make_scorer, context.folder, fetch), "score") as scorers,
    ):
        table = _latency_table(context, space, measurers)
        settings = context.settings.evolution
        search = _evolve(context, space, limits, table, measurers, scorers, settings, "candidates")
        drawn = None
        if settings.baseline and settings.strategy != "random":
            alone = dataclasses.replace(settings, strategy="random")
            drawn = _evolve(context, space, limits, None, measurers, scorers, alone, "random")
    if search.best is None:
        raise NothingLegal(f"{len(search.candidates)} candidates, and none could be scored within the limits")
    with hands.pool(partial(make_retrainer, context.folder, fetch), "retrain") as retrainers:
        return _retrain(context, search, drawn, retrainers)


def limits_of(context: Context) -> Limits:
    """Return the limits of the settings."""
    settings = context.settings.evolution
    return Limits(settings.parameter_limit, GIGA * settings.mac_limit, settings.latency_limit_ms)


def _check_limits(context: Context, space: HybridSpace, limits: Limits, measurers: Pool) -> None:
    """Find out before anything is trained that the limits leave nothing: the smallest subnet breaks one."""
    smallest = space.smallest()
    cost = cost_of(context, smallest)
    if not limits.allow(Price(cost.parameters, cost.macs)):
        raise NothingLegal(
            f"evolution.parameter_limit, evolution.mac_limit: the smallest subnet of the space has {cost.parameters:,} "
            f"parameters and {cost.macs / GIGA:.3f} GMACs, which is more than allowed"
        )
    if limits.latency_ms:
        measured = _values(measurers.map([smallest]))[0]
        if measured.record.median_ms > limits.latency_ms:
            raise NothingLegal(
                f"evolution.latency_limit_ms: {limits.latency_ms:g} ms cannot be met; the smallest subnet of the space "
                f"takes {measured.record.median_ms:.1f} ms on {measured.conditions.device_name}"
            )


def _latency_table(context: Context, space: HybridSpace, measurers: Pool) -> LatencyTable | None:
    """Measure subnets that the training sampled, as far as it was not done, and estimate the table (Sec. IV-D)."""
    settings, path = context.settings.latency, context.folder / "latencies.jsonl"
    wanted: dict[str, HybridArchitecture] = {}
    step = 0
    while len(wanted) < settings.records and step < 100 * settings.records:
        architecture = sampled_subnet(space, context.seed, 0, step)
        wanted.setdefault(architecture.digest(), architecture)
        step += 1
    if not wanted:
        return None
    # One is measured again, to learn under which conditions this attempt measures.
    first = _values(measurers.map(list(wanted.values())[:1]))[0]
    conditions = first.conditions
    known = {first.record.architecture.digest(): first.record} | _read_records(path, conditions)
    left = [a for digest, a in wanted.items() if digest not in known]
    start = time.perf_counter()
    for outcome in measurers.map(left):
        if outcome.error is None:
            record = outcome.value.record
            known[record.architecture.digest()] = record
            _append(path, {"conditions": conditions.to_dict(), **record.to_dict()})
    records = [known[digest] for digest in wanted if digest in known]
    table = LatencyTable.fit(records, space, conditions)
    write_atomically(context.folder / "latency_table.json", table.to_json().encode())
    _write_once(
        context,
        "latency",
        ("records", "conditions"),
        phase="evolve",
        records=len(records),
        seconds=time.perf_counter() - start,
        residual_ms=table.residual_ms,
        conditions=conditions.to_dict(),
        mean_ms=sum(r.median_ms for r in records) / len(records),
    )
    return table


def _evolve(
    context: Context,
    space: HybridSpace,
    limits: Limits,
    table: LatencyTable | None,
    measurers: Pool,
    scorers: Pool,
    settings: EvolutionSettings,
    name: str,
) -> Search:
    """Run a strategy; its candidates go to `name`.jsonl and `name`.parquet."""
    latency = context.settings.latency
    ledger = CandidateLedger(context.folder / f"{name}.jsonl")

    def after(generation: Generation, search: Search) -> None:
        write_table(context.folder / f"{name}.parquet", search.candidates.values(), search.points)
        values = dataclasses.asdict(generation)
        _write_once(
            context,
            "generation",
            ("strategy", "generation"),
            phase="evolve",
            strategy=settings.strategy,
            generation=values.pop("number") + 1,
            generations=settings.generations,
            **values,
        )

    search = choose(
        space,
        settings,
        context.seed,
        prior=None if table is None else table.prior(relative_temperature=latency.temperature, floor=latency.floor),
        limits=limits,
        price=partial(_price, context, limits),
        measure=partial(_records, measurers),
        score=scorers.map,
        ledger=ledger,
        after_generation=after,
    )
    _write_once(context, "chosen", ("strategy",), phase="evolve", **_chosen(search, settings, table))
    chosen = {"best": search.best, "front": list(search.front), "penalty": search.penalty}
    write_atomically(context.folder / f"{name}.json", json.dumps(chosen).encode())
    return search


def _price(context: Context, limits: Limits, architecture: HybridArchitecture) -> Price:
    if limits.macs:
        cost = cost_of(context, architecture)
        return Price(cost.parameters, cost.macs)
    with torch.device("meta"):
        network = plain_network(context, architecture)
    return Price(sum(parameter.numel() for parameter in network.parameters()))


def _chosen(search: Search, settings: EvolutionSettings, table: LatencyTable | None) -> dict[str, Any]:
    """Return what a finished choice says of itself; tau is over candidates that the table was not estimated from."""
    fitted = {record.architecture.digest() for record in table.records} if table else set()
    others = [c for c in search.candidates.values() if c.latency_ms is not None and c.digest not in fitted]
    tau = None
    if table is not None and len(others) > 1:
        measured = [c.latency_ms or 0.0 for c in others]
        tau = kendall_tau([table.predict_ms(c.architecture) for c in others], measured)
    return {
        "strategy": settings.strategy,
        "digest_of_best": search.best,
        "front": len(search.front),
        "penalty": search.penalty,
        "table_tau": tau,
        "table_tau_over": len(others),
    }


def _retrain(context: Context, search: Search, drawn: Search | None, retrainers: Pool) -> list[dict[str, Any]]:
    """Retrain every finalist with every seed, and the best of the random search."""
    folders, roles = [], []
    settings = context.settings
    chosen = finalists(search, settings.evolution.strategy, settings.finetune.finalists)
    jobs = [(candidate, "finalist") for candidate in chosen]
    if drawn is not None and drawn.best is not None:
        jobs.append((drawn.candidates[drawn.best], "random"))
    for candidate, role in jobs:
        assert candidate.score is not None
        for seed in range(context.settings.finetune.seeds):
            # Both may have chosen the same, and no two workers may share a folder.
            prefix = "random-" if role == "random" else ""
            folder = context.folder / "finalists" / f"{prefix}{candidate.digest[:8]}-s{seed}"
            write_job(folder, candidate.architecture, seed, candidate.score)
            folders.append(folder)
            roles.append(role)
    best = search.candidates[search.best or ""]
    _write_once(
        context,
        "architecture",
        ("digest",),
        architecture=best.architecture.to_dict(),
        digest=best.digest,
        parameters=best.parameters,
        macs=cost_of(context, best.architecture).macs,
    )
    write_atomically(context.folder / "architecture.json", best.architecture.to_json().encode())
    done: dict[int, dict[str, Any]] = {}
    for outcome in retrainers.map(folders):
        if outcome.error is not None:
            raise RuntimeError(f"{folders[outcome.index]}: {outcome.error}")
        done[outcome.index] = {**outcome.value, "folder": folders[outcome.index].name, "role": roles[outcome.index]}
        told = {"done": len(done), "of": len(folders), "role": roles[outcome.index], **_scores(outcome.value)}
        _write_once(context, "finalist", ("architecture_digest", "seed", "role"), phase="retrain", **told)
    return [done[k] for k in range(len(folders))]


def _write_once(context: Context, event: str, key: tuple[str, ...], **values: Any) -> None:
    """Write an event, unless an earlier attempt at the trial wrote it: a resumed search passes by it again."""
    values = json.loads(json.dumps(values))
    path = context.ledger.path
    told = (e for e in read_events(path) if e["event"] == event) if path else ()
    if not any(all(e[name] == values[name] for name in key) for e in told):
        context.ledger.write(event, **values)


def _scores(metrics: dict[str, Any]) -> dict[str, Any]:
    names = ("architecture_digest", "seed", "miou", "mf1", "parameters", "retrain_seconds")
    return {name: metrics[name] for name in names}


def _records(measurers: Pool, architectures: Sequence[HybridArchitecture]) -> Iterator[Outcome]:
    for outcome in measurers.map(architectures):
        record = outcome.value.record if outcome.error is None else None
        yield _Found(outcome.index, record, outcome.error)


def _values(outcomes: Iterator[Outcome]) -> list[Any]:
    values = []
    for outcome in outcomes:
        if outcome.error is not None:
            raise RuntimeError(outcome.error)
        values.append(outcome.value)
    return values


def latency_device(context: Context) -> torch.device:
    """Return where latency is measured.

    Raises:
        DeviceMissing: it is not there.
    """
    name = context.settings.latency.device
    return context.device if name == "auto" else choose_device(name)


def conditions_of(context: Context) -> Conditions:
    """Return under which conditions the latencies of a trial are measured, in this process."""
    size = context.settings.data.image_size
    shape = (context.pack.colour_channels, size, size)
    settings = context.settings
    return conditions_here(latency_device(context), shape, settings.latency.batch, settings.runtime.precision)


def _read_records(path: Path, conditions: Conditions) -> dict[str, LatencyRecord]:
    """Return the records measured under these conditions; a half-written last line is dropped."""
    if not path.exists():
        return {}
    known = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        values = json.loads(line)
        if Conditions.from_dict(values.pop("conditions")) == conditions:
            record = LatencyRecord.from_dict(values)
            known[record.architecture.digest()] = record
    return known


def _append(path: Path, values: dict[str, Any]) -> None:
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def save_weights(folder: Path, network: AutoNADNet) -> None:
    """Write the trained supernet, whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(folder / "supernet.safetensors", save(tensors))


def load_weights(folder: Path) -> Weights:
    """Return the weights of the trained supernet by name."""
    return {k: v.numpy() for k, v in load((folder / "supernet.safetensors").read_bytes()).items()}


# Workers: what they need to be made again elsewhere is a folder and a function.


def make_scorer(folder: Path, weights: Callable[[], Weights]) -> Callable[[HybridArchitecture], InheritedScore]:
    """Return a function that scores subnets with inherited weights; images are decoded here, once."""
    context = open_context(folder, read_trial(folder), None)
    network = new_supernet(context)
    network.load_state_dict({name: torch.tensor(value) for name, value in weights().items()})
    _, validation = division(context)
    return Scorer.on_validation(context, network.eval(), validation).score


def make_measurer(folder: Path) -> Callable[[HybridArchitecture], Measured]:
    """Return a function that measures the latency of subnets on the device of the settings."""
    context = open_context(folder, read_trial(folder), None)
    device, conditions = latency_device(context), conditions_of(context)
    settings = context.settings.latency

    def measured(architecture: HybridArchitecture) -> Measured:
        # New weights: how long a subnet takes does not depend on their values.
        network = plain_network(context, architecture).to(device)
        record = measure_architecture(
            network, architecture, conditions, device, warmup=settings.warmup, repeats=settings.repeats
        )
        return Measured(record, conditions)

    return measured


def make_retrainer(folder: Path, weights: Callable[[], Weights]) -> Callable[[Path], dict[str, Any]]:
    """Return a function that retrains and tests the subnet of a job."""
    return partial(run_job, trial=folder, weights=weights)
