"""Which mutations are drawn."""

import numpy as np
import pytest
import torch
from strategies import chain

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import Input, Linear, Output
from lightning_lemonade.morphisms import KINDS, InsertConvBlock, Mutation, Widen
from lightning_lemonade.spaces import ALL_OPERATORS, EXACT_OPERATORS, PAPER_OPERATORS, Operator, conv_net, random_mutation

NET = conv_net((3, 32, 32), 10, width=8, separable=False)


def test_all_operators_begin_with_the_papers():
    assert ALL_OPERATORS[: len(PAPER_OPERATORS)] == PAPER_OPERATORS
    assert len(PAPER_OPERATORS) == 8
    assert {operator.mutation.kind for operator in ALL_OPERATORS} <= set(KINDS)
    assert len({operator.mutation for operator in ALL_OPERATORS}) == len(ALL_OPERATORS)
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
