"""Following one trial: what is new in its folder goes to its run in the store, once."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.drawing import draw_trial
from orchestrator.ledger_reader import LedgerTail, read_ledger
from orchestrator.runs import State, TrialRecord, read_json, trial_state
from orchestrator.tracking_costs import cost_values, hybrid_cost_values, processor_seconds_of, stage_seconds
from orchestrator.tracking_finalists import put_finalists
from orchestrator.tracking_store import TRIAL_TAG, Store, StoredRun
from orchestrator.tracking_values import (
    Point,
    Sent,
    environment_tags,
    epoch_points,
    flat_texts,
    generation_points,
    latency_points,
    points_at,
    result_values,
    time_ms,
)
from search.secret_texts import without_secrets

STATUS: Mapping[State, str] = {
    "done": "FINISHED",
    "failed": "FAILED",
    "running": "RUNNING",
    "stopped": "KILLED",
}
"""Status of a stored run by the state of its trial."""

SENT_TAG = "defectnas.sent"
_DATA_TAG = "data_digest"

_BATCH_POINTS = 900
_EDGES = ("stage", "kept", "removed")


class TrialFollower:
    """Tells a store about one trial.

    How far it came is a tag of the stored run that is set together with the values, so a follower may stop at
    any point and another one, perhaps in another process, goes on without a gap or a repetition.

    Attributes:
        record: the trial.
        run: id of its run in the store, None before the trial has begun.
        sent: how far its ledger has been sent.
        sent_events: events that this follower has sent.
    """

    def __init__(self, record: TrialRecord, folder: Path, store: Store, tags: Mapping[str, str]):
        """Follow the trial of a folder; `tags` are what its run is to have besides the trial's own."""
        self.record = record
        self.folder = folder
        self.run: str | None = None
        self.sent = Sent()
        self.sent_events = 0
        self._store = store
        self._tags = tags
        self._tail = LedgerTail(folder / "ledger.jsonl")
        self._status = ""
        self._started: Mapping[str, Any] = {}
        self._data_digest = ""
        self._put: dict[Path, int] = {}

    def adopt(self, stored: StoredRun) -> None:
        """Go on with a run that the store has, adding the parameters that it lacks."""
        self.run, self._status = stored.id, stored.status
        self._data_digest = stored.tags.get(_DATA_TAG, "")
        if SENT_TAG in stored.tags:
            self.sent = Sent.from_dict(json.loads(stored.tags[SENT_TAG]))
        missing = {key: text for key, text in self._params().items() if key not in stored.params}
        if missing:
            self._store.log(stored.id, params=missing)

    def follow(self, running: bool) -> None:
        """Send what is new.

        Args:
            running: whether a process works on the run.

        Raises:
            StoreAwayError: the store cannot be reached; this follower is then of no more use.
            StoreRefusedError: the store does not take a value of this trial.
        """
        # The state is read before the ledger and results are written last: nothing is missed in between.
        state = trial_state(self.folder, running)
        reading = self._tail.read()
        if reading.rewritten:
            self.sent = Sent(-1, self.sent.steps)
        if self.run is None:
            if not reading.events and state in ("running", "stopped"):
                return
            self._begin(reading.events)
        for portion in _portions(reading.events, self._points):
            self._send(portion)
        if STATUS[state] != self._status:
            self._conclude(state)

    def metrics(self) -> Mapping[str, Any] | None:
        """Return the content of metrics.json, None before it is there."""
        path = self.folder / "metrics.json"
        return read_json(path) if path.is_file() else None

    def end_ms(self) -> int:
        """Return when the trial last wrote a line or a result, in ms since 1970; 0 if it never did."""
        written = [self.folder / name for name in ("ledger.jsonl", "metrics.json", "error.txt")]
        return max((_mtime_ms(path) for path in written if path.is_file()), default=0)

    def _params(self) -> dict[str, str]:
        settings = read_json(self.folder / "trial.json").get("settings", {})
        own = {"data_set": self.record.data, "method": self.record.method, "seed": self.record.seed}
        return flat_texts({**settings, **own})

    def _begin(self, events: Sequence[Mapping[str, Any]]) -> None:
        start = time_ms(events[0]) if events else self.end_ms()
        own = {
            TRIAL_TAG: self.record.name,
            "defectnas.folder": str(self.folder),
            "data_set": self.record.data,
            "method": self.record.method,
            "seed": str(self.record.seed),
        }
        self.adopt(self._store.create(self.record.name, {**self._tags, **own}, start))

    def _put_data_set(self, run: str, digest: str) -> None:
        if digest != self._data_digest:
            source = str(read_json(self.folder / "trial.json").get("data", ""))
            self._store.put_data_set(run, self.record.data, digest, source)
            self._store.log(run, tags={_DATA_TAG: digest})
            self._data_digest = digest

    def _send(self, portion: Sequence[Mapping[str, Any]]) -> None:
        assert self.run is not None
        self._started = next((e for e in reversed(portion) if e["event"] == "started"), self._started)
        fresh = [event for event in portion if not self.sent.covers(event)]
        after = self.sent.after(portion)
        if fresh:
            points = [point for event in fresh for point in self._points(event)]
            tags = {key: text for event in fresh for key, text in _event_tags(event).items()}
            # Files go first: once the tag says "sent", nobody comes back to these events.
            self._put_event_files(self.run, fresh)
            sent = json.dumps(after.to_dict())
            self._store.log(self.run, points=points, tags={**tags, SENT_TAG: sent})
            self.sent_events += len(fresh)
        self.sent = after

    def _points(self, event: Mapping[str, Any]) -> list[Point]:
        if event["event"] == "epoch":
            return epoch_points(event)
        if event["event"] == "generation":
            return generation_points(event, processor_seconds_of(event, self._started))
        # A random search beside the search goes by no table, and its choice says nothing of one.
        if event["event"] == "latency" or (event["event"] == "chosen" and event.get("table_tau") is not None):
            return latency_points(event)
        if event["event"] == "finished":
            test_s = event.get("seconds", {}).get("test")
            return points_at(cost_values([], {"test": test_s}, self._started), time_ms(event))
        return []

    def _put_event_files(self, run: str, events: Sequence[Mapping[str, Any]]) -> None:
        names = {event["event"] for event in events}
        if "finalist" in names:
            self._put_finalists(run)
        if "pruned" in names:
            history = [e for e in read_ledger(self.folder / "ledger.jsonl") if e["event"] == "pruned"]
            stages = {e["stage"]: {key: e[key] for key in _EDGES} for e in history}
            self._store.put_text(run, json.dumps([stages[s] for s in sorted(stages)]), "pruning.json")
        for event in events:
            if event.get("data_digest"):
                self._put_data_set(run, str(event["data_digest"]))
            if "architecture" in event:
                self._store.put_text(run, json.dumps(event["architecture"]), "architecture.json")
        if names & {"pruned", "architecture"}:
            self._put_drawings(run, curves=False)

    def _put_drawings(self, run: str, *, curves: bool) -> None:
        for drawing in draw_trial(self.folder, curves=curves):
            made = _mtime_ms(drawing)
            if self._put.get(drawing) != made:
                self._store.put_file(run, drawing, "drawings")
                self._put[drawing] = made

    def _conclude(self, state: State) -> None:
        """Bring the stored run to the state of the trial; results and errors come with it."""
        assert self.run is not None
        if state == "done":
            self._put_finalists(self.run)
            self._put_results(self.run)
        if state == "failed":
            error = without_secrets((self.folder / "error.txt").read_text(encoding="utf-8"))
            self._store.put_text(self.run, error, "error.txt")
            self._store.log(self.run, tags={"error": error.strip().partition("\n")[0]})
        if state in ("failed", "stopped"):
            self._put_costs_so_far(self.run)
        if state != "running":
            self._put_drawings(self.run, curves=True)
        self._store.set_status(self.run, STATUS[state], self.end_ms())
        self._status = STATUS[state]

    def _put_results(self, run: str) -> None:
        metrics = self.metrics() or {}
        costs = self._costs(metrics.get("stage_seconds") or [], metrics)
        for name in _RESULT_FILES:
            if (self.folder / name).is_file():
                self._store.put_file(run, self.folder / name)
        for picture in sorted((self.folder / "pictures").glob("*.png")):
            self._store.put_file(run, picture, "pictures")
        digest = metrics.get("architecture_digest")
        tags = {"architecture_digest": str(digest)} if digest else {}
        points = points_at(result_values(metrics) | costs, _mtime_ms(self.folder / "metrics.json"))
        self._store.log(run, points=points, tags=tags)

    def _put_finalists(self, run: str) -> None:
        put_finalists(self._store, run, self.folder, {**self._tags, TRIAL_TAG: self.record.name})

    def _put_costs_so_far(self, run: str) -> None:
        events = read_ledger(self.folder / "ledger.jsonl")
        if events:
            costs = self._costs(stage_seconds(events), {})
            self._store.log(run, points=points_at(costs, time_ms(events[-1])))

    def _costs(self, stages: Sequence[float], metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return what the trial took: its search stages, and the whole phases that metrics.json knows."""
        others = {phase: metrics.get(f"{phase}_seconds") for phase in ("search", "retrain")}
        if self.record.method != "autonad":
            return cost_values(stages, others, self._started)
        whole = {f"cost/{phase}_seconds": float(s) for phase, s in others.items() if s is not None}
        return hybrid_cost_values(read_ledger(self.folder / "ledger.jsonl")) | whole


_RESULT_FILES = (
    "metrics.json",
    "architecture.json",
    "candidates.parquet",
    "random.parquet",
    "latency_table.json",
    "prior.json",
    "latencies.jsonl",
)


def _portions(
    events: Sequence[dict[str, Any]], points_of: Callable[[Mapping[str, Any]], Sequence[Point]]
) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield the events in order, in portions that one batch of points can hold."""
    first, points = 0, 0
    for index, event in enumerate(events):
        more = len(points_of(event))
        if points + more > _BATCH_POINTS:
            yield events[first:index]
            first, points = index, 0
        points += more
    if events[first:]:
        yield events[first:]


def _event_tags(event: Mapping[str, Any]) -> dict[str, str]:
    if event["event"] == "started":
        digest = event.get("settings_digest")
        return environment_tags(event) | ({"settings_digest": str(digest)} if digest else {})
    if event["event"] == "stage":
        return {"stage": f"{event['stage']} of {event['stages']}", "form": str(event.get("form"))}
    if event["event"] == "latency":
        return flat_texts(event["conditions"], "latency.")
    # Other events name digests too, of candidates that were left out.
    return {"architecture_digest": str(event["digest"])} if event["event"] == "architecture" else {}


def _mtime_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000
