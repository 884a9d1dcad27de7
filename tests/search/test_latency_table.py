"""The latency table on planted latencies, and the prior made of it."""

import dataclasses
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.hybrid_architecture import EDGE_NAMES, HybridStage
from models.hybrid_space import HybridSpace
from search.latency import Conditions, LatencyRecord, kendall_tau
from search.latency_fit import covariates_of, places
from search.latency_table import InvalidPrior, InvalidRecords, InvalidTable, LatencyTable

SPACE = HybridSpace(kernels=(3, 5))
CONDITIONS = Conditions("cpu", "some cpu", 2, "2.11.0", (3, 200, 200), 1, "float32")
OPERATORS = SPACE.operators
# Blocks of a stage have maps of one size, but nothing keeps their costs from differing.
COSTS = {
    (s, b): {o: (4 - s) * (1 + 0.5 * k) + 0.1 * b * (k - 1) for k, o in enumerate(OPERATORS)} for s, b in places(SPACE)
}
EDGE_COSTS = {n: {o: (i % 3) * (k - 2.0) for k, o in enumerate(SPACE.edge_operators)} for i, n in enumerate(EDGE_NAMES)}
REST = 20.0


def planted_ms(architecture, space=SPACE, sizes_cost=1.0):
    """Additive: blocks, edges, widths, ratios, kernels, pools; at the mean sizes a block costs what COSTS says."""
    blocks = sum(
        COSTS[s, b][block.operator]
        for s, stage in enumerate(architecture.stages)
        for b, block in enumerate(stage.blocks)
    )
    edges = sum(EDGE_COSTS[name][o] for name, o in zip(EDGE_NAMES, architecture.edges, strict=True))
    sizes = sizes_cost * sum(
        x * (0.4 + 0.3 * (k % 4)) for k, x in enumerate(covariates_of(architecture, space).values())
    )
    return REST + blocks + edges + sizes


def records_of(count, seed=0, noise=0.0, space=SPACE, draw=None, sizes_cost=1.0):
    generator, normal = random.Random(seed), np.random.default_rng(seed)
    architectures = [draw(generator) if draw else space.sample(generator) for _ in range(count)]
    return [
        LatencyRecord(a, planted_ms(a, space, sizes_cost) * float(np.exp(noise * normal.standard_normal())), 0.1)
        for a in architectures
    ]


def table_of(*args, space=SPACE, **kwargs):
    return LatencyTable.fit(records_of(*args, space=space, **kwargs), space, CONDITIONS)


def order(row):
    return sorted(row, key=lambda o: row[o] if isinstance(row[o], float) else row[o].latency_ms)


@pytest.fixture(scope="module")
def exact():
    return table_of(600)


def test_planted_latencies_of_blocks_are_recovered(exact):
    for (stage, block), row in exact.blocks.items():
        assert order(row) == order(COSTS[stage, block])
        found = {o: e.latency_ms for o, e in row.items()}
        planted = COSTS[stage, block]
        # The level of a first block is that of the others of its stage; all else is known.
        shift = np.mean([found[o] - planted[o] for o in OPERATORS]) if block == 0 else 0.0
        assert abs(shift) < 0.1
        assert [found[o] - shift for o in OPERATORS] == pytest.approx([planted[o] for o in OPERATORS], abs=0.05)


def test_planted_latencies_of_edges_are_recovered(exact):
    for name, row in exact.edges.items():
        assert [row[o].latency_ms for o in SPACE.edge_operators] == pytest.approx(
            [EDGE_COSTS[name][o] for o in SPACE.edge_operators], abs=0.05
        )


def test_counts_and_errors_are_those_of_the_records():
    table = table_of(300, noise=0.05)
    records = table.records
    for (stage, block), row in table.blocks.items():
        for operator, estimate in row.items():
            blocks = [r.architecture.stages[stage].blocks for r in records]
            assert estimate.count == sum(len(b) > block and b[block].operator == operator for b in blocks)
            assert 0 < estimate.standard_error_ms < 2
    assert sum(e.count for e in table.edges["lateral1"].values()) == len(records)


def test_errors_cover_what_was_planted():
    found = []
    for seed in range(4):
        table = table_of(400, seed=seed, noise=0.03)
        for stage, block in ((s, b) for s, b in table.blocks if b):
            for operator in OPERATORS:
                estimate = table.blocks[stage, block][operator]
                found.append((estimate.latency_ms - COSTS[stage, block][operator]) / estimate.standard_error_ms)
    # Penalties trade a little bias for less variance, so three errors and not two.
    assert np.mean(np.abs(found) < 3) > 0.9
    assert abs(np.mean(found)) < 1


def test_operators_of_deep_subnets_are_not_taken_for_slow():
    """The fastest operator is drawn mostly where stages are deep and wide, as a count in fast subnets would punish."""

    def draw(generator):
        architecture = SPACE.sample(generator)
        stages = []
        for number, stage in enumerate(architecture.stages):
            deep = generator.random() < 0.5
            place = {(number, k): dict(zip(OPERATORS, (8, 1, 1) if deep else (1, 8, 8), strict=True)) for k in range(3)}
            depth, width = (3, max(SPACE.widths[number])) if deep else (1, min(SPACE.widths[number]))
            if generator.random() < 0.2:
                depth, width = stage.depth, stage.width
            blocks = tuple(SPACE.sample_block(generator, (number, k), place) for k in range(depth))
            stages.append(HybridStage(width, blocks))
        return dataclasses.replace(architecture, stages=tuple(stages))

    records = records_of(400, noise=0.02, draw=draw, sizes_cost=6.0)
    table = LatencyTable.fit(records, SPACE, CONDITIONS)
    for stage in (0, 1, 2):
        means = {
            o: float(np.mean([r.median_ms for r in records if r.architecture.stages[stage].blocks[0].operator == o]))
            for o in OPERATORS
        }
        assert order(means)[-1] == "attention", "this test no longer confounds depth with operator"
        for block in range(3):
            assert order(table.blocks[stage, block])[0] == "attention"


@pytest.mark.parametrize(("count", "least"), [(60, 0.35), (200, 0.7), (600, 0.8)])
def test_predictions_rank_subnets_that_were_not_measured(count, least):
    table = table_of(count, noise=0.05)
    others = records_of(200, seed=99)
    assert kendall_tau([table.predict_ms(r.architecture) for r in others], [r.median_ms for r in others]) > least


def test_predictions_of_exact_sums_are_exact(exact):
    others = records_of(50, seed=99)
    predicted = [exact.predict_ms(r.architecture) for r in others]
    assert predicted == pytest.approx([r.median_ms for r in others], rel=0.01)
    assert exact.residual_ms < 0.2


def test_noise_alone_makes_no_block_free_or_worse():
    generator = np.random.default_rng(0)
    records = [dataclasses.replace(r, median_ms=float(generator.lognormal(0, 1))) for r in records_of(60)]
    table = LatencyTable.fit(records, SPACE, CONDITIONS)
    assert all(e.latency_ms > 0 for row in table.blocks.values() for e in row.values())


def test_a_stage_of_one_depth_is_relative_and_keeps_its_order():
    space = dataclasses.replace(SPACE, depths=((1,), (2,), (1, 2, 3), (1, 2, 3)))
    table = table_of(400, space=space)
    assert table.relative_stages == {0, 1}
    for place in ((0, 0), (1, 0), (1, 1)):
        row = {o: e.latency_ms for o, e in table.blocks[place].items()}
        differences = np.subtract(list(row.values()), row["attention"])
        planted = np.subtract(list(COSTS[place].values()), COSTS[place]["attention"])
        assert differences == pytest.approx(planted, abs=0.1)
        assert min(row.values()) > 0


def test_pairs_never_sampled_are_marked_and_get_the_mean_of_their_operator():
    def draw(generator):
        places_ = {place: dict.fromkeys(OPERATORS, 1.0) for place in places(SPACE)}
        places_[1, 2]["mlp"] = 0.0
        for block in range(3):
            places_[3, block]["mlp"] = 0.0
        return SPACE.sample(generator, places_)

    table = table_of(300, draw=draw)
    entry, others = table.blocks[1, 2]["mlp"], [table.blocks[1, b]["mlp"].latency_ms for b in (0, 1)]
    assert (entry.count, entry.standard_error_ms) == (0, None)
    assert entry.latency_ms == pytest.approx(np.mean(others))
    # Nowhere in its stage: the mean of the block.
    row = table.blocks[3, 0]
    assert row["mlp"].count == 0
    assert row["mlp"].latency_ms == pytest.approx(np.mean([row[o].latency_ms for o in ("attention", "convolution")]))


def test_one_record_makes_a_table_and_a_uniform_prior():
    records = records_of(1)
    table = LatencyTable.fit(records, SPACE, CONDITIONS)
    assert table.predict_ms(records[0].architecture) == pytest.approx(records[0].median_ms)
    assert table.residual_ms is None
    assert {e.standard_error_ms for row in table.blocks.values() for e in row.values()} == {None}
    assert all(p == pytest.approx(1 / 3) for row in table.prior().values() for p in row.values())


def test_records_that_make_no_table_are_refused():
    with pytest.raises(InvalidRecords, match="no records"):
        LatencyTable.fit([], SPACE, CONDITIONS)
    record = records_of(1)[0]
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidRecords, match=r"record 1: .*above 0"):
            LatencyTable.fit([record, dataclasses.replace(record, median_ms=wrong)], SPACE, CONDITIONS)
    small = dataclasses.replace(SPACE, operators=("mlp",))
    with pytest.raises(InvalidRecords, match=r"record 0: .*space"):
        LatencyTable.fit([record], small, CONDITIONS)
    table = LatencyTable.fit(records_of(3, space=HybridSpace()), HybridSpace(), CONDITIONS)
    outside = next(a for a in (SPACE.sample(random.Random(k)) for k in range(99)) if not HybridSpace().contains(a))
    with pytest.raises(InvalidRecords, match="space"):
        table.predict_ms(outside)


@pytest.mark.parametrize("count", [1, 30])
def test_json_round_trip(count):
    table = table_of(count, noise=0.1)
    again = LatencyTable.from_json(table.to_json())
    assert again == table
    assert again.to_json() == table.to_json()
    assert again.prior() == table.prior()


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", json.dumps({"blocks": 1}), table_of(1).to_json().replace("kernels", "colonels")]
)
def test_texts_that_hold_no_table_are_refused(text):
    with pytest.raises(InvalidTable, match="not a latency table"):
        LatencyTable.from_json(text)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 9),
    relative=st.floats(1e-3, 1e3),
    floor=st.floats(0, 1),
    operators=st.sampled_from([OPERATORS, OPERATORS[:2], OPERATORS[1:], ("mlp",)]),
)
def test_the_prior_is_defined_everywhere(count, seed, relative, floor, operators):
    space = dataclasses.replace(SPACE, operators=operators, depths=((1, 2, 3, 4), (1,), (2, 3), (3,)))
    generator, normal = random.Random(seed), np.random.default_rng(seed)
    records = [LatencyRecord(space.sample(generator), float(normal.lognormal()), 0.0) for _ in range(count)]
    table = LatencyTable.fit(records, space, CONDITIONS)
    prior = table.prior(relative_temperature=relative, floor=floor)
    assert set(prior) == set(places(space))
    for place, row in prior.items():
        assert list(row) == list(operators)
        assert sum(row.values()) == pytest.approx(1, abs=1e-12)
        assert min(row.values()) >= floor / len(operators) - 1e-12
        latencies = [table.blocks[place][o].latency_ms for o in operators]
        for (a, p), (b, q) in zip(*[zip(latencies, row.values(), strict=True)] * 2, strict=False):
            assert a >= b or p >= q
    assert space.contains(space.sample(generator, prior))


def test_faster_operators_are_likelier(exact):
    prior = exact.prior(relative_temperature=1.0, floor=0.1)
    for row in prior.values():
        assert row["attention"] > row["convolution"] > row["mlp"] >= 0.1 / 3
    cold, hot = exact.prior(temperature_ms=0.01, floor=0.0), exact.prior(temperature_ms=1e6, floor=0.0)
    assert cold[0, 0]["attention"] == pytest.approx(1)
    assert hot[0, 0]["attention"] == pytest.approx(1 / 3, abs=1e-3)
    assert exact.prior(floor=1.0)[2, 1] == pytest.approx(dict.fromkeys(OPERATORS, 1 / 3))
    # By the softmax of Sec. IV-D, in one block.
    latencies = {o: exact.blocks[1, 2][o].latency_ms for o in OPERATORS}
    ratio = exact.prior(temperature_ms=2.0, floor=0.0)[1, 2]
    assert ratio["attention"] / ratio["mlp"] == pytest.approx(np.exp((latencies["mlp"] - latencies["attention"]) / 2.0))


def test_the_prior_does_not_depend_on_the_unit_of_time(exact):
    faster = [dataclasses.replace(r, median_ms=r.median_ms / 50) for r in exact.records]
    prior = LatencyTable.fit(faster, SPACE, CONDITIONS).prior()
    for place, row in exact.prior().items():
        assert prior[place] == pytest.approx(row)


@pytest.mark.parametrize(
    "change",
    [{"floor": -0.1}, {"floor": 1.1}, {"relative_temperature": 0.0}, {"temperature_ms": 0.0}, {"temperature_ms": -1.0}],
)
def test_priors_that_are_none_are_refused(exact, change):
    with pytest.raises(InvalidPrior):
        exact.prior(**change)
