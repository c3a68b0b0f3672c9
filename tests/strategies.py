"""Random graph specs, for property tests (`specs`) and for seeded loops (`random_spec`)."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from hypothesis import strategies as st

from lightning_lemonade.graph import GraphSpec, Node, ops

MAX_CHANNELS = 16
ACTIVATION_NAMES = get_args(ops.ActivationName)


def specs(max_steps: int = 10) -> st.SearchStrategy[GraphSpec]:
    """Valid specs; an example shrinks to fewer steps, then to a smaller seed."""

    def make(steps: int, seed: int) -> GraphSpec:
        return random_spec(random.Random(seed), steps=steps)

    return st.builds(make, st.integers(0, max_steps), st.integers(0, 2**32 - 1))


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


def chain(*layers: ops.Op) -> GraphSpec:
    """A spec of ops one after the other, n0, n1, and so on."""
    return GraphSpec(tuple(Node(f"n{i}", op, (f"n{i - 1}",) if i else ()) for i, op in enumerate(layers)))


def graph(**nodes: tuple[ops.Op, str]) -> GraphSpec:
    """A spec of `name=(op, "names of inputs")`; names become labels."""
    ids = {name: f"n{i}" for i, name in enumerate(nodes)}
    return GraphSpec(tuple(Node(ids[name], op, tuple(ids[source] for source in read.split()), name) for name, (op, read) in nodes.items()))


def named(spec: GraphSpec, name: str) -> str:
    """The id of the node of this label."""
    return next(node.id for node in spec.nodes if node.label == name)


def relabelled(spec: GraphSpec, rng: random.Random) -> GraphSpec:
    """An isomorphic spec: other ids, another order, other labels, commuting inputs shuffled."""
    numbers = rng.sample(range(10 * len(spec)), len(spec))
    names = {node.id: f"n{number}" for node, number in zip(spec.nodes, numbers, strict=True)}
    nodes = []
    for node in spec.nodes:
        inputs = [names[source] for source in node.inputs]
        if node.op.commutes:
            rng.shuffle(inputs)
        nodes.append(Node(names[node.id], node.op, tuple(inputs), rng.choice(["", "layer", node.id])))
    rng.shuffle(nodes)
    return GraphSpec.from_nodes(nodes)


def near_misses(spec: GraphSpec, rng: random.Random) -> list[GraphSpec]:
    """Specs that differ from this one in one small way; by accident some may be isomorphic to it all the same."""
    changes = (_swapped_inputs, _shared_node_copied, _reader_moved, _argument_changed)
    return [near for near in (change(spec, rng) for change in changes) if near is not None and near != spec]


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
        kinds = ["activation", "dropout", "identity", "join", "concat"]
        kinds += (
            ["conv", "conv", "depthwise", "grouped", "norm", "pool", "adaptive", "residual", "mirror", "gate", "twins"]
            if image
            else ["linear"]
        )
        getattr(self, f"_{self.rng.choice(kinds)}")(source)

    def _activation(self, source: str) -> str:
        return self.add(ops.Activation(self.rng.choice(ACTIVATION_NAMES)), source)

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
        return self.add(ops.Conv2d(out_channels, kernel, stride, padding, dilation, groups, rng.random() < 0.6), source)

    def _depthwise(self, source: str) -> str:
        channels = self.shapes[source][0]
        return self._conv(source, channels, channels)

    def _grouped(self, source: str) -> str:
        channels = self.shapes[source][0]
        return self._conv(source, self.rng.choice([groups for groups in range(1, channels + 1) if channels % groups == 0]))

    def _same_size_conv(self, source: str, out_channels: int, kernel: int = 3) -> str:
        return self.add(ops.Conv2d(out_channels, kernel, padding=kernel // 2, bias=self.rng.random() < 0.5), source)

    def _pool(self, source: str) -> str:
        rng, (_, height, width) = self.rng, self.shapes[source]
        kernel = (rng.randint(1, min(3, height)), rng.randint(1, min(3, width)))
        padding = (rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2))
        mode, stride = rng.choice(["avg", "max"]), (rng.randint(1, 3), rng.randint(1, 3))
        return self.add(ops.Pool2d(mode, kernel, stride, padding, rng.random() < 0.5), source)

    def _adaptive(self, source: str) -> str:
        size = (self.rng.randint(1, 6), self.rng.randint(1, 6))
        return self.add(ops.AdaptivePool2d(self.rng.choice(["avg", "max"]), size), source)

    def _residual(self, source: str) -> str:
        """Two convolutions around a skip connection."""
        inner = self._same_size_conv(source, self.rng.randint(1, 6))
        inner = self._norm(inner) if self.rng.random() < 0.7 else inner
        inner = self._same_size_conv(self._activation(inner), self.shapes[source][0])
        return self.add(ops.Add(), *self.rng.sample([inner, source], 2))

    def _gate(self, source: str) -> str:
        """Squeeze and excitation."""
        squeezed = self.add(ops.AdaptivePool2d("avg", 1), source)
        narrow = self.add(ops.Activation("relu"), self._same_size_conv(squeezed, self.rng.randint(1, 3), 1))
        gate = self.add(ops.Activation("sigmoid"), self._same_size_conv(narrow, self.shapes[source][0], 1))
        return self.add(ops.Mul(), *self.rng.sample([gate, source], 2))

    def _twins(self, source: str) -> str:
        """Branches that are alike, joined."""
        op = ops.Conv2d(self.rng.randint(1, 3), 1)
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


def _swapped_inputs(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """Two inputs of a node the other way round: nothing changes where they commute."""
    joins = [node for node in spec.nodes if len(set(node.inputs)) > 1]
    if not joins:
        return None
    node = rng.choice(joins)
    return spec.edit(replaced={node.id: replace(node, inputs=node.inputs[::-1])})


def _shared_node_copied(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """One of the readers of a shared node gets a copy of it."""
    shared = [node for node in spec.nodes if len(spec.consumers[node.id]) > 1 and not isinstance(node.op, ops.Input)]
    if not shared:
        return None
    node = rng.choice(shared)
    reader = spec[rng.choice(spec.consumers[node.id])]
    copy = replace(node, id=spec.fresh_ids(1)[0])
    inputs = tuple(copy.id if source == node.id else source for source in reader.inputs)
    return spec.edit(added=[copy], replaced={reader.id: replace(reader, inputs=inputs)})


def _reader_moved(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """A node reads another node of the same shape, which comes before it."""
    places = list(spec.by_id)
    moves = [
        (node, position, other)
        for node in spec.nodes
        for position, source in enumerate(node.inputs)
        for other in places[: places.index(node.id)]
        if other != source and spec.shapes[other] == spec.shapes[source]
    ]
    if not moves:
        return None
    node, position, other = rng.choice(moves)
    inputs = (*node.inputs[:position], other, *node.inputs[position + 1 :])
    return spec.edit(replaced={node.id: replace(node, inputs=inputs)})


def _argument_changed(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """One activation, or the bias of one layer, is another."""
    nodes = [node for node in spec.nodes if isinstance(node.op, ops.Activation | ops.Conv2d | ops.Linear)]
    if not nodes:
        return None
    node = rng.choice(nodes)
    if isinstance(node.op, ops.Activation):
        op: ops.Op = ops.Activation(rng.choice([name for name in ACTIVATION_NAMES if name != node.op.function]))
    else:
        assert isinstance(node.op, ops.Conv2d | ops.Linear)
        op = replace(node.op, bias=not node.op.bias)
    return spec.edit(replaced={node.id: replace(node, op=op)})
