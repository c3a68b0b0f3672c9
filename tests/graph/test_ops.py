"""Node types: shapes as PyTorch computes them, counts, and arguments that are checked."""

import itertools
import json
import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import nn

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
    Identity,
    Input,
    Linear,
    Mix,
    Mul,
    Op,
    Output,
    Pool2d,
    Shape,
)
from lightning_lemonade.graph.build import ACTIVATIONS
from lightning_lemonade.graph.ops import MAX_SIZE, ActivationName, op_from_arguments

EXAMPLES = [
    Input((3, 8, 8)),
    Input((5,)),
    Output(),
    Identity(),
    Dropout(0.25),
    Activation("gelu"),
    BatchNorm2d(1e-3, 0.01),
    Conv2d(8, (3, 1), (2, 1), (1, 0), (1, 2), 4, False),
    Linear(10, False),
    Pool2d("max", 3, 2, 1, True),
    AdaptivePool2d("avg", (2, 3)),
    GlobalPool2d("max"),
    Flatten(),
    Add(),
    Mul(),
    Mix(),
    Concat(),
]


def test_examples_are_of_every_type() -> None:
    assert {type(op) for op in EXAMPLES} == set(OPS.values())


def test_the_table_names_each_type_by_its_own_name() -> None:
    assert {name: op.name for name, op in OPS.items()} == {name: name for name in OPS}


@pytest.mark.parametrize("op", EXAMPLES, ids=repr)
def test_arguments_survive_json(op: Op) -> None:
    assert op_from_arguments(op.name, json.loads(json.dumps(op.arguments()))) == op


def test_an_integer_stands_for_a_square_window() -> None:
    assert Conv2d(4, 3, 2, 1, 2) == Conv2d(4, (3, 3), (2, 2), (1, 1), (2, 2))
    assert Pool2d("avg", 3, 2, 1) == Pool2d("avg", (3, 3), (2, 2), (1, 1))
    assert AdaptivePool2d("avg", 1) == AdaptivePool2d("avg", (1, 1))


def test_lists_from_json_become_tuples() -> None:
    assert hash(op_from_arguments("conv2d", {"out_channels": 2, "kernel_size": [3, 3]})) == hash(Conv2d(2, 3))
    assert hash(op_from_arguments("input", {"shape": [3, 8, 8]})) == hash(Input((3, 8, 8)))


def test_equal_numbers_have_one_text() -> None:
    assert json.dumps(Dropout(-0.0).arguments()) == json.dumps(Dropout(0).arguments()) == '{"p": 0.0}'


def test_every_activation_has_a_module() -> None:
    assert set(ACTIVATIONS) == set(get_args(ActivationName))


def windows(dilations: tuple[int, ...]) -> Iterator[tuple[int, int, int, int, int]]:
    return itertools.product(range(1, 7), range(1, 5), range(1, 4), range(3), dilations)  # size, kernel, stride, padding, dilation


def torch_shape(module: nn.Module, shape: Shape) -> Shape | None:
    try:
        return tuple(module(torch.empty(1, *shape, device="meta")).shape[1:])
    except RuntimeError:
        return None


def spec_shape(op: Op, shape: Shape) -> Shape | None:
    try:
        return op.output_shape([shape])
    except ValueError:
        return None


def test_convolutions_have_pytorchs_shape_or_are_refused_as_there() -> None:
    for size, kernel, stride, padding, dilation in windows((1, 2)):
        module = nn.Conv2d(1, 2, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), device="meta")
        op = Conv2d(2, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        assert spec_shape(op, (1, size, 3)) == torch_shape(module, (1, size, 3)), (op, size)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_pools_have_pytorchs_shape_or_are_refused_as_there(mode: str, ceil_mode: bool) -> None:
    for size, kernel, stride, padding, _ in windows((1,)):
        if 2 * padding > kernel:
            with pytest.raises(ValueError, match="more than half of the window"):
                Pool2d(mode, kernel, stride, padding, ceil_mode)  # type: ignore[arg-type]
            continue
        op = Pool2d(mode, (1, kernel), (1, stride), (0, padding), ceil_mode)  # type: ignore[arg-type]
        make = nn.MaxPool2d if mode == "max" else nn.AvgPool2d
        module = make((1, kernel), (1, stride), (0, padding), ceil_mode=ceil_mode)
        assert spec_shape(op, (1, 3, size)) == torch_shape(module, (1, 3, size)), (op, size)


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "parameters", "macs"),
    [
        (Conv2d(8, 3, padding=1), [(4, 5, 6)], (8, 5, 6), 4 * 8 * 9 + 8, 4 * 8 * 9 * 30),
        (Conv2d(8, 3, 2, groups=4, bias=False), [(4, 5, 7)], (8, 2, 3), 8 * 9, 8 * 9 * 6),
        (Linear(7), [(5,)], (7,), 42, 35),
        (Linear(7, False), [(5,)], (7,), 35, 35),
        (BatchNorm2d(), [(4, 3, 2)], (4, 3, 2), 8, 48),
        (AdaptivePool2d("avg", 1), [(4, 3, 2)], (4, 1, 1), 0, 24),
        (AdaptivePool2d("max", (5, 1)), [(4, 3, 2)], (4, 5, 1), 0, 0),
        (GlobalPool2d(), [(4, 3, 2)], (4,), 0, 0),
        (Flatten(), [(4, 3, 2)], (24,), 0, 0),
        (Add(), [(4, 3, 2)] * 3, (4, 3, 2), 0, 0),
        (Mul(), [(4, 1, 1), (4, 3, 2)], (4, 3, 2), 0, 0),
        (Mul(), [(4, 3, 2), (4, 1, 1)], (4, 3, 2), 0, 0),
        (Mul(), [(4,), (4,)], (4,), 0, 0),
        (Mix(), [(4, 3, 2)] * 2, (4, 3, 2), 1, 0),
        (Concat(), [(4, 3, 2), (1, 3, 2)], (5, 3, 2), 0, 0),
        (Concat(), [(4,), (1,), (4,)], (9,), 0, 0),
    ],
)
def test_shapes_and_counts(op: Op, inputs: list[Shape], shape: Shape, parameters: int, macs: int) -> None:
    assert (op.output_shape(inputs), op.parameter_count(inputs), op.macs(inputs)) == (shape, parameters, macs)


@pytest.mark.parametrize(
    ("op", "inputs", "reason"),
    [
        (Conv2d(4, 3), [(5,)], "channels, height, width"),
        (Conv2d(4, 3), [(1, 2, 5)], "larger than the padded input"),
        (Conv2d(4, 1, groups=2), [(3, 2, 2)], "not a multiple of groups"),
        (Pool2d("max", 3, 1), [(1, 5, 2)], "larger than the padded input"),
        (BatchNorm2d(), [(5,)], "channels, height, width"),
        (GlobalPool2d(), [(5,)], "channels, height, width"),
        (AdaptivePool2d("avg", 1), [(5,)], "channels, height, width"),
        (Linear(4), [(1, 2, 2)], "flatten"),
        (Add(), [(4, 2, 2), (4, 1, 1)], "one shape"),
        (Mul(), [(4, 2, 2), (4, 2, 1)], "one shape"),
        (Mul(), [(4, 2, 2), (2, 1, 1)], "one shape"),
        (Mul(), [(4, 1, 1), (4,)], "one shape"),
        (Mix(), [(4,), (5,)], "one shape"),
        (Concat(), [(4, 2, 2), (4, 2, 1)], "one height and width"),
        (Concat(), [(4, 1, 1), (4,)], "one height and width"),
    ],
)
def test_inputs_that_dont_fit_are_refused_with_the_reason(op: Op, inputs: list[Shape], reason: str) -> None:
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
        ("conv2d", {"out_channels": MAX_SIZE + 1, "kernel_size": 3}, "between 1 and"),
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
        ("pool2d", {"mode": "min", "kernel_size": 2, "stride": 2}, "must be one of avg, max"),
        ("pool2d", {"mode": "avg", "kernel_size": 2, "stride": 2, "ceil_mode": 0}, "true or false"),
        ("global_pool2d", {"mode": {}}, "must be one of avg, max"),
        ("adaptive_pool2d", {"mode": "avg", "output_size": 0}, "between 1 and"),
        ("flatten", {"start_dim": 1}, "it has: none"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(name: object, arguments: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        op_from_arguments(name, arguments)


@pytest.mark.parametrize(
    "value", ["x" * 10**6, 10**5000, [[0] * 1000] * 1000, {str(i): i for i in range(1000)}], ids=["text", "int", "list", "dict"]
)
@pytest.mark.parametrize("argument", ["out_channels", "kernel_size", "bias"])
def test_a_large_value_is_not_repeated_in_the_error(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        op_from_arguments("conv2d", {"out_channels": 4, "kernel_size": 3, argument: value})
    assert len(str(caught.value)) < 400


def test_depthwise_is_one_filter_for_each_channel() -> None:
    assert Conv2d(4, 3, groups=4).is_depthwise(4)
    assert not Conv2d(8, 3, groups=4).is_depthwise(4)
    assert not Conv2d(4, 3, groups=2).is_depthwise(4)
    assert not Conv2d(1, 3).is_depthwise(1)


def test_keeps_size_exactly_where_every_size_stays() -> None:
    for kernel, stride, padding, dilation in itertools.product(range(1, 6), (1, 2), range(4), (1, 2)):
        op = Conv2d(1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        stays = all(op.output_shape([(1, size, 1)]) == (1, size, 1) for size in range(10, 14))
        assert op.keeps_size() == stays, op
