"""Following a run: one stored run for the launch, one below it per trial, whatever happened in between."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.files import write_json
from orchestrator.ledger_reader import read_ledger
from orchestrator.runs import RunRecord, State, read_run, trial_folder, trial_state
from orchestrator.tracking_store import PARENT_TAG, TRIAL_TAG, TRIALS_TAG, Store, StoredRun
from orchestrator.tracking_trial import TrialFollower
from orchestrator.tracking_values import Sent, points_at, summary_note, summary_values
from search.secret_texts import without_secrets

_log = logging.getLogger(__name__)

_NOTE_TAG = "mlflow.note.content"
_CONFIG_TAG = "defectnas.config_sha256"


class RunFollower:
    """Tells one store about one run.

    Attributes:
        refused: why a trial is not followed any further, by its name.
    """

    def __init__(self, folder: Path, store: Store):
        """Find the run in the store, or create it there.

        Raises:
            StoreAwayError: the store cannot be reached.
            BrokenRun: the folder is not that of a run.
        """
        self.refused: dict[str, str] = {}
        self._folder = folder
        self._store = store
        self._record = read_run(folder)
        self._parent = self._find_or_create_parent()
        self._status = self._parent.status
        self._note = self._parent.tags.get(_NOTE_TAG, "")
        self._put_config()
        tags = {**_run_tags(self._record), PARENT_TAG: self._parent.id}
        self._trials = [
            TrialFollower(record, trial_folder(folder, record.name), store, tags) for record in self._record.trials
        ]
        # The oldest first: should there ever be two runs of a trial, every process takes the same one.
        stored = {run.tags.get(TRIAL_TAG): run for run in reversed(store.find({PARENT_TAG: self._parent.id}))}
        for trial in self._trials:
            if trial.record.name in stored:
                trial.adopt(stored[trial.record.name])

    @property
    def sent_events(self) -> int:
        """Events that this follower has sent."""
        return sum(trial.sent_events for trial in self._trials)

    def follow(self, running: bool) -> None:
        """Send what is new in any trial, then the summary of all.

        Args:
            running: whether a process works on the run, so that a trial without result is not a stopped one.

        Raises:
            StoreAwayError: the store cannot be reached; a new follower sends later what this one could not.
        """
        for trial in self._trials:
            if trial.record.name in self.refused:
                continue
            try:
                trial.follow(running)
            except OSError:
                raise
            except Exception as error:
                # One damaged trial must not keep the others from being tracked.
                reason = without_secrets(f"{type(error).__name__}: {error}")
                self.refused[trial.record.name] = reason
                _log.warning("trial %s is not tracked any further: %s", trial.record.name, reason)
        self._summarise(running)

    def position(self) -> dict[str, Any]:
        """Return the ids of the stored runs and how far each trial was sent, as plain values."""
        trials = {t.record.name: {"run": t.run, **t.sent.to_dict()} for t in self._trials if t.run}
        return {"run": self._parent.id, "trials": trials}

    def _find_or_create_parent(self) -> StoredRun:
        record = self._record
        # The moment of creation tells runs of one name apart that share a store.
        own = {"defectnas.run": record.id, "defectnas.created": record.created}
        found = [run for run in self._store.find(own) if TRIAL_TAG not in run.tags]
        if found:
            return found[0]
        start = round(datetime.fromisoformat(record.created).timestamp() * 1000)
        tags = {**_run_tags(record), "method": record.method, "defectnas.folder": str(self._folder)}
        tags[TRIALS_TAG] = " ".join(trial.name for trial in record.trials)
        return self._store.create(record.id, tags, start)

    def _put_config(self) -> None:
        text = without_secrets((self._folder / "config.yaml").read_text(encoding="utf-8"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        if self._parent.tags.get(_CONFIG_TAG) != digest:
            self._store.put_text(self._parent.id, text, "config.yaml")
            self._store.log(self._parent.id, tags={_CONFIG_TAG: digest})

    def _summarise(self, running: bool) -> None:
        """Bring summary, note and status of the launch's own run up to date."""
        states = [trial_state(trial.folder, running) for trial in self._trials]
        metrics = [trial.metrics() for trial in self._trials]
        records = [trial.record for trial in self._trials]
        note = summary_note((r.name, s, m) for r, s, m in zip(records, states, metrics, strict=True))
        if note != self._note:
            rows = zip(records, states, metrics, strict=True)
            values = summary_values((r.data, r.method, s, m) for r, s, m in rows)
            done = states.count("done")
            points = points_at(values, max((trial.end_ms() for trial in self._trials), default=0), step=done)
            self._store.log(self._parent.id, points=points, tags={_NOTE_TAG: note})
            self._note = note
        status = _status_of(states, running)
        if status != self._status:
            self._store.set_status(self._parent.id, status, max((t.end_ms() for t in self._trials), default=0))
            self._status = status


def remember(folder: Path, name: str, position: Mapping[str, Any]) -> None:
    """Write down in the run's tracking.json how far the store of this name was told."""
    path = folder / "tracking.json"
    positions = _positions(path)
    if positions.get(name) != position:
        write_json(path, {**positions, name: position})


def count_unsent(folder: Path, name: str) -> int:
    """Return how many events of a run's ledgers a store was not told yet, as far as tracking.json knows.

    Args:
        folder: the run's folder.
        name: the store's address without secrets.
    """
    trials = _positions(folder / "tracking.json").get(name, {}).get("trials", {})
    count = 0
    for record in read_run(folder).trials:
        sent = Sent.from_dict(trials[record.name]) if record.name in trials else Sent()
        events = read_ledger(trial_folder(folder, record.name) / "ledger.jsonl")
        count += sum(not sent.covers(event) for event in events)
    return count


def _positions(path: Path) -> dict[str, Any]:
    """Return what tracking.json holds; it only repeats what stores know, so a damaged one counts as none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        _log.warning("%s: damaged, written anew", path)
        return {}
    return values if isinstance(values, dict) else {}


def _run_tags(record: RunRecord) -> dict[str, str]:
    """Return the tags that the launch's run and those of its trials share."""
    tags = {
        "defectnas.run": record.id,
        "defectnas.created": record.created,
        "defectnas.version": record.version,
        "defectnas.command": without_secrets(record.command),
        "mlflow.source.name": "defectnas",
        "mlflow.source.type": "LOCAL",
    }
    return tags | ({"mlflow.source.git.commit": record.commit} if record.commit else {})


def _status_of(states: Iterable[State], running: bool) -> str:
    found = set(states)
    if running:
        return "RUNNING"
    return "FAILED" if "failed" in found else "KILLED" if "stopped" in found else "FINISHED"
