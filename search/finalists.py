"""Retraining of what AutoNAD chose, several seeds of each in parallel, with others in the place of what cannot be."""

from collections.abc import Sequence
from typing import Any

from search.candidates import Candidate
from search.checkpoint import write_atomically
from search.context import Context
from search.divergence import Diverged
from search.errors import refuse
from search.finetune import cost_of, write_job
from search.hybrid_workers import Pool
from search.population import Search, finalists

_REPLACED = 3
"""Times that others may take the places of finalists that cannot be retrained."""


def retrain(
    context: Context, search: Search, drawn: Search | None, retrainers: Pool, measured_on: str
) -> list[dict[str, Any]]:
    """Retrain every finalist with every seed, and the best of the random search; returns their metrics, best first.

    A finalist that diverges, or cannot be retrained however often it is tried, is left out; the next of its ranking
    takes its place.

    Raises:
        Diverged: all did, and those that took their places too.
        RuntimeError: none could be retrained, for other reasons.
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
    failed: dict[tuple[str, str], str | Diverged] = {}
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
        error = next(iter(failed.values()))
        kind = Diverged if all(isinstance(e, Diverged) for e in failed.values()) else RuntimeError
        raise kind(f"{len(failed)} finalists, and none could be retrained: {error}")
    # Said only now: where none can be retrained it is not for them, and a resumed trial tries again.
    for (role, digest), error in failed.items():
        told = {"digest": digest, "role": role, "error": str(error)}
        context.ledger.write_once("quarantined", ("phase", "digest", "role"), phase="retrain", **told)
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
) -> dict[tuple[str, str], str | Diverged]:
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
    failed: dict[tuple[str, str], str | Diverged] = {}
    for outcome in retrainers.map([folder for folder, _, _ in jobs]):
        folder, digest, role = jobs[outcome.index]
        refuse(outcome.error)
        if outcome.error is not None or isinstance(outcome.value, Diverged):
            failed[role, digest] = outcome.error or outcome.value
            continue
        if isinstance(outcome.value, OSError):
            raise outcome.value
        done[folder.name] = {**outcome.value, "folder": folder.name, "role": role}
        told = {"done": len(done), "of": of, "role": role, **_scores(outcome.value)}
        context.ledger.write_once("finalist", ("architecture_digest", "seed", "role"), phase="retrain", **told)
    return failed


def _write_architecture(context: Context, candidate: Candidate) -> None:
    context.ledger.write_once(
        "architecture",
        ("digest",),
        architecture=candidate.architecture.to_dict(),
        digest=candidate.digest,
        parameters=candidate.parameters,
        macs=cost_of(context, candidate.architecture).macs,
    )
    write_atomically(context.folder / "architecture.json", candidate.architecture.to_json().encode())


def _scores(metrics: dict[str, Any]) -> dict[str, Any]:
    names = ("architecture_digest", "seed", "miou", "mf1", "parameters", "retrain_seconds")
    # A retraining that an older version finished does not say where.
    return {**{name: metrics[name] for name in names}, "device": metrics.get("device")}
