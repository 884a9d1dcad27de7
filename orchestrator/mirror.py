"""A run that is written to a local folder, and kept in a store as well, so that it outlives its machine.

    with Mirror(run, uri):       # in the background, beside the trials
        ...

A search appends, renames and maps files, which stores cannot; so it works on its disk, and states of its folder are
copied to <uri>/<run>/ as they come. Nothing in a search waits for it, and a store that is away is sent later what it
missed. Its packs go to <uri>/packs/<digest>/, once for all runs.
"""

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator import lease
from orchestrator.files import write_json
from orchestrator.freeze import Frozen, RestlessError, Seen, freeze
from orchestrator.storage import StorageAwayError, StorageRefusedError, Store, open_store
from orchestrator.stored_packs import put_pack
from orchestrator.trees import (
    OBJECTS,
    DamagedStorageError,
    Manifest,
    StoredFile,
    manifests,
    newest_manifest,
    put_files,
    read_manifest,
)
from search.errors import InputError

KEPT = 2
"""States that a store keeps: who reads the one before is not disturbed by the next."""

PLACE = ".mirror"
_LONGEST_PAUSE_S = 60.0
_log = logging.getLogger(__name__)


class OutdatedRunError(InputError):
    """The store has a later state of the run than this folder."""


@dataclass(frozen=True)
class Position:
    """What a run folder knows of its mirror: who last drove it from here, and the number of the last state then."""

    uri: str
    owner: str
    sequence: int


def position_of(run: Path) -> Position | None:
    """Return what a run folder knows of its mirror, None if it never had one."""
    try:
        return Position(**json.loads((run / PLACE / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember(run: Path, position: Position) -> None:
    """Write down what a run folder knows of its mirror."""
    (run / PLACE).mkdir(exist_ok=True)
    write_json(run / PLACE / "state.json", asdict(position))


class Mirror:
    """Keeps a run in a store for the time of a with-block, and says at its end what is missing.

    Attributes:
        trouble: why the store is not being told at the moment, None if it is.
    """

    def __init__(
        self,
        run: Path,
        uri: str,
        *,
        packs: Mapping[str, Path] | None = None,
        extra: Mapping[str, Path] | None = None,
        every_s: float = 15.0,
        patience_s: float = 60.0,
        may_wait: bool = False,
        note: Callable[[str], None] = lambda text: None,
        pace: lease.Pace | None = None,
    ):
        """Prepare to mirror; the store is asked first when the with-block begins.

        Args:
            run: the run's folder.
            uri: of the folder of runs in the store.
            packs: folders of packs by their digest.
            extra: further files by the name that they get in the run.
            every_s: seconds between two looks at the run; longer and longer while the store is away.
            patience_s: seconds for which the end of the with-block waits for a store that takes nothing.
            may_wait: the with-block begins also while the store is away (not where it refuses).
            note: gets a line now and then.
            pace: of the beat by which others see that the run is driven; None: `lease.PACE`.
        """
        self.trouble: str | None = None
        self._run, self._uri, self._packs, self._extra = run, uri.rstrip("/"), dict(packs or {}), dict(extra or {})
        self._every_s, self._patience_s, self._may_wait = every_s, patience_s, may_wait
        self._note, self._pace = note, pace or lease.PACE
        self._owner = uuid.uuid4().hex
        self._store: Store | None = None
        self._known: set[str] = set()
        self._done: dict[str, tuple[Seen, StoredFile]] = {}
        self._kept: list[Manifest] = []
        self._sequence = 0
        self._leave, self._lost, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._beat)]

    def __enter__(self) -> "Mirror":
        """Take the run and send what it holds now.

        Raises:
            DrivenError: another process works on it.
            OutdatedRunError: the store has a later state of it.
            StorageRefusedError: the store refuses, or is away and may not be.
        """
        try:
            self._look()
        except RestlessError:
            pass
        except StorageAwayError as error:
            if not self._may_wait:
                self._release()
                raise StorageRefusedError(str(error)) from error
            self._say(str(error))
        except BaseException:
            self._release()
            raise
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        sent, since = len(self._known), time.monotonic()
        while self._threads[0].is_alive() and time.monotonic() - since < self._patience_s:
            self._threads[0].join(0.05)
            if len(self._known) != sent:
                sent, since = len(self._known), time.monotonic()
        if self._threads[0].is_alive():
            self.trouble = f"no answer for {self._patience_s:.0f} s"
        self._ended.set()
        # No beat may follow on the release.
        self._threads[1].join(self._pace.beat_s)
        self._release()
        missing = 0 if self._lost.is_set() else len(self._unsent())
        if missing:
            why = self.trouble or "the run went on after the last look"
            _log.warning(
                f"run {self._run.name}: {missing} files are not yet as they are here at {self._uri} ({why}); "
                f"send them with: defectnas resume {self._run}"
            )

    def _follow(self) -> None:
        failures, pause_s, leaving = 0, self._every_s, False
        while not leaving and not self._lost.is_set():
            # The last look begins after everything else has ended, so it sees the last state of all trials.
            leaving = self._leave.wait(pause_s)
            try:
                self._look()
                failures, self.trouble = 0, None
            except RestlessError as error:
                if leaving:
                    self.trouble = str(error)
            except (StorageAwayError, StorageRefusedError, OSError) as error:
                failures += 1
                self._say(str(error))
            except Exception as error:
                self._give_up(f"{type(error).__name__}: {error}")
            pause_s = min(self._every_s * 2**failures, _LONGEST_PAUSE_S)

    def _beat(self) -> None:
        number = 0
        while not self._ended.wait(self._pace.beat_s):
            number += 1
            if self._store is None or self._lost.is_set() or not self._threads[0].is_alive():
                continue
            try:
                lease.beat(self._store, self._owner, number)
            except lease.DrivenError as error:
                self._give_up(str(error))
            except OSError:
                continue

    def _look(self) -> None:
        """Send the state of the run, if it is another than the last."""
        store = self._store or self._connect()
        for digest in list(self._packs):
            put_pack(open_store(self._uri), self._packs[digest], digest)
            del self._packs[digest]
        frozen = self._frozen()
        try:
            changed = {name: file.copy for name, file in frozen.items() if file.copy is not None}
            if not changed and frozen.keys() == self._done.keys():
                return
            sent = put_files(store, changed, self._known)
            files = {name: sent.get(name) or self._done[name][1] for name in frozen}
            if self._kept and self._kept[-1].files == files:
                self._done = {name: (frozen[name].seen, file) for name, file in files.items()}
                return
            manifest = Manifest(self._sequence + 1, self._owner, time.time(), files)
            # Looked at again, because it may have been long: a state of who no longer drives must not be the newest.
            lease.check(store, self._owner)
            store.write(manifest.name, manifest.to_bytes())
        finally:
            shutil.rmtree(self._run / PLACE / "copies", ignore_errors=True)
        self._sequence += 1
        self._done = {name: (frozen[name].seen, file) for name, file in files.items()}
        remember(self._run, Position(self._uri, self._owner, self._sequence))
        self._kept.append(manifest)
        self._prune(store)

    def _frozen(self) -> dict[str, Frozen]:
        extra = {name: path for name, path in self._extra.items() if path.is_file()}
        done = {name: seen for name, (seen, _) in self._done.items()}
        return freeze(self._run, self._run / PLACE / "copies", done, extra)

    def _connect(self) -> Store:
        """Take the lease, and find out what is there."""
        store, before = open_store(self._uri).below(self._run.name), position_of(self._run)
        mine = before if before is not None and before.uri == self._uri else None
        lease.take(store, self._owner, mine.owner if mine else None, self._note, self._pace)
        try:
            self._find(store, mine)
            # So that, should this process be killed, the next one here knows that it is gone.
            remember(self._run, Position(self._uri, self._owner, self._sequence))
        except BaseException:
            with suppress(OSError, InputError):
                lease.release(store, self._owner)
            raise
        self._store = store
        return store

    def _find(self, store: Store, mine: Position | None) -> None:
        names = manifests(store)
        with suppress(DamagedStorageError):
            newest = newest_manifest(store)
            if newest is not None and (
                mine is None or (newest.sequence > mine.sequence and newest.owner != mine.owner)
            ):
                raise OutdatedRunError(
                    f"{store.uri} went on beyond {self._run}, or is another run of this name; "
                    f"move the folder away, then: defectnas resume {self._run.name} --runs {self._uri}"
                )
        # A damaged one has a number too.
        self._sequence = max((int(name.partition("/")[2][:8]) for name in names), default=0)
        self._kept = []
        for name in reversed(names[:KEPT]):
            with suppress(DamagedStorageError):
                if (found := read_manifest(store, name)) is not None:
                    self._kept.append(found)
        self._known = set().union(*(kept.objects() for kept in self._kept))
        for orphan in store.entries(OBJECTS).keys() - self._known:
            # Uploaded for a state that was never completed.
            store.delete(f"{OBJECTS}/{orphan}")

    def _prune(self, store: Store) -> None:
        """Remove the states before the newest ones, and the chunks that only they had."""
        while len(self._kept) > KEPT:
            store.delete(self._kept[0].name)
            del self._kept[0]
        needed: set[str] = set().union(*(kept.objects() for kept in self._kept))
        for name in self._known - needed:
            # First, so that it is uploaded anew if it is wanted again and was or was not deleted.
            self._known.discard(name)
            store.delete(f"{OBJECTS}/{name}")

    def _unsent(self) -> list[str]:
        try:
            frozen = self._frozen()
        except RestlessError:
            return list(self._done) or [self._run.name]
        finally:
            shutil.rmtree(self._run / PLACE / "copies", ignore_errors=True)
        changed = [name for name, file in frozen.items() if file.copy is not None]
        return changed + sorted(self._done.keys() - frozen.keys())

    def _release(self) -> None:
        if self._store is not None and not self._lost.is_set():
            with suppress(OSError, InputError):
                lease.release(self._store, self._owner)

    def _say(self, reason: str) -> None:
        """Say once per outage that the store is not being told."""
        if self.trouble is None:
            _log.warning("%s; the search goes on, mirroring is tried again", reason)
        self.trouble = reason

    def _give_up(self, reason: str) -> None:
        self.trouble = reason
        if not self._lost.is_set():
            self._lost.set()
            _log.warning("run %s is not mirrored any further: %s", self._run.name, reason)
