"""Layers go."""

import pytest
import torch
from morphisms.helpers import RELU, SHAPE, batch, calibrated, conv, difference, generator, graph, outputs, plain_net, tied_net, uneven_state

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Add, BatchNorm2d, Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Op, Output
from lightning_lemonade.morphisms import InsertConvBlock, RemoveLayer
from lightning_lemonade.morphisms.remove import layer_block, mean_response

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


def between(layer: Conv2d, reader: Conv2d) -> GraphSpec:
    """A layer without activation, and one that reads it; no padding, so that nothing happens at the border."""
    return graph(
        (Input((3, 12, 12)), []), (conv(4), [0]), (RELU, [1]), (layer, [2]), (reader, [3]), (RELU, [4]), (GlobalPool2d(), [5]),
        (Linear(3), [6]), (Output(), [7]),
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["best", "cheap"])
@pytest.mark.parametrize("width", [4, 6, 9])
def test_a_linear_layer_between_others_is_spared_without_loss(mode: str, width: int) -> None:
    """Whatever its width, the next layer can do its part."""
    spec = between(Conv2d(width, (1, 1)), Conv2d(5, (3, 3)))
    state, x, mutation = uneven_state(spec), batch(spec, size=64), RemoveLayer("n3", mode=mode)
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    assert weights["n4.weight"].shape == (5, 4, 3, 3)
    assert weights["n1.weight"] is state["n1.weight"]
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-6


@pytest.mark.parametrize("groups", [1, 4])
def test_the_next_layer_takes_over_a_stride(groups: int) -> None:
    spec = between(Conv2d(4, (1, 1), (2, 2), groups=groups), Conv2d(5, (3, 3), dilation=(1, 1)))
    wider = between(Conv2d(4, (1, 1), (2, 2), groups=groups), Conv2d(5, (1, 1)))
    assert ("n3",) in RemoveLayer.sites(wider)
    child = RemoveLayer("n3").rewrite(wider)
    assert child["n4"].op == Conv2d(5, (1, 1), (2, 2))
    state, x = uneven_state(wider), batch(wider, size=64)
    weights = RemoveLayer("n3").transfer(wider, state, child, x, generator())
    assert difference(outputs(wider, state, x), outputs(child, weights, x)) < 1e-6
    assert ("n3",) not in RemoveLayer.sites(spec) or RemoveLayer("n3").rewrite(spec).shapes["n4"] == spec.shapes["n4"]


def test_a_global_pool_takes_any_size() -> None:
    spec = graph(
        (Input((3, 12, 12)), []), (conv(4), [0]), (RELU, [1]), (Conv2d(4, (3, 3), (2, 2)), [2]), (RELU, [3]), (GlobalPool2d(), [4]),
        (Linear(3), [5]), (Output(), [6]),
    )  # fmt: skip
    child = RemoveLayer("n3").rewrite(spec)
    assert child["n5"].inputs == ("n2",)
    x = batch(spec, size=16)
    assert outputs(child, RemoveLayer("n3").transfer(spec, uneven_state(spec), child, x, generator()), x).isfinite().all()


def test_what_needs_its_shape_bars_the_removal() -> None:
    def followed_by(*nodes: tuple[Op, list[int]]) -> GraphSpec:
        last = 3 + len(nodes)
        head = [(GlobalPool2d(), [last - 1]), (Linear(3), [last]), (Output(), [last + 1])]
        return graph((Input((3, 12, 12)), []), (conv(4), [0]), (conv(6), [1]), *nodes, *head)

    assert ("n2",) in RemoveLayer.sites(followed_by((RELU, [2])))
    assert ("n2",) not in RemoveLayer.sites(followed_by((RELU, [2]), (BatchNorm2d(), [3])))
    assert ("n2",) not in RemoveLayer.sites(followed_by((conv(6, groups=6), [2]), (RELU, [3])))
    assert ("n2",) not in RemoveLayer.sites(followed_by((conv(6), [2]), (Add(), [2, 3])))


def test_the_only_layer_stays() -> None:
    spec = graph((Input((3,)), []), (Linear(3), [0]), (RELU, [1]), (Output(), [2]))
    assert RemoveLayer.sites(spec) == []
    two = graph((Input((3,)), []), (Linear(3), [0]), (RELU, [1]), (Linear(3), [2]), (Output(), [3]))
    assert RemoveLayer.sites(two) == [("n1",), ("n3",)]
    with pytest.raises(MutationError):
        RemoveLayer(("n1", "n3")).rewrite(two)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_response_to_the_mean(groups: int) -> None:
    spec = between(Conv2d(6, (3, 3), groups=groups, bias=False), Conv2d(5, (1, 1)))
    state = uneven_state(spec)
    value = torch.randn(2, 4, 1, 1, generator=generator(), dtype=torch.float64)
    made = torch.nn.functional.conv2d(value.expand(2, 4, 3, 3), state["n3.weight"], groups=groups)
    assert torch.allclose(made[:, :, 0, 0], value[:, :, 0, 0] @ mean_response(spec, state, "n3").T)
