"""Fronts, crowding and hypervolume against pymoo on random fronts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from search.pareto import crowding_distance, first_front, hypervolume, non_dominated_sort, select

SHAPES = [(1, 2), (2, 2), (40, 2), (120, 3), (60, 4)]


def points_of(shape, seed, levels=None):
    generator = np.random.default_rng(seed)
    return generator.random(shape) if levels is None else generator.integers(0, levels, shape).astype(float)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [None, 4])
def test_fronts_are_those_of_pymoo(shape, seed, levels):
    points = points_of(shape, seed, levels)
    expected = [sorted(front.tolist()) for front in NonDominatedSorting().do(points)]
    assert non_dominated_sort(points) == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [None, 4])
def test_hypervolume_is_that_of_pymoo(shape, seed, levels):
    points = points_of(shape, seed, levels)
    reference = np.full(shape[1], 0.9 if levels is None else 3.0)
    assert hypervolume(points, reference) == pytest.approx(HV(reference)(points), abs=1e-9)


def test_hypervolume_by_hand():
    assert hypervolume([[0, 0, 0]], [1, 2, 3]) == 6
    assert hypervolume([[0, 1], [1, 0]], [2, 2]) == 3
    assert hypervolume([[2, 0], [0, 5]], [2, 2]) == 0
    assert hypervolume([], [1, 1]) == 0
    assert hypervolume([[1.0], [3.0]], [4.0]) == 3


@pytest.mark.parametrize("seed", range(3))
def test_crowding_is_that_of_pymoo(seed):
    # pymoo divides by the number of objectives.
    points = points_of((30, 3), seed)
    front = points[non_dominated_sort(points)[0]]
    np.testing.assert_allclose(crowding_distance(front), 3 * calc_crowding_distance(front), rtol=1e-9)


def plain_front(points):
    """Return the indices of the points that no other dominates, by comparing all with all."""
    return [i for i, p in enumerate(points) if not any((q <= p).all() and (q < p).any() for q in points)]


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4), st.sampled_from([None, 2, 4]), st.booleans())
def test_the_first_front_is_that_of_comparing_all_with_all(seed, count, objectives, levels, holes):
    points = points_of((count, objectives), seed, levels)
    if holes:
        points[np.random.default_rng(seed).random(points.shape) < 0.1] = np.nan
    assert first_front(points) == plain_front(points)
    fronts = non_dominated_sort(points)
    assert (fronts[0] if fronts else []) == plain_front(points)
    assert sorted(i for front in fronts for i in front) == list(range(count))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 12), max_size=6), st.sampled_from([None, 3]))
def test_the_front_of_a_front_and_what_is_new_is_that_of_all(seed, portions, levels):
    points = points_of((sum(portions), 3), seed, levels)
    front, known = [], 0
    for portion in portions:
        rivals = [*front, *range(known, known + portion)]
        known += portion
        front = [rivals[i] for i in first_front(points[rivals])]
        assert front == plain_front(points[:known])


def test_equal_points_do_not_dominate_each_other():
    assert first_front([[1, 1], [1, 1]]) == [0, 1]
    assert first_front([]) == []
    assert non_dominated_sort([[1, 1], [1, 1], [2, 2]]) == [[0, 1], [2]]


def test_select_takes_whole_fronts_then_the_least_crowded():
    front = [[0, 10], [4, 5], [5, 4.5], [10, 0]]
    assert select([*front, [20, 20]], 3) == [0, 3, 2]
    assert sorted(select([*front, [20, 20]], 5)) == [0, 1, 2, 3, 4]
    assert select([*front, [20, 20]], 5)[-1] == 4
