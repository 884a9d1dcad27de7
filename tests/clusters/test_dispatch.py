"""The pool of actors in virtual time: nothing is lost whatever fails, and the same failures end as they do on Ray."""

import dataclasses
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual import Chances, Costs, Fate, Simulation, VirtualBackend, Weights
from clusters.dispatch import ActorPool
from clusters.executor import ray_pool

COSTS = Costs(
    submit_s=1e-4, reply_s=1e-4, wait_s=1e-4, wait_each_s=1e-6, way_s=1e-3, actor_s=0.5, worker_s=1.0, bytes_per_s=1e8
)


def virtual_pool(fate, actors, *, retries=2, timeout_s=None, **options):
    backend = VirtualBackend(fate, **options)
    pool = ActorPool(backend, retries, timeout_s)
    pool.start(actors)
    return pool, backend


def history(seed, actors=5):
    chances = Chances((1.0,), spread=0.4, straggling=0.1, raising=0.1, dying=0.1, hanging=0.05)
    pool, backend = virtual_pool(chances.fates(seed), actors, timeout_s=20, costs=COSTS)
    return [(outcome, backend.now()) for outcome in pool.map(range(60))]


def test_the_same_seed_gives_the_same_history():
    assert history(3) == history(3) != history(4)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**32),
    st.integers(1, 9),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.integers(0, 3),
    st.tuples(*[st.sampled_from([0.0, 0.1, 0.3])] * 3),
    st.sampled_from([Costs(), COSTS]),
    st.integers(0, 10),
)
def test_every_item_has_one_outcome_whatever_fails(seed, actors, maps, retries, shares, costs, left_early):
    raising, dying, hanging = shares
    chances = Chances((0.5, 1.0), straggling=0.1, raising=raising, dying=dying, hanging=hanging)
    begun_before = {}
    simulation = Simulation()
    pool, backend = virtual_pool(
        chances.fates(seed),
        actors,
        retries=retries,
        timeout_s=6,
        costs=costs,
        simulation=simulation,
        weights=Weights(simulation, 10**8, costs.bytes_per_s),
    )
    for _ in zip(range(left_early), pool.map([f"early {k}" for k in range(12)]), strict=False):
        pass
    for number, count in enumerate(maps):
        items = [f"{number}-{index}" for index in range(count)]
        outcomes = list(pool.map(items))
        assert sorted(outcome.index for outcome in outcomes) == list(range(count))
        for outcome in outcomes:
            assert (outcome.value, outcome.error is None) in [(items[outcome.index], True), (None, False)]
            assert 1 <= outcome.tries <= retries + 1
            assert outcome.tries <= backend.begun[items[outcome.index]]
            if not any(shares):
                assert (outcome.error, outcome.tries, backend.begun[items[outcome.index]]) == (None, 1, 1)
            if outcome.error is not None:
                assert outcome.tries == retries + 1
        assert not begun_before.keys() & set(items)
        begun_before = dict(backend.begun)


def test_without_overhead_all_time_is_used():
    for actors, count in ((1, 7), (4, 12), (64, 64)):
        pool, backend = virtual_pool(Chances((2.0,)).fates(0), actors)
        assert len(list(pool.map(range(count)))) == count
        assert backend.now() == 2.0 * count / actors
        assert backend.busy_s == 2.0 * count


def test_a_slow_call_holds_back_one_item_and_none_of_the_last():
    for slow, seconds in (("0", 11.0), ("10", 5.0 + 10.0)):
        pool, backend = virtual_pool(lambda key, tries, slow=slow: Fate(10.0 if key == slow else 1.0), 2)
        list(pool.map(range(11)))
        assert backend.now() == seconds


def test_a_call_that_hangs_is_ended_after_its_time_and_without_a_time_said():
    pool, backend = virtual_pool(
        lambda key, tries: Fate(1.0, "hang" if (key, tries) == ("0", 1) else "done"), 1, timeout_s=5
    )
    assert [(outcome.index, outcome.tries) for outcome in pool.map(range(2))] == [(0, 2), (1, 1)]
    assert backend.now() == 5.0 + 2.0
    endless, _ = virtual_pool(lambda key, tries: Fate(1.0, "hang"), 1)
    with pytest.raises(RuntimeError, match="a call hangs"):
        list(endless.map([0]))


def test_settling_waits_for_all_that_start_but_for_none_longer_than_said():
    pool, backend = virtual_pool(lambda key, tries: Fate(1.0), 3, costs=COSTS)
    pool.settle(60)
    settled = backend.now()
    assert settled > COSTS.worker_s
    pool.settle(60)
    assert backend.now() == settled
    assert len(list(pool.map(range(6)))) == 6
    slow, backend = virtual_pool(lambda key, tries: Fate(1.0), 3, costs=dataclasses.replace(COSTS, worker_s=100.0))
    slow.settle(5)
    assert 5 <= backend.now() < 6
    # What began so long ago is not waited for again.
    slow.settle(5)
    assert backend.now() < 6
    assert len(list(slow.map(range(6)))) == 6


def test_weights_are_fetched_once_per_node_from_those_that_have_them():
    simulation = Simulation()
    weights = Weights(simulation, 100, 50.0)
    pool, backend = virtual_pool(lambda key, tries: Fate(1.0), 14, simulation=simulation, weights=weights, per_node=2)
    assert len(list(pool.map(range(14)))) == 14
    assert weights.bytes_sent == 7 * 100
    # The driver's copy serves one node after 2 s, two copies two more after 4 s. Two actors of the first have then done
    # four items, and six do the other ten in two seconds, before the last four nodes are there.
    assert backend.now() == 4.0 + 2.0


def test_hundreds_of_idle_actors_cost_few_looks():
    """Each map greets all actors; that they answer is taken in by few waits, not one for each."""
    pool, backend = virtual_pool(Chances().fates(0), 300, costs=Costs(way_s=0.01))
    list(pool.map(range(300)))
    waits, wait = [], backend.wait
    backend.wait = lambda calls, timeout_s: waits.append(len(calls)) or wait(calls, timeout_s)
    assert len(list(pool.map(range(3)))) == 3
    assert len(waits) < 20


FAILING = {
    1: ["raise"] * 9,
    2: ["raise"],
    4: ["die"] * 9,
    5: ["die"],
    7: ["hang"],
    8: ["hang"] * 9,
    11: ["die"],
    12: ["raise"],
}
"""Per item what its tries end as; a try behind the last succeeds."""


def kinds(outcomes):
    return sorted(
        (outcome.index, outcome.error is None, outcome.error and outcome.error.split(":")[1]) for outcome in outcomes
    )


def test_a_script_of_failures_ends_on_ray_as_it_does_in_virtual_time(ray_session, tmp_path: Path):
    count, actors, retries, timeout_s = 15, 2, 2, 2.0

    def make_worker():
        import uuid

        def work(item):
            before = len(list(tmp_path.glob(f"{item}-*")))
            (tmp_path / f"{item}-{uuid.uuid4().hex}").touch()
            how = dict(enumerate(failing.get(item, []))).get(before, "done")
            if how == "raise":
                raise ValueError("so it was planned")
            if how == "die":
                os._exit(1)
            if how == "hang":
                threading.Event().wait()
            return str(item)

        return work

    failing = FAILING
    with ray_pool(make_worker, actors=actors, cpus=0.25, retries=retries, timeout_s=timeout_s) as pool:
        real = list(pool.map(range(count)))

    def fate(key, tries):
        return Fate(0.01, dict(enumerate(FAILING.get(int(key), []), start=1)).get(tries, "done"))

    simulated, _ = virtual_pool(fate, actors, retries=retries, timeout_s=timeout_s, costs=COSTS)
    virtual = list(simulated.map(range(count)))
    assert kinds(real) == kinds(virtual)
    assert {outcome.index: outcome.value for outcome in real} == {outcome.index: outcome.value for outcome in virtual}
    assert {outcome.index for outcome in real if outcome.error} == {1, 4, 8}
