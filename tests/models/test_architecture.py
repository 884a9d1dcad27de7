"""Architectures: canonical form, round trips, refusals."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.architecture import NODES, OPERATOR_NAMES, CellArchitecture, InvalidArchitecture
from search.methods.random_cells import random_architecture


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_json_round_trip_and_order_of_edges_does_not_matter(seed):
    architecture = random_architecture(OPERATOR_NAMES, seed)
    assert CellArchitecture.from_json(architecture.to_json()) == architecture

    values = architecture.to_dict()
    shuffle = random.Random(seed)
    for kind in ("normal", "reduction"):
        for node in values[kind]:
            shuffle.shuffle(node)
    again = CellArchitecture.from_dict(json.loads(json.dumps(values)))
    assert (again, again.digest()) == (architecture, architecture.digest())


def test_different_architectures_have_different_digests():
    drawn = {random_architecture(OPERATOR_NAMES, seed) for seed in range(200)}
    assert len({a.digest() for a in drawn}) == len(drawn)


def _nodes(**changes):
    nodes = [[(0, "identity"), (1, "avg_pool_3x3")] for _ in range(NODES)]
    for key, value in changes.items():
        nodes[int(key[4:])] = value
    return nodes


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (_nodes()[:3], "3 nodes; 4 are needed"),
        (_nodes(node1=[(0, "conv_9x9")]), "node 1: operator 'conv_9x9'; allowed are identity"),
        (_nodes(node1=[(0, "zero")]), "operator 'zero'"),
        (_nodes(node0=[(2, "identity")]), "node 0: source 2; allowed are 0 to 1"),
        (_nodes(node2=[(1, "identity"), (1, "max_pool_3x3")]), "node 2: two edges from one source"),
    ],
)
def test_refuses_what_is_no_cell(nodes, message):
    with pytest.raises(InvalidArchitecture, match=message):
        CellArchitecture.of(nodes, _nodes())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kind": "hybrid"}', '{"kind": "cell", "normal": 3}'])
def test_refuses_texts_that_are_no_architecture(text):
    with pytest.raises(InvalidArchitecture):
        CellArchitecture.from_json(text)
