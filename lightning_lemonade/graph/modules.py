"""The torch modules of ops: torch's own, and ours where it has none."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph import ops

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class MixModule(nn.Module):
    """`l * a + (1 - l) * b` with a learnt number l (shape: scalar) that starts at 1."""

    def __init__(self) -> None:
        """Starts as its first input."""
        super().__init__()
        self.gate = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mixes two tensors of one shape."""
        return self.gate * a + (1 - self.gate) * b


class RelaxedActivationModule(nn.Module):
    """`l * x + (1 - l) * f(x)` with a learnt number l (shape: scalar) that starts at 1."""

    def __init__(self, function: str) -> None:
        """Takes the name of f; starts as the identity."""
        super().__init__()
        self.gate = nn.Parameter(torch.ones(()))
        self.function = ACTIVATIONS[function]()

    def forward(self, x: Tensor) -> Tensor:
        """Goes part of the way to the non-linearity."""
        result: Tensor = self.gate * x + (1 - self.gate) * self.function(x)
        return result


class GlobalPoolModule(nn.Module):
    """Average or maximum over height and width: (batch, channels, height, width) becomes (batch, channels)."""

    def __init__(self, mode: str) -> None:
        """Takes `"avg"` or `"max"`."""
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """Pools."""
        return x.mean((2, 3)) if self.mode == "avg" else x.amax((2, 3))


class StridedPointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride, which takes every n-th pixel first and then convolves without a stride: the same values.

    oneDNN's weight gradient of such a convolution of few channels, these neighbours in memory, writes past its buffers on CPUs with AVX2
    (uxlfoundation/oneDNN#6035, seen in 3.12): wrong gradients, or a crash much later.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Convolves."""
        down, right = self.stride
        return conv2d(input[..., ::down, ::right], self.weight, self.bias, groups=self.groups)


class UnevenMaxPoolModule(nn.Module):
    """`nn.AdaptiveMaxPool2d` written out window by window: columns first, then rows. Values and gradients are the same.

    ONNX has no maximum over windows that differ in size, so an export needs this form where the output's size doesn't divide the input's.
    """

    def __init__(self, output_size: ops.Pair) -> None:
        """Takes height and width of the output."""
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Pools."""
        height, width = self.output_size
        x = torch.cat([max_pool2d(x[..., a:b], (1, b - a)) for a, b in _windows(int(x.shape[3]), width)], 3)
        return torch.cat([max_pool2d(x[..., a:b, :], (b - a, 1)) for a, b in _windows(int(x.shape[2]), height)], 2)


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    """Returns begin and end of as many windows as given over `size` positions, as PyTorch places those of adaptive pools."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _pool(op: ops.Pool2d, shape: ops.Shape) -> nn.Module:
    """Returns a pool that exports for images of this shape.

    Where PyTorch drops a partial window since it would start in the padding, the rule for shapes in ONNX Runtime counts it. So rounding up
    is left out there; height and width are then pooled one after the other, as only one of them may drop a window.
    """
    make = nn.MaxPool2d if op.mode == "max" else partial(nn.AvgPool2d, count_include_pad=False)
    (kh, kw), (sh, sw), (ph, pw) = op.kernel_size, op.stride, op.padding
    windows = zip(shape[1:], op.output_shape([shape])[1:], op.kernel_size, op.stride, op.padding, strict=True)
    up, across = (op.ceil_mode and count == -((k - size - 2 * p) // s) + 1 for size, count, k, s, p in windows)
    if up == across == op.ceil_mode:
        return make(op.kernel_size, op.stride, op.padding, ceil_mode=op.ceil_mode)
    return nn.Sequential(make((kh, 1), (sh, 1), (ph, 0), ceil_mode=up), make((1, kw), (1, sw), (0, pw), ceil_mode=across))


def _adaptive_pool(op: ops.AdaptivePool2d, shape: ops.Shape) -> nn.Module:
    if op.mode == "avg":
        return nn.AdaptiveAvgPool2d(op.output_size)
    even = all(size % count == 0 for size, count in zip(shape[1:], op.output_size, strict=True))
    return nn.AdaptiveMaxPool2d(op.output_size) if even else UnevenMaxPoolModule(op.output_size)


def module_of(op: ops.Op, inputs: Sequence[ops.Shape]) -> nn.Module:
    """Returns the torch module of an op that is one."""
    match op:
        case ops.Conv2d():
            windows = op.kernel_size, op.stride, op.padding, op.dilation
            skips = op.kernel_size == (1, 1) and op.stride != (1, 1) and op.padding == (0, 0)
            make = StridedPointwiseConv2d if skips else nn.Conv2d
            return make(inputs[0][0], op.out_channels, *windows, op.groups, op.bias)
        case ops.Linear():
            return nn.Linear(inputs[0][0], op.out_features, op.bias)
        case ops.BatchNorm2d():
            return nn.BatchNorm2d(inputs[0][0], op.eps, op.momentum)
        case ops.RelaxedActivation():
            return RelaxedActivationModule(op.function)
        case ops.Activation():
            return ACTIVATIONS[op.function]()
        case ops.Pool2d():
            return _pool(op, inputs[0])
        case ops.AdaptivePool2d():
            return _adaptive_pool(op, inputs[0])
        case ops.Upsample2d():
            align = None if op.mode == "nearest" else False
            return nn.Upsample(scale_factor=tuple(map(float, op.scale)), mode=op.mode, align_corners=align)
        case ops.GlobalPool2d():
            return GlobalPoolModule(op.mode)
        case ops.Mix():
            return MixModule()
        case ops.Dropout():
            return nn.Dropout(op.p)
        case ops.Identity():
            return nn.Identity()
    raise SpecError(f"the op {op.name} has no torch module")
