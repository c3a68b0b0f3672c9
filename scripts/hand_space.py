"""A search space of whole networks with a fixed number of parameters to choose, as one writes it by hand for Optuna or random search.

Three stages of up to four blocks; each block is a convolution, a depthwise-separable or a pointwise one, of any width; stages are halved by
pooling or by strides, with or without a stride in the first block; up to three skips, by a learnt sum or by concatenation, between any two
ends of blocks. It holds the starting networks of `ConvNetSpace` and what its operators
make of them, as far as the counts of blocks and skips reach: `encode` gives the choices that build a network, or says why there are none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lightning_lemonade.graph import (
    Activation,
    BatchNorm2d,
    Concat,
    Conv2d,
    GlobalPool2d,
    GraphSpec,
    Input,
    Linear,
    Mix,
    Node,
    Output,
    Pool2d,
)

STAGES, MAX_BLOCKS, MAX_SKIPS = 3, 4, 3
KINDS = ("conv", "separable", "pointwise")
DOWN = ("pool", "stride", "stride from the first block")
SKIPS = ("none", "add", "concat")
WIDTHS = (2, 512)
Choices = Mapping[str, Any]


class Chooser(Protocol):
    """What draws the choices: an Optuna trial has these methods."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ANN401
        """Returns one of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Returns an integer between low and high, both included."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Returns a number between low and high."""


class RandomChooser:
    """Draws every choice independently: widths in logarithms, the rest uniformly."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ANN401, D102
        return choices[int(self.rng.integers(len(choices)))]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:  # noqa: D102
        if not log:
            return int(self.rng.integers(low, high + 1))
        return int(min(high, max(low, round(np.exp(self.rng.uniform(np.log(low), np.log(high)))))))

    def suggest_float(self, name: str, low: float, high: float) -> float:  # noqa: D102
        return float(self.rng.uniform(low, high))


class FixedChooser:
    """Gives choices that are known already."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ANN401, D102
        return self.choices[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:  # noqa: D102
        return int(self.choices[name])

    def suggest_float(self, name: str, low: float, high: float) -> float:  # noqa: D102
        return float(self.choices[name])


def choose(chooser: Chooser, sample_shape: Sequence[int], num_outputs: int) -> GraphSpec:
    """Returns the network that some choices build.

    Args:
        chooser: draws the choices.
        sample_shape: (channels, height, width).
        num_outputs: classes.
    """
    down = chooser.suggest_categorical("down", DOWN)
    stages = []
    for stage in range(STAGES):
        blocks = []
        for block in range(chooser.suggest_int(f"blocks{stage}", 1, MAX_BLOCKS)):
            kind = chooser.suggest_categorical(f"kind{stage}.{block}", KINDS)
            blocks.append((kind, chooser.suggest_int(f"width{stage}.{block}", *WIDTHS, log=True)))
        stages.append(blocks)
    skips = []
    for skip in range(MAX_SKIPS):
        kind = chooser.suggest_categorical(f"skip{skip}", SKIPS)
        if kind != "none":
            skips.append((kind, chooser.suggest_float(f"target{skip}", 0, 1), chooser.suggest_float(f"source{skip}", 0, 1)))
    return stacked(stages, skips, tuple(sample_shape), num_outputs, down)


def stacked(stages: Sequence[Any], skips: Sequence[Any], sample_shape: tuple[int, ...], num_outputs: int, down: str) -> GraphSpec:
    """Returns a network of stages of blocks, (kind, width) each, and of skips, (kind, target, source) each; see `choose`."""
    nodes = [Node("n0", Input(sample_shape))]
    ends: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {"n0": sample_shape}

    def put(op: Any, *more: str) -> str:  # noqa: ANN401
        node = Node(f"n{len(nodes)}", op, (nodes[-1].id, *more))
        shapes[node.id] = op.output_shape([shapes[i] for i in node.inputs])
        nodes.append(node)
        return node.id

    pools = down == "pool"
    total = sum(len(blocks) for blocks in stages) + pools * (len(stages) - 1)  # the ends that a skip may lead to: blocks and poolings

    def end() -> None:
        position = sum(isinstance(n.op, Activation | Pool2d) for n in nodes) - 1
        ends.append(nodes[-1].id)
        for kind, target, source in skips:
            if min(total - 1, int(target * total)) != position or len(ends) < 2:
                continue
            fits = [i for i in ends[:-1] if shapes[i][1:] == shapes[nodes[-1].id][1:]]
            fits = [i for i in fits if kind == "concat" or shapes[i] == shapes[nodes[-1].id]]
            if fits:  # a skip that fits nowhere is left out
                put(Mix() if kind == "add" else Concat(), fits[min(len(fits) - 1, int(source * len(fits)))])
                ends.append(nodes[-1].id)

    for number, blocks in enumerate(stages):
        for block, (kind, width) in enumerate(blocks):
            halves = block == 0 and not pools and (number > 0 or down == DOWN[2])
            stride = (2, 2) if halves else (1, 1)
            if kind == "separable":
                channels = shapes[nodes[-1].id][0]
                put(Conv2d(channels, (3, 3), stride=stride, padding=(1, 1), groups=channels, bias=False))
                stride = (1, 1)
            size = 3 if kind == "conv" else 1
            put(Conv2d(width, (size, size), stride=stride, padding=(size // 2, size // 2), bias=False))
            put(BatchNorm2d())
            put(Activation("relu"))
            end()
        if pools and number < len(stages) - 1:
            put(Pool2d("max", (2, 2), (2, 2)))
            end()
    put(GlobalPool2d("avg"))
    put(Linear(num_outputs))
    put(Output())
    return GraphSpec(tuple(nodes))


def encode(spec: GraphSpec) -> dict[str, Any]:
    """Returns the choices that build a network.

    Raises:
        ValueError: if the space doesn't hold it.
    """
    stages, down = _blocks(spec)
    ends = [node for node in spec.nodes if isinstance(node.op, Activation | Pool2d | Mix | Concat)]
    joins = [node for node in ends if isinstance(node.op, Mix | Concat)]
    if len(stages) != STAGES or not all(1 <= len(blocks) <= MAX_BLOCKS for blocks in stages) or len(joins) > MAX_SKIPS:
        raise ValueError(f"it has {[len(blocks) for blocks in stages]} blocks and {len(joins)} skips")
    choices: dict[str, Any] = {"down": down} | {f"skip{skip}": "none" for skip in range(MAX_SKIPS)}
    for stage, blocks in enumerate(stages):
        choices[f"blocks{stage}"] = len(blocks)
        for block, (kind, width) in enumerate(blocks):
            choices |= {f"kind{stage}.{block}": kind, f"width{stage}.{block}": width}
    for skip, join in enumerate(joins):
        kind, before = "add" if isinstance(join.op, Mix) else "concat", ends[: ends.index(join)]
        position = sum(not isinstance(node.op, Mix | Concat) for node in before) - 1
        fits = [node.id for node in before[:-1] if spec.shapes[node.id][1:] == spec.shapes[before[-1].id][1:]]
        fits = [i for i in fits if kind == "concat" or spec.shapes[i] == spec.shapes[before[-1].id]]
        if join.inputs[1] not in fits:
            raise ValueError(f"{join.id} reads no earlier end of a block")
        target = (position + 0.5) / (len(ends) - len(joins))
        choices |= {f"skip{skip}": kind, f"target{skip}": target, f"source{skip}": (fits.index(join.inputs[1]) + 0.5) / len(fits)}
    if choose(FixedChooser(choices), spec.input_shape, spec.output_shape[0]).structural_hash != spec.structural_hash:
        raise ValueError("its wiring is another one")
    return choices


def _blocks(spec: GraphSpec) -> tuple[list[list[tuple[str, int]]], str]:
    """Returns (kind, width) of each block, stage by stage, and how stages are halved."""
    stages: list[list[tuple[str, int]]] = [[]]
    depthwise = first = False
    for node in spec.nodes:
        if isinstance(node.op, Pool2d):
            stages.append([])
        if not isinstance(node.op, Conv2d):
            continue
        if node.op.stride == (2, 2):
            if stages[-1] or len(stages) > 1:
                stages.append([])
            else:
                first = True
        if isinstance(spec[spec.consumers[node.id][0]].op, Conv2d):  # with one channel, it has one group
            depthwise = True
        else:
            plain = "conv" if node.op.kernel_size == (3, 3) else "pointwise"
            stages[-1].append(("separable" if depthwise else plain, node.op.out_channels))
            depthwise = False
    pools = any(isinstance(node.op, Pool2d) for node in spec.nodes)
    return stages, DOWN[0] if pools else DOWN[2] if first else DOWN[1]


def ladder(make: Callable[[float], GraphSpec], low: float, high: float, rungs: int) -> list[GraphSpec]:
    """Returns networks of one family, scaled by width, with sizes spread evenly in logarithms between two parameter counts, none below."""
    found: dict[str, GraphSpec] = {}
    for target in np.geomspace(low, high, rungs):
        width = WIDTHS[0]
        while make(1.02 * width).parameter_count <= target:
            width *= 1.02
        near = [spec for spec in (make(width), make(1.02 * width)) if spec.parameter_count >= low]
        spec = min(near, key=lambda spec, t=target: abs(np.log(spec.parameter_count / t)))
        found.setdefault(spec.structural_hash, spec)
    return list(found.values())


def staged_net(
    sample_shape: Sequence[int], num_outputs: int, width: float, kind: str, down: str, blocks: Sequence[int] = (2, 2, 2)
) -> GraphSpec:
    """Returns a network of stages of so many blocks (width, 2 width, 4 width filters, rounded)."""
    stages = [
        [(kind if stage or block else "conv", round(width * 2**stage)) for block in range(count)] for stage, count in enumerate(blocks)
    ]
    return stacked(stages, [], tuple(sample_shape), num_outputs, down)
