"""A run kept in a store: what is there after whatever happened, who may write it, and that it comes back."""

import dataclasses
import json
import logging
import os
import random
import shutil
import threading
import time

import pytest

from orchestrator import lease, mirror
from orchestrator.fetch import get_data, get_run, stored_runs
from orchestrator.freeze import freeze
from orchestrator.mirror import Mirror, OutdatedRunError, position_of
from orchestrator.runs import RunExistsError, RunNameError, RunNotFoundError
from orchestrator.storage import StorageAwayError, StorageRefusedError, Store, open_store
from orchestrator.trees import DamagedStorageError, manifests, newest_manifest

QUICK = lease.Pace(beat_s=0.05, gone_s=0.5, settle_s=0.0)


def state_of(run):
    """The files of a run that a mirror keeps."""
    names = (p for p in run.rglob("*") if p.is_file() and p.name != "lock")
    found = {str(p.relative_to(run)): p.read_bytes() for p in names}
    return {name: data for name, data in found.items() if not any(part.startswith(".") for part in name.split("/"))}


def mirrored(run, uri, **options):
    return Mirror(run, uri, **{"every_s": 0.02, "pace": QUICK, **options})


def test_a_run_comes_back_as_it_was(make_run, finish, bucket, tmp_path):
    run = make_run("good", "waits")
    forms = tmp_path / "forms.json"
    forms.write_text("{}")
    uri = f"{bucket}/runs"
    with mirrored(run, uri, extra={"forms.json": forms}):
        (run / "lock").write_text("held")
        (run / "trials/good-s0/.ledger.partial").write_text("half")
        (run / "trials/good-s0/ledger.jsonl").write_text('{"n": 0}\n')
        finish(run, "good-s0")
    assert stored_runs(uri) == [run.name]
    assert lease.holder(open_store(uri).below(run.name)) is None
    back = get_run(uri, run.name, tmp_path / "elsewhere")
    assert state_of(back) == {**state_of(run), "forms.json": b"{}"}
    assert not (back / "lock").exists()
    assert position_of(back).sequence == position_of(run).sequence
    with pytest.raises(RunExistsError):
        get_run(uri, run.name, tmp_path / "elsewhere")
    with pytest.raises(RunNotFoundError, match=f"no run 'another' at {uri}; there are {run.name}"):
        get_run(uri, "another", tmp_path / "elsewhere")
    with pytest.raises(RunNameError):
        get_run(uri, "../another", tmp_path / "elsewhere")


def test_nothing_is_sent_where_nothing_has_changed_and_only_two_states_are_kept(make_run, bucket):
    run, uri = make_run("good"), f"{bucket}/runs"
    store = open_store(uri).below(run.name)
    for number in range(4):
        (run / "trials/good-s0/ledger.jsonl").write_text("x" * number)
        with mirrored(run, uri):
            pass
        before = store.entries()
        with mirrored(run, uri):
            pass
        assert store.entries() == before
    names = manifests(store)
    assert len(names) == mirror.KEPT
    needed = {f"objects/{chunk}" for chunk in newest_manifest(store).objects()}
    kept = {name for name in store.entries() if name.startswith("objects/") and not name.endswith("/")}
    assert needed <= kept
    assert len(kept) == len(needed) + 1  # the ledger of the state before


class Cut(Exception):
    pass


class Failing(Store):
    """A store whose n-th write and all after it fail."""

    writes = 10**9
    error: type[Exception] = Cut
    lock = threading.Lock()

    def below(self, name):
        return Failing(**vars(super().below(name)))

    def write(self, name, data):
        with Failing.lock:
            Failing.writes -= 1
            if Failing.writes < 0:
                raise Failing.error("the store is away")
        super().write(name, data)


@pytest.fixture
def failing(monkeypatch):
    """Make stores fail from a number of writes on: failing(n, error); failing() mends them."""

    def fail(writes=10**9, error=Cut):
        Failing.writes, Failing.error = writes, error

    monkeypatch.setattr(mirror, "open_store", lambda uri: Failing(**vars(open_store(uri))))
    yield fail
    fail()


def test_a_mirror_cut_off_at_any_write_restores_to_the_state_before(make_run, tmp_path, failing):
    """Every write of a look is cut off in turn, as if the process were killed there."""
    run, uri = make_run("good"), f"file://{tmp_path}/store"
    rng = random.Random(0)
    folder = run / "trials/good-s0"
    for cut in range(9):
        with mirrored(run, uri):
            pass
        whole = state_of(run)
        for name in ("ledger.jsonl", "checkpoint", "weights", "metrics.json", "new"):
            (folder / name).write_bytes(rng.randbytes(50))
        failing(cut)
        looking = mirrored(run, uri)
        try:
            looking._look()
            survived = state_of(run)
        except Cut:
            survived = whole
        failing()
        back = get_run(uri, run.name, tmp_path / f"back-{cut}")
        assert state_of(back) == survived
        # Of the dead process there is still the lease; this folder knows that it was its own.
        lease.release(open_store(uri).below(run.name), looking._owner)
    assert survived is not whole


def test_a_store_that_is_away_for_a_while_holds_nothing_up_and_gets_all_in_the_end(make_run, tmp_path, failing, caplog):
    run, uri = make_run("good"), f"file://{tmp_path}/store"
    told = threading.Event()
    with caplog.at_level(logging.WARNING, "orchestrator"), mirrored(run, uri) as follower:
        failing(0, StorageAwayError)
        (run / "trials/good-s0/ledger.jsonl").write_text("one")
        while follower.trouble is None:
            told.wait(0.01)
        failing()
        (run / "trials/good-s0/ledger.jsonl").write_text("two")
    assert follower.trouble is None
    assert "the search goes on, mirroring is tried again" in caplog.text
    assert "not yet" not in caplog.text
    assert state_of(get_run(uri, run.name, tmp_path / "back")) == state_of(run)


def test_what_a_store_that_stays_away_did_not_get_is_said_and_sent_later(make_run, tmp_path, failing, caplog):
    run, uri = make_run("good"), f"file://{tmp_path}/store"
    with caplog.at_level(logging.WARNING, "orchestrator"), mirrored(run, uri):
        failing(0, StorageAwayError)
        (run / "trials/good-s0/ledger.jsonl").write_text("one")
    assert f"1 files are not yet as they are here at {uri}" in caplog.text
    assert f"defectnas resume {run}" in caplog.text
    failing()
    with mirrored(run, uri):
        pass
    assert state_of(get_run(uri, run.name, tmp_path / "back")) == state_of(run)


def test_a_run_begins_without_its_store_only_where_it_may(make_run, tmp_path, failing):
    run, uri = make_run("good"), f"file://{tmp_path}/store"
    failing(0, StorageAwayError)
    with pytest.raises(StorageRefusedError, match="away"), mirrored(run, uri):
        pass
    with mirrored(run, uri, may_wait=True) as follower:
        assert "away" in follower.trouble
        failing()
    assert state_of(get_run(uri, run.name, tmp_path / "back")) == state_of(run)


def test_of_two_drivers_the_second_is_refused_while_the_first_lives(make_run, tmp_path, bucket):
    run, uri = make_run("good"), f"{bucket}/runs"
    with mirrored(run, uri):
        other = get_run(uri, run.name, tmp_path / "elsewhere")
        with pytest.raises(lease.DrivenError, match=rf"runs/{run.name} is driven on host .*pid {os.getpid()}"):
            with mirrored(other, uri):
                pass
    with mirrored(other, uri):
        pass


def test_a_run_whose_driver_is_gone_goes_on_elsewhere_and_its_old_folder_is_refused(make_run, tmp_path, bucket):
    run, uri = make_run("good"), f"{bucket}/runs"
    dead = mirrored(run, uri)
    dead._look()  # and never anything again
    other = get_run(uri, run.name, tmp_path / "elsewhere")
    said = []
    (other / "trials/good-s0/ledger.jsonl").write_text("went on")
    with mirrored(other, uri, note=said.append):
        pass
    assert "last driven on" in said[0]
    with pytest.raises(OutdatedRunError, match="move the folder away"), mirrored(run, uri):
        pass
    # What was refused has given the run back.
    with mirrored(other, uri):
        pass


def test_a_driver_that_was_taken_for_gone_writes_no_further_state(make_run, tmp_path, bucket, caplog):
    run, uri = make_run("good"), f"{bucket}/runs"
    store = open_store(uri).below(run.name)
    never = dataclasses.replace(QUICK, beat_s=60.0)
    with caplog.at_level(logging.WARNING, "orchestrator"), mirrored(run, uri, pace=never) as asleep:
        other = get_run(uri, run.name, tmp_path / "elsewhere")
        with mirrored(other, uri) as driver:
            (other / "trials/good-s0/ledger.jsonl").write_text("mine")
            (run / "trials/good-s0/ledger.jsonl").write_text("late")
            for _ in range(1000):
                if asleep.trouble is not None:
                    break
                time.sleep(0.01)
    assert "not mirrored any further" in caplog.text
    assert driver.trouble is None
    assert newest_manifest(store).owner == position_of(other).owner


def test_a_state_of_files_that_are_being_written_is_one_moment(tmp_path):
    """A checkpoint never counts more events than the ledger beside it has."""
    folder = tmp_path / "run"
    folder.mkdir()
    ended = threading.Event()

    def write():
        count = 0
        with (folder / "ledger.jsonl").open("a") as ledger:
            while not ended.is_set():
                ledger.write(json.dumps({"n": count}) + "\n")
                ledger.flush()
                count += 1
                if count % 3 == 0:
                    (folder / "new").write_text(str(count))
                    (folder / "new").replace(folder / "checkpoint")
                    (folder / "copy").write_text(str(count))
                    (folder / "copy").replace(folder / "second")
                    ended.wait(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for look in range(50):
            frozen = freeze(folder, tmp_path / "copies", {})
            if "second" not in frozen:
                continue
            counts = [int(frozen[name].copy.read_text()) for name in ("second", "checkpoint")]
            events = frozen["ledger.jsonl"].copy.read_text().splitlines()
            assert counts[0] <= counts[1] <= len(events), look
    finally:
        ended.set()
        writer.join()


def test_a_data_set_is_fetched_once_and_again_when_it_has_changed(bucket, tmp_path, surfaces):
    uri, cache = f"{bucket}/data/MT", tmp_path / "cache"
    store = open_store(uri)
    for path in sorted((surfaces / "good").rglob("*")):
        if path.is_file():
            store.write(str(path.relative_to(surfaces / "good")), path.read_bytes())
    counted = []
    folder = get_data(uri, cache, lambda done, total: counted.append((done, total)))
    assert folder.name == "MT"
    assert state_of(folder) == state_of(surfaces / "good")
    assert counted[-1][0] == counted[-1][1] == len(counted)
    first = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert get_data(uri, cache) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == first
    # On another machine all files are as old as here, so that packs are known by the same name.
    other = get_data(uri, tmp_path / "other")
    assert [p.stat().st_mtime_ns for p in sorted(other.rglob("*.png"))] == [
        p.stat().st_mtime_ns for p in sorted(folder.rglob("*.png"))
    ]
    store.write("more.txt", b"1")
    assert get_data(uri, cache) != folder
    assert get_data(f"file://{surfaces}/good", cache) == surfaces / "good"


def test_a_data_set_that_is_not_there_or_goes_astray_is_one_line(bucket, tmp_path):
    with pytest.raises(ValueError, match=f"--data {bucket}/nothing: no files there"):
        get_data(f"{bucket}/nothing", tmp_path)
    with pytest.raises(StorageRefusedError, match="there is no such bucket"):
        get_data("s3://no-such-bucket-at-all/MT", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_refused_and_nothing_is_left(make_run, bucket, tmp_path):
    run, uri = make_run("good"), f"{bucket}/runs"
    with mirrored(run, uri):
        pass
    store = open_store(uri).below(run.name)
    chunk = newest_manifest(store).files["config.yaml"].chunks[0]
    store.write(f"objects/{chunk}", b"altered")
    with pytest.raises(DamagedStorageError, match=r"is damaged.*config\.yaml"):
        get_run(uri, run.name, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []
    shutil.rmtree(tmp_path / "back")
