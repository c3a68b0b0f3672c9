"""Built networks: what the spec says is what comes out, and they copy, compile and export."""

import copy
import io
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from strategies import ACTIVATION_NAMES, chain, node_outputs, random_spec, specs
from torch import Tensor, fx, nn
from torch.nn import functional

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph import GraphSpec, Node, build, initialise, ops, spec_of

EVERY_OP = GraphSpec(
    (
        Node("n0", ops.Input((3, 9, 10))),
        Node("n1", ops.Conv2d(6, 3, padding=1), ("n0",)),
        Node("n2", ops.BatchNorm2d(), ("n1",)),
        Node("n3", ops.Activation("silu"), ("n2",)),
        Node("n4", ops.Conv2d(6, (3, 1), padding=(1, 0), groups=6, bias=False), ("n3",)),
        Node("n5", ops.AdaptivePool2d("avg", 1), ("n4",)),
        Node("n6", ops.Conv2d(6, 1), ("n5",)),
        Node("n7", ops.Activation("sigmoid"), ("n6",)),
        Node("n8", ops.Mul(), ("n7", "n4")),
        Node("n9", ops.Add(), ("n8", "n3", "n1")),
        Node("n10", ops.Mix(), ("n9", "n3")),
        Node("n22", ops.RelaxedActivation("silu"), ("n10",)),
        Node("n11", ops.Concat(), ("n22", "n0", "n10")),
        Node("n12", ops.Pool2d("max", 3, 2, 1, True), ("n11",)),
        Node("n13", ops.Pool2d("avg", 2, 2, 1, True), ("n12",)),
        Node("n14", ops.Conv2d(6, 2, 1, 1, 2, 3), ("n13",)),
        Node("n23", ops.Upsample2d((2, 3)), ("n12",)),
        Node("n24", ops.Upsample2d(2, "bilinear"), ("n23",)),
        Node("n15", ops.GlobalPool2d("max"), ("n24",)),
        Node("n16", ops.Flatten(), ("n14",)),
        Node("n17", ops.Dropout(0.3), ("n16",)),
        Node("n18", ops.Concat(), ("n15", "n17")),
        Node("n19", ops.Identity(), ("n18",)),
        Node("n20", ops.Linear(7), ("n19",)),
        Node("n21", ops.Output(), ("n20",)),
    )
)
UNEVEN_POOLS = chain(
    ops.Input((3, 7, 9)),
    ops.Conv2d(4, 1),
    ops.AdaptivePool2d("max", (5, 6)),
    ops.AdaptivePool2d("avg", (4, 3)),
    ops.AdaptivePool2d("max", (6, 3)),
    ops.Output(),
)
DROPPED_WINDOWS = chain(  # rounded up, the columns would have a second window, which PyTorch drops; the rows have a partial third one
    ops.Input((1, 7, 2)), ops.Pool2d("max", (3, 1), 3, 0, True), ops.AdaptivePool2d("max", (3, 2)), ops.Output()
)
EXPORTED = [EVERY_OP, UNEVEN_POOLS, DROPPED_WINDOWS, random_spec(random.Random(5), steps=8)]
PAIR = (Node("n0", ops.Input((2, 4, 4))), Node("n1", ops.Activation("relu"), ("n0",)), Node("n2", ops.Activation("tanh"), ("n0",)))


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


def output(op: ops.Op, *inputs: Tensor) -> Tensor:
    """What a node of two inputs (relu(x), tanh(x)) or one input puts out."""
    spec = GraphSpec((*PAIR, Node("n3", op, ("n1", "n2")), Node("n4", ops.Output(), ("n3",))))
    return build(spec).eval()(inputs[0])  # type: ignore[no-any-return]


# What holds for every spec


@given(specs(max_steps=12))
@settings(max_examples=60, deadline=None)
def test_every_node_has_the_shape_of_its_spec(spec: GraphSpec) -> None:
    seen = node_outputs(build(spec).eval(), torch.randn(2, *spec.input_shape))
    assert {node_id: tuple(seen[node_id].shape) for node_id in spec.by_id} == {
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
            case ops.Conv2d() | ops.Linear():
                expected = {"weight", "bias"} if node.op.bias else {"weight"}
            case ops.BatchNorm2d():
                expected = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
            case ops.Mix() | ops.RelaxedActivation():
                expected = {"gate"}
            case _:
                expected = set()
        assert names.pop(node.id, set()) == expected
        if isinstance(node.op, ops.Conv2d):
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
    assert {node.op.name for node in EVERY_OP.nodes} == set(ops.OPS)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_activations_are_pytorchs(name: str) -> None:
    x = torch.linspace(-8, 8, 64).reshape(1, 1, 8, 8)
    expected = getattr(torch, name) if name in ("sigmoid", "tanh") else getattr(functional, name)
    torch.testing.assert_close(build(chain(ops.Input((1, 8, 8)), ops.Activation(name), ops.Output()))(x), expected(x))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (ops.Add(), lambda a, b: a + b),
        (ops.Mul(), lambda a, b: a * b),
        (ops.Mix(), lambda a, b: a),
        (ops.Concat(), lambda a, b: torch.cat([a, b], 1)),
    ],
    ids=["add", "mul", "mix", "concat"],
)
def test_joins_of_two(op: ops.Op, expected: object) -> None:
    x = torch.randn(3, 2, 4, 4)
    assert callable(expected)
    assert torch.equal(output(op, x), expected(torch.relu(x), torch.tanh(x)))


def test_an_add_of_three_adds_all() -> None:
    nodes = (*PAIR, Node("n3", ops.Add(), ("n0", "n1", "n2", "n1")), Node("n4", ops.Output(), ("n3",)))
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(build(GraphSpec(nodes))(x), x + 2 * torch.relu(x) + torch.tanh(x))


def test_a_gate_scales_channels() -> None:
    nodes = (
        Node("n0", ops.Input((2, 4, 4))),
        Node("n1", ops.AdaptivePool2d("max", 1), ("n0",)),
        Node("n2", ops.Mul(), ("n1", "n0")),
        Node("n3", ops.Output(), ("n2",)),
    )
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(build(GraphSpec(nodes))(x), x * x.amax((2, 3), keepdim=True))


def test_a_mix_starts_as_its_first_input_and_can_move_to_its_second() -> None:
    network = build(GraphSpec((*PAIR, Node("n3", ops.Mix(), ("n1", "n2")), Node("n4", ops.Output(), ("n3",)))))
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(network(x), torch.relu(x))
    network.load_state_dict({"n3.gate": torch.tensor(0.25)})
    torch.testing.assert_close(network(x), 0.25 * torch.relu(x) + 0.75 * torch.tanh(x))


def test_a_flatten_goes_channel_by_channel() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(build(chain(ops.Input((3, 2, 2)), ops.Flatten(), ops.Output()))(x), torch.arange(24.0).reshape(2, 12))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_padding_counts_neither_for_averages_nor_for_maxima(ceil_mode: bool) -> None:
    x = torch.full((1, 1, 5, 6), -2.0)
    for mode in ("avg", "max"):
        assert build(chain(ops.Input((1, 5, 6)), ops.Pool2d(mode, 3, 2, 1, ceil_mode), ops.Output()))(x).unique().tolist() == [-2.0]  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(4, 3), (5, 6), (7, 4)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (2, 3)])
def test_pools_have_pytorchs_values_also_where_a_window_is_dropped(kernel: ops.Pair, size: ops.Pair) -> None:
    x = torch.randn(2, 3, *size)
    for stride, pad_rows, ceil_mode in itertools.product(itertools.product((1, 2, 3), (2, 3)), (0, kernel[0] // 2), (False, True)):
        padding = (pad_rows, kernel[1] // 2)
        pools = {
            "avg": nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad=False),
            "max": nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode),
        }
        for mode, pool in pools.items():
            network = build(chain(ops.Input((3, *size)), ops.Pool2d(mode, kernel, stride, padding, ceil_mode), ops.Output()))
            torch.testing.assert_close(network(x), pool(x))


def test_global_and_adaptive_pools() -> None:
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(build(chain(ops.Input((3, 4, 5)), ops.GlobalPool2d("avg"), ops.Output()))(x), x.mean((2, 3)))
    torch.testing.assert_close(build(chain(ops.Input((3, 4, 5)), ops.GlobalPool2d("max"), ops.Output()))(x), x.amax((2, 3)))
    for mode, pool in (("avg", functional.adaptive_avg_pool2d), ("max", functional.adaptive_max_pool2d)):
        spec = chain(ops.Input((3, 4, 5)), ops.AdaptivePool2d(mode, (3, 2)), ops.Output())  # type: ignore[arg-type]
        torch.testing.assert_close(build(spec)(x), pool(x, (3, 2)))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 4), (6, 7), (7, 3), (11, 20)])
def test_an_adaptive_maximum_has_pytorchs_values_and_gradients_whatever_the_sizes(size: tuple[int, int]) -> None:
    network = build(chain(ops.Input((3, 6, 7)), ops.AdaptivePool2d("max", size), ops.Output()))
    x = torch.randn(2, 3, 6, 7).round().requires_grad_()  # many equal values: a gradient goes to the first of them
    pooled, expected = network(x), functional.adaptive_max_pool2d(x, size)
    assert torch.equal(pooled, expected)
    weight = torch.randn_like(pooled)
    gradients = [torch.autograd.grad(value, x, weight)[0] for value in (pooled, expected)]
    torch.testing.assert_close(*gradients)


def test_an_adaptive_maximum_takes_images_of_another_size_than_the_specs() -> None:
    network = build(chain(ops.Input((3, 6, 7)), ops.AdaptivePool2d("max", (4, 3)), ops.Output()))
    x = torch.randn(2, 3, 9, 5)
    assert torch.equal(network(x), functional.adaptive_max_pool2d(x, (4, 3)))


def test_modules_get_every_argument() -> None:
    network = build(
        chain(
            ops.Input((4, 9, 9)),
            ops.Conv2d(6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False),
            ops.BatchNorm2d(1e-3, 0.01),
            ops.Dropout(0.3),
            ops.Output(),
        )
    )
    conv, norm, dropout = (network.get_submodule(name) for name in ("n1", "n2", "n3"))
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.groups, conv.bias) == (4, 6, 2, None)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 2), (2, 1), (1, 0), (1, 2))
    assert (norm.eps, norm.momentum, dropout.p) == (1e-3, 0.01, 0.3)


def test_a_network_may_be_nothing_at_all() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(build(chain(ops.Input((3,)), ops.Output()))(x), x)


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
    network = build(chain(ops.Input((64, 8, 8)), ops.Conv2d(128, 3), ops.BatchNorm2d(), ops.GlobalPool2d(), ops.Linear(10), ops.Output()))
    before = copy.deepcopy(network.state_dict())
    initialise(network)
    after = network.state_dict()
    assert after["n1.weight"].std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert not after["n1.bias"].any()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("n1."))


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


@pytest.mark.parametrize("spec", EXPORTED, ids=len)
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


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_a_relaxed_activation_goes_from_the_identity_to_its_function(name: str) -> None:
    x = torch.linspace(-8, 8, 64).reshape(1, 1, 8, 8)
    network = build(chain(ops.Input((1, 8, 8)), ops.RelaxedActivation(name), ops.Output()))  # type: ignore[arg-type]
    assert torch.equal(network(x), x)
    full = build(chain(ops.Input((1, 8, 8)), ops.Activation(name), ops.Output()))(x)  # type: ignore[arg-type]
    with torch.no_grad():
        network.n1.gate.fill_(0.25)
    torch.testing.assert_close(network(x), 0.25 * x + 0.75 * full)


@pytest.mark.parametrize("stride", [2, (1, 3)])
@pytest.mark.parametrize("groups", [1, 3])
def test_strided_pointwise_convolutions_have_right_gradients_where_channels_are_neighbours(stride, groups):
    spec = chain(ops.Input((3, 32, 33)), ops.Conv2d(18, 1, stride, groups=groups), ops.Output())
    torch.manual_seed(0)
    network, x = build(spec), torch.randn(16, 3, 32, 33)
    weight, bias = network.n1.weight, network.n1.bias
    expected = functional.conv2d(x, weight, bias, spec["n1"].op.stride, groups=groups)
    wanted = torch.autograd.grad(expected.pow(2).sum(), [weight, bias])
    laid_out = network.to(memory_format=torch.channels_last)
    found = laid_out(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.pow(2).sum(), [network.n1.weight, network.n1.bias])
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-3)
