"""New branches: without effect at first, and all of it learns."""

import pytest
import torch
from morphisms.helpers import (
    NETS,
    SHAPE,
    batch,
    calibrated,
    conv,
    difference,
    generator,
    graph,
    outputs,
    plain_net,
    uneven_state,
)
from strategies import node_outputs

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import AdaptivePool2d, Add, GlobalPool2d, Input, Linear, Mix, Mul, Output, Pool2d
from lightning_lemonade.morphisms import InsertBottleneck, InsertSqueezeExcite, Mutation, network_with
from lightning_lemonade.testing.properties import check_learning

torch.set_num_threads(1)
KINDS = [InsertBottleneck, InsertSqueezeExcite]


def test_sites_are_the_ends_of_blocks() -> None:
    assert InsertBottleneck.sites(plain_net()) == InsertSqueezeExcite.sites(plain_net()) == [("n3",), ("n6",), ("n7",), ("n10",)]


def test_no_branch_where_a_batch_norm_or_a_scale_would_have_nothing_to_do() -> None:
    layers = [Input(SHAPE), conv(1), Pool2d("max", 2, 2), AdaptivePool2d("avg", 1), conv(4, 1), Pool2d("max", 1, 1), GlobalPool2d()]
    spec = graph(*((op, [i - 1] if i else []) for i, op in enumerate([*layers, Linear(3), Output()])))
    assert InsertBottleneck.sites(spec) == []
    assert InsertSqueezeExcite.sites(spec) == [("n2",)]


def test_the_bottleneck_is_added() -> None:
    child = InsertBottleneck("n3", kernel_size=5).rewrite(plain_net())
    assert child["n22"].op == Add()
    assert child["n22"].inputs == ("n3", "n21")
    assert [child[i].op for i in ("n14", "n17", "n20")] == [conv(4, 1), conv(4, 5), conv(4, 1)]
    assert child["n4"].inputs == ("n22",)


def test_squeeze_and_excitation_is_mixed_in() -> None:
    child = InsertSqueezeExcite("n3").rewrite(plain_net())
    assert child["n19"].op == Mul()
    assert child["n20"].op == Mix()
    assert child["n20"].inputs == ("n3", "n19")
    assert child["n4"].inputs == ("n20",)


@pytest.mark.parametrize(("channels", "reduction", "narrow"), [(64, 4, 16), (64, 1, 64), (16, 8, 4), (3, 4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_branch_is_narrower_but_has_four_channels(kind: type[Mutation], channels: int, reduction: int, narrow: int) -> None:
    spec = graph((Input(SHAPE), []), (conv(channels), [0]), (Pool2d("max", 2, 2), [1]), (GlobalPool2d(), [2]), (Output(), [3]))
    child = kind("n2", reduction=reduction).rewrite(spec)  # type: ignore[call-arg]
    assert min(child.shapes[node.id][0] for node in child.nodes if node.id not in spec) == min(narrow, channels)
    assert narrow in {child.shapes[node.id][0] for node in child.nodes if node.id not in spec}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_function_stays_bit_for_bit_in_both_modes_on_any_batch(kind: type[Mutation], net: str) -> None:
    spec = NETS[net]()
    state, x = uneven_state(spec), batch(spec)
    for site in kind.sites(spec):
        mutation = kind.at(site)
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, x, generator())
        for train in (True, False):
            other = batch(spec, seed=9)
            assert difference(outputs(spec, state, other, train=train), outputs(child, weights, other, train=train)) < 1e-14


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_new_unit_learns(kind: type[Mutation], net: str) -> None:
    for site in kind.sites(NETS[net]()):
        assert check_learning([kind.at(site)], NETS[net](), seed=0)


def test_hidden_channels_of_the_excitation_see_both_signs() -> None:
    """Their inputs are averages of what a ReLU puts out: all positive, and much alike."""
    spec = plain_net()
    state, x = calibrated(spec, uneven_state(spec), batch(spec, size=64)), batch(spec, size=64)
    child = InsertSqueezeExcite("n3").rewrite(spec)
    weights = InsertSqueezeExcite("n3").transfer(spec, state, child, x, generator())
    hidden = node_outputs(network_with(child, weights).train(), x)["n15"]
    assert ((hidden > 0).double().mean((0, 2, 3)) > 0.5).all()
    assert ((hidden < 0).double().mean((0, 2, 3)) > 0.02).all()


@pytest.mark.parametrize("arguments", [{"reduction": 0}, {"reduction": 2.0}, {"reduction": True}, {"reduction": 2000}, {"kernel_size": 2}])
def test_wrong_arguments_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(MutationError, match=next(iter(arguments))):
        InsertBottleneck("n3", **arguments)  # type: ignore[arg-type]


def test_the_sigmoid_of_the_excitation_is_not_saturated() -> None:
    """Not even where nothing has normalised the channels."""
    spec = plain_net()
    state, x = uneven_state(spec), batch(spec, size=64)
    state["n2.weight"] *= 1000
    child = InsertSqueezeExcite("n3").rewrite(spec)
    weights = InsertSqueezeExcite("n3").transfer(spec, state, child, x, generator())
    found = node_outputs(network_with(child, weights).train(), x)["n17"]
    assert (found.square().mean((0, 2, 3)).sqrt() < 1.01).all()
