"""AutoNAD: a supernet trained once, then the subnet chosen by a latency-aware evolution, then retrained (Sec. IV, V-B).

Four phases, each of which finds what it did before in the trial's folder and goes on: `supernet.safetensors`;
`latencies.jsonl`, `latency_table.json` and `prior.json`; `candidates.jsonl`, one line per scored candidate as results
arrive; a folder per finalist. Who computes is not decided here: `Hands` brings the workers, one in this process or
many.
"""

import dataclasses
import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from models.hybrid_architecture import HybridArchitecture
from models.hybrid_cost import parameters_of
from models.hybrid_space import HybridSpace, OperatorPrior
from search.candidates import Candidate, CandidateLedger, write_table
from search.checkpoint import write_atomically
from search.context import Context
from search.errors import InputError, refuse
from search.evolution import ATTEMPTS
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
from search.latency_table import LatencyTable, prior_to_json
from search.ledger import read_events
from search.one_shot import sampled_subnet
from search.population import Generation, Limits, Outcome, Price, Search, choose, finalists
from search.secret_texts import without_secrets

GIGA = 1e9
LATENCIES = "latencies.jsonl"
PRIOR = "prior.json"
TOLD_EVERY_S = 2.0

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
            # Under the same price of latency, or the two would not be chosen by the same score.
            alone = dataclasses.replace(settings, strategy="random", penalty=search.penalty)
            known = search.candidates
            drawn = evolve(context, space, limits, None, latencies, scorers, alone, "random", elsewhere=known)
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
    """Find out before anything is trained that the limits leave nothing, or next to nothing, of the space."""
    lightest = space.least(partial(_parameters, context))
    if limits.parameters and (fewest := _parameters(context, lightest)) > limits.parameters:
        raise NothingLegal(
            f"evolution.parameter_limit: {limits.parameters:,} parameters are fewer than any subnet of the space has; "
            f"the smallest has {fewest:,}"
        )

    def macs(architecture: HybridArchitecture) -> float:
        return cost_of(context, architecture).macs

    # An edge takes as many MACs as it has parameters, times the same positions: its operators need no comparing again.
    if limits.macs and (least := macs(space.least(macs, lightest.edges))) > limits.macs:
        raise NothingLegal(
            f"evolution.mac_limit: {limits.macs / GIGA:g} GMACs are fewer than any subnet of the space takes; the "
            f"smallest takes {least / GIGA:.3f}"
        )
    if (limits.parameters or limits.macs) and not _drawn_within(context, space, limits):
        raise NothingLegal(
            f"evolution.parameter_limit, evolution.mac_limit: of {ATTEMPTS} random subnets of the space none keeps "
            "them; raise them, or narrow the space (space.widths, space.depths, space.ratios)"
        )
    if limits.latency_ms:

        def latency_ms(architecture: HybridArchitecture) -> float:
            return values_of(latencies.records([architecture]))[0].median_ms

        # One measurement, as a rule; the others are for those who ask for about as little as there is.
        fastest = latency_ms(space.smallest())
        if fastest > limits.latency_ms:
            fastest = latency_ms(space.least(latency_ms))
        if fastest > limits.latency_ms:
            raise NothingLegal(
                f"evolution.latency_limit_ms: {limits.latency_ms:g} ms cannot be met; the fastest of the smallest "
                f"subnets of the space takes {fastest:.1f} ms on {latencies.conditions.device_name}"
            )


def _drawn_within(context: Context, space: HybridSpace, limits: Limits) -> bool:
    """Return whether a random subnet keeps the limits; a generation draws as often for each of its candidates."""
    drawn = (space.sample(random.Random(f"{context.seed}/limits/{k}")) for k in range(ATTEMPTS))
    return any(limits.allow(_price(context, limits, architecture)) for architecture in drawn)


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
        _write_once(
            context,
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
            measured_on=latencies.conditions.device,
            **values,
        )

    search = choose(
        space,
        settings,
        context.seed,
        prior=None if table is None else _prior(context, table),
        limits=limits,
        price=partial(_price, context, limits),
        measure=latencies.records,
        score=scorers.map,
        ledger=ledger,
        after_generation=after,
        elsewhere=elsewhere,
    )
    write_table(table_path, search.candidates.values(), search.points)
    _write_once(context, "chosen", ("strategy",), phase="evolve", **_chosen(search, settings, table))
    chosen = {"best": search.best, "front": list(search.front), "penalty": search.penalty}
    write_atomically(context.folder / f"{name}.json", json.dumps(chosen, allow_nan=False).encode())
    return search


def _price(context: Context, limits: Limits, architecture: HybridArchitecture) -> Price:
    if limits.macs:
        cost = cost_of(context, architecture)
        return Price(cost.parameters, cost.macs)
    return Price(_parameters(context, architecture))


def _parameters(context: Context, architecture: HybridArchitecture) -> int:
    width = context.settings.space.decoder_width
    return parameters_of(architecture, in_channels=context.pack.colour_channels, classes=context.classes, width=width)


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
    there = sum((folder / "metrics.json").exists() for folder, _, _ in jobs)
    context.ledger.write("progress", phase="retrain", done=len(done) + there, of=of)
    failed: dict[tuple[str, str], str] = {}
    for outcome in retrainers.map([folder for folder, _, _ in jobs]):
        folder, digest, role = jobs[outcome.index]
        refuse(outcome.error)
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
    # A retraining that an older version finished does not say where.
    return {**{name: metrics[name] for name in names}, "device": metrics.get("device")}
