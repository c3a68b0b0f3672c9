"""GraphSpec: a valid graph or a `SpecError` that names node and reason."""

import copy
import json
import math
import random
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import chain, random_spec, relabelled, specs

from lightning_lemonade.errors import LemonadeError, SpecError
from lightning_lemonade.graph import GraphSpec, Node, build, ops
from lightning_lemonade.graph.spec import MAX_ID, MAX_LABEL, MAX_NODES, MAX_TEXT

SMALL = GraphSpec(
    (
        Node("n0", ops.Input((3, 8, 8))),
        Node("n1", ops.Conv2d(4, 3, padding=1), ("n0",), "stem"),
        Node("n2", ops.Activation(), ("n1",)),
        Node("n3", ops.Add(), ("n1", "n2")),
        Node("n4", ops.GlobalPool2d(), ("n3",)),
        Node("n5", ops.Linear(10), ("n4",)),
        Node("n6", ops.Output(), ("n5",)),
    )
)


def small() -> dict[str, Any]:
    return SMALL.to_dict()


def test_the_generator_draws_every_op() -> None:
    rng = random.Random(0)
    assert {node.op.name for _ in range(40) for node in random_spec(rng, rng.randint(0, 10)).nodes} == set(ops.OPS)


@given(specs())
@settings(max_examples=60, deadline=None)
def test_json_round_trips(spec: GraphSpec) -> None:
    assert GraphSpec.from_json(spec.to_json()) == spec
    assert GraphSpec.from_dict(json.loads(spec.to_json(indent=2))) == spec


@given(specs(), st.randoms(use_true_random=True))
@settings(max_examples=40, deadline=None)
def test_any_order_of_nodes_makes_a_topological_order(spec: GraphSpec, rng: random.Random) -> None:
    shuffled = GraphSpec.from_nodes(rng.sample(spec.nodes, len(spec)))
    assert set(shuffled.nodes) == set(spec.nodes)
    assert GraphSpec(shuffled.nodes).shapes == spec.shapes


@given(specs())
@settings(max_examples=20, deadline=None)
def test_nodes_in_order_stay_in_order(spec: GraphSpec) -> None:
    assert GraphSpec.from_nodes(spec.nodes) == spec


def test_specs_are_frozen_and_hashable() -> None:
    assert {SMALL: 1}[GraphSpec.from_json(SMALL.to_json())] == 1
    assert relabelled(SMALL, random.Random(0)) != SMALL
    with pytest.raises(FrozenInstanceError):
        SMALL.nodes = ()  # type: ignore[misc]


def test_a_deep_copy_is_equal() -> None:
    assert copy.deepcopy(SMALL) == SMALL


def test_nodes_are_found_by_id() -> None:
    assert SMALL["n1"].label == "stem"
    assert "n6" in SMALL
    assert "n7" not in SMALL
    assert len(SMALL) == 7
    with pytest.raises(SpecError, match="no node 'n7'"):
        SMALL["n7"]


def test_what_is_derived() -> None:
    assert (SMALL.input.id, SMALL.output.id) == ("n0", "n6")
    assert (SMALL.input_shape, SMALL.output_shape) == ((3, 8, 8), (10,))
    assert SMALL.input_shapes("n3") == [(4, 8, 8), (4, 8, 8)]
    assert SMALL.consumers == {"n0": ("n1",), "n1": ("n2", "n3"), "n2": ("n3",), "n3": ("n4",), "n4": ("n5",), "n5": ("n6",), "n6": ()}
    assert SMALL.parameter_count == 3 * 4 * 9 + 4 + 4 * 10 + 10
    assert SMALL.macs == 3 * 4 * 9 * 64 + 40


def test_a_reader_is_a_consumer_once() -> None:
    spec = GraphSpec((Node("n0", ops.Input((2,))), Node("n1", ops.Add(), ("n0", "n0")), Node("n2", ops.Output(), ("n1",))))
    assert spec.consumers["n0"] == ("n1",)


def test_fresh_ids_are_above_all_others() -> None:
    assert SMALL.fresh_ids(2) == ["n7", "n8"]
    assert SMALL.fresh_ids(0) == []


def test_fresh_ids_behind_the_largest_permitted_one_are_free_smaller_ones() -> None:
    spec = SMALL.edit(added=[Node(f"n{MAX_ID - 1}", ops.Identity(), ("n1",))], rewired={"n1": f"n{MAX_ID - 1}"})
    assert spec.fresh_ids(3) == [f"n{MAX_ID}", "n7", "n8"]
    full = spec.edit(added=[Node(f"n{MAX_ID}", ops.Identity(), ("n5",))], rewired={"n5": f"n{MAX_ID}"}).edit(
        removed=["n2"], rewired={"n2": "n1"}
    )
    assert full.fresh_ids(2) == ["n2", "n7"]
    (fresh,) = full.fresh_ids(1)
    assert full.edit(added=[Node(fresh, ops.Identity(), ("n0",))], rewired={"n0": fresh})[fresh].inputs == ("n0",)


def test_edit_inserts_a_node() -> None:
    edited = SMALL.edit(added=[Node("n7", ops.Identity(), ("n1",))], rewired={"n1": "n7"})
    assert edited["n2"].inputs == ("n7",)
    assert edited["n3"].inputs == ("n7", "n2")
    assert edited["n7"].inputs == ("n1",)
    assert edited["n1"] == SMALL["n1"]


def test_edit_removes_a_node() -> None:
    edited = SMALL.edit(removed=["n2"], rewired={"n2": "n1"})
    assert "n2" not in edited
    assert edited["n3"].inputs == ("n1", "n1")


def test_edit_replaces_a_node_as_given() -> None:
    edited = SMALL.edit(replaced={"n5": Node("n5", ops.Linear(3), ("n4",))}, rewired={"n4": "n1"})
    assert edited["n5"] == Node("n5", ops.Linear(3), ("n4",))
    assert edited.output_shape == (3,)


def test_edit_drops_what_nothing_reads_any_more() -> None:
    edited = SMALL.edit(rewired={"n2": "n1"})
    assert "n2" not in edited
    assert len(edited) == 6


def test_edit_to_a_malformed_graph_is_an_error() -> None:
    with pytest.raises(SpecError, match="n5 reads 'n4', which doesn't exist"):
        SMALL.edit(removed=["n4"])
    with pytest.raises(SpecError, match="a cycle"):
        SMALL.edit(rewired={"n1": "n3"})


def test_edit_leaves_the_original() -> None:
    before = SMALL.to_json()
    SMALL.edit(replaced={"n5": Node("n5", ops.Linear(3), ("n4",))})
    assert SMALL.to_json() == before


def test_a_long_chain_is_no_problem() -> None:
    spec = chain(ops.Input((2,)), *[ops.Identity()] * (MAX_NODES - 2), ops.Output())
    assert GraphSpec.from_nodes(reversed(spec.nodes)).output_shape == (2,)
    assert GraphSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match=f"between 1 and {MAX_NODES} nodes"):
        chain(ops.Input((2,)), *[ops.Identity()] * (MAX_NODES - 1), ops.Output())


def with_node(position: int, **changes: object) -> dict[str, Any]:
    data = small()
    data["nodes"][position].update(changes)
    return data


def without(position: int, field: str) -> dict[str, Any]:
    data = small()
    del data["nodes"][position][field]
    return data


def with_extra(*entries: object) -> dict[str, Any]:
    data = small()
    data["nodes"].extend(entries)
    return data


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


MALFORMED: dict[str, tuple[object, str]] = {
    "no object": ([], "not a graph spec"),
    "nothing": (None, "not a graph spec"),
    "empty": ({}, "not a graph spec"),
    "another format": (small() | {"format": "onnx"}, "not a graph spec"),
    "format of another type": (small() | {"format": ["lemonade-graph"]}, "not a graph spec"),
    "another version": (small() | {"version": 2}, "version 2; this release reads version 1"),
    "no version": ({"format": "lemonade-graph", "nodes": []}, "version None"),
    "boolean version": (small() | {"version": True}, "version True"),
    "fractional version": (small() | {"version": 1.0}, "version 1.0"),
    "huge version": (small() | {"version": 10**5000}, "version an integer"),
    "unknown field of the graph": (small() | {"weights": "evil.pt"}, "unknown fields: 'weights'"),
    "no nodes": (small() | {"nodes": []}, "between 1 and"),
    "nodes missing": ({"format": "lemonade-graph", "version": 1}, '"nodes" must be a list'),
    "nodes of another type": (small() | {"nodes": {"n0": {}}}, '"nodes" must be a list'),
    "too many nodes": (small() | {"nodes": [{}] * (MAX_NODES + 1)}, "at most"),
    "node of another type": (with_extra("n7"), "node number 7 must be an object, got str"),
    "no id": (without(2, "id"), "node number 2 has the id None"),
    "code in an id": (with_node(1, id="n1; import os"), "node number 1 has the id 'n1; import os'"),
    "reserved id": (with_node(1, id="forward"), "node number 1 has the id 'forward'"),
    "leading zero": (with_node(1, id="n01"), "node number 1 has the id 'n01'"),
    "line end in an id": (with_node(1, id="n1\n"), "node number 1 has the id"),
    "other digits": (with_node(1, id="n\u0661"), "node number 1 has the id"),
    "long id": (with_node(1, id="n" + "1" * 10), "node number 1 has the id"),
    "number as an id": (with_node(1, id=1), "node number 1 has the id 1"),
    "huge number as an id": (with_node(1, id=10**5000), "node number 1 has the id an integer"),
    "list as an id": (with_node(1, id=["n1"]), "node number 1 has the id"),
    "two nodes of an id": (with_node(2, id="n1"), "two nodes have the id n1"),
    "no op": (without(1, "op"), "node n1: unknown op None"),
    "unknown op": (with_node(1, op="conv4d"), "node n1: unknown op 'conv4d'"),
    "op of another type": (with_node(1, op={}), "node n1: unknown op"),
    "args of another type": (with_node(1, args=[4, 3]), "node n1: args of conv2d must be an object"),
    "missing args": (without(1, "args"), "node n1: conv2d needs the arguments? out_channels, kernel_size"),
    "unknown argument": (with_node(5, args={"out_features": 2, "__class__": 1}), "node n5: linear has no argument '__class__'"),
    "argument that is no text": (with_node(5, args={"out_features": 2, 3: 1}), "node n5: linear has no argument 3"),
    "boolean argument": (with_node(5, args={"out_features": True}), "node n5: out_features must be an integer, got True"),
    "not a number": (with_node(2, op="dropout", args={"p": math.nan}), "node n2: p must be a number"),
    "huge argument": (with_node(5, args={"out_features": 10**30}), "node n5: out_features must be between"),
    "deep argument": (with_node(5, args={"out_features": nested(900)}), "node n5: out_features must be an integer"),
    "unknown field": (with_node(1, weights=[1.0]), "node n1 has unknown fields: 'weights'"),
    "field that is no text": (
        small() | {"nodes": [{"id": "n0", "op": "input", "args": {"shape": [1]}, 1: 2}]},
        "node n0 has unknown fields: 1",
    ),
    "inputs of another type": (with_node(1, inputs="n0"), "node n1: inputs must be a list"),
    "too many inputs": (with_node(3, inputs=["n1"] * (MAX_NODES + 1)), "node n3: inputs must be a list"),
    "input of another type": (with_node(1, inputs=[0]), "an input of node n1 has the id 0"),
    "code in an input": (with_node(1, inputs=["n0 or exit()"]), "an input of node n1 has the id 'n0 or exit"),
    "input that isn't there": (with_node(1, inputs=["n9"]), "node n1 reads 'n9', which doesn't exist"),
    "too few inputs": (with_node(3, inputs=["n1"]), r"node n3 \(add\) needs at least 2 inputs, got 1"),
    "no inputs": (without(1, "inputs"), r"node n1 \(conv2d\) needs 1 inputs, got 0"),
    "too many for the op": (with_node(1, inputs=["n0", "n0"]), r"node n1 \(conv2d\) needs 1 inputs, got 2"),
    "an input that reads": (with_node(0, inputs=["n0"]), "node n0 reads 'n0'.*: a cycle"),
    "reads itself": (with_node(2, inputs=["n2"]), "node n2 reads 'n2', which depends on n2: a cycle"),
    "cycle": (with_node(1, inputs=["n3"]), "n1.*: a cycle"),
    "two inputs": (with_extra({"id": "n7", "op": "input", "args": {"shape": [3]}}), "exactly one input node, got 2"),
    "two outputs": (with_extra({"id": "n7", "op": "output", "inputs": ["n5"]}), "exactly one output node, got 2"),
    "no output": (small() | {"nodes": small()["nodes"][:-1]}, "exactly one output node, got 0"),
    "dead node": (with_extra({"id": "n7", "op": "identity", "inputs": ["n5"]}), r"node n7 \(identity\) is read by no other node"),
    "shapes that don't fit": (with_node(4, op="identity", args={}), r"node n5 \(linear\): needs an input of shape \(features,\)"),
    "label of another type": (with_node(1, label=3), "node n1: a label is a text"),
    "label that is null": (with_node(1, label=None), "node n1: a label is a text"),
    "label that is a list": (with_node(1, label=["stem"]), "node n1: a label is a text"),
    "long label": (with_node(1, label="x" * (MAX_LABEL + 1)), "node n1: a label is a text"),
    "label of half a character": (with_node(1, label="\ud800"), "node n1: a label is a text"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_values_are_refused_with_node_and_reason(case: str) -> None:
    data, reason = MALFORMED[case]
    with pytest.raises(SpecError, match=reason) as caught:
        GraphSpec.from_dict(data)
    assert len(str(caught.value)) < 500


def test_what_is_read_after_the_output_is_named() -> None:
    nodes = [*SMALL.nodes[:-1], Node("n6", ops.Output(), ("n5",)), Node("n7", ops.Identity(), ("n6",))]
    with pytest.raises(SpecError, match="node n6: nothing may read the output node"):
        GraphSpec(tuple(nodes))


def test_nodes_out_of_order_are_refused() -> None:
    with pytest.raises(SpecError, match="node n1 reads 'n0', which is not before it"):
        GraphSpec((SMALL.nodes[1], SMALL.nodes[0], *SMALL.nodes[2:]))


def test_a_label_may_be_any_text() -> None:
    spec = GraphSpec((*SMALL.nodes[:-1], replace(SMALL.nodes[-1], label='"; <b>é</b> 🍋\n')))
    assert GraphSpec.from_json(spec.to_json()) == spec


def test_text_cut_short_anywhere_is_refused() -> None:
    text = SMALL.to_json()
    for end in range(len(text)):
        with pytest.raises(SpecError):
            GraphSpec.from_json(text[:end])


@pytest.mark.parametrize("depth", [10, 100, 900, 960, 980, 1000, 10**5])
def test_deep_nesting_is_refused(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for text in (deep, f'{{"a": {deep}}}', SMALL.to_json().replace('"n1"', deep, 1), SMALL.to_json().replace("[3, 8, 8]", deep)):
        with pytest.raises(SpecError):
            GraphSpec.from_json(text)


@pytest.mark.parametrize("text", ["", "null", "NaN", "nonsense", '"', "1" * 5000, "[" + "1" * 5000 + "]"])
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not a graph spec"):
        GraphSpec.from_json(text)


def test_too_long_a_text_is_refused_unread() -> None:
    with pytest.raises(SpecError, match=f"at most {MAX_TEXT}"):
        GraphSpec.from_json(" " * (MAX_TEXT + 1))


def test_a_spec_error_is_a_lemonade_error() -> None:
    assert issubclass(SpecError, LemonadeError)


JUNK: list[Any] = [
    *[
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        3.0,
        0.5,
        -0.0,
        math.nan,
        math.inf,
        10**30,
        1 << 20,
        "",
        "n0",
        "n1",
        "n01",
        "relu",
        "x" * 300,
        "\ud800",
    ],
    *[[], [1], [1, 1], [1, 1, 1], [[]], ["n0"], ["n1", "n1"], {}, {"p": 0.5}, {"out_features": 1}, {1: 2}, nested(60)],
    *ops.OPS,
]


def places(value: object) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in list(items) for place in [(value, key), *places(inner)]]


def read_or_reason(data: object) -> GraphSpec | str:
    try:
        return GraphSpec.from_dict(data)
    except SpecError as error:
        return str(error)


def entries(data: dict[str, Any]) -> list[Any]:
    """The nodes that are still whole."""
    nodes = data.get("nodes")
    return [node for node in nodes if isinstance(node, dict) and node.keys() >= {"id", "inputs"}] if isinstance(nodes, list) else []


def damage(data: dict[str, Any], rng: random.Random) -> None:
    """One random change of a JSON value, in place."""
    container, key = rng.choice(places(data))
    match rng.randint(0, 9):
        case 0:
            del container[key]
        case 1:
            other, where = rng.choice(places(data))
            container[key] = copy.deepcopy(other[where])
        case 2 if isinstance(container, list):
            container.insert(rng.randint(0, len(container)), copy.deepcopy(rng.choice([container[key], *JUNK])))
        case 2:
            container[rng.choice(["id", "op", "args", "inputs", "label", "stride", "x", 7])] = copy.deepcopy(
                rng.choice([container[key], *JUNK])
            )
        case 3 if isinstance(container, list):
            rng.shuffle(container)
        case 4 | 5 | 6 | 7:  # often still valid: another number, another source
            numbers = [(values, where) for values, where in places(data) if type(values[where]) is int]
            sources = [
                (node["inputs"], i) for node in entries(data) if isinstance(node["inputs"], list) for i in range(len(node["inputs"]))
            ]
            container, key = rng.choice([*numbers, *sources, (container, key)])
            container[key] = (
                rng.choice([1, 2, 3, 4]) if isinstance(container[key], int) else rng.choice([node["id"] for node in entries(data)] or JUNK)
            )
        case _:
            container[key] = copy.deepcopy(rng.choice(JUNK))


@given(specs(max_steps=6), st.integers(1, 3), st.randoms(use_true_random=True))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_values_are_refused_or_valid(spec: GraphSpec, times: int, rng: random.Random) -> None:
    data = spec.to_dict()
    for _ in range(times):
        if places(data):
            damage(data, rng)
    read = read_or_reason(data)
    if isinstance(read, str):
        assert 10 < len(read) < 1000
        return
    assert GraphSpec.from_json(read.to_json()) == read
    with torch.device("meta"):
        network = build(read).eval()
        assert network(torch.empty(2, *read.input_shape)).shape == (2, *read.output_shape)


@given(specs(max_steps=4), st.randoms(use_true_random=True))
@settings(max_examples=100, deadline=None)
def test_damaged_text_is_refused_or_valid(spec: GraphSpec, rng: random.Random) -> None:
    text = spec.to_json()
    start = rng.randrange(len(text))
    damaged = text[:start] + "".join(rng.choices('[]{}",:n0123456789-eE.\\ \x00', k=rng.randint(0, 3))) + text[start + rng.randint(0, 3) :]
    try:
        read = GraphSpec.from_json(damaged)
    except SpecError:
        return
    assert GraphSpec.from_json(read.to_json()) == read


def test_a_concat_of_many_inputs_is_valid() -> None:
    nodes = [Node("n0", ops.Input((1, 2, 2))), Node("n1", ops.Concat(), ("n0",) * 50), Node("n2", ops.Output(), ("n1",))]
    assert GraphSpec(tuple(nodes)).output_shape == (50, 2, 2)


def test_what_is_no_text_is_no_json() -> None:
    with pytest.raises(SpecError, match="read from a text, got NoneType"):
        GraphSpec.from_json(None)  # type: ignore[arg-type]
