"""The hybrid space: its size, its canonical values, drawing and crossing them."""

import dataclasses
import itertools
import json
import pickle
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.architecture import InvalidArchitecture
from models.hybrid_architecture import EDGE_NAMES, HybridArchitecture
from models.hybrid_cost import parameters_of
from models.hybrid_space import HybridSpace, InvalidSpace

SPACE = HybridSpace()
TINY = HybridSpace(
    widths=((32,), (32, 64), (64,), (64,)),
    depths=((1, 2), (1,), (1,), (1,)),
    ratios=((2.0,), (2.0,), (2.0,), (2.0,)),
    operators=("convolution",),
    kernels=(3, 5),
    edge_operators=("conv1x1",),
    pool_sizes=(1, 2),
)
KERNELS = HybridSpace(kernels=(3, 5))
seeds = st.integers(0, 2**32 - 1)


def test_the_published_space_has_the_published_size():
    assert SPACE.encoders == 819**4 * 27 == pytest.approx(1.215e13, rel=1e-3)
    assert SPACE.size == SPACE.encoders * 5**10 * 126 == pytest.approx(1.5e22, rel=1e-2)


def test_the_size_of_a_small_space_is_the_number_of_different_architectures():
    drawn = {TINY.sample(random.Random(seed)).digest() for seed in range(20_000)}
    assert len(drawn) == TINY.size


@pytest.mark.parametrize("count", [1, 2, 3])
def test_subsets_of_operators_are_configurations(count):
    for names in itertools.combinations(SPACE.operators, count):
        space = HybridSpace(operators=names)
        assert space.encoders == sum((3 * count) ** depth for depth in (1, 2, 3)) ** 4 * 27
        used = {b.operator for s in range(20) for stage in space.sample(random.Random(s)).stages for b in stage.blocks}
        assert used == set(names)


def test_the_least_by_parameters_has_no_more_than_any_other():
    def cost(architecture):
        return parameters_of(architecture, in_channels=1, classes=2, width=32)

    space = dataclasses.replace(TINY, operators=SPACE.operators, edge_operators=SPACE.edge_operators[::-1])
    fewest = cost(space.least(cost))
    assert fewest < cost(space.smallest())
    assert all(fewest <= cost(space.sample(random.Random(seed))) for seed in range(300))
    assert cost(space.least(cost, space.least(cost).edges)) == fewest


@given(seeds, st.sampled_from([SPACE, TINY, KERNELS]))
@settings(max_examples=60, deadline=None)
def test_round_trips_and_membership(seed, space):
    architecture = space.sample(random.Random(seed))
    assert space.contains(architecture)
    again = HybridArchitecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.digest() == architecture.digest()
    values = architecture.to_dict()
    assert HybridArchitecture.from_dict(json.loads(json.dumps(values))) == architecture
    sent = pickle.loads(pickle.dumps(architecture))
    assert sent == architecture
    # Whoever gets it computes the digest anew.
    assert "_digest" in vars(architecture)
    assert "_digest" not in vars(sent)


@given(seeds, seeds, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_mutants_and_children_stay_in_the_space(first, second, rate):
    generator = random.Random(first)
    a, b = SPACE.sample(generator), SPACE.sample(random.Random(second))
    assert SPACE.contains(SPACE.mutate(a, rate, generator))
    child = SPACE.crossover(a, b, generator)
    assert SPACE.contains(child)
    assert all(own in pair for own, *pair in zip(child.stages, a.stages, b.stages, strict=True))
    assert all(own in pair for own, *pair in zip(child.edges, a.edges, b.edges, strict=True))
    assert set(child.pools) <= set(a.pools) | set(b.pools)


def test_the_rate_of_mutation_is_that_of_every_gene():
    architecture = SPACE.sample(random.Random(0))
    assert SPACE.mutate(architecture, 0.0, random.Random(1)) == architecture
    changed = Counter()
    for seed in range(2000):
        mutant = SPACE.mutate(architecture, 0.2, random.Random(seed))
        changed.update(k for k, edge in enumerate(mutant.edges) if edge != architecture.edges[k])
    # A new draw hits the old operator one time in five.
    assert all(0.13 < changed[k] / 2000 < 0.19 for k in range(len(EDGE_NAMES)))


def test_the_prior_decides_how_often_an_operator_is_drawn():
    fast = {"attention": 0.1, "convolution": 0.7, "mlp": 0.2}
    prior = {(stage, block): fast for stage in range(4) for block in range(3)}
    samples = [SPACE.sample(random.Random(seed), prior) for seed in range(400)]
    drawn = Counter(block.operator for sample in samples for stage in sample.stages for block in stage.blocks)
    shares = {name: count / drawn.total() for name, count in drawn.items()}
    assert shares == pytest.approx(fast, abs=0.03)


def test_the_order_of_the_pools_means_nothing():
    values = SPACE.sample(random.Random(3)).to_dict()
    digests = {
        HybridArchitecture.from_dict({**values, "pools": list(order)}).digest()
        for order in itertools.permutations([1, 2, 3, 6])
    }
    assert len(digests) == 1


def test_smallest_and_largest_bound_every_choice():
    small, large = SPACE.smallest(), SPACE.largest()
    assert SPACE.contains(small)
    assert SPACE.contains(large)
    assert small.widths == (32, 32, 128, 192)
    assert large.widths == (32, 96, 192, 256)
    assert {stage.depth for stage in small.stages} == {1}
    assert set(large.edges) == {"conv5x5"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"widths": ((30,), (32,), (64,), (64,))}, "multiples of 32"),
        ({"widths": ((32,),)}, "one for each of the 4 stages"),
        ({"depths": ((0,), (1,), (1,), (1,))}, "above 0"),
        ({"operators": ()}, "at least one"),
        ({"operators": ("pooling",)}, "attention, convolution, mlp"),
        ({"kernels": (4,)}, "odd"),
        ({"edge_operators": ("conv1x1", "conv1x1")}, "each once"),
        ({"pool_sizes": (0,)}, "above 0"),
    ],
)
def test_choices_that_make_no_space_are_refused(change, said):
    with pytest.raises(InvalidSpace, match=said):
        HybridSpace(**change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "cell"}, "'hybrid' is needed"),
        ({"stages": []}, "0 stages; 4"),
        ({"edges": ["conv9x9"] * 10}, "edge lateral1: 'conv9x9'"),
        ({"pools": [1, 2]}, "2 pools"),
        ({"pools": [0, 1, 2, 3]}, "begin at 1"),
        ({"stages": [{"width": 32, "blocks": [["mlp", 2.0, 3]]}] * 4}, "only a convolution"),
        ({"stages": [{"width": 32, "blocks": [["convolution", 2.0, 0]]}] * 4}, "odd one"),
        ({"stages": [{"width": 32, "blocks": [["mix", 2.0, 0]]}] * 4}, "operator 'mix'"),
        ({"stages": [{"width": 32, "blocks": []}] * 4}, "at least 1"),
        ({"stages": [{"width": 32, "blocks": [["mlp", -1.0, 0]]}] * 4}, "above 0"),
        ({"stages": [{"width": 32}] * 4}, "not a hybrid architecture"),
    ],
)
def test_what_is_no_architecture_is_refused(change, said):
    with pytest.raises(InvalidArchitecture, match=said):
        HybridArchitecture.from_dict(SPACE.smallest().to_dict() | change)


@pytest.mark.parametrize("text", ["{", "[]", "1"])
def test_text_that_is_no_architecture_is_refused(text):
    with pytest.raises(InvalidArchitecture):
        HybridArchitecture.from_json(text)
