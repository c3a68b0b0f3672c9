"""Ops that treat each element by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_lemonade.graph.ops.base import PassThrough
from lightning_lemonade.graph.ops.checks import choice, number
from lightning_lemonade.graph.ops.shapes import Shape

ActivationName = Literal["relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh"]


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
        object.__setattr__(self, "p", number("p", self.p, 0.0, 0.999))


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
        choice("function", self.function, get_args(ActivationName))


@dataclass(frozen=True)
class RelaxedActivation(Activation):
    """`l * x + (1 - l) * f(x)` with one learnt number l that starts at 1: the identity, on its way to a non-linearity. Source: ours.

    Attributes:
        function: the name of f.
    """

    name = "relaxed_activation"

    def parameter_count(self, inputs: Sequence[Shape]) -> int:
        """See `Op.parameter_count`."""
        return 1
