"""Architectures of any runs side by side, read back from the tracking store: scores, costs, and what differs.

The store and not the run folders: runs of many machines that share one can be compared from any of them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.tracking_store import FINALIST_TAG, PARENT_TAG, TRIAL_TAG, TRIALS_TAG, Store, StoredRun
from search.errors import InputError

_SETTINGS_LEFT_OUT = ("seed", "data_set", "method")
_SCALES = {"latency": "latency in ms", "macs": "GMACs"}


class NotTracked(InputError):
    """The store does not have a run, or nothing of it that could be compared."""


@dataclass(frozen=True)
class Compared:
    """One trained architecture, as the store has it.

    Attributes:
        run, trial, data, seed, method: where it is from.
        role: "searched", or "random" for one that was drawn at random.
        retraining: seed of the retraining, of which an AutoNAD search may have several for one architecture, else None.
        digest: of the architecture.
        architecture: its JSON values.
        iou, miou: on test images, in [0, 1]; miou None where it was not computed (NAS-ASDet).
        inherited_miou: with the supernet's weights on validation images; None where there is none.
        latency_ms, latency_on: measured, and on what; None where it was not.
        parameters, macs: of the architecture.
        search_seconds: that its trial took; None where it is not known.
        settings: of its trial, as text by dotted key.
    """

    run: str
    trial: str
    data: str
    seed: int
    method: str
    role: str
    retraining: int | None
    digest: str
    architecture: Mapping[str, Any]
    iou: float
    miou: float | None
    inherited_miou: float | None
    latency_ms: float | None
    latency_on: str | None
    parameters: float
    macs: float
    search_seconds: float | None
    settings: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, without the settings."""
        return {key: value for key, value in asdict(self).items() if key != "settings"}


@dataclass(frozen=True)
class Panel:
    """The architectures of one data set, which alone have scores on the same images.

    Attributes:
        data: name of the data set.
        rows: the best score first.
        score: "miou" if every row has one, else "iou".
        cost: "latency" if every row was measured under the same conditions, else "macs".
        front: indices of the rows that none beats in score and cost.
    """

    data: str
    rows: tuple[Compared, ...]
    score: str
    cost: str
    front: tuple[int, ...]

    @property
    def cost_label(self) -> str:
        """Of an axis."""
        return _SCALES[self.cost]

    def score_of(self, row: Compared) -> float:
        """Return the score that the panel ranks by, in [0, 1]."""
        value = row.miou if self.score == "miou" else row.iou
        assert value is not None
        return value

    def cost_of(self, row: Compared) -> float:
        """Return the cost in ms or GMACs."""
        if self.cost == "macs":
            return row.macs / 1e9
        assert row.latency_ms is not None
        return row.latency_ms


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: their ids.
        panels: one for each data set.
        settings: by dotted key the value in each run, of those settings that are not the same in all.
        unfinished: trials that were left out because they are not done, as run/trial.
    """

    runs: tuple[str, ...]
    panels: tuple[Panel, ...]
    settings: Mapping[str, tuple[str, ...]]
    unfinished: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of `compare --json`."""
        panels = [
            {
                "data": panel.data,
                "score": panel.score,
                "cost": panel.cost,
                "front": [panel.rows[index].digest for index in panel.front],
                "architectures": [row.to_dict() for row in panel.rows],
                "differing_choices": {key: list(values) for key, values in differing_choices(panel.rows).items()},
            }
            for panel in self.panels
        ]
        settings = {key: list(values) for key, values in self.settings.items()}
        return {
            "runs": list(self.runs),
            "panels": panels,
            "differing_settings": settings,
            "unfinished": list(self.unfinished),
        }


def read_comparison(store: Store, names: Sequence[str], created: Mapping[str, str] | None = None) -> Comparison:
    """Return the comparison of runs that a store has.

    Args:
        store: where they were tracked.
        names: ids of runs; one that is repeated counts once.
        created: by id the moment of creation, where it is known: a store that is shared may have several runs of one
            id. Where it is not known the youngest is taken.

    Raises:
        NotTracked: the store does not have one, or none of its trials is done.
        StoreAwayError: the store cannot be reached.
    """
    rows: list[Compared] = []
    unfinished: list[str] = []
    settings: dict[str, Mapping[str, str]] = {}
    for name in dict.fromkeys(names):
        moment = {"defectnas.created": created[name]} if created and name in created else {}
        found = [run for run in store.find({"defectnas.run": name, **moment}) if TRIAL_TAG not in run.tags]
        if not found:
            raise NotTracked(f"run {name!r} is not in the tracking store; send it there with: defectnas track {name}")
        trials = store.find({PARENT_TAG: found[-1].id})
        done = [trial for trial in trials if trial.status == "FINISHED"]
        # A trial that has not begun has no run in the store.
        asked = [*found[-1].tags.get(TRIALS_TAG, "").split(), *(trial.tags[TRIAL_TAG] for trial in trials)]
        known = {trial.tags[TRIAL_TAG] for trial in done}
        unfinished += [f"{name}/{trial}" for trial in dict.fromkeys(asked) if trial not in known]
        if not done:
            raise NotTracked(f"run {name!r}: none of its trials is done; go on with: defectnas resume {name}")
        for trial in done:
            rows += _rows_of(store, name, trial)
        settings[name] = _common([_settings_of(trial) for trial in done])
    names = tuple(settings)
    keys = sorted({key for values in settings.values() for key in values})
    table = {key: tuple(settings[name].get(key, "") for name in names) for key in keys}
    differing = {key: values for key, values in table.items() if len(set(values)) > 1}
    data_sets = dict.fromkeys(row.data for row in rows)
    panels = tuple(_panel(data, [row for row in rows if row.data == data]) for data in data_sets)
    return Comparison(names, panels, differing, tuple(unfinished))


def _rows_of(store: Store, name: str, trial: StoredRun) -> Iterator[Compared]:
    """Yield the trained architectures of a trial: its finalists, or the one that it has itself."""
    finalists = [r for r in store.find({PARENT_TAG: trial.id}) if FINALIST_TAG in r.tags and r.status == "FINISHED"]
    for stored in finalists or [trial]:
        text = store.text(stored.id, "architecture.json")
        if text is None or "test/iou" not in stored.metrics:
            raise NotTracked(f"run {name!r}: {stored.id} in the tracking store has no architecture or no score")
        metrics, method = stored.metrics, trial.tags["method"]
        drawn = method == "random" or stored.tags.get("role") == "random"
        yield Compared(
            run=name,
            trial=trial.tags[TRIAL_TAG],
            data=trial.tags["data_set"],
            seed=int(trial.tags["seed"]),
            method=method,
            role="random" if drawn else "searched",
            retraining=int(stored.params["retrain_seed"]) if "retrain_seed" in stored.params else None,
            digest=stored.tags["architecture_digest"],
            architecture=json.loads(text),
            iou=metrics["test/iou"],
            miou=metrics.get("test/miou"),
            inherited_miou=metrics.get("inherited/miou"),
            latency_ms=metrics.get("cost/latency_ms"),
            latency_on=stored.tags.get("latency_on"),
            parameters=metrics["cost/parameters"],
            macs=metrics["cost/macs"],
            search_seconds=trial.metrics.get("cost/search_seconds"),
            settings=_settings_of(trial),
        )


def _settings_of(trial: StoredRun) -> dict[str, str]:
    return {key: text for key, text in trial.params.items() if key not in _SETTINGS_LEFT_OUT}


def _common(trials: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the settings of a run; where its trials differ, all their values."""
    keys = dict.fromkeys(key for trial in trials for key in trial)
    # Sorted: which trial began first means nothing.
    return {key: " / ".join(sorted({trial.get(key, "") for trial in trials})) for key in keys}


def _panel(data: str, rows: Sequence[Compared]) -> Panel:
    from search.pareto import non_dominated_sort

    score = "miou" if all(row.miou is not None for row in rows) else "iou"
    measured = {row.latency_on if row.latency_ms is not None else None for row in rows}
    panel = Panel(data, (), score, "latency" if len(measured) == 1 and None not in measured else "macs", ())
    ranked = tuple(sorted(rows, key=lambda row: (-panel.score_of(row), panel.cost_of(row))))
    front = non_dominated_sort([(-panel.score_of(row), panel.cost_of(row)) for row in ranked])[0]
    return Panel(data, ranked, score, panel.cost, tuple(front))


def differing_choices(rows: Sequence[Compared]) -> dict[str, tuple[str, ...]]:
    """Return by place of the network what each architecture has there, of places where not all have the same."""
    choices = [choices_of(row.architecture) for row in rows]
    places: list[str] = []
    for chosen in choices:
        # In the order of the network: a place that only a deeper one has follows the one before it there.
        after = 0
        for place in chosen:
            if place not in places:
                places.insert(after, place)
            after = places.index(place) + 1
    table = {place: tuple(chosen.get(place, "") for chosen in choices) for place in places}
    return {place: values for place, values in table.items() if len(set(values)) > 1}


def choices_of(architecture: Mapping[str, Any]) -> dict[str, str]:
    """Return what an architecture has at each place, in words, from its JSON values."""
    chosen: dict[str, str] = {}
    if architecture["kind"] == "cell":
        for cell in ("normal", "reduction"):
            for node, pair in enumerate(architecture[cell]):
                chosen |= {
                    f"{cell} cell, node {node}, input {k}": f"{operator} of {_source(source)}"
                    for k, (source, operator) in enumerate(pair, start=1)
                }
        return chosen
    from models.hybrid_architecture import EDGE_NAMES

    for number, stage in enumerate(architecture["stages"], start=1):
        chosen |= {f"stage {number}, width": str(stage["width"]), f"stage {number}, blocks": str(len(stage["blocks"]))}
        for block, (operator, ratio, kernel) in enumerate(stage["blocks"], start=1):
            sized = f"{operator} {kernel}x{kernel}" if kernel else operator
            chosen[f"stage {number}, block {block}"] = f"{sized}, ratio {ratio:g}"
    chosen |= {f"edge {name}": operator for name, operator in zip(EDGE_NAMES, architecture["edges"], strict=True)}
    return chosen | {f"pooling {k}": str(side) for k, side in enumerate(architecture["pools"], start=1)}


def _source(source: int) -> str:
    return ("c_k-2", "c_k-1")[source] if source < 2 else f"node {source - 2}"
