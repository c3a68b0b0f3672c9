"""Random graph specs of tiny tensors: branches, residuals, nested concats, gates, depthwise and grouped convolutions."""

import random
from collections.abc import Callable
from typing import get_args

from lightning_lemonade.graph import GraphSpec, Node, ops

MAX_CHANNELS = 16
MAX_SIDE = 24
ACTIVATION_NAMES = get_args(ops.ActivationName)


def random_spec(rng: random.Random, steps: int = 8) -> GraphSpec:
    """A valid spec of tiny tensors, grown by `steps` random additions, joined at the end and given a random head.

    Args:
        rng: the source of every choice.
        steps: how often the graph grows.
    """
    growing = _Growing(rng)
    growing.add(ops.Input((rng.randint(1, 4), rng.randint(4, 10), rng.randint(4, 10)) if rng.random() < 0.95 else (rng.randint(2, 6),)))
    for _ in range(steps):
        growing.step()
    growing.finish()
    return GraphSpec(tuple(growing.nodes))


class _Growing:
    """A graph while it grows. `loose` are the nodes that nothing reads yet."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.nodes: list[Node] = []
        self.shapes: dict[str, ops.Shape] = {}
        self.loose: dict[str, None] = {}
        self.number = rng.randint(0, 20)

    def add(self, op: ops.Op, *inputs: str) -> str:
        shape = op.output_shape([self.shapes[source] for source in inputs])
        self.number += self.rng.choice([1, 1, 1, 7])
        name = f"n{self.number}"
        self.nodes.append(Node(name, op, inputs, self.rng.choice(["", "", "features.0", "a label"])))
        self.shapes[name] = shape
        for source in inputs:
            self.loose.pop(source, None)
        self.loose[name] = None
        return name

    def pick(self, fits: Callable[[ops.Shape], bool] = lambda shape: True) -> str | None:
        """A node of a fitting shape: often the last, at times any."""
        fitting = [node.id for node in self.nodes if fits(self.shapes[node.id])]
        if not fitting:
            return None
        return fitting[-1] if self.rng.random() < 0.5 else self.rng.choice(fitting)

    def step(self) -> None:
        source = self.pick()
        assert source is not None
        image = len(self.shapes[source]) == 3
        kinds = ["activation", "activation", "relaxed", "dropout", "identity", "join", "concat"]
        kinds += (
            ["conv", "conv", "depthwise", "grouped", "norm", "pool", "adaptive", "upsample", "residual", "mirror", "gate", "twins"]
            if image
            else ["linear"]
        )
        getattr(self, f"_{self.rng.choice(kinds)}")(source)

    def _activation(self, source: str) -> str:
        return self.add(ops.Activation(self.rng.choice(ACTIVATION_NAMES)), source)

    def _relaxed(self, source: str) -> str:
        return self.add(ops.RelaxedActivation(self.rng.choice(ACTIVATION_NAMES)), source)

    def _dropout(self, source: str) -> str:
        return self.add(ops.Dropout(self.rng.choice([0.0, 0.1, 0.5])), source)

    def _identity(self, source: str) -> str:
        return self.add(ops.Identity(), source)

    def _linear(self, source: str) -> str:
        return self.add(ops.Linear(self.rng.randint(1, 8), self.rng.random() < 0.7), source)

    def _norm(self, source: str) -> str:
        return self.add(ops.BatchNorm2d(self.rng.choice([1e-5, 1e-3]), self.rng.choice([0.1, 0.01])), source)

    def _conv(self, source: str, groups: int = 1, out_channels: int | None = None) -> str:
        rng, (_, height, width) = self.rng, self.shapes[source]
        padding = (rng.randint(0, 1), rng.randint(0, 1))
        padded = (height + 2 * padding[0], width + 2 * padding[1])
        kernel = (rng.randint(1, min(3, padded[0])), rng.randint(1, min(3, padded[1])))
        dilation = 2 if rng.random() < 0.2 and 2 * kernel[0] - 1 <= padded[0] and 2 * kernel[1] - 1 <= padded[1] else 1
        stride = (rng.choice([1, 1, 2]), rng.choice([1, 1, 2]))
        out_channels = out_channels or groups * rng.randint(1, max(1, 6 // groups))
        return self.add(ops.Conv2d(out_channels, kernel, stride, padding, (dilation, dilation), groups, rng.random() < 0.6), source)

    def _depthwise(self, source: str) -> str:
        channels = self.shapes[source][0]
        return self._conv(source, channels, channels)

    def _grouped(self, source: str) -> str:
        channels = self.shapes[source][0]
        even = [groups for groups in range(2, channels) if channels % groups == 0]
        return self._conv(source, self.rng.choice(even or [1, channels]))

    def _same_size_conv(self, source: str, out_channels: int, kernel: int = 3) -> str:
        return self.add(
            ops.Conv2d(out_channels, (kernel, kernel), padding=(kernel // 2, kernel // 2), bias=self.rng.random() < 0.5), source
        )

    def _mode(self) -> ops.PoolMode:
        return self.rng.choice(get_args(ops.PoolMode))

    def _pool(self, source: str) -> str:
        rng, (_, height, width) = self.rng, self.shapes[source]
        kernel = (rng.randint(1, min(3, height)), rng.randint(1, min(3, width)))
        padding = (rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2))
        mode, stride = self._mode(), (rng.randint(1, 3), rng.randint(1, 3))
        return self.add(ops.Pool2d(mode, kernel, stride, padding, rng.random() < 0.5), source)

    def _adaptive(self, source: str) -> str:
        size = (self.rng.randint(1, 6), self.rng.randint(1, 6))
        return self.add(ops.AdaptivePool2d(self._mode(), size), source)

    def _upsample(self, source: str) -> str:
        rng, (_, height, width) = self.rng, self.shapes[source]
        largest = (MAX_SIDE // height, MAX_SIDE // width)
        if min(largest) < 1:
            return self._identity(source)
        scale = (rng.randint(1, min(3, largest[0])), rng.randint(1, min(3, largest[1])))
        return self.add(ops.Upsample2d(scale, rng.choice(get_args(ops.UpsampleMode))), source)

    def _residual(self, source: str) -> str:
        """Two convolutions around a skip connection."""
        inner = self._same_size_conv(source, self.rng.randint(1, 6))
        inner = self._norm(inner) if self.rng.random() < 0.7 else inner
        inner = self._same_size_conv(self._activation(inner), self.shapes[source][0])
        return self.add(ops.Add(), *self.rng.sample([inner, source], 2))

    def _gate(self, source: str) -> str:
        """Squeeze and excitation."""
        squeezed = self.add(ops.AdaptivePool2d("avg", (1, 1)), source)
        narrow = self.add(ops.Activation("relu"), self._same_size_conv(squeezed, self.rng.randint(1, 3), 1))
        gate = self.add(ops.Activation("sigmoid"), self._same_size_conv(narrow, self.shapes[source][0], 1))
        return self.add(ops.Mul(), *self.rng.sample([gate, source], 2))

    def _twins(self, source: str) -> str:
        """Branches that are alike, joined."""
        op = ops.Conv2d(self.rng.randint(1, 3), (1, 1))
        branches = [self.add(op, source) for _ in range(self.rng.randint(2, 3))]
        if self.rng.random() < 0.5:
            branches = [self.add(ops.Activation("relu"), branch) for branch in branches]
        return self._joined(branches)

    def _join(self, source: str) -> str:
        """Add, Mul or Mix with nodes of one shape: existing ones, or the same node twice."""
        alike = [name for name, shape in self.shapes.items() if shape == self.shapes[source]]
        return self._joined([source, *self.rng.choices(alike, k=self.rng.randint(1, 2))])

    def _mirror(self, source: str) -> str:
        """A join with a convolution of the same shape: cuts in the source go over into its filters."""
        channels, *size = self.shapes[source]
        other = self.pick(lambda shape: list(shape[1:]) == size)
        assert other is not None
        return self._joined([source, self._same_size_conv(other, channels, self.rng.choice([1, 3]))])

    def _joined(self, sources: list[str]) -> str:
        op = self.rng.choice([ops.Add(), ops.Mul(), ops.Mix()])
        return self.add(op, *(sources if isinstance(op, ops.Add) else sources[:2]))

    def _concat(self, source: str) -> str:
        concats = [node.id for node in self.nodes if isinstance(node.op, ops.Concat)]
        source = self.rng.choice(concats) if concats and self.rng.random() < 0.5 else source
        shape = self.shapes[source]
        fitting = [name for name, other in self.shapes.items() if other[1:] == shape[1:] and len(other) == len(shape)]
        parts = [source, *self.rng.choices(fitting, k=self.rng.randint(1, 2))]
        if sum(self.shapes[part][0] for part in parts) > MAX_CHANNELS * (4 if len(shape) == 1 else 1):
            return self._identity(source)
        return self.add(ops.Concat(), *self.rng.sample(parts, len(parts)))

    def finish(self) -> None:
        """Joins what is loose, and puts a head on it."""
        if self.rng.random() < 0.1 and len(self.loose) == 1:
            self.add(ops.Output(), *self.loose)
            return
        vectors = [self._vector(name) for name in list(self.loose)]
        joined = vectors[0] if len(vectors) == 1 else self.add(ops.Concat(), *vectors)
        if self.rng.random() < 0.5:
            joined = self._activation(self._linear(joined))
        if self.rng.random() < 0.9:
            joined = self._linear(joined)
        self.add(ops.Output(), joined)

    def _vector(self, name: str) -> str:
        if len(self.shapes[name]) == 1:
            return self.add(ops.Flatten(), name) if self.rng.random() < 0.05 else name
        if self.rng.random() < 0.6:
            return self.add(ops.GlobalPool2d(self.rng.choice(["avg", "max"])), name)
        return self.add(ops.Flatten(), name)
