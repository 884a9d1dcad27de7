"""Driving a strategy: nothing twice, nothing lost, the same history whoever works and however it was cut off."""

import itertools
import json
import random
from dataclasses import dataclass, replace

import pyarrow.parquet as pq
import pytest

from models.hybrid_space import HybridSpace
from search.candidates import BrokenCandidates, CandidateLedger, WrongCandidate, write_table
from search.hybrid_settings import EvolutionSettings
from search.latency import LatencyRecord
from search.population import Limits, Price, choose, finalists, front_of, objectives_of, points_of
from search.scoring import InheritedScore

SPACE = HybridSpace()
NONE = Limits()
SETTINGS = EvolutionSettings(population=12, generations=4, children=6, parents=4)


@dataclass
class Found:
    index: int
    value: object
    error: str | None = None


class World:
    """Workers with planted latencies and scores, that answer in a shuffled order and count what they are asked."""

    def __init__(self, seed=0, failing=(), lying=False):
        self.order, self.failing, self.lying = random.Random(seed), failing, lying
        self.measured, self.scored = [], []

    def latency_ms(self, architecture):
        return 1.0 + sum(architecture.widths) / 100 + random.Random(architecture.digest()).random()

    def miou(self, architecture):
        convolutions = sum(b.operator == "convolution" for s in architecture.stages for b in s.blocks)
        return min(0.99, 0.3 + 0.04 * convolutions + 0.1 * random.Random(architecture.digest()).random())

    def _answers(self, architectures, answer):
        indices = list(range(len(architectures)))
        self.order.shuffle(indices)
        for index in indices:
            yield answer(index, architectures[index])

    def measure(self, architectures):
        self.measured += [a.digest() for a in architectures]
        return self._answers(architectures, lambda i, a: Found(i, LatencyRecord(a, self.latency_ms(a), 0.1)))

    def score(self, architectures):
        self.scored += [a.digest() for a in architectures]

        def answer(index, architecture):
            digest = architecture.digest()
            if architecture.stages[0].depth in self.failing:
                return Found(index, None, "it broke")
            miou = self.miou(architecture)
            told = "another" if self.lying else digest
            return Found(index, InheritedScore(told, miou, miou, miou, miou, (), 0.5))

        return self._answers(architectures, answer)


def run(folder, world, settings=SETTINGS, limits=NONE, generations=None, elsewhere=None):
    history = []
    settings = replace(settings, generations=generations or settings.generations)
    found = choose(
        SPACE,
        settings,
        seed=7,
        prior=None,
        limits=limits,
        price=lambda a: Price(1000 * sum(a.widths), 10**6 * sum(a.widths)),
        measure=world.measure,
        score=world.score,
        ledger=CandidateLedger(folder / "candidates.jsonl"),
        after_generation=lambda generation, search: history.append((generation, search)),
        elsewhere=elsewhere,
    )
    return found, history


@pytest.mark.parametrize("strategy", ["evolution", "pareto", "random"])
def test_the_order_of_arrival_changes_nothing(tmp_path, strategy):
    settings = replace(SETTINGS, strategy=strategy)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, _ = run(tmp_path / "a", World(1), settings)
    other, _ = run(tmp_path / "b", World(2), settings)
    assert one.best == other.best
    assert one.front == other.front
    assert {d: c.number for d, c in one.candidates.items()} == {d: c.number for d, c in other.candidates.items()}


@pytest.mark.parametrize("strategy", ["evolution", "pareto", "random"])
@pytest.mark.parametrize("lines", [0, 1, 11, 12, 17, 29])
def test_a_search_cut_off_anywhere_goes_on_without_doing_anything_twice(tmp_path, strategy, lines):
    settings = replace(SETTINGS, strategy=strategy)
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    whole, _ = run(tmp_path / "whole", World(1), settings)
    text = (tmp_path / "whole" / "candidates.jsonl").read_bytes().split(b"\n")
    half = text[lines][: len(text[lines]) // 2]
    (tmp_path / "cut" / "candidates.jsonl").write_bytes(b"".join(line + b"\n" for line in text[:lines]) + half)
    world = World(3)
    again, _ = run(tmp_path / "cut", world, settings)
    assert (again.best, again.front, again.penalty) == (whole.best, whole.front, whole.penalty)
    assert again.points == whole.points
    kept = {json.loads(line)["digest"] for line in text[:lines]}
    assert not kept & set(world.measured)
    assert not kept & set(world.scored)
    assert len(world.scored) == len(set(world.scored)) == len(whole.candidates) - lines


def test_more_generations_go_on_from_fewer(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    run(tmp_path / "a", World(1), generations=2)
    longer, _ = run(tmp_path / "a", World(1), generations=4)
    at_once, _ = run(tmp_path / "b", World(1), generations=4)
    assert longer.points == at_once.points


def test_a_generation_without_a_child_ends_nothing_where_algorithm_1_is_read_to_the_letter(tmp_path):
    _, history = run(tmp_path, World(), replace(SETTINGS, literal=True), generations=12)
    counts = [generation.candidates for generation, _ in history]
    assert len(counts) == 12
    assert any(counts[counts.index(0) :])


def test_what_another_search_has_scored_is_not_scored_again(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    first, _ = run(tmp_path / "a", World())
    world, settings = World(), replace(SETTINGS, strategy="random", penalty=first.penalty)
    drawn, _ = run(tmp_path / "b", world, settings, elsewhere=first.candidates)
    shared = set(first.candidates) & set(drawn.candidates)
    assert len(shared) == SETTINGS.population
    assert not shared & {*world.measured, *world.scored}
    alone, _ = run(tmp_path / "c", World(), settings)
    assert (drawn.points, drawn.best, drawn.front) == (alone.points, alone.best, alone.front)
    assert {drawn.candidates[digest].score.seconds for digest in shared} == {0.0}


def test_lambda_makes_the_mean_latency_of_the_first_population_cost_five_points(tmp_path):
    search, _ = run(tmp_path, World())
    first = [c.latency_ms for c in search.candidates.values() if c.generation == 0]
    assert search.penalty * sum(first) / len(first) == pytest.approx(5)
    given, _ = run(tmp_path, World(), replace(SETTINGS, penalty=0.0))
    best = given.candidates[given.best]
    assert best.score.miou == max(c.score.miou for c in given.candidates.values())


def test_a_latency_limit_is_hard_and_costs_no_scoring(tmp_path):
    world = World()
    search, _ = run(tmp_path, world, limits=Limits(latency_ms=6.0))
    slow = {d for d, c in search.candidates.items() if c.latency_ms > 6.0}
    assert slow
    assert not slow & set(world.scored)
    assert search.candidates[search.best].latency_ms <= 6.0
    assert all(search.candidates[digest].latency_ms <= 6.0 for digest in search.front)


def test_limits_known_before_are_never_asked_for(tmp_path):
    search, _ = run(tmp_path, World(), limits=Limits(parameters=500_000, macs=480e6))
    assert all(c.parameters <= 480_000 for c in search.candidates.values())
    assert not Limits(macs=1.0).allow(Price(1, None))


def test_what_cannot_be_scored_is_written_down_and_left_behind(tmp_path):
    world = World(failing=(1,))
    search, _ = run(tmp_path, world)
    broken = [c for c in search.candidates.values() if c.error]
    assert broken
    assert all(c.error == "it broke" and not c.feasible and c.score is None for c in broken)
    assert search.candidates[search.best].error is None


def test_a_score_of_another_architecture_is_an_error(tmp_path):
    with pytest.raises(WrongCandidate):
        run(tmp_path, World(lying=True))


def test_the_best_and_the_hypervolume_never_fall(tmp_path):
    _, history = run(tmp_path, World(), replace(SETTINGS, strategy="pareto", generations=6))
    volumes = [generation.hypervolume for generation, _ in history]
    assert volumes == sorted(volumes)
    bests = [generation.best for generation, _ in history]
    assert bests == sorted(bests)
    assert all(0 < volume < 1 for volume in volumes)


@pytest.mark.parametrize("strategy", ["evolution", "pareto", "random"])
def test_best_and_front_generation_by_generation_are_those_of_all_candidates(tmp_path, strategy):
    settings = replace(SETTINGS, strategy=strategy, generations=8)
    _, history = run(tmp_path, World(failing=(1,)), settings, limits=Limits(latency_ms=6.5))
    assert any(not c.feasible for c in history[-1][1].candidates.values())
    for generation, search in history:
        candidates = list(search.candidates.values())
        assert [c.number for c in candidates] == list(range(len(candidates)))
        assert max(c.generation for c in candidates) == generation.number
        feasible = [c for c in candidates if c.feasible]
        assert search.points == {c.digest: points_of(c, search.penalty) for c in feasible}
        assert search.best == max(feasible, key=lambda c: (search.points[c.digest], -c.number)).digest
        assert search.front == front_of(feasible)


def test_finalists_are_the_best_or_the_front(tmp_path):
    search, _ = run(tmp_path, World())
    best = finalists(search, "evolution", 3)
    assert [search.points[c.digest] for c in best] == sorted(search.points.values(), reverse=True)[:3]
    front = finalists(search, "pareto", 0)
    assert {c.digest for c in front} == set(search.front) == set(front_of(list(search.candidates.values())))
    for one in front:
        for other in search.candidates.values():
            a, b = objectives_of(other), objectives_of(one)
            assert not (all(x <= y for x, y in zip(a, b, strict=True)) and a != b)


@pytest.mark.parametrize("strategy", ["evolution", "pareto"])
def test_spread_finalists_come_from_all_over_the_ranking(tmp_path, strategy):
    search, _ = run(tmp_path, World(failing=(1,)), replace(SETTINGS, strategy=strategy))
    ranking = sorted(search.points, key=search.points.get, reverse=True)
    assert 7 < len(ranking) < len(search.candidates)
    last, middle = len(ranking) - 1, round((len(ranking) - 1) / 2)
    for count, places in ((0, [0]), (1, [0]), (2, [0, last]), (3, [0, middle, last])):
        found = [c.digest for c in finalists(search, strategy, count, spread=True)]
        assert found == [ranking[place] for place in places]


@pytest.mark.parametrize("count", range(1, 40))
def test_spread_finalists_are_as_many_as_asked_in_steps_that_hardly_differ(tmp_path, count):
    search, _ = run(tmp_path, World())
    ranking = sorted(search.points, key=search.points.get, reverse=True)
    places = [ranking.index(c.digest) for c in finalists(search, "evolution", count, spread=True)]
    # A search that scored fewer than are asked for retrains all, each once.
    assert len(set(places)) == len(places) == min(count, len(ranking))
    assert places[0] == 0
    steps = [after - before for before, after in itertools.pairwise(places)]
    assert all(0 < step <= min(steps) + 1 for step in steps)
    if count > 1:
        assert places[-1] == len(ranking) - 1


def test_of_one_scored_candidate_the_spread_is_that_one(tmp_path):
    search, _ = run(tmp_path, World())
    alone = replace(search, candidates={search.best: search.candidates[search.best]}, front=(search.best,))
    assert [c.digest for c in finalists(alone, "pareto", 5, spread=True)] == [search.best]
    assert finalists(replace(search, candidates={}, best=None, front=()), "evolution", 5, spread=True) == []


def test_the_table_has_a_row_for_each_candidate(tmp_path):
    search, _ = run(tmp_path, World(failing=(1,)))
    write_table(tmp_path / "c.parquet", search.candidates.values(), search.points)
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert [row["number"] for row in rows] == list(range(len(search.candidates)))
    for row in rows:
        candidate = search.candidates[row["digest"]]
        assert row["latency_ms"] == candidate.latency_ms
        assert (row["miou"] is None) == (candidate.score is None)


def test_a_line_that_is_no_candidate_is_named(tmp_path):
    run(tmp_path, World(), generations=1)
    path = tmp_path / "candidates.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{}", *lines[1:]]) + "\n")
    with pytest.raises(BrokenCandidates, match=r"candidates\.jsonl, line 2"):
        CandidateLedger(path)
