"""The structural hash: equal exactly when networkx finds an isomorphism."""

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.algorithms.isomorphism import categorical_multiedge_match, categorical_node_match
from strategies import chain, near_misses, relabelled, specs

from lightning_lemonade.graph import GraphSpec, Node, ops
from lightning_lemonade.graph.spec import MAX_NODES

RANDOM = st.randoms(use_true_random=True)


def as_graph(spec: GraphSpec) -> nx.MultiDiGraph:
    result = nx.MultiDiGraph()
    result.add_nodes_from((node.id, {"op": repr(node.op)}) for node in spec.nodes)
    for node in spec.nodes:
        for position, source in enumerate(node.inputs):
            result.add_edge(source, node.id, position=0 if node.op.commutes else position)
    return result


def isomorphic(a: GraphSpec, b: GraphSpec) -> bool:
    matches = categorical_node_match("op", None), categorical_multiedge_match("position", None)
    return bool(nx.is_isomorphic(as_graph(a), as_graph(b), node_match=matches[0], edge_match=matches[1]))


def same(a: GraphSpec, b: GraphSpec) -> bool:
    return a.structural_hash == b.structural_hash


def layered(rng: random.Random) -> GraphSpec:
    """Few ops of one shape over few sources: full of symmetry."""
    nodes = [Node("n0", ops.Input((2,)))]
    layer = ["n0"]
    for _ in range(rng.randint(1, 3)):
        new = []
        for _ in range(rng.randint(1, 4)):
            op: ops.Op = rng.choice([ops.Add(), ops.Add(), ops.Mul(), ops.Mix(), ops.Identity()])
            inputs = rng.choices(layer, k=rng.randint(2, 3) if isinstance(op, ops.Add) else op.min_inputs)
            new.append(Node(f"n{len(nodes) + len(new)}", op, tuple(inputs)))
        nodes += new
        layer = [node.id for node in new]
    read = {source for node in nodes for source in node.inputs}
    nodes.append(Node(f"n{len(nodes)}", ops.Add(), ("n0", *(node.id for node in nodes if node.id not in read))))
    nodes.append(Node(f"n{len(nodes)}", ops.Output(), (nodes[-1].id,)))
    return GraphSpec(tuple(nodes))


def woven(rows: Sequence[Sequence[int]], branches: int, join: ops.Op | None = None) -> GraphSpec:
    """Branches that are alike; each row is a join of some of them; all rows are added up."""
    nodes = [Node("n0", ops.Input((4,))), *(Node(f"n{i + 1}", ops.Linear(4), ("n0",)) for i in range(branches))]
    joins = [Node(f"n{branches + 1 + k}", join or ops.Add(), tuple(f"n{i + 1}" for i in row)) for k, row in enumerate(rows)]
    total = Node(f"n{branches + 1 + len(rows)}", ops.Add(), tuple(node.id for node in joins))
    return GraphSpec((*nodes, *joins, total, Node(f"n{branches + 2 + len(rows)}", ops.Output(), (total.id,))))


def parallel(branches: int, depth: int = 3) -> GraphSpec:
    nodes, ends = [Node("n0", ops.Input((3, 8, 8)))], []
    layers = [ops.Conv2d(4, 3, padding=1), ops.BatchNorm2d(), ops.Activation()] * depth
    for _ in range(branches):
        source = "n0"
        for op in layers[:depth]:
            nodes.append(Node(f"n{len(nodes)}", op, (source,)))
            source = nodes[-1].id
        ends.append(source)
    for op, inputs in ((ops.Add(), tuple(ends)), (ops.GlobalPool2d(), None), (ops.Output(), None)):
        nodes.append(Node(f"n{len(nodes)}", op, inputs or (nodes[-1].id,)))
    return GraphSpec(tuple(nodes))


def edges(graph: nx.Graph) -> tuple[list[tuple[int, int]], int]:
    number = {node: i for i, node in enumerate(graph)}
    return [(number[a], number[b]) for a, b in graph.edges], len(number)


SIX_CYCLE = woven(*edges(nx.cycle_graph(6)))
TWO_TRIANGLES = woven(*edges(nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))))


# What holds for every spec


@given(specs(max_steps=14), RANDOM)
@settings(max_examples=100, deadline=None)
def test_ids_order_and_labels_dont_count(spec: GraphSpec, rng: random.Random) -> None:
    assert same(spec, relabelled(spec, rng))


@given(specs(max_steps=10), RANDOM)
@settings(max_examples=80, deadline=None)
def test_near_misses_are_told_apart_exactly_as_networkx_does(spec: GraphSpec, rng: random.Random) -> None:
    for near in near_misses(spec, rng):
        assert same(spec, relabelled(near, rng)) == isomorphic(spec, near)


@given(st.integers(0, 2**32 - 1), RANDOM)
@settings(max_examples=150, deadline=None)
def test_symmetric_graphs_and_their_near_misses_are_told_apart_exactly_as_networkx_does(seed: int, rng: random.Random) -> None:
    spec = layered(random.Random(seed))
    assert same(spec, relabelled(spec, rng))
    for near in [*near_misses(spec, rng), *near_misses(spec, rng)]:
        assert same(spec, relabelled(near, rng)) == isomorphic(spec, near)


@given(specs(max_steps=4), specs(max_steps=4))
@settings(max_examples=60, deadline=None)
def test_pairs_are_told_apart_exactly_as_networkx_does(a: GraphSpec, b: GraphSpec) -> None:
    assert same(a, b) == isomorphic(a, b)


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=3), min_size=2, max_size=5), RANDOM)
@settings(max_examples=150, deadline=None)
def test_small_weaves_are_told_apart_exactly_as_networkx_does(rows: list[list[int]], rng: random.Random) -> None:
    rows = [*rows, [0, 1, 2, 3]]
    spec = woven(rows, 4)
    assert same(spec, relabelled(spec, rng))
    moved = [list(row) for row in rows]
    a, b = rng.choice(moved[:-1]), rng.choice(moved[:-1])
    a[0], b[-1] = b[-1], a[0]
    other = woven(moved, 4)
    assert same(spec, other) == isomorphic(spec, other)


def test_all_graphs_of_four_branches_and_three_sums_of_two_fall_into_networkxs_classes() -> None:
    pairs = list(itertools.combinations(range(4), 2))
    made = [woven([*rows, (0, 1, 2, 3)], 4) for rows in itertools.combinations_with_replacement(pairs, 3)]
    classes: list[GraphSpec] = []
    for spec in made:
        if not any(isomorphic(spec, known) for known in classes):
            classes.append(spec)
    assert len({spec.structural_hash for spec in made}) == len(classes) > 5


# Cases


def test_arguments_count() -> None:
    a = chain(ops.Input((2,)), ops.Linear(3), ops.Dropout(0.5), ops.Output())
    assert not same(a, chain(ops.Input((2,)), ops.Linear(3), ops.Dropout(0.25), ops.Output()))
    assert not same(a, chain(ops.Input((2,)), ops.Linear(3, False), ops.Dropout(0.5), ops.Output()))
    assert not same(a, chain(ops.Input((2,)), ops.Linear(3), ops.Output()))


def test_the_order_of_ops_counts() -> None:
    a = chain(ops.Input((2,)), ops.Activation("relu"), ops.Activation("tanh"), ops.Output())
    assert not same(a, chain(ops.Input((2,)), ops.Activation("tanh"), ops.Activation("relu"), ops.Output()))


@pytest.mark.parametrize(("op", "commutes"), [(ops.Add(), True), (ops.Mul(), True), (ops.Mix(), False), (ops.Concat(), False)])
def test_the_order_of_inputs_counts_where_it_means_something(op: ops.Op, commutes: bool) -> None:
    nodes = (Node("n0", ops.Input((2,))), Node("n1", ops.Activation("relu"), ("n0",)), Node("n2", ops.Activation("tanh"), ("n0",)))
    a = GraphSpec((*nodes, Node("n3", op, ("n1", "n2")), Node("n4", ops.Output(), ("n3",))))
    b = GraphSpec((*nodes, Node("n3", op, ("n2", "n1")), Node("n4", ops.Output(), ("n3",))))
    assert same(a, b) == commutes


def test_a_shared_node_is_something_else_than_two_copies() -> None:
    shared = woven([(0, 0), (0, 0)], 1)
    copies = woven([(0, 0), (1, 1)], 2)
    mixed = woven([(0, 1), (0, 1)], 2)
    assert len({spec.structural_hash for spec in (shared, copies, mixed)}) == 3


def test_how_often_a_node_is_read_counts() -> None:
    assert not same(woven([(0, 0, 1), (0, 1)], 2), woven([(0, 1), (0, 1)], 2))
    assert same(woven([(0, 0, 1), (0, 1)], 2), woven([(0, 1, 1), (0, 1)], 2))
    assert not same(woven([(0, 0, 1), (0, 0, 1)], 2), woven([(0, 0, 1), (0, 1, 1)], 2))


@pytest.mark.parametrize("join", [ops.Mix(), ops.Concat()])
def test_reading_two_twins_crosswise_is_something_else(join: ops.Op) -> None:
    assert not same(woven([(0, 1), (0, 1)], 2, join), woven([(0, 1), (1, 0)], 2, join))


def test_sums_in_a_cycle_of_six_are_something_else_than_two_triangles() -> None:
    assert not isomorphic(SIX_CYCLE, TWO_TRIANGLES)
    assert not same(SIX_CYCLE, TWO_TRIANGLES)
    for seed in range(5):
        assert same(SIX_CYCLE, relabelled(SIX_CYCLE, random.Random(seed)))
        assert same(TWO_TRIANGLES, relabelled(TWO_TRIANGLES, random.Random(seed)))


def test_strongly_regular_graphs_of_equal_parameters_are_told_apart() -> None:
    rook = nx.line_graph(nx.complete_bipartite_graph(4, 4))
    shrikhande = nx.Graph(
        ((a, b), ((a + x) % 4, (b + y) % 4)) for a in range(4) for b in range(4) for x, y in ((0, 1), (1, 0), (1, 1))
    )  # fmt: skip
    assert not same(woven(*edges(rook)), woven(*edges(shrikhande)))
    assert same(woven(*edges(rook)), relabelled(woven(*edges(rook)), random.Random(0)))
    assert same(woven(*edges(shrikhande)), relabelled(woven(*edges(shrikhande)), random.Random(0)))


def test_cubic_graphs_are_told_apart_exactly_as_networkx_does() -> None:
    cubic = [nx.random_regular_graph(3, 8, seed) for seed in range(25)]
    made = [relabelled(woven(*edges(graph)), random.Random(seed)) for seed, graph in enumerate(cubic)]
    for (a, first), (b, second) in itertools.combinations(zip(cubic, made, strict=True), 2):
        assert same(first, second) == nx.is_isomorphic(a, b)
    assert len({spec.structural_hash for spec in made}) > 3


SYMMETRIC = {
    "30 branches": parallel(30),
    "300 branches": parallel(300),
    "30 branches into 30 sums": woven([range(30)] * 30, 30),
    "each of 12 sums leaves one branch out": woven([[i for i in range(12) if i != k] for k in range(12)], 12),
    "cycle of 40": woven(*edges(nx.cycle_graph(40))),
    "ten triangles": woven(*edges(nx.disjoint_union_all([nx.cycle_graph(3)] * 10))),
    "cycles of several lengths": woven(*edges(nx.disjoint_union_all([nx.cycle_graph(k) for k in (5, 3, 4, 3, 6)]))),
    "cubic without symmetry": woven(*edges(nx.frucht_graph())),
    "petersen": woven(*edges(nx.petersen_graph())),
    "hypercube": woven(*edges(nx.hypercube_graph(4))),
    "complete": woven(*edges(nx.complete_graph(9))),
    "many nodes": chain(ops.Input((2,)), *[ops.Identity()] * (MAX_NODES - 2), ops.Output()),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_graphs_are_hashed_in_good_time(name: str) -> None:
    copies = [relabelled(SYMMETRIC[name], random.Random(seed)) for seed in range(2)]
    start = time.process_time()
    assert {copy.structural_hash for copy in copies} == {SYMMETRIC[name].structural_hash}
    assert time.process_time() - start < 4


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_number_of_equal_branches_counts(depth: int) -> None:
    assert len({parallel(k, depth).structural_hash for k in range(2, 12)}) == 10


GOLDEN = "188c02c938db46a988e0ffdf1c49e54f"


def test_the_hash_is_the_same_in_every_process() -> None:
    assert SIX_CYCLE.structural_hash == GOLDEN
    program = f"from lightning_lemonade.graph import GraphSpec; print(GraphSpec.from_json({SIX_CYCLE.to_json()!r}).structural_hash)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == GOLDEN
