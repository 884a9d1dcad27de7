import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from clusters.executor import (
    ObjectStoreFullError,
    Pool,
    PoolUnavailableError,
    WorkerStartError,
    put,
    ray_pool,
    serial_pool,
)

ACTORS = 2
LONGEST_WAIT_S = 60


class Watched(Sequence):
    """Items that count how many of them were fetched."""

    def __init__(self, items):
        self.items = items
        self.fetched = 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.fetched += 1
        return self.items[index]


@contextmanager
def small_ray_pool(make_worker: Callable, **options) -> Iterator[Pool]:
    with ray_pool(make_worker, **{"actors": ACTORS, "cpus": 0.25, **options}) as pool:
        yield pool


@pytest.fixture(params=["serial", "ray"])
def open_pool(request) -> Callable:
    if request.param == "serial":
        return serial_pool
    request.getfixturevalue("ray_session")
    return small_ray_pool


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where workers prove what they did."""
    return tmp_path


# Workers are closures, which travel whole: the processes of actors cannot import this file.
def squares(folder: Path) -> Callable:
    """Make workers that square numbers and leave a file per worker made and per call begun.

    An item is a number or (number, what): "raise" and "exit" fail always, "raise twice" twice; "die",
    "leave" and "hang" end the process or never return, always; "die once" and "hang once" at the first try.
    "meet" returns when each actor is at such an item, so that all have a worker.
    """

    def make_worker():
        import uuid

        (folder / f"made-{os.getpid()}-{uuid.uuid4().hex}").touch()

        def work(item):
            number, what = item if isinstance(item, tuple) else (item, "")
            before = len(list(folder.glob(f"call-{number}-*")))
            (folder / f"call-{number}-{uuid.uuid4().hex}").touch()
            if what == "raise" or (what == "raise twice" and before < 2):
                raise ValueError(f"number {number} is bad")
            if what == "exit":
                raise SystemExit(number)
            if what == "die" or (what == "die once" and before == 0):
                os.kill(os.getpid(), 9)
            if what == "leave":
                os._exit(1)
            if what == "hang" or (what == "hang once" and before == 0):
                threading.Event().wait()
            if what == "meet":
                (folder / f"meets-{os.getpid()}").touch()
                while len(list(folder.glob("meets-*"))) < ACTORS:
                    time.sleep(0.01)
            return number * number

        return work

    return make_worker


def pids() -> Callable:
    """Make workers that return the process that they are in."""

    def make_worker():
        return lambda item: os.getpid()

    return make_worker


def calls(folder: Path, number: int) -> int:
    return len(list(folder.glob(f"call-{number}-*")))


def made(folder: Path) -> list[str]:
    """Return the process of each worker that was made."""
    return sorted(path.name.split("-")[1] for path in folder.glob("made-*"))


def by_index(outcomes) -> list:
    return sorted(outcomes, key=lambda outcome: outcome.index)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_end(pids: set[int]) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_S
    while left := {pid for pid in pids if is_alive(pid)}:
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.02)


# What every pool does.


def test_every_item_has_its_value_once_and_workers_serve_several_maps(open_pool, folder):
    with open_pool(squares(folder)) as pool:
        assert list(pool.map([])) == []
        for numbers in (range(9), [7], range(20, 25)):
            outcomes = list(pool.map(numbers))
            assert sorted(outcome.index for outcome in outcomes) == list(range(len(numbers)))
            assert [outcome.value for outcome in by_index(outcomes)] == [number * number for number in numbers]
            assert {(outcome.error, outcome.tries) for outcome in outcomes} == {(None, 1)}
            assert all(outcome.seconds > 0 for outcome in outcomes)
    processes = made(folder)
    # An actor that starts late may find nothing left to do.
    assert 1 <= len(processes) <= (1 if open_pool is serial_pool else ACTORS)
    assert len(processes) == len(set(processes))
    assert all(calls(folder, number) == (2 if number == 7 else 1) for number in [*range(9), *range(20, 25)])


def test_an_item_that_fails_is_tried_again_and_stops_no_other(open_pool, folder):
    items = [0, (1, "raise"), 2, (3, "raise twice"), (4, "exit"), 5]
    with open_pool(squares(folder), retries=2) as pool:
        outcomes = by_index(pool.map(items))
        assert [outcome.value for outcome in outcomes] == [0, None, 4, 9, None, 25]
        assert [outcome.tries for outcome in outcomes] == [1, 3, 1, 3, 3, 1]
        assert [calls(folder, number) for number in range(6)] == [1, 3, 1, 3, 3, 1]
        assert outcomes[1].error.startswith("tried 3 times: ValueError: number 1 is bad (test_executor.py:")
        assert outcomes[4].error.startswith("tried 3 times: SystemExit: 4")
        assert [outcomes[index].seconds for index in (1, 4)] == [0, 0]
        # Nothing of it is left to the next map.
        assert [outcome.value for outcome in by_index(pool.map([6, 7]))] == [36, 49]
    assert len(made(folder)) <= (1 if open_pool is serial_pool else ACTORS)


def test_without_retries_one_failure_is_the_last(open_pool, folder):
    with open_pool(squares(folder), retries=0) as pool:
        bad, good = by_index(pool.map([(1, "raise"), 2]))
    assert (bad.tries, calls(folder, 1)) == (1, 1)
    assert bad.error.startswith("tried 1 time: ValueError")
    assert (good.value, good.error) == (4, None)


def test_a_map_that_is_left_early_does_not_disturb_the_next(open_pool, folder):
    with open_pool(squares(folder)) as pool:
        for outcome in pool.map(range(1, 30)):
            assert outcome.value == (outcome.index + 1) ** 2
            break
        assert [outcome.value for outcome in by_index(pool.map([50, 51, 52]))] == [2500, 2601, 2704]
    assert sum(calls(folder, number) for number in range(1, 30)) < 29


def test_one_map_at_a_time_and_none_after_the_end(open_pool, folder):
    with open_pool(squares(folder)) as pool:
        first = pool.map([1, 2, 3])
        next(first)
        with pytest.raises(PoolUnavailableError, match="another map"):
            next(pool.map([4]))
        assert len(list(first)) == 2
    with pytest.raises(PoolUnavailableError, match="closed"):
        next(pool.map([1]))


def test_a_worker_that_cannot_be_made_is_said_once(open_pool, folder):
    def make_worker():
        import uuid

        (folder / f"made-0-{uuid.uuid4().hex}").touch()
        raise OSError("no weights here")

    with (
        open_pool(make_worker, retries=2) as pool,
        pytest.raises(WorkerStartError, match=r"^no worker after 3 starts: OSError: no weights here \(test_executor"),
    ):
        list(pool.map([1]))
    assert 3 <= len(made(folder)) <= 3 * ACTORS


def test_what_a_new_attempt_would_not_change_is_not_tried_again_and_speaks_for_itself(open_pool, folder):
    def make_worker():
        import uuid

        class Nonsense(ValueError):
            final = True

        def work(item):
            (folder / f"called-{uuid.uuid4().hex}").touch()
            if item < 0:
                raise Nonsense("there is no number below 0")
            return item

        return work

    def make_none():
        class Nonsense(ValueError):
            final = True

        raise Nonsense("the pack is of another data set")

    with open_pool(make_worker, retries=2) as pool:
        good, bad = by_index(pool.map([1, -1]))
    assert (good.value, bad.error, bad.tries) == (1, "there is no number below 0", 1)
    assert bad.error.final
    assert len(list(folder.iterdir())) == 2
    with open_pool(make_none, retries=2) as pool, pytest.raises(WorkerStartError) as failed:
        list(pool.map([1]))
    assert (str(failed.value), failed.value.final) == ("the pack is of another data set", True)


def test_a_worker_that_is_made_at_the_second_attempt_works(open_pool, folder):
    make_squares = squares(folder)

    def make_worker():
        try:
            (folder / "first").touch(exist_ok=False)
        except FileExistsError:
            return make_squares()
        raise OSError("too early")

    with open_pool(make_worker, retries=1) as pool:
        assert [outcome.value for outcome in by_index(pool.map(range(5)))] == [0, 1, 4, 9, 16]


def test_too_few_retries_are_refused(open_pool):
    with pytest.raises(ValueError, match="retries=-1"), open_pool(pids(), retries=-1):
        pass


def test_the_serial_pool_needs_no_ray():
    code = (
        "import sys; from clusters.executor import serial_pool\n"
        "with serial_pool(lambda: abs) as pool: print([o.value for o in pool.map([-1])], 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_WAIT_S)
    assert done.stdout.strip() == "[1] False", done.stderr


# What only actors can do.


@pytest.mark.parametrize("actors", [1, 3])
def test_values_do_not_depend_on_the_number_of_actors(ray_session, folder, actors):
    items = [*range(12), (12, "raise"), (13, "die once"), 14]
    with small_ray_pool(squares(folder), actors=actors, retries=1) as pool:
        values = [outcome.value for outcome in by_index(pool.map(items))]
    assert values == [*(number * number for number in range(12)), None, 169, 196]


def test_a_killed_actor_is_replaced_and_what_waited_behind_the_running_item_counts_no_try(ray_session, folder):
    # One actor and no retries: had it counted, it would have failed.
    with small_ray_pool(squares(folder), actors=1, retries=0) as pool:
        outcomes = by_index(pool.map([(0, "die"), *range(1, 6)]))
        assert outcomes[0].error.startswith("tried 1 time: the process of its worker died: Worker unexpectedly exits")
        assert [(outcome.value, outcome.tries) for outcome in outcomes[1:]] == [(n * n, 1) for n in range(1, 6)]
        # The first death, with another item behind, was not certain to be its doing.
        assert [calls(folder, number) for number in range(6)] == [2, 1, 1, 1, 1, 1]
    assert len(made(folder)) == 3


def test_a_killed_call_is_made_again_and_nothing_is_lost(ray_session, folder):
    with small_ray_pool(squares(folder)) as pool:
        outcomes = by_index(pool.map([(0, "die once"), *range(1, 8)]))
    assert [outcome.value for outcome in outcomes] == [number * number for number in range(8)]
    assert [outcome.tries for outcome in outcomes] == [2, 1, 1, 1, 1, 1, 1, 1]
    assert len(made(folder)) <= ACTORS + 1


@pytest.mark.parametrize("retries", [0, 2])
def test_an_item_that_always_kills_ends_as_an_error_and_takes_no_other_with_it(ray_session, folder, retries):
    """It kills at once, when what the actor has done just before may not have left the process yet."""
    with small_ray_pool(squares(folder), actors=1, retries=retries) as pool:
        outcomes = by_index(pool.map([0, 1, (2, "leave"), *range(3, 8)]))
    killer = outcomes.pop(2)
    assert killer.error.startswith(f"tried {retries + 1} time")
    assert "the process of its worker died" in killer.error
    assert killer.tries <= calls(folder, 2) <= killer.tries + 1
    assert [outcome.value for outcome in outcomes] == [number * number for number in range(8) if number != 2]
    assert all(outcome.tries <= 2 for outcome in outcomes)


def test_an_actor_that_dies_between_maps_costs_no_item_a_try(ray_session):
    with small_ray_pool(pids(), actors=1, retries=0) as pool:
        (first,) = pool.map(["a"])
        os.kill(first.value, signal.SIGKILL)
        wait_for_end({first.value})
        outcomes = list(pool.map(["b", "c", "d"]))
    assert {(outcome.error, outcome.tries) for outcome in outcomes} == {(None, 1)}
    assert first.value not in {outcome.value for outcome in outcomes}


def test_a_failed_item_is_tried_on_another_actor(ray_session, folder):
    def make_worker():
        def work(item):
            if not list(folder.glob(f"seen-{item}-*")):
                (folder / f"seen-{item}-{os.getpid()}").touch()
                # The other actor has a worker too before this one is given up.
                while len(list(folder.glob("seen-*"))) < ACTORS:
                    time.sleep(0.01)
                raise ValueError(item)
            return os.getpid()

        return work

    with small_ray_pool(make_worker, retries=1) as pool:
        for outcome in pool.map(["a", "b"]):
            assert outcome.tries == 2
            assert not (folder / f"seen-{'ab'[outcome.index]}-{outcome.value}").exists()


def test_a_call_that_takes_too_long_is_killed_and_made_again(ray_session, folder):
    with small_ray_pool(squares(folder), timeout_s=2, retries=1) as pool:
        outcomes = by_index(pool.map([0, (1, "hang once"), (2, "hang"), *range(3, 8)]))
    assert (outcomes[1].value, outcomes[1].tries, calls(folder, 1)) == (1, 2, 2)
    assert outcomes[2].error == "tried 2 times: took longer than 2 s, its worker was killed"
    assert [outcome.value for outcome in outcomes[3:]] == [number * number for number in range(3, 8)]


def test_neither_making_a_worker_nor_a_slow_caller_counts_as_time(ray_session, folder):
    make_squares = squares(folder)

    def make_worker():
        time.sleep(2.2)
        return make_squares()

    with small_ray_pool(make_worker, actors=1, timeout_s=2, retries=0) as pool:
        outcomes = pool.map(range(4))
        first = next(outcomes)
        time.sleep(2.2)
        assert [(outcome.value, outcome.error) for outcome in [first, *outcomes]] == [(n * n, None) for n in range(4)]


def test_waiting_behind_another_call_does_not_count_as_time(ray_session, folder, monkeypatch):
    """By a clock of its own: each call takes 8 of the 10 seconds that it has, and waits for 8 before."""
    clock = [0.0]
    monkeypatch.setattr("clusters.executor.time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow(Watched):
        def __getitem__(self, index):
            clock[0] = 8.0 * index
            return super().__getitem__(index)

    def make_worker():
        def work(item):
            while item == 1 and not (folder / "go").exists():
                time.sleep(0.01)
            return item

        return work

    with small_ray_pool(make_worker, actors=1, timeout_s=10, retries=0) as pool:
        outcomes = pool.map(Slow(range(5)))
        assert next(outcomes).value == 0
        assert clock == [16.0]
        # It runs on while the pool looks at the clock.
        threading.Timer(0.3, (folder / "go").touch).start()
        assert (next(outcomes).value, next(outcomes).value) == (1, 2)


def test_items_are_fetched_as_actors_become_free(ray_session, folder):
    items = Watched(range(30))
    with small_ray_pool(squares(folder)) as pool:
        list(pool.map([(98, "meet"), (99, "meet")]))
        for received, _ in enumerate(pool.map(items), start=1):
            # Two calls of each actor, and beside them one outcome of each that the caller has not got yet.
            assert items.fetched <= received + 3 * ACTORS
    assert items.fetched == 30


def test_the_last_items_do_not_wait_behind_one_that_takes_long(ray_session, folder):
    make_squares = squares(folder)

    def make_worker():
        def work(item):
            (folder / f"began-{item}").touch()
            # Ends when all others have begun, which none does that is queued behind it.
            while item == 0 and len(list(folder.glob("began-*"))) < 4:
                time.sleep(0.01)
            return squared(item)

        squared = make_squares()
        return work

    with small_ray_pool(make_worker) as pool:
        list(pool.map([(8, "meet"), (9, "meet")]))
        for path in folder.glob("began-*"):
            path.unlink()
        assert sorted(outcome.value for outcome in pool.map([0, 1, 2, 3])) == [0, 1, 4, 9]


def test_a_process_that_dies_while_making_its_worker_is_a_failed_start(ray_session):
    def make_worker():
        os._exit(1)

    with (
        small_ray_pool(make_worker, actors=1, retries=1) as pool,
        pytest.raises(WorkerStartError, match="no worker after 2 starts: the process of its worker died"),
    ):
        list(pool.map([1]))


def test_what_cannot_be_pickled_fails_alone(ray_session):
    class Unwilling:
        def __reduce__(self):
            return (int, ("not a number",))

    def make_worker():
        def work(item):
            if item == "lock":
                return threading.Lock()
            if item == "unwilling":
                return Unwilling()
            if item == "error":

                class Odd(Exception):
                    def __init__(self, a, b):
                        super().__init__(threading.Lock())

                raise Odd(1, 2)
            return item

        return work

    with small_ray_pool(make_worker, retries=1) as pool:
        errors = [outcome.error for outcome in by_index(pool.map([threading.Lock(), "lock", "unwilling", "error", 4]))]
    assert [error and error.startswith("tried 2 times: ") for error in errors] == [True] * 4 + [None]
    assert "Could not serialize the argument" in errors[0]
    assert "cannot pickle" in errors[1]
    assert "not a number" in errors[2]
    assert "Odd" in errors[3]


def test_object_refs_reach_the_worker_and_arrive_as_they_are(ray_session):
    import ray

    weights, image = ray.put([2, 3]), ray.put(10)

    def make_worker():
        factors = ray.get(weights)
        return lambda item: (type(item).__name__, sum(factors) * ray.get(item))

    with small_ray_pool(make_worker) as pool:
        (outcome,) = pool.map([image])
    assert outcome.value == ("ObjectRef", 50)


def test_the_environment_is_set_before_the_worker_is_made(ray_session):
    def make_worker():
        seen = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "DN_EXTRA")]
        return lambda item: seen

    extra = {"runtime_env": {"env_vars": {"DN_EXTRA": "yes"}}}
    with small_ray_pool(make_worker, actors=1, threads=3, options=extra) as pool:
        (outcome,) = pool.map([0])
    assert outcome.value == ["", "3", "yes"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_no_actor_outlives_the_block(ray_session, folder, error):
    def in_the_block():
        with small_ray_pool(squares(folder)) as pool:
            outcomes = pool.map([0, 1, (2, "hang"), (3, "hang"), 4, 5])
            next(outcomes)
            if error is not None:
                raise error("while calls run")

    if error is None:
        in_the_block()
    else:
        with pytest.raises(error, match="while calls run"):
            in_the_block()
    assert made(folder)
    wait_for_end({int(pid) for pid in made(folder)})


def test_a_pool_has_actors(ray_session):
    with pytest.raises(ValueError, match="actors=0"), small_ray_pool(pids(), actors=0):
        pass


@pytest.mark.parametrize("name", ["ObjectStoreFullError", "OutOfDiskError"])
def test_a_full_object_store_is_said_in_one_line(monkeypatch, name):
    """`python -m benchmarks.faults` fills a real one."""
    import ray

    def full(value):
        raise getattr(ray.exceptions, name)("several\nlines")

    monkeypatch.setattr(ray, "put", full)
    with pytest.raises(ObjectStoreFullError, match=r"no room for the weights \(52 MB\)") as raised:
        put({}, "the weights (52 MB)")
    assert "\n" not in str(raised.value)
