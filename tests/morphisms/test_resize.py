"""Widening: tied layers, offsets, flattens; new filters live."""

from math import prod

import pytest
import torch
from morphisms.helpers import (
    NETS,
    RELU,
    SHAPE,
    bare_net,
    batch,
    calibrated,
    concat_net,
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
from torch import Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Add, BatchNorm2d, Concat, Conv2d, Flatten, GlobalPool2d, GraphSpec, Input, Linear, Output
from lightning_lemonade.morphisms import State, Widen, network_with
from lightning_lemonade.morphisms.maps import NEW, shares

torch.set_num_threads(1)


def widened(spec: GraphSpec, state: State, mutation: Widen, seed: int = 0) -> tuple[GraphSpec, State]:
    child = mutation.rewrite(spec)
    return child, mutation.transfer(spec, state, child, batch(spec), generator(seed))


@pytest.mark.parametrize(("factor", "width"), [(2.0, 8), (1.1, 5), (1.5, 6), (2, 8), (1.25, 5)])
def test_widths_are_rounded_up(factor: float, width: int) -> None:
    child = Widen("n1", factor=factor).rewrite(plain_net())
    assert child.shapes["n1"] == (width, 6, 6)
    assert child["n4"].op == plain_net()["n4"].op


def test_rounding_errors_add_no_filter() -> None:
    spec = graph((Input((3,)), []), (Linear(10), [0]), (Linear(2), [1]), (Output(), [2]))
    assert Widen("n1", factor=1.1).rewrite(spec).shapes["n1"] == (11,)


def test_a_group_that_stands_twice_in_a_concat() -> None:
    spec = concat_net()
    child, weights = widened(spec, uneven_state(spec), Widen("n1"))
    assert [child.shapes[i][0] for i in ("n1", "n3", "n5", "n7", "n9")] == [8, 3, 19, 19, 5]
    assert isinstance(child["n7"].op, Conv2d)
    assert child["n7"].op.groups == 19
    old = [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14]
    new = [i for i in range(19) if i not in old]
    assert weights["n9.weight"][:, old].equal(uneven_state(spec)["n9.weight"])
    assert not weights["n9.weight"][:, new].any()
    assert weights["n6.bias"][old].equal(uneven_state(spec)["n6.bias"])


def test_a_layer_that_holds_a_group_twice() -> None:
    spec = graph(
        (Input(SHAPE), []),
        (conv(2), [0]),
        (Concat(), [1, 1]),
        (conv(4), [2]),
        (Add(), [2, 3]),
        (RELU, [4]),
        (GlobalPool2d(), [5]),
        (Linear(3), [6]),
        (Output(), [7]),
    )
    state, x = uneven_state(spec), batch(spec)
    assert Widen("n1").rewrite(spec) == Widen("n3").rewrite(spec)
    child, weights = widened(spec, state, Widen("n3"))
    assert child.shapes["n1"][0] == 4
    assert child.shapes["n3"][0] == 8
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9


def test_residual_groups_widen_together() -> None:
    child, weights = widened(tied_net(), uneven_state(tied_net()), Widen("n8"))
    assert [child.shapes[i][0] for i in ("n1", "n4", "n8", "n7", "n10")] == [8, 8, 8, 6, 8]
    assert weights["n4.weight"].shape == (8, 1, 3, 3)


def positions(spec: GraphSpec, node_id: str) -> int:
    """How many features each channel has where a layer reads it."""
    source = spec[spec[node_id].inputs[0]]
    return prod(spec.input_shapes(source.id)[0][1:]) if isinstance(source.op, Flatten) else 1


def new_units(child: GraphSpec, parent: GraphSpec, gradients: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """For each grown tensor, the gradients of its new rows and of its new columns, summed over the rest of the tensor."""
    found = []
    for name, gradient in gradients.items():
        node_id, _, kind = name.partition(".")
        if kind != "weight" or node_id not in parent:
            continue
        grown = gradient.abs().flatten(2).sum(2) if gradient.ndim > 2 else gradient.abs()
        if (rows := parent.shapes[node_id][0]) < child.shapes[node_id][0]:
            found.append((name, grown[rows:].flatten(1).sum(1) if grown.ndim > 1 else grown[rows:]))
        wider = child.input_shapes(node_id)[0][0] - parent.input_shapes(node_id)[0][0]
        if wider and grown.ndim > 1 and grown.shape[1] > 1:
            found.append((name, grown[:, -wider:].sum(0).reshape(-1, positions(child, node_id)).sum(1)))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("net", ["plain", "bare", "tied"])
def test_new_units_learn(net: str, seed: int) -> None:
    """Also where no batch norm keeps them from falling silent behind a ReLU, and the input is never negative."""
    spec = NETS[net]()
    x = batch(spec, size=16).abs()
    for site in Widen.sites(spec):
        state = calibrated(spec, uneven_state(spec, seed), x)
        mutation = Widen.at(site, factor=3)
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, x, generator(seed))
        units = new_units(child, spec, second_gradients(network_with(child, weights), x))
        assert units
        for name, gradients in units:
            assert (gradients > 0).all(), (site, name, gradients)


@pytest.mark.parametrize("seed", range(8))
def test_silent_filters_are_turned(seed: int) -> None:
    spec = bare_net()
    x = batch(spec).abs()
    mutation = Widen("n1", factor=8)
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, uneven_state(spec), child, x, generator(seed))
    values = torch.nn.functional.conv2d(x, weights["n1.weight"], weights["n1.bias"])[:, 4:]
    assert ((values > 0).sum((0, 2, 3)) > 0).all()


def test_a_layer_of_zeros_grows_live_filters() -> None:
    spec = plain_net()
    state = uneven_state(spec)
    for name in ("n1.weight", "n2.weight"):
        state[name] = torch.zeros_like(state[name])
    _, weights = widened(spec, state, Widen("n1"))
    assert weights["n1.weight"][4:].any()
    assert (weights["n2.weight"][4:] == 1).all()


def test_a_convolution_right_before_a_flatten() -> None:
    spec = bare_net()
    state, x = uneven_state(spec), batch(spec)
    child, weights = widened(spec, state, Widen("n3", factor=1.2))
    assert child.shapes["n4"] == (6 * 36,)
    assert weights["n5.weight"][:, : 5 * 36].equal(state["n5.weight"])
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9


def test_frozen_layers_are_no_sites() -> None:
    spec = graph(
        (Input((4, 6, 6)), []),
        (conv(4), [0]),
        (Add(), [0, 1]),
        (conv(4), [2]),
        (Conv2d(8, (1, 1), groups=2), [3]),
        (BatchNorm2d(), [4]),
        (Flatten(), [5]),
        (Linear(3), [6]),
        (Output(), [7]),
    )
    assert Widen.sites(spec) == []


@pytest.mark.parametrize("width", [5, 6, 9, 100])
def test_a_layer_gets_any_width(width: int) -> None:
    for spec, node in ((plain_net(), "n1"), (bare_net(), "n5"), (tied_net(), "n8"), (tied_net(), "n1")):
        if width > spec.shapes[node][0]:
            assert Widen(node, width=width).rewrite(spec).shapes[node] == (width, *spec.shapes[node][1:])


def test_a_factor_or_a_width() -> None:
    assert Widen("n1") == Widen("n1", factor=2.0)
    assert str(Widen("n1", width=7)) == "widen(n1, width=7)"
    assert Widen("n1", width=7).to_dict() == {"kind": "widen", "node": "n1", "width": 7, "init": "he"}
    with pytest.raises(MutationError, match="a factor or a width, not both"):
        Widen("n1", factor=2, width=8)
    for wrong in (0, 1, 2.5, True, "8", 2**21):
        with pytest.raises(MutationError, match="width must be"):
            Widen("n1", width=wrong)  # type: ignore[arg-type]
    with pytest.raises(MutationError, match="n1 can't get 4 filters: it has 4"):
        Widen("n1", width=4).rewrite(plain_net())
    with pytest.raises(MutationError, match="init must be one of"):
        Widen("n1", init="zero")  # type: ignore[arg-type]


def test_tied_layers_get_their_width_together() -> None:
    child = Widen(("n1", "n8"), width=9).rewrite(tied_net())
    assert child == Widen("n1", width=9).rewrite(tied_net())
    assert child.shapes["n8"][0] == 9
    child = Widen(("n1", "n7"), width=9).rewrite(tied_net())
    assert [child.shapes[i][0] for i in ("n1", "n7", "n8")] == [9, 9, 9]


def joined_twice() -> GraphSpec:
    """n3 has the channels of n1, twice, and is added to their concat."""
    layers = [(Input(SHAPE), []), (conv(2), [0]), (Concat(), [1, 1]), (conv(4), [2]), (Add(), [2, 3]), (RELU, [4]), (GlobalPool2d(), [5])]
    return graph(*layers, (Linear(3), [6]), (Output(), [7]))


def test_a_width_that_tied_channels_cannot_make_is_refused_with_one_that_they_can() -> None:
    with pytest.raises(MutationError, match="n3 can't get 7 filters: its channels are tied to others; 6 would do"):
        Widen("n3", width=7).rewrite(joined_twice())
    assert Widen("n3", width=6).rewrite(joined_twice()).shapes["n1"][0] == 3


def test_a_layer_of_several_groups_divides_its_gain() -> None:
    layers = [
        (Input(SHAPE), []),
        (conv(2), [0]),
        (conv(6), [0]),
        (Concat(), [1, 2]),
        (conv(8), [3]),
        (Add(), [3, 4]),
        (GlobalPool2d(), [5]),
    ]
    spec = graph(*layers, (Linear(3), [6]), (Output(), [7]))
    for width in range(9, 40):
        child = Widen("n4", width=width).rewrite(spec)
        narrow, wide = child.shapes["n1"][0], child.shapes["n2"][0]
        assert narrow + wide == width == child.shapes["n4"][0]
        assert abs(narrow - width / 4) <= 1


@pytest.mark.parametrize("init", ["scaled", "he", "duplicate"])
@pytest.mark.parametrize("net", NETS)
def test_every_init_keeps_the_function(net: str, init: str) -> None:
    spec = NETS[net]()
    state, x = uneven_state(spec), batch(spec)
    for site in Widen.sites(spec):
        child, weights = widened(spec, state, Widen.at(site, factor=2.6, init=init))
        for train in (False, True):
            assert difference(outputs(spec, state, x, train=train), outputs(child, weights, x, train=train)) < 1e-12


def test_he_filters_have_their_variance() -> None:
    spec = graph((Input((64, 4, 4)), []), (conv(4), [0]), (GlobalPool2d(), [1]), (Linear(3), [2]), (Output(), [3]))
    _, weights = widened(spec, uneven_state(spec), Widen("n1", width=64, init="he"))
    assert weights["n1.weight"][4:].std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_duplicates_share_unevenly_and_part() -> None:
    spec = plain_net()
    x = batch(spec, size=16)
    state = calibrated(spec, uneven_state(spec), x)
    child, weights = widened(spec, state, Widen("n1", init="duplicate"))
    source = [int((state["n1.weight"] == row).flatten(1).all(1).nonzero()) for row in weights["n1.weight"][4:]]
    assert sorted(source) == [0, 1, 2, 3]
    assert weights["n4.weight"][:, 4:].equal(0.3 * state["n4.weight"][:, source]) or torch.allclose(
        weights["n4.weight"][:, 4:], 0.3 * state["n4.weight"][:, source]
    )
    gradients = second_gradients(network_with(child, weights), x)["n1.weight"]
    assert all((gradients[4 + i] - gradients[k]).abs().max() > 1e-3 * gradients[k].abs().max() for i, k in enumerate(source))


def test_shares_add_up() -> None:
    mapping = torch.tensor([0, 1, 2, NEW, 1, 2, 2, NEW])
    found = shares(mapping)
    assert found[[0, 3, 7]].tolist() == [1, 1, 1]
    assert found[[1, 4]].tolist() == pytest.approx([0.7, 0.3])
    assert found[[2, 5, 6]].tolist() == pytest.approx([0.7 / 1.5, 0.5 / 1.5, 0.3 / 1.5])


@pytest.mark.parametrize("bias", [0.0, -0.5])
def test_filters_that_only_see_padding_learn_by_their_bias(bias: float) -> None:
    layers = [Input((1, 1, 5)), Conv2d(3, (1, 3), (2, 1), (1, 1)), Conv2d(3, (2, 2), bias=False), Flatten(), Linear(3), Output()]
    spec = graph(*((op, [i - 1] if i else []) for i, op in enumerate(layers)))
    state, x = uneven_state(spec), batch(spec)
    state["n1.bias"] = torch.full_like(state["n1.bias"], bias)
    child, weights = widened(spec, state, Widen("n1"))
    assert (weights["n1.bias"][3:] == (abs(bias) or 0.01)).all()
    assert (second_gradients(network_with(child, weights), x)["n1.bias"][3:] != 0).all()


def test_a_turned_filter_keeps_its_bias() -> None:
    spec = bare_net()
    state, x = uneven_state(spec), batch(spec).abs()
    mutation = Widen("n1", factor=8)
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    assert torch.allclose(weights["n1.bias"][4:], state["n1.bias"].abs().mean())
    values = torch.nn.functional.conv2d(x, weights["n1.weight"], weights["n1.bias"])[:, 4:]
    assert (20 * (values > 0).sum((0, 2, 3)) >= (values < 0).sum((0, 2, 3))).all()
