"""Layers: convolution, fully connected, batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from lightning_lemonade.graph.ops.base import Op, PassThrough
from lightning_lemonade.graph.ops.checks import Pair, boolean, integer, number, pair
from lightning_lemonade.graph.ops.shapes import Shape, image, window


@dataclass(frozen=True)
class Conv2d(Op):
    """A convolution over `(channels, height, width)`. Integers stand for square windows.

    Attributes:
        out_channels: number of filters.
        kernel_size: height and width of the window.
        stride: steps of the window.
        padding: zeros on each side.
        dilation: distance between taps.
        groups: number of independent groups of channels.
        bias: whether a bias is added.
    """

    name = "conv2d"
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        """Checks and normalises the arguments."""
        integer("out_channels", self.out_channels, 1)
        integer("groups", self.groups, 1)
        boolean("bias", self.bias)
        for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            object.__setattr__(self, name, pair(name, getattr(self, name), low))
        if self.out_channels % self.groups:
            raise ValueError(f"out_channels {self.out_channels} is not a multiple of groups {self.groups}")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        shape = image(inputs[0])
        if shape[0] % self.groups:
            raise ValueError(f"input has {shape[0]} channels, which is not a multiple of groups {self.groups}")
        return (
            self.out_channels,
            *window(shape, self.kernel_size, self.stride, self.padding, self.dilation),
        )

    def weight_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Returns the weight's shape: (out_channels, in_channels / groups, height, width)."""
        return (self.out_channels, inputs[0][0] // self.groups, *self.kernel_size)

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """See `Op.parameter_count`."""
        return prod(self.weight_shape(inputs)) + (self.out_channels if self.bias else 0)

    def macs(self, inputs: Sequence[Shape]) -> int:
        """See `Op.macs`."""
        return prod(self.weight_shape(inputs)) * prod(self.output_shape(inputs)[1:])

    def is_depthwise(self, in_channels: int) -> bool:
        """Returns whether each output channel sees its own input channel alone, one to one."""
        return self.groups == in_channels == self.out_channels and self.groups > 1

    def keeps_size(self) -> bool:
        """Returns whether height and width stay as they are, whatever they are."""
        windows = zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return all(stride == 1 and 2 * pad == dilation * (kernel - 1) for kernel, stride, pad, dilation in windows)


@dataclass(frozen=True)
class Linear(Op):
    """A fully connected layer over `(features,)`.

    Attributes:
        out_features: number of outputs.
        bias: whether a bias is added.
    """

    name = "linear"
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        """Checks the arguments."""
        integer("out_features", self.out_features, 1)
        boolean("bias", self.bias)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        if len(inputs[0]) != 1:
            raise ValueError(f"needs an input of shape (features,), got {inputs[0]}: put a flatten before it")
        return (self.out_features,)

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """See `Op.parameter_count`."""
        return self.out_features * (inputs[0][0] + (1 if self.bias else 0))

    def macs(self, inputs: Sequence[Shape]) -> int:
        """See `Op.macs`."""
        return self.out_features * inputs[0][0]


@dataclass(frozen=True)
class BatchNorm2d(PassThrough):
    """Batch normalisation with scale and shift.

    Attributes:
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
    """

    name = "batch_norm2d"
    eps: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        """Checks the numbers."""
        object.__setattr__(self, "eps", number("eps", self.eps, 1e-12, 1.0))
        object.__setattr__(self, "momentum", number("momentum", self.momentum, 0.0, 1.0))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return image(inputs[0])

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """See `Op.parameter_count`."""
        return 2 * inputs[0][0]

    def macs(self, inputs: Sequence[Shape]) -> int:
        """See `Op.macs`: fvcore counts two for each element of an affine batch norm in eval mode."""
        return 2 * prod(inputs[0])
