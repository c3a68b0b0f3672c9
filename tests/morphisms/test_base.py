"""Mutations as data: JSON, sites, errors."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from morphisms.helpers import RELU, SHAPE, batch, concat_net, conv, difference, generator, graph, outputs, plain_net, tied_net, uneven_state

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Flatten, Input, Linear, Output, build
from lightning_lemonade.graph.ops import MAX_SIZE
from lightning_lemonade.morphisms import (
    KINDS,
    AddSkip,
    ConcatSkip,
    GrowKernel,
    InsertBottleneck,
    InsertConvBlock,
    InsertSeparableBlock,
    InsertSqueezeExcite,
    Mutation,
    PruneFilters,
    RemoveLayer,
    RemoveSkip,
    SplitConv,
    ToSeparable,
    Widen,
    mutation_from_dict,
    network_with,
)
from lightning_lemonade.spaces import conv_net

DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "mutation",
    [
        Widen("n1"),
        Widen(("n1", "n4"), factor=1.5),
        Widen("n1", width=7, init="duplicate"),
        InsertSeparableBlock("n3", kernel_size=5),
        InsertBottleneck("n3", reduction=2),
        InsertSqueezeExcite(("n3", "n6")),
        GrowKernel("n1", by=4),
        SplitConv("n1"),
        PruneFilters("n1", fraction=0.25),
        InsertConvBlock(("n3", "n6"), kernel_size=5),
        AddSkip(("n3", "n6"), ("n6", "n9")),
        ConcatSkip("n3", "n6"),
        RemoveLayer(("n4",)),
        RemoveSkip("n10", "n3"),
        ToSeparable(("n1", "n4")),
    ],
    ids=str,
)
def test_json_round_trip(mutation: Mutation) -> None:
    again = mutation_from_dict(json.loads(json.dumps(mutation.to_dict())))
    assert again == mutation
    assert hash(again) == hash(mutation)
    assert again.places == mutation.places
    assert mutation_from_dict(mutation.to_dict()) == mutation


def test_one_site_is_written_in_one_way() -> None:
    assert Widen(("n1",)) == Widen("n1") == Widen(["n1"])  # type: ignore[arg-type]
    assert Widen("n1").places == (("n1",),)
    assert AddSkip(("n1", "n2"), ("n3", "n4")).places == (("n1", "n3"), ("n2", "n4"))
    assert str(AddSkip("n1", "n3")) == "add_skip(n1>n3)"
    assert str(Widen("n1")) == "widen(n1, factor=2.0)"
    assert str(InsertConvBlock(("n3", "n6"), kernel_size=5)) == "insert_conv_block(n3 n6, kernel_size=5)"
    assert str(InsertConvBlock("n3")) == "insert_conv_block(n3)"


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "widen",
        {},
        {"kind": None},
        {"kind": ["widen"]},
        {"kind": "unknown"},
        {"kind": 10**5000},
        {"kind": "widen"},
        {"kind": "widen", "node": 3},
        {"kind": "widen", "node": None},
        {"kind": "widen", "node": []},
        {"kind": "widen", "node": ["n1", 2]},
        {"kind": "widen", "node": ["n1", "n1"]},
        {"kind": "widen", "node": {"n1": 1}},
        {"kind": "widen", "node": 10**5000},
        {"kind": "widen", "node": DEEP},
        {"kind": "widen", "node": ["n1"] * 5000},
        {"kind": "widen", "node": "n1", "factor": 1},
        {"kind": "widen", "node": "n1", "factor": "2"},
        {"kind": "widen", "node": "n1", "factor": True},
        {"kind": "widen", "node": "n1", "factor": float("nan")},
        {"kind": "widen", "node": "n1", "factor": float("inf")},
        {"kind": "widen", "node": "n1", "factor": 10**5000},
        {"kind": "widen", "node": "n1", "factor": DEEP},
        {"kind": "widen", "node": "n1", "more": 1},
        {"kind": "widen", "node": "n1", 3: 1},
        {"kind": "widen", "node": "n1", 10**5000: 1},
        {"kind": "widen", "node": "n1", "factor": 2, "width": 8},
        {"kind": "widen", "node": "n1", "width": 2.5},
        {"kind": "widen", "node": "n1", "init": ["he"]},
        {"kind": "grow_kernel", "node": "n1", "by": 3},
        {"kind": "insert_bottleneck", "node": "n1", "reduction": 0},
        {"kind": "prune_filters", "node": "n1", "fraction": 0},
        {"kind": "prune_filters", "node": "n1", "fraction": 1},
        {"kind": "prune_filters", "node": "n1", "fraction": 0.5, "width": 2},
        {"kind": "prune_filters", "node": "n1", "mode": "worst"},
        {"kind": "insert_conv_block", "node": "n1", "kernel_size": 2},
        {"kind": "insert_conv_block", "node": "n1", "kernel_size": 33},
        {"kind": "insert_conv_block", "node": "n1", "kernel_size": 3.0},
        {"kind": "insert_conv_block", "node": "n1", "kernel_size": [3]},
        {"kind": "add_skip", "source": "n1"},
        {"kind": "add_skip", "source": "n1", "target": ["n2", "n3"]},
        {"kind": "remove_skip", "node": ["n1", "n1"], "source": ["n2", "n2"]},
    ],
)
def test_malformed_data(data: object) -> None:
    with pytest.raises(MutationError) as caught:
        mutation_from_dict(data)
    assert 10 < len(str(caught.value)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["n1", "n2"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)
fields = st.sampled_from(["node", "source", "target", "factor", "fraction", "kernel_size", "x"])


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(KINDS)), st.dictionaries(fields, json_values, max_size=4))
def test_any_data_gives_a_mutation_or_a_mutation_error(kind: str, data: dict[str, object]) -> None:
    try:
        mutation = mutation_from_dict({"kind": kind, **data})
    except MutationError:
        return
    assert mutation_from_dict(json.loads(json.dumps(mutation.to_dict()))) == mutation
    with pytest.raises(MutationError):
        mutation.rewrite(graph((Input(SHAPE), []), (Flatten(), [0]), (Output(), [1])))


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_wrong_site_is_named(kind: type[Mutation]) -> None:
    spec = plain_net()
    wrong = [tuple(["n99"] * len(kind.site_fields)), tuple(["n0"] * len(kind.site_fields)), tuple(["x" * 5000] * len(kind.site_fields))]
    for site in wrong:
        with pytest.raises(MutationError, match=rf"{kind.kind} doesn't apply at \w+='(n99|n0|xx)") as caught:
            kind.at(site).rewrite(spec)
        assert "sites(spec)" in str(caught.value)
        assert len(str(caught.value)) < 500


def test_a_graph_out_of_bounds_is_a_mutation_error() -> None:
    wide = graph((Input((4,)), []), (Linear(MAX_SIZE // 2 + 1), [0]), (Linear(2), [1]), (Output(), [2]))
    with pytest.raises(MutationError, match="no valid graph: out_features must be between"):
        Widen("n1").rewrite(wide)
    images = graph((Input(SHAPE), []), (conv(MAX_SIZE // 2 + 1), [0]), (RELU, [1]), (Flatten(), [2]), (Linear(2), [3]), (Output(), [4]))
    with pytest.raises(MutationError, match="no valid graph"):
        Widen("n1").rewrite(images)


def test_transfer_refuses_what_does_not_fit() -> None:
    spec = plain_net()
    state, x, mutation = uneven_state(spec), batch(spec), Widen("n1")
    child = mutation.rewrite(spec)
    with pytest.raises(MutationError, match="isn't what this mutation makes"):
        mutation.transfer(spec, state, Widen("n4").rewrite(spec), x, generator())
    for wrong in (x[:1], x[:0], x[:, :2], x.flatten(1), torch.tensor([1.0, 2.0])):
        with pytest.raises(MutationError, match="calibration batch must have the shape"):
            mutation.transfer(spec, state, child, wrong, generator())
    with pytest.raises(MutationError, match="don't belong to this network"):
        mutation.transfer(spec, {name: state[name] for name in state if not name.startswith("n4")}, child, x, generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("train", [True, False])
def test_apply_keeps_precision_and_mode(dtype: torch.dtype, train: bool) -> None:
    spec = plain_net()
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in uneven_state(spec).items()}
    network = network_with(spec, state).train(train)
    for mutation in (InsertConvBlock("n3"), Widen("n1"), AddSkip("n3", "n6"), ConcatSkip("n3", "n6"), ToSeparable("n4"), RemoveLayer("n4")):
        changed = mutation.apply(network, batch(spec).float(), generator())
        assert changed.training is train
        assert all(p.requires_grad and p.is_leaf and p.dtype == dtype for p in changed.parameters()), mutation
        changed(batch(spec).to(dtype)).sum().backward()


def test_many_sites_are_the_same_change_at_each() -> None:
    spec = plain_net()
    for kind in (InsertConvBlock, ToSeparable, Widen, PruneFilters):
        places = [site[0] for site in kind.sites(spec)][:2]
        step = kind(places[1]).rewrite(kind(places[0]).rewrite(spec))
        assert kind(tuple(places)).rewrite(spec).structural_hash == step.structural_hash


@pytest.mark.parametrize(
    ("mutation", "net"), [(Widen(("n1", "n8", "n7")), tied_net), (Widen(("n3", "n1")), concat_net)], ids=["tied", "concat"]
)
def test_many_sites_keep_the_function(mutation: Mutation, net: object) -> None:
    spec = tied_net() if net is tied_net else concat_net()
    state, x, child = uneven_state(spec), batch(spec), mutation.rewrite(spec)
    assert difference(outputs(spec, state, x), outputs(child, mutation.transfer(spec, state, child, x, generator()), x)) < 1e-9


def test_tied_layers_change_once() -> None:
    spec = tied_net()
    assert Widen(("n1", "n8")).rewrite(spec) == Widen("n1").rewrite(spec) == Widen("n8").rewrite(spec)
    assert PruneFilters(("n8", "n1")).rewrite(spec) == PruneFilters("n1").rewrite(spec)
    assert Widen(("n1", "n8", "n7")).rewrite(spec) == Widen("n7").rewrite(Widen("n1").rewrite(spec))


def test_a_kind_belongs_to_one_class() -> None:
    with pytest.raises(TypeError, match="belongs to Widen"):

        @dataclass(frozen=True)
        class Other(Widen):
            kind = "widen"


def test_values_that_are_not_finite_are_refused_rather_than_inherited() -> None:
    spec = conv_net((1, 8, 8), 3, 4, separable=False)
    x, draws = torch.randn(16, 1, 8, 8), torch.Generator()
    network = build(spec)
    for kind in ("insert_conv_block", "widen", "prune_filters", "to_separable"):
        mutation = KINDS[kind].at(KINDS[kind].sites(spec)[0])
        with pytest.raises(MutationError, match="calibration batch holds values that aren't finite"):
            mutation.apply(network, x.clone().fill_(float("nan")), draws)
    spoilt = copy.deepcopy(network)
    with torch.no_grad():
        spoilt.get_submodule("n5").weight[0] = float("nan")
    for kind in ("prune_filters", "to_separable"):
        with pytest.raises(MutationError, match=r"finite"):
            KINDS[kind].at(("n5",)).apply(spoilt, x, draws)


def test_what_is_frozen_stays_frozen() -> None:
    network = build(conv_net((1, 8, 8), 3, 4, separable=False))
    network.get_submodule("n1").requires_grad_(False)
    child = InsertConvBlock("n7").apply(network, torch.randn(16, 1, 8, 8), torch.Generator())
    frozen = [name for name, parameter in child.named_parameters() if not parameter.requires_grad]
    assert frozen == ["n1.weight"]


@pytest.mark.parametrize("batch", [[torch.zeros(1, 8, 8)], (torch.randn(4, 1, 8, 8), torch.zeros(4))])
def test_a_batch_that_is_no_tensor_is_told(batch: object) -> None:
    network = build(conv_net((1, 8, 8), 3, 4, separable=False))
    with pytest.raises(MutationError, match="a tensor of samples alone"):
        InsertConvBlock("n3").apply(network, batch, torch.Generator())  # type: ignore[arg-type]
    with pytest.raises(MutationError, match="NoneType"):
        InsertConvBlock("n3").apply(network, torch.randn(4, 1, 8, 8), None)  # type: ignore[arg-type]
