"""Node types: what one node of a graph spec computes, as plain data.

Nothing here imports torch: shapes, parameter counts and multiply-adds of a spec are derived from these classes alone, so that thousands
of proposals can be judged without building a network. `lightning_lemonade.graph.build` turns each type into its torch module.

Shapes are those of one sample, without the batch: `(channels, height, width)` for images and `(features,)` for vectors.
Counts follow fvcore: one fused multiply-add is 1, biases are free (see `lightning_lemonade.objectives.counting`).
"""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from math import prod
from typing import Any, ClassVar, Literal, cast, get_args

Shape = tuple[int, ...]
Pair = tuple[int, int]
ActivationName = Literal["relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh"]
PoolMode = Literal["avg", "max"]

MAX_SIZE = 1 << 20
"""Upper bound of every integer in a spec: far above any real network, far below what would exhaust memory in a check."""


_REPR = reprlib.Repr()
_REPR.maxlevel = 2  # a value from outside may be large, or nested deeper than Python's own repr can follow


def shown(value: object) -> str:
    """Returns a short text of any value, for error messages."""
    try:
        return _REPR.repr(value)[:100]
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "an integer of thousands of digits"


def _integer(name: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {shown(value)}")
    if not low <= value <= MAX_SIZE:
        raise ValueError(f"{name} must be between {low} and {MAX_SIZE}, got {shown(value)}")
    return value


def _pair(name: str, value: object, low: int) -> Pair:
    if isinstance(value, int):
        value = (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} must be an integer or two integers, got {shown(value)}")
    return (_integer(name, value[0], low), _integer(name, value[1], low))


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return value


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number between {low} and {high}, got {shown(value)}")
    return float(value) + 0.0  # -0.0 becomes 0.0: equal numbers have one text


def _choice(name: str, value: object, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}")
    return str(value)


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"needs an input of shape (channels, height, width), got {shape}")
    return shape


def _same(shapes: Sequence[Shape]) -> Shape:
    if len(set(shapes)) != 1:
        raise ValueError(f"needs inputs of one shape, got {', '.join(map(str, shapes))}")
    return shapes[0]


def _window(shape: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool = False) -> Pair:
    """Height and width after a sliding window, by PyTorch's formula."""
    sizes = []
    for size, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
        span = size + 2 * p - d * (k - 1) - 1
        out = (span + s - 1) // s + 1 if ceil else span // s + 1
        if ceil and (out - 1) * s >= size + p:  # PyTorch drops a window that would start in the padding
            out -= 1
        if out < 1:
            raise ValueError(f"window {kernel} with dilation {dilation} is larger than the padded input {shape}")
        sizes.append(out)
    return (sizes[0], sizes[1])


@dataclass(frozen=True)
class Op(ABC):
    """What a node computes. Subclasses are frozen dataclasses whose fields are the arguments in JSON."""

    name: ClassVar[str]
    """The type's name in JSON."""
    min_inputs: ClassVar[int] = 1
    max_inputs: ClassVar[int | None] = 1
    commutes: ClassVar[bool] = False
    """Whether the order of the inputs is without meaning."""

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Returns the shape of the output for inputs of these shapes.

        Raises:
            ValueError: if the inputs don't fit, with the reason.
        """

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """Returns the number of trainable parameters."""
        return 0

    def macs(self, inputs: Sequence[Shape]) -> int:
        """Returns the multiply-adds for one sample, as fvcore counts them in eval mode."""
        return 0

    def arguments(self) -> dict[str, Any]:
        """Returns the op's arguments as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class PassThrough(Op):
    """An op whose output channel i depends on input channel i alone: it has the channels of its input."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return inputs[0]


@dataclass(frozen=True)
class Join(Op):
    """An op that combines several inputs channel by channel: they all have the same channels."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return _same(inputs)


@dataclass(frozen=True)
class Input(Op):
    """The network's input: samples of a fixed shape.

    Attributes:
        shape: `(channels, height, width)` or `(features,)`.
    """

    name = "input"
    min_inputs = 0
    max_inputs = 0
    shape: Shape

    def __post_init__(self) -> None:
        """Checks the shape."""
        if not isinstance(self.shape, list | tuple) or len(self.shape) not in (1, 3):
            raise ValueError(f"shape must be [channels, height, width] or [features], got {shown(self.shape)}")
        object.__setattr__(self, "shape", tuple(_integer("shape", size, 1) for size in self.shape))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return self.shape


@dataclass(frozen=True)
class Output(PassThrough):
    """The network's output (for a classifier: the logits)."""

    name = "output"


@dataclass(frozen=True)
class Identity(PassThrough):
    """Returns its input."""

    name = "identity"


@dataclass(frozen=True)
class Dropout(PassThrough):
    """Zeroes elements with probability `p` while training.

    Attributes:
        p: probability of zeroing, in [0, 1).
    """

    name = "dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        """Checks the probability."""
        object.__setattr__(self, "p", _number("p", self.p, 0.0, 0.999))


@dataclass(frozen=True)
class Activation(PassThrough):
    """An elementwise non-linearity with PyTorch's defaults.

    Attributes:
        function: its name.
    """

    name = "activation"
    function: ActivationName = "relu"

    def __post_init__(self) -> None:
        """Checks the function's name."""
        _choice("function", self.function, get_args(ActivationName))


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
        object.__setattr__(self, "eps", _number("eps", self.eps, 1e-12, 1.0))
        object.__setattr__(self, "momentum", _number("momentum", self.momentum, 0.0, 1.0))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return _image(inputs[0])

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """See `Op.parameter_count`."""
        return 2 * inputs[0][0]

    def macs(self, inputs: Sequence[Shape]) -> int:
        """See `Op.macs`: fvcore counts two for each element of an affine batch norm in eval mode."""
        return 2 * prod(inputs[0])


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
        _integer("out_channels", self.out_channels, 1)
        _integer("groups", self.groups, 1)
        _boolean("bias", self.bias)
        for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            object.__setattr__(self, name, _pair(name, getattr(self, name), low))
        if self.out_channels % self.groups:
            raise ValueError(f"out_channels {self.out_channels} is not a multiple of groups {self.groups}")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        shape = _image(inputs[0])
        if shape[0] % self.groups:
            raise ValueError(f"input has {shape[0]} channels, which is not a multiple of groups {self.groups}")
        return (
            self.out_channels,
            *_window(shape, self.kernel_size, self.stride, self.padding, self.dilation),
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
        _integer("out_features", self.out_features, 1)
        _boolean("bias", self.bias)

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
        _choice("mode", self.mode, get_args(PoolMode))
        _boolean("ceil_mode", self.ceil_mode)
        for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            object.__setattr__(self, name, _pair(name, getattr(self, name), low))
        if any(2 * pad > kernel for pad, kernel in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"padding {self.padding} is more than half of the window {self.kernel_size}")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        shape = _image(inputs[0])
        size = _window(shape, self.kernel_size, self.stride, self.padding, (1, 1), self.ceil_mode)
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
        _choice("mode", self.mode, get_args(PoolMode))
        object.__setattr__(self, "output_size", _pair("output_size", self.output_size, 1))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return (_image(inputs[0])[0], *self.output_size)

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
        _choice("mode", self.mode, get_args(PoolMode))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return (_image(inputs[0])[0],)


@dataclass(frozen=True)
class Flatten(Op):
    """(channels, height, width) becomes (channels * height * width,), channel by channel."""

    name = "flatten"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return (prod(inputs[0]),)


@dataclass(frozen=True)
class Add(Join):
    """The sum of two or more inputs of one shape."""

    name = "add"
    min_inputs = 2
    max_inputs = None
    commutes = True


@dataclass(frozen=True)
class Mul(Join):
    """The product of two inputs of one shape, or of one (channels, height, width) and one gate (channels, 1, 1)."""

    name = "mul"
    min_inputs = 2
    max_inputs = 2
    commutes = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        gate, image = sorted(inputs, key=prod)
        if len(image) == 3 and gate == (image[0], 1, 1):
            return image
        return _same(inputs)


@dataclass(frozen=True)
class Mix(Join):
    """`l * a + (1 - l) * b` of two inputs a, b of one shape, with one learnt number l that starts at 1 (type IV)."""

    name = "mix"
    min_inputs = 2
    max_inputs = 2

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """See `Op.parameter_count`."""
        return 1


@dataclass(frozen=True)
class Concat(Op):
    """The channels of two or more inputs, one after the other. Height and width are the same."""

    name = "concat"
    min_inputs = 2
    max_inputs = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        if len({shape[1:] for shape in inputs}) != 1 or len({len(shape) for shape in inputs}) != 1:
            raise ValueError(f"needs inputs of one height and width, got {', '.join(map(str, inputs))}")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        Input,
        Output,
        Identity,
        Dropout,
        Activation,
        BatchNorm2d,
        Conv2d,
        Linear,
        Pool2d,
        AdaptivePool2d,
        GlobalPool2d,
        Flatten,
        Add,
        Mul,
        Mix,
        Concat,
    )
}
"""Every node type by its name in JSON."""


def op_from_arguments(name: object, arguments: object) -> Op:
    """Makes an op from its name and JSON arguments.

    Raises:
        ValueError: if the name, an argument's name or a value isn't valid.
    """
    if not isinstance(name, str) or name not in OPS:
        raise ValueError(f"unknown op {shown(name)}; known: {', '.join(sorted(OPS))}")
    if not isinstance(arguments, dict):
        raise ValueError(f"args of {name} must be an object, got {shown(arguments)}")
    cls = OPS[name]
    known = {field.name for field in fields(cls)}
    unknown = sorted(map(shown, set(arguments) - known))
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(unknown[:6])}; it has: {', '.join(sorted(known)) or 'none'}")
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in arguments]
    if missing:
        raise ValueError(f"{name} needs the arguments {', '.join(missing)}")
    return cls(**cast(dict[str, Any], arguments))
