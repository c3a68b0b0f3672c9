"""Ops that read several nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from lightning_lemonade.graph.ops.base import Join, Op
from lightning_lemonade.graph.ops.shapes import Shape, same


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
        return same(inputs)


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
