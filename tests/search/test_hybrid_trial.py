"""Means over retrainings and their ranking; a whole trial is run in tests/orchestrator/test_hybrid.py."""

import random

import pytest

from search.hybrid_trial import means, ranking


def retrained(digest, inherited, validation, test, seed=0, role="finalist"):
    scores = {"inherited": {"miou": inherited}, "validation_miou": validation, "miou": test}
    return {"architecture_digest": digest, "seed": seed, "role": role, **scores}


def test_tau_of_a_ranking_by_hand():
    # Inherited a > b > c > d. On validation images one of six pairs is the other way round: (5 - 1) / 6; on test
    # images those of d with b and with c are: (4 - 2) / 6.
    scores = {"a": (0.9, 0.7, 0.7), "b": (0.8, 0.6, 0.4), "c": (0.7, 0.4, 0.3), "d": (0.6, 0.5, 0.5)}
    found = ranking([retrained(digest, *values) for digest, values in scores.items()])
    assert found == {"over": 4, "tau_validation": pytest.approx(4 / 6), "tau_test": pytest.approx(2 / 6)}


@pytest.mark.parametrize(("test", "tau"), [((0.5, 0.4, 0.3), 1.0), ((0.3, 0.4, 0.5), -1.0)])
def test_the_same_order_is_one_and_the_reverse_is_minus_one(test, tau):
    inherited = (0.9, 0.8, 0.7)
    found = ranking([retrained(d, i, 0.2 - i, t) for d, i, t in zip("abc", inherited, test, strict=True)])
    assert found == {"over": 3, "tau_validation": pytest.approx(-1.0), "tau_test": pytest.approx(tau)}


def test_ties_on_one_side_count_for_nothing():
    # tau-b: one pair of three is tied on test images, the two others agree: 2 / sqrt(3 * 2).
    found = ranking([retrained("a", 0.9, 0.9, 0.6), retrained("b", 0.8, 0.8, 0.6), retrained("c", 0.7, 0.7, 0.5)])
    assert found["tau_test"] == pytest.approx(2 / 6**0.5)


def test_where_all_of_one_side_are_equal_there_is_no_tau():
    found = ranking([retrained("a", 0.9, 0.5, 0.6), retrained("b", 0.8, 0.5, 0.4)])
    assert found == {"over": 2, "tau_validation": None, "tau_test": pytest.approx(1.0)}
    found = ranking([retrained("a", 0.9, 0.5, 0.6), retrained("b", 0.9, 0.4, 0.4)])
    assert found == {"over": 2, "tau_validation": None, "tau_test": None}
    assert ranking([retrained("a", 0.9, 0.5, 0.6)]) == {"over": 1, "tau_validation": None, "tau_test": None}


def test_several_seeds_of_an_architecture_are_one_mean():
    # By its better seed alone, b would be above a.
    seeds = [
        retrained("a", 0.9, 0.60, 0.60),
        retrained("b", 0.8, 0.10, 0.70),
        retrained("a", 0.9, 0.62, 0.62, seed=1),
        retrained("b", 0.8, 0.90, 0.40, seed=1),
    ]
    assert ranking(seeds) == {"over": 2, "tau_validation": pytest.approx(1.0), "tau_test": pytest.approx(1.0)}


def test_a_random_architecture_is_ranked_with_the_others_and_once_where_both_found_it():
    found = [retrained("a", 0.9, 0.9, 0.9), retrained("b", 0.8, 0.8, 0.8)]
    drawn = retrained("c", 0.95, 0.7, 0.7, role="random")
    assert ranking([*found, drawn])["tau_test"] == pytest.approx((1 - 2) / 3)
    again = retrained("b", 0.8, 0.8, 0.8, role="random")
    assert ranking([*found, again]) == {"over": 2, "tau_validation": pytest.approx(1), "tau_test": pytest.approx(1)}


def test_the_order_of_the_retrainings_means_nothing():
    generator = random.Random(0)
    rows = [
        retrained(d, ord(d) / 200, *(generator.random() for _ in range(2)), seed=s) for d in "abcdef" for s in (0, 1)
    ]
    found = ranking(rows)
    generator.shuffle(rows)
    assert ranking(rows) == {"over": 6, **{k: pytest.approx(v) for k, v in found.items() if k != "over"}}


def test_several_retrainings_have_a_mean_and_a_sample_deviation_and_one_has_none():
    rows = [dict.fromkeys(("iou", "f1", "pa", "miou", "mf1"), value) for value in (0.2, 0.4, 0.9)]
    found = means(rows)
    assert found["miou"] == pytest.approx(0.5)
    # By hand: squares of -0.3, -0.1, 0.4 are 0.26 in all, over two.
    assert found["std"] == dict.fromkeys(rows[0], pytest.approx(0.13**0.5))
    assert means(rows[1:2]) == rows[1]
