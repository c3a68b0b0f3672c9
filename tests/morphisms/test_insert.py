"""The inserted block."""

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
    uneven_state,
)
from strategies import ACTIVATION_NAMES

from lightning_lemonade.graph import (
    Activation,
    AdaptivePool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GraphSpec,
    Input,
    Linear,
    Output,
    RelaxedActivation,
)
from lightning_lemonade.graph.modules import ACTIVATIONS
from lightning_lemonade.morphisms import InsertConvBlock, InsertSeparableBlock, Mutation, network_with
from lightning_lemonade.morphisms.insert import identity_batch_norm

torch.set_num_threads(1)


def test_the_block_stands_behind_the_relu() -> None:
    spec = plain_net()
    child = InsertConvBlock("n3", kernel_size=5).rewrite(spec)
    assert [child[i].op for i in ("n14", "n15", "n16")] == [conv(4, 5), BatchNorm2d(), RELU]
    assert child["n14"].inputs == ("n3",)
    assert child["n4"].inputs == ("n16",)
    assert child.consumers["n3"] == ("n14",)


def activation_net(*functions: str) -> GraphSpec:
    """A convolution before each activation; then a squeezed one of a single position, and vectors."""
    ops = [Input(SHAPE), *(op for name in functions for op in (conv(3), Activation(name))), AdaptivePool2d("avg", 1), RELU]
    ops += [Flatten(), Linear(4), RELU, Linear(3), Output()]
    return graph(*((op, [i - 1] if i else []) for i, op in enumerate(ops)))


@pytest.mark.parametrize("kind", [InsertConvBlock, InsertSeparableBlock])
def test_any_activation_over_more_than_one_position(kind: type[Mutation]) -> None:
    assert kind.sites(activation_net("silu", "relu6", "relu")) == [("n2",), ("n4",), ("n6",)]


@pytest.mark.parametrize("kind", [InsertConvBlock, InsertSeparableBlock])
@pytest.mark.parametrize("function", ACTIVATION_NAMES)
def test_only_idempotent_activations_stand_twice(function: str, kind: type[Mutation]) -> None:
    spec = activation_net(function)
    child = kind("n2").rewrite(spec)  # type: ignore[call-arg]
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    module = ACTIVATIONS[function]()
    again = Activation if module(module(x)).equal(module(x)) else RelaxedActivation
    assert child[child["n3"].inputs[0]].op == again(function)
    state, x = uneven_state(spec), batch(spec)
    weights = kind("n2").transfer(spec, state, child, x, generator())  # type: ignore[call-arg]
    assert difference(outputs(spec, state, 3 * x), outputs(child, weights, 3 * x)) < 1e-12
    assert difference(outputs(spec, state, x, train=True), outputs(child, weights, x, train=True)) < 1e-12


def test_a_relaxed_activation_is_followed_by_another() -> None:
    spec = InsertConvBlock("n2").rewrite(activation_net("gelu"))
    relaxed = next(node for node in spec.nodes if isinstance(node.op, RelaxedActivation))
    child = InsertSeparableBlock(relaxed.id).rewrite(spec)
    assert sum(node.op == RelaxedActivation("gelu") for node in child.nodes) == 2


def test_a_separable_block_is_a_depthwise_and_a_pointwise_convolution() -> None:
    child = InsertSeparableBlock("n3", kernel_size=5).rewrite(plain_net())
    assert [child[i].op for i in ("n14", "n15", "n16", "n17")] == [conv(4, 5, groups=4), conv(4, 1), BatchNorm2d(), RELU]
    assert child["n4"].inputs == ("n17",)


def test_the_gate_of_a_relaxed_activation_learns() -> None:
    spec = activation_net("silu")
    x = batch(spec, size=16)
    network = InsertConvBlock("n2").apply(network_with(spec, uneven_state(spec)), x, generator()).train()
    network(x).square().sum().backward()
    gates = [parameter for name, parameter in network.named_parameters() if name.endswith(".gate")]
    assert [gate.item() for gate in gates] == [1.0]
    assert gates[0].grad is not None
    assert gates[0].grad.abs() > 1e-6


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_the_function_stays_in_both_modes(net: str, kernel_size: int) -> None:
    spec = NETS[net]()
    state, x = uneven_state(spec), batch(spec)
    for site in InsertConvBlock.sites(spec):
        mutation = InsertConvBlock.at(site, kernel_size=kernel_size)
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, x, generator())
        assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9
        assert difference(outputs(spec, state, x, train=True), outputs(child, weights, x, train=True)) < 1e-10


def test_every_new_weight_learns() -> None:
    spec = plain_net()
    x = batch(spec, size=32)
    mutation = InsertConvBlock("n3")
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, calibrated(spec, uneven_state(spec), x), child, x, generator())
    gradients = second_gradients(network_with(child, weights), x)
    for name in ("n14.weight", "n15.weight", "n15.bias"):
        assert (gradients[name] != 0).all(), name


def test_dead_channels_give_finite_weights() -> None:
    spec = plain_net()
    state = uneven_state(spec)
    state["n2.bias"] -= 100
    mutation = InsertConvBlock("n3")
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, batch(spec), generator())
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert (weights["n15.weight"] == torch.tensor(1e-5, dtype=torch.float64).sqrt()).all()


def test_identity_batch_norm() -> None:
    x = torch.randn(50, 4, 3, 3, generator=generator(), dtype=torch.float64) * 5 + 2
    norm = torch.nn.BatchNorm2d(4).double()
    weights = identity_batch_norm("n1", x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False), norm.eps)
    norm.load_state_dict({name.removeprefix("n1."): tensor for name, tensor in weights.items()})
    assert torch.allclose(norm.eval()(x), x, atol=1e-13)
    assert torch.allclose(norm.train()(x), x, atol=1e-13)


def test_the_sum_of_many_insertions() -> None:
    spec = plain_net()
    mutation = InsertConvBlock(("n3", "n6", "n10"))
    child = mutation.rewrite(spec)
    state, x = uneven_state(spec), batch(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    assert len(child) == len(spec) + 9
    assert sum(isinstance(node.op, Conv2d) for node in child.nodes) == 6
    assert difference(outputs(spec, state, x, train=True), outputs(child, weights, x, train=True)) < 1e-10
