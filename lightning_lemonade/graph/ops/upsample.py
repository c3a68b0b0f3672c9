"""More positions for each channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from lightning_lemonade.graph.ops.base import PassThrough
from lightning_lemonade.graph.ops.checks import Pair, choice, pair
from lightning_lemonade.graph.ops.shapes import Shape, image

UpsampleMode = Literal["nearest", "bilinear"]
_COST = {"nearest": 1, "bilinear": 4}


@dataclass(frozen=True)
class Upsample2d(PassThrough):
    """Scales images up by whole factors.

    Attributes:
        scale: factors of height and width.
        mode: `"nearest"` or `"bilinear"` (whose corners aren't aligned).
    """

    name = "upsample2d"
    scale: Pair = (2, 2)
    mode: UpsampleMode = "nearest"

    def __post_init__(self) -> None:
        """Checks and normalises the arguments."""
        object.__setattr__(self, "scale", pair("scale", self.scale, 1))
        choice("mode", self.mode, get_args(UpsampleMode))

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """See `Op.output_shape`."""
        channels, height, width = image(inputs[0])
        return (channels, height * self.scale[0], width * self.scale[1])

    def macs(self, inputs: Sequence[Shape]) -> int:
        """See `Op.macs`: fvcore counts one for each output element, four where neighbours are mixed."""
        return _COST[self.mode] * prod(self.output_shape(inputs))
