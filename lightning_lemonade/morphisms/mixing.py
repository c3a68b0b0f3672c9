"""Layers that read other channels than before: their weights start as the product with a matrix from the new channels to the old ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lightning_lemonade.graph import Concat, Conv2d, Flatten, GraphSpec, Linear
from lightning_lemonade.morphisms.state import State


@dataclass(frozen=True)
class Mixture:
    """Features of the parent as sums of those that stand in their place in the child.

    Attributes:
        matrix: (channels of the parent, channels of the child); None if nothing changes.
        channels: those of the child.
        repeat: features for each channel (more than 1 behind a Flatten).
    """

    matrix: Tensor | None
    channels: int
    repeat: int

    def applied(self, weight: Tensor) -> Tensor:
        """Returns weights (outputs, features of the child, taps) from those of the parent (outputs, features, taps)."""
        if self.matrix is None:
            return weight
        outputs, _, taps = weight.shape
        parts = weight.reshape(outputs, self.matrix.shape[0], -1)
        return torch.einsum("ocr,cd->odr", parts, self.matrix.to(weight)).reshape(outputs, self.channels * self.repeat, taps)

    @property
    def features(self) -> int:
        """How many of the parent's features it stands for."""
        return (self.channels if self.matrix is None else self.matrix.shape[0]) * self.repeat


def mixed_readers(parent: GraphSpec, state: Mapping[str, Tensor], child: GraphSpec, replaced: str, mixture: Mixture) -> State:
    """Returns the weights of all layers that read a replaced node's channels.

    Args:
        parent: the graph before the change.
        state: its weights.
        child: the graph after it, where other nodes stand in the place of one node's output.
        replaced: that node's id in the parent.
        mixture: what stands in its place.
    """
    parts: dict[str, list[Mixture]] = {replaced: [mixture]}
    weights: State = {}
    for node in parent.nodes:
        if node.id not in child or not any(source in parts for source in node.inputs):
            continue
        inputs = [parts.get(i, [Mixture(None, parent.shapes[i][0], 1)]) for i in node.inputs]
        match node.op:
            case Conv2d() | Linear():
                name = f"{node.id}.weight"
                weights[name] = _mixed(state[name], inputs[0])
            case Concat():
                parts[node.id] = [part for source in inputs for part in source]
            case Flatten():
                positions = prod(parent.input_shapes(node.id)[0][1:])
                parts[node.id] = [Mixture(part.matrix, part.channels, part.repeat * positions) for part in inputs[0]]
            case _:
                parts[node.id] = inputs[0]
    return weights


def _mixed(weight: Tensor, parts: Sequence[Mixture]) -> Tensor:
    """Returns a layer's weight (outputs, features, ...) for the child's features."""
    flat, done, start = weight.reshape(*weight.shape[:2], -1), [], 0
    for part in parts:
        done.append(part.applied(flat[:, start : start + part.features]))
        start += part.features
    mixed = torch.cat(done, 1)
    return mixed.reshape(len(mixed), mixed.shape[1], *weight.shape[2:]).contiguous()
