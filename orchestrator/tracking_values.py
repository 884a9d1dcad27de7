"""What a tracking store is told about a run: ledger events and results as metrics, parameters and tags.

Nothing here knows the store. Names of metrics: `search/..`, `supernet/..` and `retrain/..` are curves over epochs,
`test/..` the scores on the test images, `nothing/..` those of predicting no defect at all, `cost/..` what it took,
`ranking/..` how well inherited scores rank what was retrained, `latency/..` how well the latency table predicts.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from search.hybrid_settings import probe_names
from search.secret_texts import without_secrets

_MEANS = ("miou", "mf1")
_CURVES = {"loss": "loss", "alpha_loss": "alpha_loss", "iou": "iou", "lr": "lr", "seconds": "epoch_seconds"}
_SCORES = ("iou", "f1", "pa")
_GENERATION = (
    *("best", "mean", "miou", "hypervolume", "candidates", "scored"),
    *("measure_seconds", "score_seconds", "seconds"),
)
_LATENCY = ("records", "mean_ms", "residual_ms", "table_tau", "table_tau_over")
_TAUS = ("tau_validation", "tau_test")
_COUNTS = ("parameters", "macs", "flops", "flops_paper", "latency_ms", "latency_iqr_ms")


@dataclass(frozen=True)
class Point:
    """One value of a metric; time in ms since 1970."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Sent:
    """How far a ledger has been sent.

    Epochs are told apart by phase and step and not by their number in the ledger, because a resumed trial
    does some of them again, under other numbers.

    Attributes:
        n: number of the last event that was sent, -1 for none.
        steps: last step that was sent, by phase.
    """

    n: int = -1
    steps: Mapping[str, int] = field(default_factory=dict)

    def covers(self, event: Mapping[str, Any]) -> bool:
        """Return whether the event was sent."""
        if event["event"] == "epoch":
            return int(event["step"]) <= self.steps.get(event["phase"], 0)
        return event["n"] <= self.n

    def after(self, events: Iterable[Mapping[str, Any]]) -> "Sent":
        """Return the state once these events are sent as well."""
        n, steps = self.n, dict(self.steps)
        for event in events:
            n = max(n, event["n"])
            if event["event"] == "epoch":
                steps[event["phase"]] = max(steps.get(event["phase"], 0), int(event["step"]))
        return Sent(n, steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"n": self.n, "steps": dict(self.steps)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Sent":
        """Rebuild what `to_dict` gave."""
        return cls(int(values["n"]), {str(k): int(v) for k, v in values["steps"].items()})


def metric_key(*parts: str) -> str:
    """Return a metric's name of these parts, with what a store does not take in a name replaced by _."""
    return "/".join(re.sub(r"[^\w\-. ]", "_", part, flags=re.ASCII) or "_" for part in parts)


def time_ms(event: Mapping[str, Any]) -> int:
    """Return an event's time in ms since 1970."""
    return round(float(event["time"]) * 1000)


def points_at(values: Mapping[str, float], at_ms: int, step: int = 0) -> list[Point]:
    """Return one point per value, all of one moment and step."""
    return [Point(key, value, at_ms, step) for key, value in values.items()]


def epoch_points(event: Mapping[str, Any]) -> list[Point]:
    """Return the values of an epoch event (loss, IoU, entropy, share of each operator, probes); null is left out."""
    phase = str(event["phase"])
    values = {metric_key(phase, name): event.get(source) for source, name in _CURVES.items()}
    probes = event.get("probes", [])
    for name, scores in zip(probe_names(len(probes) - 2), probes, strict=True) if probes else ():
        for score in _MEANS:
            values[metric_key(phase, "probe", name, score)] = scores[score]
    for kind, entropy in event.get("entropy", {}).items():
        values[metric_key(phase, "entropy", kind)] = entropy
    for kind, shares in event.get("share", {}).items():
        for operator, share in shares.items():
            values[metric_key(phase, "share", kind, operator)] = share
    at, step = time_ms(event), int(event["step"])
    return [Point(key, float(value), at, step) for key, value in values.items() if value is not None]


def generation_points(event: Mapping[str, Any], processors: Mapping[str, float]) -> list[Point]:
    """Return the values of a generation of an AutoNAD search, under the name of its strategy; null is left out.

    Args:
        event: of the ledger.
        processors: its processor seconds by unit.
    """
    found = {**{name: event.get(name) for name in _GENERATION}, **processors}
    values = {metric_key("evolve", str(event["strategy"]), name): value for name, value in found.items()}
    at, step = time_ms(event), int(event["generation"])
    return [Point(key, float(value), at, step) for key, value in values.items() if value is not None]


def latency_points(event: Mapping[str, Any]) -> list[Point]:
    """Return what the events "latency" and "chosen" say of the latency table; null is left out."""
    values = {metric_key("latency", name): float(event[name]) for name in _LATENCY if event.get(name) is not None}
    return points_at(values, time_ms(event))


def result_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a finished trial out of its metrics.json."""
    values = {metric_key("test", name): metrics.get(name) for name in _SCORES}
    values |= {metric_key("test", name): metrics[name] for name in _MEANS if name in metrics}
    values |= {metric_key("test", f"{name}_std"): value for name, value in metrics.get("std", {}).items()}
    values |= {metric_key("cost", name): metrics.get(name) for name in _COUNTS}
    values |= {metric_key("ranking", name): metrics.get("ranking", {}).get(name) for name in _TAUS}
    for part in ("test", "nothing"):
        values |= dict(_leaves(metrics.get(part, {}), (part,)))
    return {key: float(value) for key, value in values.items() if value is not None and _is_number(value)}


def flat_texts(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as one text per dotted key, secrets blotted out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_texts(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            flat[prefix + key] = without_secrets(", ".join(map(str, value)))
        else:
            flat[prefix + key] = without_secrets(str(value))
    return flat


def environment_tags(started: Mapping[str, Any]) -> dict[str, str]:
    """Return what a "started" event says of the machine, as tags `environment.<name>`."""
    left_out = {"n", "time", "event", "phase", "data_digest", "settings_digest"}
    values = {k: v for k, v in started.items() if k not in left_out}
    return {f"environment.{key}": text for key, text in flat_texts(values).items()}


def summary_values(trials: Iterable[tuple[str, str, str, Mapping[str, Any] | None]]) -> dict[str, float]:
    """Return a run's summary: counts, costs, and mean, deviation and best scores per data set and method.

    Args:
        trials: (data set, method, state, content of metrics.json or None) of each trial.
    """
    listed = list(trials)
    done = [(data, method, metrics) for data, method, state, metrics in listed if state == "done" and metrics]
    values: dict[str, float] = {"summary/trials": len(listed), "summary/done": len(done)}
    values["summary/failed"] = sum(state == "failed" for _, _, state, _ in listed)
    for name in ("search_seconds", "retrain_seconds"):
        values[f"summary/{name}"] = sum(float(m[name]) for _, _, m in done if _is_number(m.get(name)))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for data, method, metrics in done:
        groups.setdefault((data, method), []).append(metrics)
    for (data, method), group in groups.items():
        for score in _SCORES:
            found = [float(m[score]) for m in group if _is_number(m.get(score))]
            if found:
                values[metric_key("summary", data, method, f"{score}_mean")] = fmean(found)
                values[metric_key("summary", data, method, f"{score}_best")] = max(found)
            if len(found) > 1:
                values[metric_key("summary", data, method, f"{score}_std")] = stdev(found)
    return values


def summary_note(trials: Iterable[tuple[str, str, Mapping[str, Any] | None]], limit: int = 7500) -> str:
    """Return the run's trials as a Markdown table, scores in percent.

    Args:
        trials: (name, state, content of metrics.json or None) of each trial.
        limit: characters that the store takes; what is beyond is counted in a last line.
    """
    columns = "trial | state | IoU % | F1 % | PA % (two-class IoU) | parameters | MACs | search s | retraining s"
    head = f"| {columns} |\n|---|---|{'--:|' * 7}"
    lines, length, left = [head], len(head), 0
    for name, state, metrics in trials:
        values = metrics or {}
        cells = [_percent(values.get(score)) for score in _SCORES]
        cells += [_count(values.get(key)) for key in ("parameters", "macs", "search_seconds", "retrain_seconds")]
        line = "| " + " | ".join([name.replace("|", "\\|"), state, *cells]) + " |"
        if length + len(line) > limit:
            left += 1
            continue
        lines.append(line)
        length += len(line) + 1
    return "\n".join([*lines, *([f"\nand {left} more trials"] if left else [])])


def _leaves(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield metric_key(*path, str(key)), value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if _is_number(value) and math.isfinite(value) else ""


def _count(value: Any) -> str:
    return f"{value:,.0f}" if _is_number(value) and math.isfinite(value) else ""
