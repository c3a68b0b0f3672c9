"""Search space I of the paper (section 5): whole convolutional networks."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, log, prod
from typing import Literal

import numpy as np

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import Activation, BatchNorm2d, Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Node, Output, Pool2d
from lightning_lemonade.graph.ops.base import Op
from lightning_lemonade.morphisms import Mutation
from lightning_lemonade.spaces.operators import PAPER_OPERATORS, Operator, random_mutation

Maker = Callable[[int], GraphSpec]
_PIXELS = (64, 3072)
_TARGETS = ((500, 1_500, 4_000, 10_000), (15_000, 50_000, 100_000, 400_000))
_SPANNING = ((1_300, 7_000), (12_000, 600_000))
_APART = 1.8
"""How many times as large as the one before a spanning network is at most, but for whole numbers of filters."""
_SMALLEST = (300, 10_000)


class ConvNetSpace:
    """Whole networks: some to start from, and the paper's operators.

    The paper's starting networks and the strided ones are four and have three convolutional blocks, a global average and a
    linear layer. The paper's have max pooling between the blocks; two are plain, two depthwise-separable. The strided ones
    (ours) are plain, and each block halves the image by its stride, the first one only where the image has 16 pixels or more
    a side: they train several times faster. Both have about 15, 50, 100 and 400 thousand parameters for images of 32x32x3
    (the paper's), 0.5 to 10 thousand for 8x8 digits (ours), and sizes between for what lies between. The spanning ones (ours)
    have one plain block at the full size of the image, two at half of it and two at a quarter, with max pooling between. They
    are eight of about 12 to 600 thousand parameters at 32x32x3, four of 1 to 7 thousand at 8x8, each up to twice as large as
    the one before. Where a time bounds the search, it begins with the smallest and the largest that it has time for, or with the
    largest alone where these are alike; else with four of them. The smallest network allowed has 10 thousand parameters at
    32x32x3 and 300 at 8x8.

    Args:
        starts: the starting networks: `"paper"`, `"strided"` or `"spanning"` (ours).
        operators: the mutations to draw from, uniformly.
        min_mutations: fewest mutations that make one child.
        max_mutations: most mutations that make one child.

    Raises:
        ConfigurationError: if there is no operator, or the numbers make no range.
    """

    def __init__(
        self,
        *,
        starts: Literal["paper", "strided", "spanning"] = "paper",
        operators: Sequence[Operator] = PAPER_OPERATORS,
        min_mutations: int = 1,
        max_mutations: int = 3,
    ) -> None:
        if not operators or not 1 <= min_mutations <= max_mutations:
            raise ConfigurationError(
                f"a space needs operators and 1 <= min_mutations <= max_mutations, got {len(operators)} operators, "
                f"{min_mutations} and {max_mutations}"
            )
        if starts not in ("paper", "strided", "spanning"):
            raise ConfigurationError(f"starts must be paper, strided or spanning, got {starts!r}")
        self.starts = starts
        self.operators, self.min_mutations, self.max_mutations = tuple(operators), min_mutations, max_mutations

    def initial(self, sample_shape: Sequence[int], num_outputs: int) -> list[GraphSpec]:
        """Returns the starting networks.

        Args:
            sample_shape: (channels, height, width) of one image.
            num_outputs: classes.

        Raises:
            ConfigurationError: if a sample is no image.
        """
        shape = tuple(sample_shape)
        if len(shape) != 3:
            raise ConfigurationError(f"this space makes networks for images (channels, height, width); a sample has the shape {shape}")
        if self.starts == "spanning":
            least, most = (_between(shape, low, high) for low, high in zip(*_SPANNING, strict=True))
            spanned = np.geomspace(least, most, 1 + ceil(log(most / least) / log(_APART)))
            return [_sized(partial(spanning_net, shape, num_outputs), float(target)) for target in spanned]
        targets = [_between(shape, low, high) for low, high in zip(*_TARGETS, strict=True)]
        if self.starts == "strided":
            return [_sized(partial(strided_net, shape, num_outputs), target) for target in targets]
        makers = [
            lambda width: conv_net(shape, num_outputs, width, separable=True),
            lambda width: conv_net(shape, num_outputs, width, separable=False),
        ]
        return [_sized(makers[i % 2], target) for i, target in enumerate(targets)]

    def limits(self, sample_shape: Sequence[int]) -> dict[str, tuple[float, float]]:
        """Returns the space's own limits by objective key."""
        return {"params": (_between(tuple(sample_shape), *_SMALLEST), float("inf"))}

    def mutate(self, spec: GraphSpec, rng: np.random.Generator) -> tuple[tuple[Mutation, ...], GraphSpec] | None:
        """Returns one to three random mutations and the child they make, or None if none applies."""
        mutations: list[Mutation] = []
        for _ in range(int(rng.integers(self.min_mutations, self.max_mutations + 1))):
            drawn = random_mutation(spec, rng, self.operators)
            if drawn is None:
                break
            mutations.append(drawn[0])
            spec = drawn[1]
        return (tuple(mutations), spec) if mutations else None


def conv_net(sample_shape: Sequence[int], num_outputs: int, width: int, *, separable: bool) -> GraphSpec:
    """Returns a network of three blocks (width, 2 width, 4 width filters) with max pooling between them.

    Args:
        sample_shape: (channels, height, width).
        num_outputs: size of the output.
        width: filters of the first block.
        separable: whether blocks after the first convolution are depthwise-separable.
    """
    chain = _Chain(sample_shape)
    channels, size = sample_shape[0], min(sample_shape[1:])
    for block in range(3):
        filters = width * 2**block
        if separable and channels > 1 and block > 0:
            chain.put(Conv2d(channels, (3, 3), padding=(1, 1), groups=channels, bias=False), f"block{block + 1}.depthwise")
            chain.put(Conv2d(filters, (1, 1), bias=False), f"block{block + 1}.pointwise")
        else:
            chain.put(Conv2d(filters, (3, 3), padding=(1, 1), bias=False), f"block{block + 1}.conv")
        chain.put(BatchNorm2d())
        chain.put(Activation("relu"))
        if block < 2 and size >= 4:
            chain.put(Pool2d("max", (2, 2), (2, 2)))
            size //= 2
        channels = filters
    return chain.ended(num_outputs)


def strided_net(sample_shape: Sequence[int], num_outputs: int, width: int) -> GraphSpec:
    """Returns a network of three blocks (width, 2 width, 4 width filters) that halve the image by strides. Source: ours.

    The first block halves images of at least 16 pixels a side, the others what has at least 4.

    Args:
        sample_shape: (channels, height, width).
        num_outputs: size of the output.
        width: filters of the first block.
    """
    chain, size = _Chain(sample_shape), min(sample_shape[1:])
    for block in range(3):
        stride = 2 if size >= (4 if block else 16) else 1
        size = -(-size // stride)
        chain.put(Conv2d(width * 2**block, (3, 3), stride=(stride, stride), padding=(1, 1), bias=False), f"block{block + 1}.conv")
        chain.put(BatchNorm2d())
        chain.put(Activation("relu"))
    return chain.ended(num_outputs)


def spanning_net(sample_shape: Sequence[int], num_outputs: int, width: int) -> GraphSpec:
    """Returns a network of one block of width filters, two of 2 width and two of 4 width, with max pooling between the sizes. Source: ours.

    A second block at the full size takes longer than any other: docs/tuning.md has what shapes were worth.

    Args:
        sample_shape: (channels, height, width).
        num_outputs: size of the output.
        width: filters of the first block.
    """
    chain, size = _Chain(sample_shape), min(sample_shape[1:])
    for stage, blocks in enumerate((1, 2, 2)):
        if stage and size >= 4:
            chain.put(Pool2d("max", (2, 2), (2, 2)))
            size //= 2
        for block in range(blocks):
            chain.put(Conv2d(width * 2**stage, (3, 3), padding=(1, 1), bias=False), f"stage{stage + 1}.block{block + 1}.conv")
            chain.put(BatchNorm2d())
            chain.put(Activation("relu"))
    return chain.ended(num_outputs)


class _Chain:
    """A graph in the making, one node after the other."""

    def __init__(self, sample_shape: Sequence[int]) -> None:
        self.nodes = [Node("n0", Input(tuple(sample_shape)))]

    def put(self, op: Op, label: str = "") -> None:
        self.nodes.append(Node(f"n{len(self.nodes)}", op, (self.nodes[-1].id,), label))

    def ended(self, num_outputs: int) -> GraphSpec:
        """Returns the graph, after a global average and a linear layer."""
        self.put(GlobalPool2d("avg"))
        self.put(Linear(num_outputs), "head")
        self.put(Output())
        return GraphSpec(tuple(self.nodes))


def _between(shape: Sequence[int], low: float, high: float) -> float:
    """Interpolates between a size for 8x8x1 and one for 32x32x3 images, in logarithms of both."""
    share = (log(prod(shape)) - log(_PIXELS[0])) / (log(_PIXELS[1]) - log(_PIXELS[0]))
    share = min(max(share, 0.0), 1.0)
    return float(low ** (1 - share) * high**share)


def _sized(make: Maker, parameters: float) -> GraphSpec:
    """Returns the network of a family whose parameter count is closest to a number, by bisection of its width."""
    low, high = 2, 2048
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if make(middle).parameter_count <= parameters else (low, middle)
    return min((make(low), make(high)), key=lambda spec: abs(log(spec.parameter_count / parameters)))
