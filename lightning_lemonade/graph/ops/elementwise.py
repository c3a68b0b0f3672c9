"""Ops without weights that treat each element by itself."""

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_lemonade.graph.ops.base import PassThrough
from lightning_lemonade.graph.ops.checks import choice, number

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
