"""Built networks: what the spec says is what comes out, and they copy, compile and export."""

import copy
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from strategies import ACTIVATION_NAMES, chain, random_spec, specs
from torch import Tensor, fx, nn
from torch.nn import functional

from lightning_lemonade.errors import SpecError
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
    build,
    initialise,
    record_outputs,
    spec_of,
)

EVERY_OP = GraphSpec(
    (
        Node("n0", Input((3, 9, 10))),
        Node("n1", Conv2d(6, 3, padding=1), ("n0",)),
        Node("n2", BatchNorm2d(), ("n1",)),
        Node("n3", Activation("silu"), ("n2",)),
        Node("n4", Conv2d(6, (3, 1), padding=(1, 0), groups=6, bias=False), ("n3",)),
        Node("n5", AdaptivePool2d("avg", 1), ("n4",)),
        Node("n6", Conv2d(6, 1), ("n5",)),
        Node("n7", Activation("sigmoid"), ("n6",)),
        Node("n8", Mul(), ("n7", "n4")),
        Node("n9", Add(), ("n8", "n3", "n1")),
        Node("n10", Mix(), ("n9", "n3")),
        Node("n11", Concat(), ("n10", "n0", "n10")),
        Node("n12", Pool2d("max", 3, 2, 1, True), ("n11",)),
        Node("n13", Pool2d("avg", 2, 2, 1, True), ("n12",)),
        Node("n14", Conv2d(6, 2, 1, 1, 2, 3), ("n13",)),
        Node("n15", GlobalPool2d("max"), ("n12",)),
        Node("n16", Flatten(), ("n14",)),
        Node("n17", Dropout(0.3), ("n16",)),
        Node("n18", Concat(), ("n15", "n17")),
        Node("n19", Identity(), ("n18",)),
        Node("n20", Linear(7), ("n19",)),
        Node("n21", Output(), ("n20",)),
    )
)
EXPORTED = [EVERY_OP, random_spec(random.Random(5), steps=8, exportable=True)]
PAIR = (Node("n0", Input((2, 4, 4))), Node("n1", Activation("relu"), ("n0",)), Node("n2", Activation("tanh"), ("n0",)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(spec: GraphSpec) -> fx.GraphModule:
    """A network in evaluation mode whose weights and statistics are all random, so that nothing is the identity by chance."""
    network = build(spec).eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network


def output(op: Op, *inputs: Tensor) -> Tensor:
    """What a node of two inputs (relu(x), tanh(x)) or one input puts out."""
    spec = GraphSpec((*PAIR, Node("n3", op, ("n1", "n2")), Node("n4", Output(), ("n3",))))
    return build(spec).eval()(inputs[0])  # type: ignore[no-any-return]


# What holds for every spec


@given(specs(max_steps=12))
@settings(max_examples=60, deadline=None)
def test_every_node_has_the_shape_of_its_spec(spec: GraphSpec) -> None:
    seen = record_outputs(build(spec).eval(), list(spec.by_id), torch.randn(2, *spec.input_shape))
    assert {node_id: tuple(value.shape) for node_id, value in seen.items()} == {
        node_id: (2, *shape) for node_id, shape in spec.shapes.items()
    }


@given(specs(max_steps=12))
@settings(max_examples=60, deadline=None)
def test_parameters_are_as_many_as_the_spec_says(spec: GraphSpec) -> None:
    network = build(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == spec.parameter_count
    for node in spec.nodes:
        own = [parameter.numel() for name, parameter in network.named_parameters() if name.partition(".")[0] == node.id]
        assert sum(own) == node.op.parameter_count(spec.input_shapes(node.id))


@given(specs(max_steps=12))
@settings(max_examples=40, deadline=None)
def test_state_dict_keys_are_node_id_and_tensor(spec: GraphSpec) -> None:
    state = build(spec).state_dict()
    names: dict[str, set[str]] = {}
    for key in state:
        node_id, tensor = key.split(".")
        names.setdefault(node_id, set()).add(tensor)
    for node in spec.nodes:
        match node.op:
            case Conv2d() | Linear():
                expected = {"weight", "bias"} if node.op.bias else {"weight"}
            case BatchNorm2d():
                expected = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
            case Mix():
                expected = {"gate"}
            case _:
                expected = set()
        assert names.pop(node.id, set()) == expected
        if isinstance(node.op, Conv2d):
            assert state[f"{node.id}.weight"].shape == node.op.weight_shape(spec.input_shapes(node.id))
    assert not names


@given(specs(max_steps=10))
@settings(max_examples=30, deadline=None)
def test_a_network_carries_over_to_another_by_its_state(spec: GraphSpec) -> None:
    first, second = shaken(spec), build(GraphSpec.from_json(spec.to_json())).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, *spec.input_shape)
    assert torch.equal(first(x), second(x))


@given(specs(max_steps=10))
@settings(max_examples=30, deadline=None)
def test_networks_build_on_the_meta_device(spec: GraphSpec) -> None:
    with torch.device("meta"):
        network = build(spec).eval()
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert network(torch.empty(3, *spec.input_shape, device="meta")).shape == (3, *spec.output_shape)


@given(specs(max_steps=10))
@settings(max_examples=30, deadline=None)
def test_gradients_reach_every_parameter(spec: GraphSpec) -> None:
    assume(spec.parameter_count)
    network = build(spec)
    network(torch.randn(3, *spec.input_shape)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


# What each op computes


def test_the_examples_have_every_op() -> None:
    assert {node.op.name for node in EVERY_OP.nodes} == set(OPS)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_activations_are_pytorchs(name: str) -> None:
    x = torch.linspace(-8, 8, 64).reshape(1, 1, 8, 8)
    expected = getattr(torch, name) if name in ("sigmoid", "tanh") else getattr(functional, name)
    torch.testing.assert_close(build(chain(Input((1, 8, 8)), Activation(name), Output()))(x), expected(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Add(), lambda a, b: a + b),
        (Mul(), lambda a, b: a * b),
        (Mix(), lambda a, b: a),
        (Concat(), lambda a, b: torch.cat([a, b], 1)),
    ],
    ids=repr,
)
def test_joins_of_two(op: Op, expected: object) -> None:
    x = torch.randn(3, 2, 4, 4)
    assert callable(expected)
    assert torch.equal(output(op, x), expected(torch.relu(x), torch.tanh(x)))


def test_an_add_of_three_adds_all() -> None:
    nodes = (*PAIR, Node("n3", Add(), ("n0", "n1", "n2", "n1")), Node("n4", Output(), ("n3",)))
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(build(GraphSpec(nodes))(x), x + 2 * torch.relu(x) + torch.tanh(x))


def test_a_gate_scales_channels() -> None:
    nodes = (
        Node("n0", Input((2, 4, 4))),
        Node("n1", AdaptivePool2d("max", 1), ("n0",)),
        Node("n2", Mul(), ("n1", "n0")),
        Node("n3", Output(), ("n2",)),
    )
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(build(GraphSpec(nodes))(x), x * x.amax((2, 3), keepdim=True))


def test_a_mix_starts_as_its_first_input_and_can_move_to_its_second() -> None:
    network = build(GraphSpec((*PAIR, Node("n3", Mix(), ("n1", "n2")), Node("n4", Output(), ("n3",)))))
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(network(x), torch.relu(x))
    network.load_state_dict({"n3.gate": torch.tensor(0.25)})
    torch.testing.assert_close(network(x), 0.25 * torch.relu(x) + 0.75 * torch.tanh(x))


def test_a_flatten_goes_channel_by_channel() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(build(chain(Input((3, 2, 2)), Flatten(), Output()))(x), torch.arange(24.0).reshape(2, 12))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_padding_counts_neither_for_averages_nor_for_maxima(ceil_mode: bool) -> None:
    x = torch.full((1, 1, 5, 6), -2.0)
    for mode in ("avg", "max"):
        assert build(chain(Input((1, 5, 6)), Pool2d(mode, 3, 2, 1, ceil_mode), Output()))(x).unique().tolist() == [-2.0]  # type: ignore[arg-type]


def test_global_and_adaptive_pools() -> None:
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(build(chain(Input((3, 4, 5)), GlobalPool2d("avg"), Output()))(x), x.mean((2, 3)))
    torch.testing.assert_close(build(chain(Input((3, 4, 5)), GlobalPool2d("max"), Output()))(x), x.amax((2, 3)))
    for mode, pool in (("avg", functional.adaptive_avg_pool2d), ("max", functional.adaptive_max_pool2d)):
        spec = chain(Input((3, 4, 5)), AdaptivePool2d(mode, (3, 2)), Output())  # type: ignore[arg-type]
        torch.testing.assert_close(build(spec)(x), pool(x, (3, 2)))


def test_modules_get_every_argument() -> None:
    network = build(
        chain(Input((4, 9, 9)), Conv2d(6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False), BatchNorm2d(1e-3, 0.01), Dropout(0.3), Output())
    )
    conv, norm, dropout = (network.get_submodule(name) for name in ("n1", "n2", "n3"))
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.groups, conv.bias) == (4, 6, 2, None)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 2), (2, 1), (1, 0), (1, 2))
    assert (norm.eps, norm.momentum, dropout.p) == (1e-3, 0.01, 0.3)


def test_a_network_may_be_nothing_at_all() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(build(chain(Input((3,)), Output()))(x), x)


def test_training_mode_reaches_dropout_and_batch_norm() -> None:
    network = build(EVERY_OP)
    x = torch.randn(4, 3, 9, 10)
    assert not torch.equal(network(x), network(x))
    before = copy.deepcopy(network.eval().state_dict())
    assert torch.equal(network(x), network(x))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# Weights


def test_the_same_seed_draws_the_same_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build(EVERY_OP).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["n1.weight"], states[2]["n1.weight"])


def test_initialise_draws_convolutions_by_their_fan_out() -> None:
    network = build(chain(Input((64, 8, 8)), Conv2d(128, 3), BatchNorm2d(), GlobalPool2d(), Linear(10), Output()))
    before = copy.deepcopy(network.state_dict())
    initialise(network)
    after = network.state_dict()
    assert after["n1.weight"].std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert not after["n1.bias"].any()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("n1."))


# record_outputs


def test_recorded_outputs_are_the_networks_and_leave_it_alone() -> None:
    network = shaken(EVERY_OP)
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(2, 3, 9, 10)
    seen = record_outputs(network, ["n1", "n21", "n0"], x)
    assert list(seen) == ["n0", "n1", "n21"]
    assert torch.equal(seen["n0"], x)
    torch.testing.assert_close(seen["n1"], functional.conv2d(x, before["n1.weight"], before["n1.bias"], padding=1))
    assert torch.equal(seen["n21"], network(x))
    assert not seen["n21"].requires_grad
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_recording_a_node_that_isnt_there_is_an_error() -> None:
    with pytest.raises(SpecError, match="no node n99"):
        record_outputs(build(EVERY_OP), ["n1", "n99"], torch.randn(2, 3, 9, 10))


# Copies, compilation, export


def test_a_network_knows_its_spec_and_so_do_its_copies() -> None:
    network = shaken(EVERY_OP)
    copied = copy.deepcopy(network)
    assert spec_of(network) == spec_of(copied) == EVERY_OP
    x = torch.randn(2, 3, 9, 10)
    assert torch.equal(copied(x), network(x))
    copied.get_parameter("n1.weight").data.zero_()
    assert not torch.equal(copied(x), network(x))


def test_other_modules_have_no_spec() -> None:
    for module in (nn.Linear(1, 1), fx.symbolic_trace(nn.Linear(1, 1))):
        with pytest.raises(SpecError, match="was not built from a graph spec"):
            spec_of(module)  # type: ignore[arg-type]


def test_a_network_moves_to_another_type() -> None:
    network = shaken(EVERY_OP)
    x = torch.randn(2, 3, 9, 10)
    torch.testing.assert_close(copy.deepcopy(network).double()(x.double()).float(), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", EXPORTED, ids=len)
def test_a_compiled_network_gives_the_same(spec: GraphSpec) -> None:
    torch._dynamo.reset()
    network = shaken(spec)
    x = torch.randn(3, *spec.input_shape)
    assert torch.equal(torch.compile(network, backend="eager", fullgraph=True)(x), network(x))


@pytest.mark.parametrize("spec", [*EXPORTED, random_spec(random.Random(0), steps=8)], ids=len)
def test_an_exported_program_takes_any_batch(spec: GraphSpec) -> None:
    network = shaken(spec)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (torch.randn(2, *spec.input_shape),), dynamic_shapes=({0: batch},))
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for size in (1, 5):
        x = torch.randn(size, *spec.input_shape)
        torch.testing.assert_close(loaded(x), network(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", EXPORTED, ids=len)
def test_onnx_takes_any_batch_and_gives_the_same(spec: GraphSpec, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = shaken(spec)
    batch = torch.export.Dim("batch", min=1)
    x = torch.randn(2, *spec.input_shape)
    torch.onnx.export(network, (x,), tmp_path / "net.onnx", input_names=["x"], dynamic_shapes=({0: batch},), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 5):
        x = torch.randn(size, *spec.input_shape)
        (result,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(result, network(x).detach().numpy(), rtol=1e-4, atol=1e-4)
