"""Layers go."""

import pytest
import torch
from morphisms.helpers import RELU, SHAPE, batch, calibrated, conv, difference, generator, graph, outputs, plain_net, tied_net, uneven_state

from lightning_lemonade.graph import Add, GlobalPool2d, Input, Linear, Output
from lightning_lemonade.morphisms import InsertConvBlock, RemoveLayer
from lightning_lemonade.morphisms.remove import layer_block

torch.set_num_threads(1)


def test_where_layers_can_go() -> None:
    assert RemoveLayer.sites(plain_net()) == [("n1",), ("n4",), ("n8",)]
    assert RemoveLayer.sites(tied_net()) == [("n4",), ("n7",)]
    child = RemoveLayer("n4").rewrite(plain_net())
    assert child["n7"].inputs == ("n3",)
    assert not {"n4", "n5", "n6"} & set(child.by_id)


@pytest.mark.parametrize("node", ["n3", "n6", "n10"])
def test_an_inserted_block_goes_again(node: str) -> None:
    spec = plain_net()
    x = batch(spec, size=64)
    state = calibrated(spec, uneven_state(spec), x)
    insert, remove = InsertConvBlock(node), RemoveLayer("n14")
    child = insert.rewrite(spec)
    weights = insert.transfer(spec, state, child, x, generator())
    assert ("n14",) in RemoveLayer.sites(child)
    again = remove.rewrite(child)
    restored = remove.transfer(child, weights, again, x, generator())
    assert again == spec
    assert all(restored[name].equal(state[name]) for name in state if "running_" not in name)
    assert difference(outputs(spec, state, x), outputs(again, restored, x)) < 1e-9


def test_statistics_below_are_those_of_the_new_inputs() -> None:
    spec = plain_net()
    x, state, mutation = batch(spec), uneven_state(spec), RemoveLayer("n4", mode="simple")
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    after = calibrated(child, weights, x)
    assert torch.allclose(after["n9.running_mean"], weights["n9.running_mean"])
    assert not weights["n9.running_mean"].equal(state["n9.running_mean"])
    assert all(weights[name].equal(state[name]) for name in weights if name.startswith(("n1.", "n2.", "n8.", "n12.")))


def test_a_block_ends_where_others_read() -> None:
    spec = tied_net()
    assert layer_block(spec, "n4") == ["n4", "n5", "n6"]
    assert layer_block(spec, "n8") == ["n8", "n9"]
    assert layer_block(spec, "n7") == ["n7"]


def test_no_join_is_left_reading_a_node_twice() -> None:
    spec = graph(
        (Input(SHAPE), []),
        (conv(4), [0]),
        (RELU, [1]),
        (conv(4), [2]),
        (RELU, [3]),
        (Add(), [2, 4]),
        (GlobalPool2d(), [5]),
        (Linear(4), [6]),
        (RELU, [7]),
        (Linear(3), [8]),
        (Output(), [9]),
    )
    assert ("n3",) not in RemoveLayer.sites(spec)
    assert ("n7",) in RemoveLayer.sites(spec)
    assert RemoveLayer("n7").rewrite(spec)["n9"].inputs == ("n6",)


def test_many_layers_at_once() -> None:
    spec = InsertConvBlock(("n3", "n6")).rewrite(plain_net())
    mutation = RemoveLayer(("n14", "n17", "n4"))
    state = uneven_state(spec)
    child = mutation.rewrite(spec)
    assert len(child) == len(spec) - 9
    assert outputs(child, mutation.transfer(spec, state, child, batch(spec), generator()), batch(spec)).isfinite().all()
