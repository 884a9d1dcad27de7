"""The shrinking space of cells (Eq. 12-15)."""

import math
import random

import pytest

from models.architecture import OPERATOR_NAMES, CellArchitecture
from models.cell_space import EDGES, CellSpace, InvalidSpace


def strengths_of(space, seed=0):
    generator = random.Random(seed)
    return {k: [[generator.random() for _ in edge] for edge in space.candidates(k)] for k in ("normal", "reduction")}


def test_edges_are_those_of_four_nodes_with_all_earlier_states():
    assert len(EDGES) == 14
    assert [sum(node == n for node, _ in EDGES) for n in range(4)] == [2, 3, 4, 5]


def test_prune_keeps_the_strongest_in_their_order():
    space = CellSpace.full()
    strengths = strengths_of(space)
    pruned = space.prune(strengths, 7)
    for kind in ("normal", "reduction"):
        for kept, strength in zip(pruned.candidates(kind), strengths[kind], strict=True):
            best = sorted(range(11), key=lambda i: -strength[i])[:7]
            assert kept == tuple(OPERATOR_NAMES[i] for i in sorted(best))


def test_the_last_pruning_drops_zero_unless_it_may_win():
    pair = (("zero", "identity"),) * 14
    space = CellSpace(pair, pair)
    strengths = {k: [[0.9, 0.1]] * 14 for k in ("normal", "reduction")}
    assert space.prune(strengths, 1).normal == (("identity",),) * 14
    assert space.prune(strengths, 1, zero_can_win=True).normal == (("zero",),) * 14


def test_four_stages_end_in_an_architecture_of_the_two_strongest_edges():
    space, strengths, ranked_in = CellSpace.full(), None, None
    for seed, keep in enumerate((7, 4, 2, 1)):
        strengths, ranked_in = strengths_of(space, seed), space
        space = space.prune(strengths, keep)
    architecture = space.derive(strengths, ranked_in)
    for kind in ("normal", "reduction"):
        for node, edges in enumerate(getattr(architecture, kind)):
            scores = {}
            for index, (target, source) in enumerate(EDGES):
                if target == node:
                    name = space.candidates(kind)[index][0]
                    scores[source] = strengths[kind][index][ranked_in.candidates(kind)[index].index(name)]
            assert {e.source for e in edges} == set(sorted(scores, key=lambda s: -scores[s])[:2])


def test_equal_edges_are_decided_by_the_lower_source():
    pair = (("identity", "max_pool_3x3"),) * 14
    space = CellSpace(pair, pair)
    even = {k: [[0.5, 0.5]] * 14 for k in ("normal", "reduction")}
    architecture = space.prune(even, 1).derive(even, space)
    assert all([e.source for e in node] == [0, 1] for node in architecture.normal)
    assert {e.operator for node in architecture.normal for e in node} == {"identity"}


def test_an_edge_that_ends_on_zero_is_deleted():
    pair = (("zero", "identity"),) * 14
    space = CellSpace(pair, pair)
    strengths = {k: [[0.9, 0.1]] * 13 + [[0.1, 0.9]] for k in ("normal", "reduction")}
    architecture = space.prune(strengths, 1, zero_can_win=True).derive(strengths, space)
    assert [len(node) for node in architecture.normal] == [0, 0, 0, 1]


def test_space_of_an_architecture_has_it_as_its_one_element():
    nodes = [[(0, "identity"), (1, "sep_conv_5x5")]] * 4
    architecture = CellArchitecture.of(nodes, nodes)
    space = CellSpace.of_architecture(architecture)
    assert space.width == 1
    assert sum(bool(edge) for edge in space.normal) == 8
    assert CellSpace.from_dict(space.to_dict()) == space


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda s: CellSpace.full(["identity", "conv"]), "unknown operator 'conv'; allowed are zero"),
        (lambda s: CellSpace.full(["zero"]), "at least one beside zero"),
        (lambda s: CellSpace.full(["identity", "identity"]), "each once"),
        (lambda s: s.prune(strengths_of(s), 12), "keep 12 of 11 candidates; allowed are 1 to 11"),
        (lambda s: s.prune({"normal": [[0.5]] * 14, "reduction": [[0.5]] * 14}, 1), "strengths of the normal cell"),
        (lambda s: s.prune({k: [[math.nan] * 11] * 14 for k in strengths_of(s)}, 7), "normal cell are not all finite"),
        (lambda s: s.derive(strengths_of(s), s), "up to 11 candidates; prune to 1"),
        (lambda s: CellSpace.from_dict({"normal": []}), "14 edges"),
    ],
)
def test_refusals(action, message):
    with pytest.raises(InvalidSpace, match=message):
        action(CellSpace.full())
