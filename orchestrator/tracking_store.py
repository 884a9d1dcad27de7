"""What following a run needs of a tracking store, apart from any product."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.tracking_values import Point

PARENT_TAG, TRIAL_TAG, FINALIST_TAG = "mlflow.parentRunId", "defectnas.trial", "defectnas.finalist"
"""Tags by which runs of trials and of finalists are found again, below the run of their launch and of their trial."""

TRIALS_TAG = "defectnas.trials"
"""Tag of a launch's run: the names of its trials, with spaces between; one that has not begun has no run of its own."""


class StoreAwayError(ConnectionError):
    """The store cannot be reached now; later it may."""


class StoreRefusedError(ValueError):
    """The store does not take what it was given, and never will."""


@dataclass(frozen=True)
class StoredRun:
    """A run as the store has it; status is RUNNING, FINISHED, FAILED or KILLED, metrics the last of each."""

    id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)


class Store(Protocol):
    """A tracking store. Every method raises StoreAwayError or StoreRefusedError."""

    def find(self, tags: Mapping[str, str]) -> list[StoredRun]:
        """Return the runs that have all these tags, oldest first."""

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> StoredRun:
        """Create a run, RUNNING since start_ms (ms since 1970)."""

    def log(
        self,
        run: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add values to a run, the tags last; a point that is there is not added twice."""

    def put_file(self, run: str, path: Path, folder: str = "") -> None:
        """Add a file to a run's artifacts, or replace it there."""

    def put_text(self, run: str, text: str, name: str) -> None:
        """Add a text file to a run's artifacts, or replace it there."""

    def put_data_set(self, run: str, name: str, digest: str, source: str) -> None:
        """Note the data set that a run uses."""

    def text(self, run: str, name: str) -> str | None:
        """Return a text file of a run's artifacts, None where there is none."""

    def set_status(self, run: str, status: str, end_ms: int) -> None:
        """Set a run's status; its end counts unless the status is RUNNING."""
