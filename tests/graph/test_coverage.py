"""Coverage: a row for each layer with weights, and a reason for each that can't change."""

import pytest
from hypothesis import given, settings
from strategies import chain, graph, specs

from lightning_lemonade.graph import GraphSpec, LayerCoverage, Node, build, coverage, ops
from lightning_lemonade.morphisms import Widen

IMAGE = (ops.Input((3, 4, 4)), "")


def conv(channels: int, source: str, groups: int = 1) -> tuple[ops.Op, str]:
    return ops.Conv2d(channels, 1, groups=groups), source


def head(source: str) -> dict[str, tuple[ops.Op, str]]:
    return {"pool": (ops.GlobalPool2d(), source), "fc": (ops.Linear(2), "pool"), "out": (ops.Output(), "fc")}


# What holds for every spec


@given(specs(max_steps=12))
@settings(max_examples=60, deadline=None)
def test_there_is_a_row_for_each_node_with_weights_and_a_reason_where_it_cant_change(spec: GraphSpec) -> None:
    rows = coverage(spec)
    weighted = {name.partition(".")[0] for name, _ in build(spec).named_parameters()}
    assert [row.node for row in rows] == [node.id for node in spec.nodes if node.id in weighted]
    for row in rows:
        assert row.label == spec[row.node].label
        assert row.reason == spec.channels.frozen_reason(row.node)
        assert row.changeable == (not row.reason)


@given(specs(max_steps=12))
@settings(max_examples=60, deadline=None)
def test_what_is_changeable_and_makes_its_own_channels_can_be_widened(spec: GraphSpec) -> None:
    makers = [row for row in coverage(spec) if row.changeable and isinstance(spec[row.node].op, ops.Conv2d | ops.Linear)]
    own = [row for row in makers if spec.channels.groups_of(row.node) != spec.channels.groups_of(spec[row.node].inputs[0])]
    sites = {node_id for (node_id,) in Widen.sites(spec)}
    assert {row.node for row in own} <= sites <= {row.node for row in makers}


# Cases


def test_a_row_names_layer_and_reason() -> None:
    spec = GraphSpec(
        (
            Node("n0", ops.Input((3, 8, 8))),
            Node("n1", ops.Conv2d(4, 3, (2, 1), bias=False), ("n0",), "stem.conv"),
            Node("n2", ops.BatchNorm2d(), ("n1",), "stem.norm"),
            Node("n3", ops.Flatten(), ("n2",)),
            Node("n4", ops.Linear(10), ("n3",)),
            Node("n5", ops.Output(), ("n4",)),
        )
    )
    assert coverage(spec) == [
        LayerCoverage("n1", "stem.conv", "conv2d(out_channels=4, kernel_size=3x3, stride=2x1, bias=False)", True, ""),
        LayerCoverage("n2", "stem.norm", "batch_norm2d", True, ""),
        LayerCoverage("n4", "", "linear(out_features=10)", False, "fixed by n5 (output): the network's output"),
    ]


def test_a_network_without_weights_has_no_rows() -> None:
    assert coverage(chain(ops.Input((3,)), ops.Activation(), ops.Output())) == []


CASES: dict[str, tuple[GraphSpec, dict[str, str]]] = {
    "added to the input": (
        graph(x=IMAGE, a=conv(5, "x"), b=conv(3, "a"), sum=(ops.Add(), "x b"), **head("sum")),
        {"b": "x", "fc": "out"},
    ),
    "depthwise convolution and batch norm on the input": (
        graph(x=IMAGE, d=conv(3, "x", 3), norm=(ops.BatchNorm2d(), "d"), a=conv(5, "norm"), **head("a")),
        {"d": "x", "norm": "x", "fc": "out"},
    ),
    "grouped convolution": (
        graph(x=IMAGE, a=conv(6, "x"), norm=(ops.BatchNorm2d(), "a"), g=conv(4, "norm", 2), b=conv(5, "g"), **head("b")),
        {"a": "g", "norm": "g", "g": "g", "fc": "out"},
    ),
    "skip by concatenation of the input": (
        graph(x=IMAGE, a=conv(5, "x"), xa=(ops.Concat(), "x a"), norm=(ops.BatchNorm2d(), "xa"), b=conv(5, "norm"), **head("b")),
        {"norm": "x", "fc": "out"},
    ),
    "gate of squeeze and excitation": (
        graph(
            x=IMAGE, a=conv(6, "x"), mean=(ops.AdaptivePool2d("avg", 1), "a"), narrow=conv(2, "mean"), wide=conv(6, "narrow"),
            gate=(ops.Activation("sigmoid"), "wide"), gated=(ops.Mul(), "gate a"), **head("gated"),
        ),
        {"fc": "out"},
    ),
    "gate on the input": (
        graph(
            x=IMAGE, mean=(ops.AdaptivePool2d("avg", 1), "x"), narrow=conv(2, "mean"), wide=conv(3, "narrow"),
            gate=(ops.Activation("sigmoid"), "wide"), gated=(ops.Mul(), "gate x"), **head("gated"),
        ),
        {"wide": "x", "fc": "out"},
    ),
    "positions behind a flatten": (
        graph(x=IMAGE, a=conv(2, "x"), flat=(ops.Flatten(), "a"), hidden=(ops.Linear(9), "flat"), fc=(ops.Linear(2), "hidden"),
              out=(ops.Output(), "fc")),
        {"fc": "out"},
    ),
    "positions behind a flatten times features": (
        graph(
            x=IMAGE, a=conv(2, "x"), flat=(ops.Flatten(), "a"), mean=(ops.GlobalPool2d(), "a"), f=(ops.Linear(32), "mean"),
            gated=(ops.Mul(), "flat f"), fc=(ops.Linear(2), "gated"), out=(ops.Output(), "fc"),
        ),
        {"a": "gated", "f": "gated", "fc": "out"},
    ),
    "parts that end between positions behind a flatten": (
        graph(
            x=IMAGE, a=conv(2, "x"), flat=(ops.Flatten(), "a"), mean=(ops.GlobalPool2d(), "a"), f=(ops.Linear(20), "mean"),
            g=(ops.Linear(12), "mean"), fg=(ops.Concat(), "f g"), mix=(ops.Mix(), "flat fg"), fc=(ops.Linear(2), "mix"),
            out=(ops.Output(), "fc"),
        ),
        {"a": "flat", "f": "flat", "g": "flat", "mix": "flat", "fc": "out"},
    ),
    "learnt gate before the output": (
        graph(
            x=(ops.Input((3,)), ""), a=(ops.Linear(2), "x"), b=(ops.Linear(2), "x"), mix=(ops.Mix(), "a b"), out=(ops.Output(), "mix")
        ),
        {"a": "out", "b": "out", "mix": "out"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_reason_names_the_node_that_fixes_the_layer(case: str) -> None:
    spec, fixed = CASES[case]
    reasons = {row.label: row.reason for row in coverage(spec) if not row.changeable}
    culprits = {name: spec[reason.split()[2]] for name, reason in reasons.items()}
    assert {name: node.label for name, node in culprits.items()} == fixed
    for name, node in culprits.items():
        assert reasons[name].startswith(f"fixed by {node.id} ({node.op.name}): ")
