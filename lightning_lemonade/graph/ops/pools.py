"""Fewer positions for each channel: pools, and the flatten, which makes features of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from lightning_lemonade.graph.ops.base import Op, PassThrough
from lightning_lemonade.graph.ops.checks import Pair, boolean, choice, pair
from lightning_lemonade.graph.ops.shapes import Shape, image, window

PoolMode = Literal["avg", "max"]


@dataclass(frozen=True)
class Pool2d(PassThrough):
    """Average or maximum over a sliding window. Padding doesn't count into averages and is never a maximum.

    Attributes:
        mode: `"avg"` or `"max"`.
        kernel_size: height and width of the window.
        stride: steps of the window.
        padding: at most half of the window on each side.
        ceil_mode: whether a partial last window counts.
    """

    name = "pool2d"
    mode: PoolMode
    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Checks and normalises the arguments."""
        choice("mode", self.mode, get_args(PoolMode))
        boolean("ceil_mode", self.ceil_mode)
        for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            object.__setattr__(self, name, pair(name, getattr(self, name), low))
        if any(2 * pad > kernel for pad, kernel in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"padding {self.padding} is more than half of the window {self.kernel_size}")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        shape = image(inputs[0])
        size = window(shape, self.kernel_size, self.stride, self.padding, (1, 1), self.ceil_mode)
        return (shape[0], *size)


@dataclass(frozen=True)
class AdaptivePool2d(PassThrough):
    """Average or maximum over as many windows as the output has positions.

    Attributes:
        mode: `"avg"` or `"max"`.
        output_size: height and width of the output.
    """

    name = "adaptive_pool2d"
    mode: PoolMode
    output_size: Pair

    def __post_init__(self) -> None:
        """Checks and normalises the arguments."""
        choice("mode", self.mode, get_args(PoolMode))
        object.__setattr__(self, "output_size", pair("output_size", self.output_size, 1))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return (image(inputs[0])[0], *self.output_size)

    def macs(self, inputs: Sequence[Shape]) -> int:
        """See `Op.macs`: fvcore counts one for each input element of an adaptive average, nothing for a maximum."""
        return prod(inputs[0]) if self.mode == "avg" else 0


@dataclass(frozen=True)
class GlobalPool2d(PassThrough):
    """Average or maximum over all positions: (channels, height, width) becomes (channels,).

    Attributes:
        mode: `"avg"` or `"max"`.
    """

    name = "global_pool2d"
    mode: PoolMode = "avg"

    def __post_init__(self) -> None:
        """Checks the mode."""
        choice("mode", self.mode, get_args(PoolMode))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return (image(inputs[0])[0],)


@dataclass(frozen=True)
class Flatten(Op):
    """(channels, height, width) becomes (channels * height * width,), channel by channel."""

    name = "flatten"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return (prod(inputs[0]),)
