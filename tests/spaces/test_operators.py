"""Which mutations are drawn."""

import numpy as np
import pytest
import torch
from strategies import chain

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import Concat, Conv2d, Input, Linear, Mix, Output, build, initialise
from lightning_lemonade.morphisms import KINDS, InsertConvBlock, Mutation, Widen, mutation_from_dict
from lightning_lemonade.spaces import (
    ALL_OPERATORS,
    EXACT_OPERATORS,
    PAPER_OPERATORS,
    SCALING_OPERATORS,
    Operator,
    conv_net,
    random_mutation,
)

NET = conv_net((3, 32, 32), 10, width=8, separable=False)


def test_all_operators_begin_with_the_papers():
    assert ALL_OPERATORS[: len(PAPER_OPERATORS)] == PAPER_OPERATORS
    assert len(PAPER_OPERATORS) == 8
    assert {operator.mutation.kind for operator in ALL_OPERATORS} <= set(KINDS)
    assert len({(operator.mutation, operator.everywhere) for operator in ALL_OPERATORS}) == len(ALL_OPERATORS)
    assert {operator.mutation.kind for operator in EXACT_OPERATORS} == {"insert_conv_block", "widen", "add_skip", "concat_skip"}


@pytest.mark.parametrize("kinds", [["widen"], [Widen], [Operator(Widen, {"width": (40, 50)})]])
@pytest.mark.parametrize("make", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)])
def test_kinds_are_names_classes_or_operators_and_generators_numpys_or_torchs(kinds, make):
    drawn = random_mutation(NET, make(0), kinds=kinds)
    assert drawn is not None
    mutation, child = drawn
    assert type(mutation) is Widen
    assert child == mutation.rewrite(NET)
    assert drawn == random_mutation(NET, make(0), kinds=kinds)


def test_every_operator_is_drawn():
    generator, spec = torch.Generator().manual_seed(0), NET
    for _ in range(5):
        spec = random_mutation(spec, generator, kinds=EXACT_OPERATORS)[1]
    kinds = {random_mutation(spec, generator, kinds=ALL_OPERATORS)[0].kind for _ in range(300)}
    assert kinds == {operator.mutation.kind for operator in ALL_OPERATORS}


@pytest.mark.parametrize("operator", SCALING_OPERATORS, ids=lambda operator: operator.mutation.kind)
@pytest.mark.parametrize("values", [0, -1])
def test_all_layers_are_scaled_at_once_also_where_skips_tie_them(operator, values):
    generator, spec = torch.Generator().manual_seed(3), NET
    for _ in range(8):
        spec = random_mutation(spec, generator, kinds=EXACT_OPERATORS)[1]
    assert any(isinstance(node.op, Mix | Concat) for node in spec.nodes)
    choices = {name: (given[values],) for name, given in operator.choices.items()}
    mutation, child = random_mutation(spec, generator, kinds=[Operator(operator.mutation, choices, everywhere=True)])
    assert child == mutation_from_dict(mutation.to_dict()).rewrite(spec)
    factor = choices["factor"][0] if "factor" in choices else 1 - choices["fraction"][0]
    for node in spec.nodes:
        if isinstance(node.op, Conv2d):
            before, after = spec.shapes[node.id][0], child.shapes[node.id][0]
            assert abs(after - factor * before) <= len(spec.channels.groups_of(node.id)) or after == 1
            assert after != before
    assert child.output_shape == spec.output_shape


def test_a_network_whose_layers_all_get_wider_computes_the_same():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 32, 32, generator=generator)
    network = build(NET).eval()
    initialise(network)
    mutation, child = random_mutation(NET, generator, kinds=[SCALING_OPERATORS[1]])
    assert child.parameter_count > 1.3 * NET.parameter_count
    with torch.no_grad():
        torch.testing.assert_close(mutation.apply(network, images, generator).eval()(images), network(images))


def test_nothing_applies():
    spec = chain(Input((3,)), Linear(2), Output())
    assert random_mutation(spec, np.random.default_rng(0), kinds=[InsertConvBlock]) is None


def test_an_unknown_kind_is_named():
    with pytest.raises(ConfigurationError, match="unknown kind of mutation 'wider'; known: add_skip"):
        random_mutation(NET, np.random.default_rng(0), kinds=["wider"])


@pytest.mark.parametrize(
    ("kinds", "text"),
    [("widen", "must be a list"), ([3], "no kind"), ([Widen("n1")], "no kind"), ([Mutation], "no kind"), (["wide"], "unknown")],
)
def test_kinds_that_are_none_are_told(kinds, text):
    with pytest.raises(ConfigurationError, match=text):
        random_mutation(conv_net((1, 8, 8), 10, 4, separable=False), np.random.default_rng(0), kinds)


@pytest.mark.parametrize("choices", [{"fctor": (2.0,)}, {"factor": ()}, {"node": ("n1",)}])
def test_choices_of_no_argument_are_told(choices):
    with pytest.raises(ConfigurationError, match=r"can't be drawn for widen: give values of its arguments, factor"):
        Operator(Widen, choices)
