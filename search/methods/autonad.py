"""AutoNAD: a supernet trained once, then the subnet chosen by a latency-aware evolution, then retrained (Sec. IV, V-B).

Four phases, each of which finds what it did before in the trial's folder and goes on: `supernet.safetensors`;
`latencies.jsonl`, `latency_table.json` and `prior.json`; `candidates.jsonl`, one line per scored candidate as results
arrive; a folder per finalist. Who computes is not decided here: `Hands` brings the workers, one in this process or
many.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from models.hybrid_architecture import HybridArchitecture
from models.hybrid_space import HybridSpace, OperatorPrior
from search.candidates import Candidate, CandidateLedger, write_table
from search.checkpoint import write_atomically
from search.context import Context
from search.errors import refuse
from search.finalists import retrain
from search.hybrid_settings import EvolutionSettings, space_of
from search.hybrid_workers import (
    SUPERNET,
    Hands,
    Pool,
    load_weights,
    make_measurer,
    make_retrainer,
    make_scorer,
)
from search.latency import kendall_tau
from search.latency_ledger import LatencyLedger
from search.latency_table import LatencyTable, prior_to_json
from search.limits import NothingLegal, check_limits, limits_of, price_of
from search.one_shot import sampled_subnet
from search.population import Generation, Limits, Outcome, Search, choose
from search.secret_texts import without_secrets

LATENCIES = "latencies.jsonl"
PRIOR = "prior.json"
TOLD_EVERY_S = 2.0


def run(context: Context, hands: Hands) -> list[dict[str, Any]]:
    """Run all phases, or what is left of them; returns the metrics of the retrained finalists, best candidate first.

    Raises:
        InputError: the limits leave nothing, or a file of the trial is damaged.
    """
    space = space_of(context.settings.space)
    limits = limits_of(context)
    with hands.pool(make_measurer, "measure") as measurers:
        check_limits(context, space, limits, latencies_of(context, measurers))
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
            # Under the same price of latency, or the two would not be chosen by the same score.
            alone = dataclasses.replace(settings, strategy="random", penalty=search.penalty)
            known = search.candidates
            drawn = evolve(context, space, limits, None, latencies, scorers, alone, "random", elsewhere=known)
    if search.best is None:
        raise NothingLegal(f"{len(search.candidates)} candidates, and none could be scored within the limits")
    with hands.pool(partial(make_retrainer, weights=fetch), "retrain") as retrainers:
        return retrain(context, search, drawn, retrainers, str(latencies.conditions))


def latencies_of(context: Context, measurers: Pool) -> LatencyLedger:
    """Return the latencies of a trial, with those of the run to replay, if the settings name one."""
    earlier = context.settings.latency.replay
    replay = Path(earlier) / "trials" / context.folder.name / LATENCIES if earlier else None
    return LatencyLedger(context.folder / LATENCIES, measurers, replay)


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
    found, architectures = {}, list(wanted.values())
    for outcome in _told(context, latencies.records(architectures), len(architectures)):
        refuse(outcome.error)
        if outcome.value is not None:
            found[outcome.index] = outcome.value
            continue
        digest = architectures[outcome.index].digest()
        context.ledger.write_once(
            "latency_failed",
            ("architecture_digest",),
            phase="evolve",
            architecture_digest=digest,
            error=without_secrets(str(outcome.error)),
        )
    # In one order, whichever of them were on file: the fit is a sum of floats.
    records = [found[index] for index in sorted(found)]
    table = LatencyTable.fit(records, space, latencies.conditions)
    write_atomically(context.folder / "latency_table.json", table.to_json().encode())
    write_atomically(context.folder / PRIOR, prior_to_json(_prior(context, table)).encode())
    context.ledger.write_once(
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


def _told(context: Context, outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    """Yield the outcomes, and say now and then how far measuring is."""
    told_at = time.monotonic()
    context.ledger.write("progress", phase="latency", done=0, of=total)
    for done, outcome in enumerate(outcomes, start=1):
        yield outcome
        if done == total or time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            context.ledger.write("progress", phase="latency", done=done, of=total)


def _prior(context: Context, table: LatencyTable) -> OperatorPrior:
    settings = context.settings.latency
    return table.prior(relative_temperature=settings.temperature, floor=settings.floor)


def evolve(
    context: Context,
    space: HybridSpace,
    limits: Limits,
    table: LatencyTable | None,
    latencies: LatencyLedger,
    scorers: Pool,
    settings: EvolutionSettings,
    name: str,
    elsewhere: Mapping[str, Candidate] | None = None,
) -> Search:
    """Run a strategy; its candidates go to `name`.jsonl and `name`.parquet, `elsewhere` is as for `choose`."""
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
                context.ledger.write_once("quarantined", ("digest",), phase="evolve", **told)
        values = dataclasses.asdict(generation)
        context.ledger.write_once(
            "generation",
            ("strategy", "generation"),
            phase="evolve",
            strategy=settings.strategy,
            generation=values.pop("number") + 1,
            generations=settings.generations,
            measured_on=latencies.conditions.device,
            **values,
        )

    search = choose(
        space,
        settings,
        context.seed,
        prior=None if table is None else _prior(context, table),
        limits=limits,
        price=partial(price_of, context, limits),
        measure=latencies.records,
        score=scorers.map,
        ledger=ledger,
        after_generation=after,
        elsewhere=elsewhere,
    )
    write_table(table_path, search.candidates.values(), search.points)
    context.ledger.write_once("chosen", ("strategy",), phase="evolve", **_chosen(search, settings, table))
    chosen = {"best": search.best, "front": list(search.front), "penalty": search.penalty}
    write_atomically(context.folder / f"{name}.json", json.dumps(chosen, allow_nan=False).encode())
    return search


def _chosen(search: Search, settings: EvolutionSettings, table: LatencyTable | None) -> dict[str, Any]:
    """Return what a finished choice says of itself; tau is over candidates that the table was not estimated from."""
    fitted = {record.architecture.digest() for record in table.records} if table else set()
    others = [c for c in search.candidates.values() if c.latency_ms is not None and c.digest not in fitted]
    tau = math.nan
    if table is not None and len(others) > 1:
        measured = [c.latency_ms or 0.0 for c in others]
        tau = kendall_tau([table.predict_ms(c.architecture) for c in others], measured)
    return {
        "strategy": settings.strategy,
        "digest_of_best": search.best,
        "front": len(search.front),
        "penalty": search.penalty,
        "table_tau": None if math.isnan(tau) else tau,
        "table_tau_over": len(others),
    }
