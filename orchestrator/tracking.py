"""MLflow: where runs are recorded, compared and looked at. The only file that imports mlflow.

The tracker follows the run folder, whose ledgers are the truth, and nothing in a search waits for it:

    with Tracker(run_folder, uri):       # in the background, beside the trials
        ...
    catch_up(run_folder, uri)            # afterwards, for what was not sent then

Both may be repeated and interrupted freely; nothing is recorded twice.
"""

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import Any

from orchestrator.runs import is_running
from orchestrator.tracking_run import RunFollower, count_unsent, remember
from orchestrator.tracking_store import StoreAwayError, StoredRun, StoreRefusedError
from orchestrator.tracking_uri import (
    ENVIRONMENT,
    TrackingUriError,
    embedded_uri,
    resolve_uri,
    ui_command,
    with_password,
)
from orchestrator.tracking_values import Point
from search.errors import InputError
from search.secret_texts import without_secrets

__all__ = [
    "ENVIRONMENT",
    "MlflowStore",
    "NoExperimentError",
    "StoreAwayError",
    "StoreRefusedError",
    "Tracker",
    "TrackingUriError",
    "catch_up",
    "embedded_uri",
    "newest_experiment",
    "resolve_uri",
    "ui_command",
]

_log = logging.getLogger(__name__)


class NoExperimentError(InputError):
    """The tracking store has no experiment of this name."""


_PARAM_LIMIT, _TAG_LIMIT, _DIGEST_LIMIT, _PER_CALL = 6000, 8000, 36, 100
_LONGEST_PAUSE_S = 60.0


def catch_up(run: Path, uri: str, experiment: str = "defectnas") -> int:
    """Send everything of a run that the store does not have yet, and return the number of events sent.

    Args:
        run: the run's folder.
        uri: tracking URI as `resolve_uri` returns it.
        experiment: MLflow experiment.

    Raises:
        StoreAwayError: the store cannot be reached; what was sent before stays sent.
        StoreRefusedError: the store cannot take this run.
        BrokenRun: the folder is not that of a run.
    """
    follower = RunFollower(run, MlflowStore(uri, experiment, run.resolve().parent))
    try:
        follower.follow(is_running(run))
    finally:
        remember(run, without_secrets(uri), follower.position())
    return follower.sent_events


def newest_experiment(uri: str) -> str | None:
    """Return the id of the experiment that was made last, None where there is none but MLflow's own.

    Args:
        uri: tracking URI as `resolve_uri` returns it.
    """
    client = _import_mlflow().MlflowClient(tracking_uri=with_password(uri))
    newest = client.search_experiments(max_results=1, order_by=["creation_time DESC"])
    return newest[0].experiment_id if newest and newest[0].name != "Default" else None


class Tracker:
    """Follows a run in a background thread for the time of a with-block, and says at its end what is missing.

    Attributes:
        trouble: why the store is not being told at the moment, None if it is.
    """

    def __init__(
        self,
        run: Path,
        uri: str,
        experiment: str = "defectnas",
        *,
        every_s: float = 3.0,
        patience_s: float = 60.0,
    ):
        """Prepare to follow; nothing is imported or connected before the with-block.

        Args:
            run: the run's folder.
            uri: tracking URI as `resolve_uri` returns it.
            experiment: MLflow experiment.
            every_s: seconds between two looks at the run; longer and longer while the store is away.
            patience_s: seconds for which the end of the with-block waits for a store that answers nothing.
        """
        self.trouble: str | None = None
        self._run = run
        self._uri = uri
        self._experiment = experiment
        self._every_s = every_s
        self._patience_s = patience_s
        self._leave = threading.Event()
        self._heard_at = time.monotonic()
        self._follower: RunFollower | None = None
        self._thread = threading.Thread(target=self._follow, name="tracker", daemon=True)

    def __enter__(self) -> "Tracker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._heard_at = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - self._heard_at < self._patience_s:
            self._thread.join(0.1)
        if self._thread.is_alive():
            self.trouble = f"no answer for {self._patience_s:.0f} s"
        missing = self.count_unsent()
        if missing or self.trouble:
            where, why = without_secrets(self._uri), self.trouble or "the run went on after the last look"
            _log.warning(
                f"run {self._run.name}: {missing} events are not yet tracked at {where} ({why}); "
                f"send them with: defectnas track {self._run}"
            )

    def count_unsent(self) -> int:
        """Return how many events of the run's ledgers the store has not been told."""
        return count_unsent(self._run, without_secrets(self._uri))

    def _follow(self) -> None:
        failures, pause_s, leaving = 0, 0.0, False
        while not leaving:
            # The last look begins after everything else has ended, so it sees the last state of all trials.
            leaving = self._leave.wait(pause_s)
            try:
                self._look(running=not leaving)
                failures = 0
            except (StoreRefusedError, OSError) as error:
                # What the store was told is asked of it again when it is back: that is what counts.
                self._follower = None
                failures += 1
                self._note_trouble(f"{type(error).__name__}: {error}", "the search goes on, tracking is tried again")
            except Exception as error:
                self._note_trouble(f"{type(error).__name__}: {error}", "the run is not tracked any further")
                return
            pause_s = min(self._every_s * 2**failures, _LONGEST_PAUSE_S)

    def _look(self, running: bool) -> None:
        if self._follower is None:
            store = MlflowStore(self._uri, self._experiment, self._run.resolve().parent, self._hear)
            self._follower = RunFollower(self._run, store)
        try:
            self._follower.follow(running)
        finally:
            remember(self._run, without_secrets(self._uri), self._follower.position())
        self.trouble = next(iter(self._follower.refused.values()), None)

    def _hear(self) -> None:
        self._heard_at = time.monotonic()

    def _note_trouble(self, reason: str, consequence: str) -> None:
        """Say once per outage that the store is not being told."""
        reason = without_secrets(reason)
        if self.trouble is None:
            _log.warning("MLflow at %s: %s; %s", without_secrets(self._uri), reason, consequence)
        self.trouble = reason


class MlflowStore:
    """An MLflow tracking server or database, as `tracking_store.Store`."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        runs: Path,
        on_answer: Callable[[], None] = lambda: None,
        *,
        create: bool = True,
    ):
        """Connect, and create the experiment if it is missing; a new SQLite store takes seconds to be made.

        Args:
            uri: tracking URI as `resolve_uri` returns it.
            experiment: name of the MLflow experiment.
            runs: the folder of runs; artifacts go to its mlartifacts, unless a server has its own place.
            on_answer: called whenever the store has answered.
            create: False leaves the store as it is, for who only reads.

        Raises:
            NoExperimentError: the experiment is missing and not to be created.
            StoreAwayError: the store cannot be reached.
            StoreRefusedError: the experiment was deleted.
        """
        self._on_answer = on_answer
        mlflow = _import_mlflow()
        with self._asking():
            self._client = mlflow.MlflowClient(tracking_uri=with_password(uri))
            found = self._client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise StoreRefusedError(f"experiment {experiment!r} was deleted; restore it or choose another name")
            if found is None and not create:
                raise NoExperimentError(f"experiment {experiment!r} is not in the store {without_secrets(uri)}")
            served = uri.startswith(("http", "databricks"))
            place = None if served else (runs / "mlartifacts").as_uri()
            # Without its kind, the UI first asks whether this is about language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            self._experiment = found.experiment_id if found else self._client.create_experiment(experiment, place, kind)

    def find(self, tags: Mapping[str, str]) -> list[StoredRun]:
        """Return the runs that have all these tags, oldest first."""
        quoted = {key: f'"{text}"' if "'" in text else f"'{text}'" for key, text in tags.items()}
        wanted = " and ".join(f"tags.`{key}` = {text}" for key, text in quoted.items())
        with self._asking():
            runs = self._client.search_runs(
                [self._experiment], wanted, max_results=5000, order_by=["attributes.start_time ASC"]
            )
        return [_stored(run) for run in runs]

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> StoredRun:
        """Create a run, RUNNING since start_ms."""
        cut = {key: text[:_TAG_LIMIT] for key, text in tags.items()}
        with self._asking():
            return _stored(self._client.create_run(self._experiment, start_ms, {"mlflow.user": _user(), **cut}, name))

    def log(
        self,
        run: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add values to a run, the tags last; a point that is there is not added twice."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in points]
        pairs = [Param(key, text[:_PARAM_LIMIT]) for key, text in (params or {}).items()]
        marks = [RunTag(key, text[:_TAG_LIMIT]) for key, text in (tags or {}).items()]
        with self._asking():
            for first in range(0, len(pairs), _PER_CALL):
                self._client.log_batch(run, params=pairs[first : first + _PER_CALL])
            if metrics or marks:
                self._client.log_batch(run, metrics=metrics, tags=marks)

    def put_file(self, run: str, path: Path, folder: str = "") -> None:
        """Add a file to a run's artifacts, or replace it there."""
        with self._asking():
            self._client.log_artifact(run, str(path), folder or None)

    def put_text(self, run: str, text: str, name: str) -> None:
        """Add a text file to a run's artifacts, or replace it there."""
        with self._asking():
            self._client.log_text(run, text, name)

    def text(self, run: str, name: str) -> str | None:
        """Return a text file of a run's artifacts, None where there is none."""
        with self._asking(), tempfile.TemporaryDirectory() as folder:
            if name not in {file.path for file in self._client.list_artifacts(run)}:
                return None
            return Path(self._client.download_artifacts(run, name, folder)).read_text(encoding="utf-8")

    def put_data_set(self, run: str, name: str, digest: str, source: str) -> None:
        """Note the data set that a run uses; MLflow keeps the first 36 digits of the digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data_set = Dataset(name, digest[:_DIGEST_LIMIT], "local", json.dumps({"uri": source}))
        with self._asking():
            self._client.log_inputs(run, [DatasetInput(data_set, [InputTag("mlflow.data.context", "search")])])

    def set_status(self, run: str, status: str, end_ms: int) -> None:
        """Set a run's status; its end counts unless the status is RUNNING."""
        with self._asking():
            if status == "RUNNING":
                self._client.update_run(run, status)
            else:
                self._client.set_terminated(run, status, end_ms)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            refused = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
            line = without_secrets(str(error)).partition("\n")[0][:300]
            # The cause is left out of the traceback: it may show the address with its password.
            raise (StoreRefusedError if refused else StoreAwayError)(line) from None
        self._on_answer()


def _import_mlflow() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    # Both report every step of making a database, in the middle of what a person watches.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # What a database refuses is raised too, and told in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


def _stored(run: Any) -> StoredRun:
    data = run.data
    return StoredRun(run.info.run_id, run.info.status, dict(data.tags), dict(data.params), dict(data.metrics))


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return str(os.getuid())
