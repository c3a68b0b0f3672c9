"""What the kit measures."""

import pytest
import torch
from morphisms.helpers import plain_net
from strategies import chain

from lightning_lemonade.graph import Dropout, Input, Linear, Output
from lightning_lemonade.testing.states import gradients, relative_difference, sample_batch, silent_units, uneven_state, without_dropout


def test_differences_are_relative_to_the_largest_value() -> None:
    a = torch.tensor([0.0, 1.0, 200.0])
    assert relative_difference(a, a) == 0
    assert relative_difference(a, a + torch.tensor([1.0, 0, 0])) == pytest.approx(1 / 200)


def test_silent_units_are_rows_and_columns_without_gradient() -> None:
    found = {
        "a.weight": torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]),
        "a.bias": torch.tensor([1e-20, 1.0]),
        "b.gate": torch.tensor(0.0),
    }
    assert list(silent_units(found)) == [("a.weight", "row", 1), ("a.weight", "column", 1), ("b.gate", "row", 0)]
    assert ("a.bias", "row", 0) in silent_units(found, 1e-13)


def test_units_that_nothing_reads_are_silent_in_every_pass() -> None:
    spec = plain_net()
    state, x = uneven_state(spec), sample_batch(spec)
    state["n4.weight"][:, 2] = 0
    state["n1.weight"][2] = 0
    state["n2.weight"][2] = state["n2.bias"][2] = 0
    for passes in (1, 2, 3):
        assert ("n1.weight", "row", 2) in silent_units(gradients(spec, state, x, passes))


def test_dropout_goes() -> None:
    spec = without_dropout(chain(Input((3,)), Dropout(0.5), Linear(2), Output()))
    assert spec["n1"].op == Dropout(0.0)


def test_passes_leave_the_weights_alone() -> None:
    spec = plain_net()
    state = uneven_state(spec)
    before = {name: tensor.clone() for name, tensor in state.items()}
    gradients(spec, state, sample_batch(spec), 3)
    assert all(state[name].equal(tensor) for name, tensor in before.items())
