"""Strategies: reproducible, indifferent to the order of scores, and NSGA-II as good as pymoo's."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize

from models.hybrid_space import HybridSpace
from search.evolution import Evolution, Genetics, Nsga2, RandomSearch, Score, penalty_per_ms
from search.pareto import hypervolume

SPACE = HybridSpace()
GENETICS = Genetics(
    sample=SPACE.sample,
    mutate=lambda a, generator: SPACE.mutate(a, 0.2, generator),
    cross=SPACE.crossover,
    key=lambda a: a.digest(),
)
SIZES = {"population": 20, "children": 8}
STRATEGIES = {
    "evolution": lambda g, seed: Evolution(g, seed, **SIZES, parents=4, crossover=0.4),
    "literal": lambda g, seed: Evolution(g, seed, **SIZES, parents=4, crossover=0.4, mutation=0.5, literal=True),
    "nsga2": lambda g, seed: Nsga2(g, seed, **SIZES, crossover=0.9),
    "random": lambda g, seed: RandomSearch(g, seed, **SIZES),
}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def objectives(architecture):
    """Return (cost, accuracy lost): more convolutions and wider stages are better and dearer."""
    blocks = [b for s in architecture.stages for b in s.blocks]
    convolutions = sum(b.operator == "convolution" for b in blocks)
    return (-convolutions - sum(architecture.widths) / 1000, float(sum(architecture.widths) + len(blocks)))


def run(strategy, generations=6, order=None, score=lambda a: Score(objectives(a))):
    history = []
    for _ in range(generations):
        asked = strategy.ask()
        history.append([strategy.genetics.key(a) for a in asked])
        scores = {strategy.genetics.key(a): score(a) for a in asked}
        if order is not None:
            keys = list(scores)
            order.shuffle(keys)
            scores = {key: scores[key] for key in keys}
        strategy.tell(scores)
    return history


@every_strategy
def test_the_order_of_arrival_changes_nothing_and_the_seed_does(name):
    history = run(STRATEGIES[name](GENETICS, 1))
    assert run(STRATEGIES[name](GENETICS, 1), order=random.Random(5)) == history
    assert run(STRATEGIES[name](GENETICS, 2)) != history


@every_strategy
def test_every_candidate_is_new_and_legal(name):
    genetics = replace(GENETICS, legal=lambda a: a.widths[1] == 64)
    strategy = STRATEGIES[name](genetics, 0)
    keys = [key for generation in run(strategy) for key in generation]
    assert len(set(keys)) == len(keys)
    assert all(strategy.candidate(key).widths[1] == 64 for key in keys)


@every_strategy
def test_a_small_space_ends_in_empty_generations(name):
    space = HybridSpace(
        widths=((32,), (32,), (32,), (32, 64)),
        depths=((1,),) * 4,
        ratios=((2.0,),) * 4,
        operators=("mlp",),
        edge_operators=("conv1x1",),
        pool_sizes=(1, 2),
    )
    genetics = Genetics(space.sample, lambda a, g: space.mutate(a, 0.5, g), space.crossover, lambda a: a.digest())
    history = run(STRATEGIES[name](genetics, 0), generations=5)
    assert sum(map(len, history)) <= space.size == 10
    assert history[-1] == []


@every_strategy
def test_what_cannot_be_scored_or_breaks_a_limit_is_never_the_answer(name):
    def score(a):
        if a.widths[3] == 256:
            return None
        return Score(objectives(a), feasible=a.widths[2] < 192)

    strategy = STRATEGIES[name](GENETICS, 3)
    run(strategy, score=score)
    for key in (strategy.best(), *strategy.front()):
        assert strategy.candidate(key).widths[3] < 256
        assert strategy.candidate(key).widths[2] < 192


@every_strategy
def test_nothing_feasible_is_said_and_not_guessed(name):
    strategy = STRATEGIES[name](GENETICS, 0)
    run(strategy, generations=2, score=lambda a: Score(objectives(a), feasible=False))
    assert strategy.best() is None
    assert strategy.front() == []


@every_strategy
def test_telling_needs_exactly_what_was_asked_for(name):
    strategy = STRATEGIES[name](GENETICS, 0)
    with pytest.raises(ValueError, match="nothing was asked"):
        strategy.tell({})
    asked = strategy.ask()
    with pytest.raises(ValueError, match="not been told"):
        strategy.ask()
    with pytest.raises(ValueError, match="for the 20 candidates"):
        strategy.tell({GENETICS.key(a): Score((0.0,)) for a in asked[1:]})


def test_the_best_ever_is_kept_and_the_last_generation_is_ranked():
    strategy = Evolution(GENETICS, 0, **SIZES, parents=4, crossover=0.4)
    values = iter([0.5] * 19 + [-9.0] + [0.1] * 8 + [0.2] * 7 + [-10.0])
    first = run(strategy, generations=2, score=lambda a: Score((next(values),)))
    assert strategy.best() == first[0][19]
    last = run(strategy, generations=1, score=lambda a: Score((next(values),)))
    assert strategy.best() == last[0][-1]


def test_evolution_beats_random_search_of_equal_cost():
    wins = 0
    for seed in range(5):
        best = {}
        for name in ("evolution", "random"):
            strategy = STRATEGIES[name](GENETICS, seed)
            run(strategy, generations=12)
            best[name] = strategy.scores[strategy.best()].objectives[0]
        wins += best["evolution"] < best["random"]
    assert wins >= 4


def test_algorithm_1_read_literally_skips_generations():
    strategy = Evolution(GENETICS, 0, **SIZES, parents=4, crossover=0.4, mutation=0.2, literal=True)
    lengths = [len(generation) for generation in run(strategy, generations=40)][1:]
    assert max(lengths) <= 8
    assert 10 <= lengths.count(0) <= 28  # 48 % are expected


@given(st.lists(st.floats(0.5, 50), min_size=1, max_size=20), st.floats(0.1, 20))
@settings(max_examples=30, deadline=None)
def test_lambda_makes_the_mean_latency_cost_so_many_points(latencies, points):
    assert penalty_per_ms(latencies, points) * np.mean(latencies) == pytest.approx(points)


def test_lambda_needs_a_latency():
    with pytest.raises(ValueError, match="no latency"):
        penalty_per_ms([float("nan")], 5)


def zdt1(x):
    g = 1 + 9 * np.mean(x[1:])
    return float(x[0]), float(g * (1 - np.sqrt(x[0] / g)))


def crossed(a, b, generator, eta=15):
    """Simulated binary crossover, one of its two children."""
    child = []
    for x, y in zip(a, b, strict=True):
        u = generator.random()
        beta = (2 * u) ** (1 / (eta + 1)) if u <= 0.5 else (1 / (2 * (1 - u))) ** (1 / (eta + 1))
        if generator.random() < 0.5:  # which of the two children's genes
            x, y = y, x
        mixed = 0.5 * ((1 + beta) * x + (1 - beta) * y) if generator.random() < 0.5 else x
        child.append(min(1.0, max(0.0, mixed)))
    return tuple(child)


def mutated(a, generator, eta=20):
    """Polynomial mutation of one gene in each on average."""
    child = []
    for x in a:
        if generator.random() < 1 / len(a):
            u = generator.random()
            delta = (2 * u) ** (1 / (eta + 1)) - 1 if u < 0.5 else 1 - (2 * (1 - u)) ** (1 / (eta + 1))
            x = min(1.0, max(0.0, x + delta))
        child.append(x)
    return tuple(child)


class Zdt1(ElementwiseProblem):
    def __init__(self):
        super().__init__(n_var=30, n_obj=2, xl=0.0, xu=1.0)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = zdt1(x)


def test_zdt1_hypervolume_is_within_one_percent_of_pymoo():
    genetics = Genetics(lambda g: tuple(g.random() for _ in range(30)), mutated, crossed, repr)
    generations, reference = 200, (1.1, 1.1)
    ours, theirs = [], []
    for seed in range(2):
        strategy = Nsga2(genetics, seed, population=100, children=100, crossover=0.9)
        run(strategy, generations, score=lambda x: Score(zdt1(np.array(x))))
        ours.append(hypervolume([strategy.scores[key].objectives for key in strategy.survivors], reference))
        found = minimize(Zdt1(), NSGA2(pop_size=100), ("n_gen", generations), seed=seed)
        theirs.append(hypervolume(found.F, reference))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.01)
