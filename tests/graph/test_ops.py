"""Node types: shapes as PyTorch computes them, counts, and arguments that are checked."""

import itertools
import json
import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import nn

from lightning_lemonade.graph import ops
from lightning_lemonade.graph.modules import ACTIVATIONS

EXAMPLES = [
    ops.Input((3, 8, 8)),
    ops.Input((5,)),
    ops.Output(),
    ops.Identity(),
    ops.Dropout(0.25),
    ops.Activation("gelu"),
    ops.RelaxedActivation("silu"),
    ops.BatchNorm2d(1e-3, 0.01),
    ops.Conv2d(8, (3, 1), (2, 1), (1, 0), (1, 2), 4, False),
    ops.Linear(10, False),
    ops.Pool2d("max", 3, 2, 1, True),
    ops.AdaptivePool2d("avg", (2, 3)),
    ops.GlobalPool2d("max"),
    ops.Upsample2d((3, 2), "bilinear"),
    ops.Flatten(),
    ops.Add(),
    ops.Mul(),
    ops.Mix(),
    ops.Concat(),
]


def test_examples_are_of_every_type() -> None:
    assert {type(op) for op in EXAMPLES} == set(ops.OPS.values())


def test_the_table_names_each_type_by_its_own_name() -> None:
    assert {name: op.name for name, op in ops.OPS.items()} == {name: name for name in ops.OPS}


@pytest.mark.parametrize("op", EXAMPLES, ids=repr)
def test_arguments_survive_json(op: ops.Op) -> None:
    assert ops.op_from_arguments(op.name, json.loads(json.dumps(op.arguments()))) == op


def test_an_integer_stands_for_a_square_window() -> None:
    assert ops.Conv2d(4, 3, 2, 1, 2) == ops.Conv2d(4, (3, 3), (2, 2), (1, 1), (2, 2))
    assert ops.Pool2d("avg", 3, 2, 1) == ops.Pool2d("avg", (3, 3), (2, 2), (1, 1))
    assert ops.AdaptivePool2d("avg", 1) == ops.AdaptivePool2d("avg", (1, 1))


def test_lists_from_json_become_tuples() -> None:
    assert hash(ops.op_from_arguments("conv2d", {"out_channels": 2, "kernel_size": [3, 3]})) == hash(ops.Conv2d(2, 3))
    assert hash(ops.op_from_arguments("input", {"shape": [3, 8, 8]})) == hash(ops.Input((3, 8, 8)))


def test_equal_numbers_have_one_text() -> None:
    assert json.dumps(ops.Dropout(-0.0).arguments()) == json.dumps(ops.Dropout(0).arguments()) == '{"p": 0.0}'


def test_every_activation_has_a_module() -> None:
    assert set(ACTIVATIONS) == set(get_args(ops.ActivationName))


def windows(dilations: tuple[int, ...]) -> Iterator[tuple[int, int, int, int, int]]:
    return itertools.product(range(1, 7), range(1, 5), range(1, 4), range(3), dilations)  # size, kernel, stride, padding, dilation


def torch_shape(module: nn.Module, shape: ops.Shape) -> ops.Shape | None:
    try:
        return tuple(module(torch.empty(1, *shape, device="meta")).shape[1:])
    except RuntimeError:
        return None


def spec_shape(op: ops.Op, shape: ops.Shape) -> ops.Shape | None:
    try:
        return op.output_shape([shape])
    except ValueError:
        return None


def test_convolutions_have_pytorchs_shape_or_are_refused_as_there() -> None:
    for size, kernel, stride, padding, dilation in windows((1, 2)):
        module = nn.Conv2d(1, 2, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), device="meta")
        op = ops.Conv2d(2, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        assert spec_shape(op, (1, size, 3)) == torch_shape(module, (1, size, 3)), (op, size)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_pools_have_pytorchs_shape_or_are_refused_as_there(mode: str, ceil_mode: bool) -> None:
    for size, kernel, stride, padding, _ in windows((1,)):
        if 2 * padding > kernel:
            with pytest.raises(ValueError, match="more than half of the window"):
                ops.Pool2d(mode, kernel, stride, padding, ceil_mode)  # type: ignore[arg-type]
            continue
        op = ops.Pool2d(mode, (1, kernel), (1, stride), (0, padding), ceil_mode)  # type: ignore[arg-type]
        make = nn.MaxPool2d if mode == "max" else nn.AvgPool2d
        module = make((1, kernel), (1, stride), (0, padding), ceil_mode=ceil_mode)
        assert spec_shape(op, (1, 3, size)) == torch_shape(module, (1, 3, size)), (op, size)


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "parameters", "macs"),
    [
        (ops.Conv2d(8, 3, padding=1), [(4, 5, 6)], (8, 5, 6), 4 * 8 * 9 + 8, 4 * 8 * 9 * 30),
        (ops.Conv2d(8, 3, 2, groups=4, bias=False), [(4, 5, 7)], (8, 2, 3), 8 * 9, 8 * 9 * 6),
        (ops.Linear(7), [(5,)], (7,), 42, 35),
        (ops.Linear(7, False), [(5,)], (7,), 35, 35),
        (ops.BatchNorm2d(), [(4, 3, 2)], (4, 3, 2), 8, 48),
        (ops.AdaptivePool2d("avg", 1), [(4, 3, 2)], (4, 1, 1), 0, 24),
        (ops.AdaptivePool2d("max", (5, 1)), [(4, 3, 2)], (4, 5, 1), 0, 0),
        (ops.GlobalPool2d(), [(4, 3, 2)], (4,), 0, 0),
        (ops.Flatten(), [(4, 3, 2)], (24,), 0, 0),
        (ops.Add(), [(4, 3, 2)] * 3, (4, 3, 2), 0, 0),
        (ops.Mul(), [(4, 1, 1), (4, 3, 2)], (4, 3, 2), 0, 0),
        (ops.Mul(), [(4, 3, 2), (4, 1, 1)], (4, 3, 2), 0, 0),
        (ops.Mul(), [(4,), (4,)], (4,), 0, 0),
        (ops.Mix(), [(4, 3, 2)] * 2, (4, 3, 2), 1, 0),
        (ops.RelaxedActivation("elu"), [(4, 3, 2)], (4, 3, 2), 1, 0),
        (ops.Concat(), [(4, 3, 2), (1, 3, 2)], (5, 3, 2), 0, 0),
        (ops.Concat(), [(4,), (1,), (4,)], (9,), 0, 0),
    ],
)
def test_shapes_and_counts(op: ops.Op, inputs: list[ops.Shape], shape: ops.Shape, parameters: int, macs: int) -> None:
    assert (op.output_shape(inputs), op.parameter_count(inputs), op.macs(inputs)) == (shape, parameters, macs)


@pytest.mark.parametrize(
    ("op", "inputs", "reason"),
    [
        (ops.Conv2d(4, 3), [(5,)], "channels, height, width"),
        (ops.Conv2d(4, 3), [(1, 2, 5)], "larger than the padded input"),
        (ops.Conv2d(4, 1, groups=2), [(3, 2, 2)], "not a multiple of groups"),
        (ops.Pool2d("max", 3, 1), [(1, 5, 2)], "larger than the padded input"),
        (ops.BatchNorm2d(), [(5,)], "channels, height, width"),
        (ops.GlobalPool2d(), [(5,)], "channels, height, width"),
        (ops.AdaptivePool2d("avg", 1), [(5,)], "channels, height, width"),
        (ops.Linear(4), [(1, 2, 2)], "flatten"),
        (ops.Add(), [(4, 2, 2), (4, 1, 1)], "one shape"),
        (ops.Mul(), [(4, 2, 2), (4, 2, 1)], "one shape"),
        (ops.Mul(), [(4, 2, 2), (2, 1, 1)], "one shape"),
        (ops.Mul(), [(4, 1, 1), (4,)], "one shape"),
        (ops.Mix(), [(4,), (5,)], "one shape"),
        (ops.Concat(), [(4, 2, 2), (4, 2, 1)], "one height and width"),
        (ops.Concat(), [(4, 1, 1), (4,)], "one height and width"),
    ],
)
def test_inputs_that_dont_fit_are_refused_with_the_reason(op: ops.Op, inputs: list[ops.Shape], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        op.output_shape(inputs)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("conv3d", {}, "unknown op 'conv3d'"),
        (None, {}, "unknown op None"),
        (["conv2d"], {}, "unknown op"),
        ("conv2d", [], "must be an object"),
        ("conv2d", {"out_channels": 4}, "needs the arguments kernel_size"),
        ("conv2d", {"out_channels": 4, "kernel_size": 3, "colour": 1}, "no argument 'colour'"),
        ("conv2d", {"out_channels": 4, "kernel_size": 3, "name": "x"}, "no argument 'name'"),
        ("conv2d", {"out_channels": True, "kernel_size": 3}, "out_channels must be an integer, got True"),
        ("conv2d", {"out_channels": 0, "kernel_size": 3}, "between 1 and"),
        ("conv2d", {"out_channels": ops.MAX_SIZE + 1, "kernel_size": 3}, "between 1 and"),
        ("conv2d", {"out_channels": 4.0, "kernel_size": 3}, "must be an integer"),
        ("conv2d", {"out_channels": 4, "kernel_size": [3, 3, 3]}, "two integers"),
        ("conv2d", {"out_channels": 4, "kernel_size": [3, True]}, "must be an integer, got True"),
        ("conv2d", {"out_channels": 4, "kernel_size": True}, "must be an integer, got True"),
        ("conv2d", {"out_channels": 4, "kernel_size": "33"}, "two integers"),
        ("conv2d", {"out_channels": 4, "kernel_size": 3, "padding": -1}, "between 0 and"),
        ("conv2d", {"out_channels": 4, "kernel_size": 3, "groups": 3}, "not a multiple of groups 3"),
        ("conv2d", {"out_channels": 4, "kernel_size": 3, "bias": 1}, "true or false"),
        ("linear", {"out_features": "10"}, "must be an integer, got '10'"),
        ("linear", {"out_features": 10, "bias": None}, "true or false"),
        ("input", {"shape": [3, 8]}, "shape must be"),
        ("input", {"shape": 3}, "shape must be"),
        ("input", {"shape": [3, 8, True]}, "must be an integer"),
        ("input", {}, "needs the arguments shape"),
        ("dropout", {"p": math.nan}, "p must be a number"),
        ("dropout", {"p": 1.0}, "p must be a number"),
        ("dropout", {"p": True}, "p must be a number"),
        ("dropout", {"p": "0.5"}, "p must be a number"),
        ("batch_norm2d", {"eps": 0}, "eps must be a number"),
        ("batch_norm2d", {"momentum": math.inf}, "momentum must be a number"),
        ("activation", {"function": "softmax"}, "must be one of relu"),
        ("activation", {"function": ["relu"]}, "must be one of relu"),
        ("relaxed_activation", {"function": "prelu"}, "must be one of relu"),
        ("pool2d", {"mode": "min", "kernel_size": 2, "stride": 2}, "must be one of avg, max"),
        ("pool2d", {"mode": "avg", "kernel_size": 2, "stride": 2, "ceil_mode": 0}, "true or false"),
        ("global_pool2d", {"mode": {}}, "must be one of avg, max"),
        ("adaptive_pool2d", {"mode": "avg", "output_size": 0}, "between 1 and"),
        ("flatten", {"start_dim": 1}, "it has: none"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(name: object, arguments: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ops.op_from_arguments(name, arguments)


@pytest.mark.parametrize(
    "value", ["x" * 10**6, 10**5000, [[0] * 1000] * 1000, {str(i): i for i in range(1000)}], ids=["text", "int", "list", "dict"]
)
@pytest.mark.parametrize("argument", ["out_channels", "kernel_size", "bias"])
def test_a_large_value_is_not_repeated_in_the_error(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        ops.op_from_arguments("conv2d", {"out_channels": 4, "kernel_size": 3, argument: value})
    assert len(str(caught.value)) < 400


def test_depthwise_is_one_filter_for_each_channel() -> None:
    assert ops.Conv2d(4, 3, groups=4).is_depthwise(4)
    assert not ops.Conv2d(8, 3, groups=4).is_depthwise(4)
    assert not ops.Conv2d(4, 3, groups=2).is_depthwise(4)
    assert not ops.Conv2d(1, 3).is_depthwise(1)


def test_keeps_size_exactly_where_every_size_stays() -> None:
    for kernel, stride, padding, dilation in itertools.product(range(1, 6), (1, 2), range(4), (1, 2)):
        op = ops.Conv2d(1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        stays = all(op.output_shape([(1, size, 1)]) == (1, size, 1) for size in range(10, 14))
        assert op.keeps_size() == stays, op


def test_a_short_form_has_the_arguments_that_arent_at_their_default() -> None:
    assert (
        str(ops.Conv2d(8, (3, 1), 2, groups=4, bias=False)) == "conv2d(out_channels=8, kernel_size=3x1, stride=2x2, groups=4, bias=False)"
    )
    assert str(ops.Activation()) == "activation"
    assert str(ops.Activation("gelu")) == "activation(function=gelu)"
    assert str(ops.Flatten()) == "flatten"
