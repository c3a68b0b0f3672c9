"""Where a network begins and ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_lemonade.graph.ops.base import Op, PassThrough
from lightning_lemonade.graph.ops.checks import integer, shown
from lightning_lemonade.graph.ops.shapes import Shape


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
        object.__setattr__(self, "shape", tuple(integer("shape", size, 1) for size in self.shape))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        return self.shape


@dataclass(frozen=True)
class Output(PassThrough):
    """The network's output (for a classifier: the logits)."""

    name = "output"
