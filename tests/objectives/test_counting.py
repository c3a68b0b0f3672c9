"""The counter of multiply-adds agrees with the specs', and leaves the network alone."""

import copy
import logging
import warnings

import pytest
import torch
from hypothesis import given, settings
from strategies import ACTIVATION_NAMES, chain, specs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_lemonade.errors import ObjectiveError
from lightning_lemonade.graph import (
    OPS,
    Activation,
    AdaptivePool2d,
    Add,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalPool2d,
    GraphSpec,
    Identity,
    Input,
    Linear,
    Mix,
    Mul,
    Node,
    Op,
    Output,
    Pool2d,
    RelaxedActivation,
    Upsample2d,
    build,
)
from lightning_lemonade.objectives.counting import count_macs

SINGLE: list[Op] = [
    *[Activation(name) for name in ACTIVATION_NAMES],
    *[RelaxedActivation(name) for name in ACTIVATION_NAMES],
    *[BatchNorm2d(), Dropout(), Identity(), Flatten(), GlobalPool2d("avg"), GlobalPool2d("max")],
    *[Pool2d("avg", 3, 2, 1), Pool2d("max", 3, 2, 1), Pool2d("avg", 2, 2, ceil_mode=True), Pool2d("max", 2, 2, ceil_mode=True)],
    *[Upsample2d(), Upsample2d((3, 1), "bilinear")],
    *[AdaptivePool2d("avg", 1), AdaptivePool2d("avg", (2, 3)), AdaptivePool2d("max", 1), AdaptivePool2d("max", (2, 3))],
    *[Conv2d(6, 3), Conv2d(6, (3, 1), 2, 1, bias=False), Conv2d(4, 3, groups=4), Conv2d(6, 3, dilation=2, groups=2)],
]
JOINS: list[Op] = [Add(), Mul(), Mix(), Concat()]


def joined(op: Op) -> GraphSpec:
    nodes = [
        Node("n0", Input((4, 7, 8))),
        Node("n1", Activation("tanh"), ("n0",)),
        Node("n2", op, ("n0", "n1")),
        Node("n3", Output(), ("n2",)),
    ]
    return GraphSpec(tuple(nodes))


def test_the_cases_are_of_every_type() -> None:
    assert {op.name for op in [*SINGLE, *JOINS]} | {"input", "output", "linear"} == set(OPS)


@pytest.mark.parametrize("op", SINGLE, ids=repr)
def test_a_spec_counts_each_op_as_fvcore_does(op: Op) -> None:
    spec = chain(Input((4, 7, 8)), op, Output())
    assert count_macs(build(spec), spec.input_shape) == spec.macs


@pytest.mark.parametrize("op", JOINS, ids=repr)
def test_a_spec_counts_joins_as_fvcore_does(op: Op) -> None:
    spec = joined(op)
    assert count_macs(build(spec), spec.input_shape) == spec.macs == 0


@pytest.mark.parametrize("bias", [False, True])
def test_a_spec_counts_linear_layers_as_fvcore_does(bias: bool) -> None:
    spec = chain(Input((5,)), Linear(7, bias), Output())
    assert count_macs(build(spec), spec.input_shape) == spec.macs == 35


@given(specs(max_steps=12))
@settings(max_examples=80, deadline=None)
def test_any_spec_counts_as_fvcore_does(spec: GraphSpec) -> None:
    assert count_macs(build(spec), spec.input_shape) == spec.macs


@given(specs(max_steps=10))
@settings(max_examples=30, deadline=None)
def test_convolutions_and_linear_layers_count_half_of_pytorchs_flops(spec: GraphSpec) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build(spec).eval()(torch.zeros(1, *spec.input_shape))
    layers = [node for node in spec.nodes if isinstance(node.op, Conv2d | Linear)]
    assert 2 * sum(node.op.macs(spec.input_shapes(node.id)) for node in layers) == counter.get_total_flops()


@pytest.mark.parametrize("training", [True, False])
def test_counting_changes_neither_mode_nor_state_nor_random_numbers(training: bool) -> None:
    spec = chain(Input((3, 8, 8)), Conv2d(4, 3), BatchNorm2d(), Activation(), Dropout(), GlobalPool2d(), Linear(5), Output())
    network = build(spec).train(training)
    network(torch.randn(4, 3, 8, 8))
    network.get_submodule("n2").eval()
    modes = {name: module.training for name, module in network.named_modules()}
    before, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    count_macs(network, spec.input_shape)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_count_is_the_same_in_both_modes_and_without_gradients() -> None:
    spec = chain(Input((3, 8, 8)), Conv2d(4, 3), BatchNorm2d(), GlobalPool2d(), Linear(5), Output())
    network = build(spec)
    with torch.no_grad():
        counts = {count_macs(network.train(), spec.input_shape), count_macs(network.eval(), spec.input_shape)}
    assert counts == {spec.macs}


@pytest.mark.parametrize("gradients", [False, True])
def test_attention_is_refused_rather_than_counted_as_nothing(gradients: bool) -> None:
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with torch.set_grad_enabled(gradients), pytest.raises(ObjectiveError, match="scaled_dot_product_attention"):
        count_macs(attention, (5, 8))


def test_networks_of_other_types_are_counted() -> None:
    spec = chain(Input((3, 8, 8)), Conv2d(4, 3), BatchNorm2d(), GlobalPool2d(), Linear(5), Output())
    assert count_macs(build(spec).double(), spec.input_shape) == spec.macs


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1)


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


def test_an_operation_that_cant_be_counted_is_an_error() -> None:
    with pytest.raises(ObjectiveError, match="fvcore can't count aten::cumsum"):
        count_macs(nn.Sequential(nn.Linear(4, 4), Unknown()), (4,))


def test_counting_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("fvcore.nn.jit_analysis").level
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        assert count_macs(Partly(), (2,)) == 4
        count_macs(build(joined(Mix())), (4, 7, 8))
    assert not caught
    assert not caplog.records
    assert logging.getLogger("fvcore.nn.jit_analysis").level == level
