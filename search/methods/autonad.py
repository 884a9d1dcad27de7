"""AutoNAD: a supernet trained once, then the subnet chosen by a latency-aware evolution, then retrained (Sec. IV, V-B).

Four phases, each of which finds what it did before in the trial's folder and goes on: `supernet.safetensors`;
`latencies.jsonl` and `latency_table.json`; `candidates.jsonl`, one line per scored candidate as results arrive; a
folder per finalist. Who computes is not decided here: `Hands` brings the workers, one in this process or many.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from models.hybrid_architecture import HybridArchitecture
from models.hybrid_cost import parameters_of
from models.hybrid_space import HybridSpace
from search.candidates import Candidate, CandidateLedger, write_table
from search.checkpoint import write_atomically
from search.context import Context
from search.errors import InputError
from search.finetune import cost_of, write_job
from search.hybrid_settings import EvolutionSettings, space_of
from search.hybrid_workers import (
    SUPERNET,
    Hands,
    Pool,
    load_weights,
    make_measurer,
    make_retrainer,
    make_scorer,
    values_of,
)
from search.latency import kendall_tau
from search.latency_ledger import LatencyLedger
from search.latency_table import LatencyTable
from search.ledger import read_events
from search.one_shot import sampled_subnet
from search.population import Generation, Limits, Price, Search, choose, finalists

GIGA = 1e9
LATENCIES = "latencies.jsonl"

_REPLACED = 3
"""Times that others may take the places of finalists that cannot be retrained."""


class NothingLegal(InputError):
    """The limits leave no architecture of the space."""


def run(context: Context, hands: Hands) -> list[dict[str, Any]]:
    """Run all phases, or what is left of them; returns the metrics of the retrained finalists, best candidate first.

    Raises:
        InputError: the limits leave nothing, or a file of the trial is damaged.
    """
    space = space_of(context.settings.space)
    limits = limits_of(context)
    with hands.pool(make_measurer, "measure") as measurers:
        _check_limits(context, space, limits, latencies_of(context, measurers))
    if not (context.folder / SUPERNET).exists():
        hands.train(context)
    fetch = hands.share(load_weights(context))
    with (
        hands.pool(make_measurer, "measure") as measurers,
        hands.pool(partial(make_scorer, weights=fetch), "score") as scorers,
    ):
        latencies = latencies_of(context, measurers)
        table = _latency_table(context, space, latencies)
        settings = context.settings.evolution
        search = evolve(context, space, limits, table, latencies, scorers, settings, "candidates")
        drawn = None
        if settings.baseline and settings.strategy != "random":
            alone = dataclasses.replace(settings, strategy="random")
            drawn = evolve(context, space, limits, None, latencies, scorers, alone, "random")
    if search.best is None:
        raise NothingLegal(f"{len(search.candidates)} candidates, and none could be scored within the limits")
    with hands.pool(partial(make_retrainer, weights=fetch), "retrain") as retrainers:
        return _retrain(context, search, drawn, retrainers, str(latencies.conditions))


def limits_of(context: Context) -> Limits:
    """Return the limits of the settings."""
    settings = context.settings.evolution
    return Limits(settings.parameter_limit, GIGA * settings.mac_limit, settings.latency_limit_ms)


def latencies_of(context: Context, measurers: Pool) -> LatencyLedger:
    """Return the latencies of a trial, with those of the run to replay, if the settings name one."""
    earlier = context.settings.latency.replay
    replay = Path(earlier) / "trials" / context.folder.name / LATENCIES if earlier else None
    return LatencyLedger(context.folder / LATENCIES, measurers, replay)


def _check_limits(context: Context, space: HybridSpace, limits: Limits, latencies: LatencyLedger) -> None:
    """Find out before anything is trained that the limits leave nothing: the smallest subnet breaks one."""
    smallest = space.smallest()
    cost = cost_of(context, smallest)
    if not limits.allow(Price(cost.parameters, cost.macs)):
        raise NothingLegal(
            f"evolution.parameter_limit, evolution.mac_limit: the smallest subnet of the space has {cost.parameters:,} "
            f"parameters and {cost.macs / GIGA:.3f} GMACs, which is more than allowed"
        )
    if limits.latency_ms:
        measured = values_of(latencies.records([smallest]))[0]
        if measured.median_ms > limits.latency_ms:
            raise NothingLegal(
                f"evolution.latency_limit_ms: {limits.latency_ms:g} ms cannot be met; the smallest subnet of the space "
                f"takes {measured.median_ms:.1f} ms on {latencies.conditions.device_name}"
            )


def _latency_table(context: Context, space: HybridSpace, latencies: LatencyLedger) -> LatencyTable | None:
    """Measure subnets that the training sampled, as far as it was not done, and estimate the table (Sec. IV-D)."""
    settings = context.settings.latency
    wanted: dict[str, HybridArchitecture] = {}
    step = 0
    while len(wanted) < settings.records and step < 100 * settings.records:
        architecture = sampled_subnet(space, context.seed, 0, step)
        wanted.setdefault(architecture.digest(), architecture)
        step += 1
    if not wanted:
        return None
    start = time.perf_counter()
    found = {o.index: o.value for o in latencies.records(list(wanted.values())) if o.value is not None}
    # In one order, whichever of them were on file: the fit is a sum of floats.
    records = [found[index] for index in sorted(found)]
    table = LatencyTable.fit(records, space, latencies.conditions)
    write_atomically(context.folder / "latency_table.json", table.to_json().encode())
    _write_once(
        context,
        "latency",
        ("records", "conditions"),
        phase="evolve",
        records=len(records),
        seconds=time.perf_counter() - start,
        residual_ms=table.residual_ms,
        conditions=latencies.conditions.to_dict(),
        mean_ms=sum(r.median_ms for r in records) / len(records),
    )
    return table


def evolve(
    context: Context,
    space: HybridSpace,
    limits: Limits,
    table: LatencyTable | None,
    latencies: LatencyLedger,
    scorers: Pool,
    settings: EvolutionSettings,
    name: str,
) -> Search:
    """Run a strategy; its candidates go to `name`.jsonl and `name`.parquet."""
    latency = context.settings.latency
    ledger = CandidateLedger(context.folder / f"{name}.jsonl")
    table_path, rows = context.folder / f"{name}.parquet", 0

    def after(generation: Generation, search: Search) -> None:
        nonlocal rows
        # The table is written anew as a whole: as often as it doubles costs no more than two at the end.
        if len(search.candidates) >= 2 * rows:
            write_table(table_path, search.candidates.values(), search.points)
            rows = len(search.candidates)
        for candidate in search.candidates.values():
            if candidate.generation == generation.number and candidate.error is not None:
                told = {"digest": candidate.digest, "number": candidate.number, "error": candidate.error}
                _write_once(context, "quarantined", ("digest",), phase="evolve", **told)
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
        measure=latencies.records,
        score=scorers.map,
        ledger=ledger,
        after_generation=after,
    )
    write_table(table_path, search.candidates.values(), search.points)
    _write_once(context, "chosen", ("strategy",), phase="evolve", **_chosen(search, settings, table))
    chosen = {"best": search.best, "front": list(search.front), "penalty": search.penalty}
    write_atomically(context.folder / f"{name}.json", json.dumps(chosen).encode())
    return search


def _price(context: Context, limits: Limits, architecture: HybridArchitecture) -> Price:
    if limits.macs:
        cost = cost_of(context, architecture)
        return Price(cost.parameters, cost.macs)
    width = context.settings.space.decoder_width
    return Price(
        parameters_of(architecture, in_channels=context.pack.colour_channels, classes=context.classes, width=width)
    )


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


def _retrain(
    context: Context, search: Search, drawn: Search | None, retrainers: Pool, measured_on: str
) -> list[dict[str, Any]]:
    """Retrain every finalist with every seed, and the best of the random search; returns their metrics, best first.

    A finalist that cannot be retrained however often it is tried is left out; the next of its ranking takes its place.

    Raises:
        RuntimeError: none could be retrained, nor could those that took their places.
        OSError: the disk is full.
    """
    strategy, settings = context.settings.evolution.strategy, context.settings.finetune
    wave = [(c, "finalist") for c in finalists(search, strategy, settings.finalists, settings.spread)]
    ranking = "evolution" if settings.spread else strategy
    ranked = {"finalist": finalists(search, ranking, len(search.candidates))}
    if drawn is not None and drawn.best is not None:
        wave.append((drawn.candidates[drawn.best], "random"))
        ranked["random"] = finalists(drawn, "random", len(drawn.candidates))
    _write_architecture(context, search.candidates[search.best or ""])
    tried, of = list(wave), len(wave) * settings.seeds
    done: dict[str, dict[str, Any]] = {}
    failed: dict[tuple[str, str], str] = {}
    for _ in range(1 + _REPLACED):
        lost = _retrain_some(context, wave, retrainers, measured_on, done, of)
        failed |= lost
        wave = []
        for role, _digest in lost:
            left = [c for c in ranked[role] if not any(c.digest == t.digest and role == r for t, r in tried)]
            if left:
                wave.append((left[0], role))
                tried.append(wave[-1])
        if not wave:
            break
    order = {(role, c.digest): k for role in ranked for k, c in enumerate(ranked[role])}
    kept = [m for m in done.values() if (m["role"], m["architecture_digest"]) not in failed]
    kept.sort(key=lambda m: (m["role"], order[m["role"], m["architecture_digest"]], m["seed"]))
    if not kept or kept[0]["role"] != "finalist":
        raise RuntimeError(f"{len(failed)} finalists, and none could be retrained: {next(iter(failed.values()))}")
    # Said only now: where none can be retrained it is not for them, and a resumed trial tries again.
    for (role, digest), error in failed.items():
        told = {"digest": digest, "role": role, "error": error}
        _write_once(context, "quarantined", ("phase", "digest", "role"), phase="retrain", **told)
    if kept[0]["architecture_digest"] != search.best:
        _write_architecture(context, search.candidates[kept[0]["architecture_digest"]])
    return kept


def _retrain_some(
    context: Context,
    wave: Sequence[tuple[Candidate, str]],
    retrainers: Pool,
    measured_on: str,
    done: dict[str, dict[str, Any]],
    of: int,
) -> dict[tuple[str, str], str]:
    """Retrain candidates in their roles with every seed; adds metrics to `done`, returns errors of those that fail."""
    jobs = []
    for candidate, role in wave:
        for seed in range(context.settings.finetune.seeds):
            # Both may have chosen the same, and no two workers may share a folder.
            prefix = "random-" if role == "random" else ""
            folder = context.folder / "finalists" / f"{prefix}{candidate.digest[:8]}-s{seed}"
            write_job(folder, candidate, seed, measured_on)
            jobs.append((folder, candidate.digest, role))
    failed: dict[tuple[str, str], str] = {}
    for outcome in retrainers.map([folder for folder, _, _ in jobs]):
        folder, digest, role = jobs[outcome.index]
        if outcome.error is not None:
            failed[role, digest] = outcome.error
            continue
        if isinstance(outcome.value, OSError):
            raise outcome.value
        done[folder.name] = {**outcome.value, "folder": folder.name, "role": role}
        told = {"done": len(done), "of": of, "role": role, **_scores(outcome.value)}
        _write_once(context, "finalist", ("architecture_digest", "seed", "role"), phase="retrain", **told)
    return failed


def _write_architecture(context: Context, candidate: Candidate) -> None:
    _write_once(
        context,
        "architecture",
        ("digest",),
        architecture=candidate.architecture.to_dict(),
        digest=candidate.digest,
        parameters=candidate.parameters,
        macs=cost_of(context, candidate.architecture).macs,
    )
    write_atomically(context.folder / "architecture.json", candidate.architecture.to_json().encode())


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
