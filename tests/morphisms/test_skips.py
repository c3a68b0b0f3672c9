"""Skips come and go."""

import pytest
import torch
from morphisms.helpers import (
    NETS,
    RELU,
    SHAPE,
    batch,
    calibrated,
    conv,
    difference,
    generator,
    graph,
    outputs,
    plain_net,
    second_gradients,
    tied_net,
    uneven_state,
)

from lightning_lemonade.graph import Add, Concat, Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Mix, Output, Pool2d
from lightning_lemonade.morphisms import AddSkip, ConcatSkip, Mutation, RemoveSkip, State, network_with

torch.set_num_threads(1)


def changed(mutation: Mutation, spec: GraphSpec, state: State, x: torch.Tensor) -> tuple[GraphSpec, State]:
    child = mutation.rewrite(spec)
    return child, mutation.transfer(spec, state, child, x, generator())


def test_skips_join_blocks_of_one_size() -> None:
    assert AddSkip.sites(plain_net()) == [("n3", "n6")]
    assert ConcatSkip.sites(plain_net()) == [("n3", "n6"), ("n7", "n10")]
    child = AddSkip("n3", "n6").rewrite(plain_net())
    assert child["n14"].op == Mix()
    assert child["n14"].inputs == ("n6", "n3")
    assert child["n7"].inputs == ("n14",)
    assert ("n3", "n6") not in AddSkip.sites(child) + ConcatSkip.sites(child)


def test_the_gate_learns() -> None:
    spec = plain_net()
    x = batch(spec, size=16)
    child, weights = changed(AddSkip("n3", "n6"), spec, uneven_state(spec), x)
    network = network_with(child, weights).train()
    network(x).square().sum().backward()
    assert network.n14.gate.grad.abs() > 1e-6
    assert weights["n14.gate"] == 1


@pytest.mark.parametrize("net", NETS)
def test_what_a_concat_adds_learns(net: str) -> None:
    spec = NETS[net]()
    x = batch(spec, size=16)
    state = calibrated(spec, uneven_state(spec), x)
    for site in ConcatSkip.sites(spec):
        child, weights = changed(ConcatSkip.at(site), spec, state, x)
        gradients = second_gradients(network_with(child, weights), x)
        grown = [name for name in gradients if name in state and weights[name].shape != state[name].shape]
        assert grown
        for name in grown:
            new = weights[name].ndim == 1 or weights[name].shape[0] != state[name].shape[0]
            rest = gradients[name][state[name].shape[0] :] if new else gradients[name][:, state[name].shape[1] :]
            assert (rest.flatten(1).abs().sum(1) if rest.ndim > 1 else rest.abs()).gt(0).any(), (site, name)


def through_depthwise() -> GraphSpec:
    """What reads n4 is a depthwise convolution and a concat that holds it twice."""
    return graph(
        (Input(SHAPE), []),
        (conv(4), [0]),
        (RELU, [1]),
        (conv(2), [2]),
        (RELU, [3]),
        (conv(2, groups=2, bias=True), [4]),
        (Concat(), [4, 5, 4]),
        (conv(5), [6]),
        (GlobalPool2d(), [7]),
        (Linear(3), [8]),
        (Output(), [9]),
    )


def test_a_concat_widens_what_passes_it_on() -> None:
    spec = through_depthwise()
    state, x = uneven_state(spec), batch(spec)
    child, weights = changed(ConcatSkip("n2", "n4"), spec, state, x)
    assert isinstance(child["n5"].op, Conv2d)
    assert child["n5"].op.groups == 6
    assert child.shapes["n6"][0] == 18
    old = [0, 1, 6, 7, 12, 13]
    assert weights["n7.weight"][:, old].equal(state["n7.weight"])
    assert not weights["n7.weight"][:, [i for i in range(18) if i not in old]].any()
    assert weights["n5.weight"][2:].any()
    assert weights["n5.weight"][:2].equal(state["n5.weight"])
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9


@pytest.mark.parametrize("net", NETS)
def test_remove_skip_undoes_add_skip_and_concat_skip(net: str) -> None:
    """Weights come back bit for bit; statistics are those that the parent has on this batch."""
    spec = NETS[net]()
    x = batch(spec)
    state = calibrated(spec, uneven_state(spec), x)
    for kind in (AddSkip, ConcatSkip):
        for source, target in kind.sites(spec):
            child, weights = changed(kind(source, target), spec, state, x)
            join = spec.fresh_ids(1)[0]
            assert (join, source) in RemoveSkip.sites(child)
            again, restored = changed(RemoveSkip(join, source), child, weights, x)
            assert again == spec
            assert restored.keys() == state.keys()
            assert all(restored[name].equal(state[name]) for name in state if "running_" not in name)
            assert difference(outputs(spec, state, x), outputs(again, restored, x)) < 1e-9


def test_undone_through_a_depthwise_convolution() -> None:
    spec = through_depthwise()
    state, x = uneven_state(spec), batch(spec)
    child, weights = changed(ConcatSkip("n2", "n4"), spec, state, x)
    again, restored = changed(RemoveSkip("n11", "n2"), child, weights, x)
    assert again == spec
    assert all(restored[name].equal(state[name]) for name in state)


def test_one_of_three_summands_goes() -> None:
    spec = graph(
        (Input(SHAPE), []),
        (conv(4), [0]),
        (RELU, [1]),
        (conv(4), [2]),
        (conv(4), [2]),
        (Add(), [2, 3, 4]),
        (RELU, [5]),
        (GlobalPool2d(), [6]),
        (Linear(3), [7]),
        (Output(), [8]),
    )
    assert RemoveSkip.sites(spec) == [("n5", "n2")]
    child = RemoveSkip("n5", "n2").rewrite(spec)
    assert child["n5"].inputs == ("n3", "n4")
    assert RemoveSkip.sites(child) == []


def test_the_last_summand_takes_the_place_of_the_sum() -> None:
    child = RemoveSkip("n10", "n3").rewrite(tied_net())
    assert "n10" not in child
    assert child["n11"].inputs == ("n9",)


def test_what_nothing_else_reads_stays() -> None:
    assert RemoveSkip.sites(tied_net()) == [("n10", "n3")]


def test_no_join_is_left_reading_a_node_twice() -> None:
    spec = graph(
        (Input(SHAPE), []),
        (conv(4), [0]),
        (RELU, [1]),
        (conv(4), [2]),
        (Add(), [2, 3]),
        (Add(), [3, 4]),
        (Pool2d("avg", (2, 2), (2, 2)), [5]),
        (GlobalPool2d(), [6]),
        (Linear(3), [7]),
        (Output(), [8]),
    )
    assert ("n4", "n2") not in RemoveSkip.sites(spec)
    assert ("n4", "n3") in RemoveSkip.sites(spec)
