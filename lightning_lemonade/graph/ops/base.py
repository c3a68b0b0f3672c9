"""Op: what a node computes, and the two families whose channels follow their inputs'."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from lightning_lemonade.graph.ops.shapes import Shape, same


@dataclass(frozen=True)
class Op:
    """What a node computes. Subclasses are frozen dataclasses whose fields are the arguments in JSON.

    Abstract without being an `ABC`: of one of those `isinstance` takes several times as long, and a search asks that thousands of times for
    each child.
    """

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

    def __str__(self) -> str:
        """Returns a short readable form with the arguments that aren't at their default, for instance `linear(out_features=10)`."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default}
        texts = [f"{name}={'x'.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in given.items()]
        return f"{self.name}({', '.join(texts)})" if texts else self.name


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
        return same(inputs)
