"""What the tests of morphisms share: parents with uneven weights, and nets with the structures that are easy to get wrong."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from lightning_lemonade.graph import (
    Activation,
    Add,
    BatchNorm2d,
    Concat,
    Conv2d,
    Flatten,
    GlobalPool2d,
    GraphSpec,
    Input,
    Linear,
    Node,
    Op,
    Output,
    Pool2d,
)
from lightning_lemonade.morphisms import KINDS, Mutation, Site
from lightning_lemonade.testing.states import calibrated, outputs, uneven_state
from lightning_lemonade.testing.states import relative_difference as difference
from lightning_lemonade.testing.states import sample_batch as batch
from lightning_lemonade.testing.states import seeded_generator as generator

__all__ = [
    "NETS",
    "RELU",
    "SHAPE",
    "bare_net",
    "batch",
    "calibrated",
    "concat_net",
    "conv",
    "difference",
    "everywhere",
    "generator",
    "graph",
    "outputs",
    "plain_net",
    "second_gradients",
    "tied_net",
    "uneven_state",
]

SHAPE = (3, 6, 6)
RELU = Activation("relu")


def conv(filters: int, kernel: int = 3, groups: int = 1, bias: bool = False) -> Conv2d:
    """A convolution that keeps height and width."""
    return Conv2d(filters, kernel, padding=kernel // 2, groups=groups, bias=bias)  # type: ignore[arg-type]


def graph(*nodes: tuple[Op, Sequence[int]]) -> GraphSpec:
    """A spec from (op, numbers of its inputs); the nodes are n0, n1, and so on."""
    return GraphSpec(tuple(Node(f"n{i}", op, tuple(f"n{j}" for j in inputs)) for i, (op, inputs) in enumerate(nodes)))


def plain_net() -> GraphSpec:
    """Two blocks with batch norm, pooling, a flatten: n1, n4 and n8 are layers, n3 and n6 the ReLUs."""
    ops = [Input(SHAPE), conv(4), BatchNorm2d(), RELU, conv(4), BatchNorm2d(), RELU, Pool2d("max", (2, 2), (2, 2)), conv(5), BatchNorm2d()]
    ops += [RELU, Flatten(), Linear(3), Output()]
    return graph(*((op, [i - 1] if i else []) for i, op in enumerate(ops)))


def bare_net() -> GraphSpec:
    """No batch norm: n1 is a 1x1 convolution that can fall silent, n3 a convolution that a flatten and a linear layer follow."""
    ops = [Input(SHAPE), conv(4, 1, bias=True), RELU, conv(5, bias=True), Flatten(), Linear(6), RELU, Linear(3), Output()]
    return graph(*((op, [i - 1] if i else []) for i, op in enumerate(ops)))


def tied_net() -> GraphSpec:
    """A residual group: n1 and n8 are tied by the Add n10, with the depthwise n4 between them and in the group of n1."""
    return graph(
        (Input(SHAPE), []),
        (conv(4), [0]),
        (BatchNorm2d(), [1]),
        (RELU, [2]),
        (conv(4, groups=4), [3]),
        (BatchNorm2d(), [4]),
        (RELU, [5]),
        (conv(6, 1), [6]),
        (conv(4, bias=True), [7]),
        (BatchNorm2d(), [8]),
        (Add(), [3, 9]),
        (RELU, [10]),
        (GlobalPool2d(), [11]),
        (Linear(3), [12]),
        (Output(), [13]),
    )


def concat_net() -> GraphSpec:
    """The group of n1 stands twice in the Concat n5, beside n3; batch norm and a depthwise convolution follow, then a plain one."""
    return graph(
        (Input(SHAPE), []),
        (conv(4), [0]),
        (RELU, [1]),
        (conv(3, 1), [2]),
        (RELU, [3]),
        (Concat(), [2, 4, 2]),
        (BatchNorm2d(), [5]),
        (conv(11, groups=11), [6]),
        (RELU, [7]),
        (conv(5), [8]),
        (BatchNorm2d(), [9]),
        (RELU, [10]),
        (Concat(), [11, 8]),
        (Flatten(), [12]),
        (Linear(3), [13]),
        (Output(), [14]),
    )


NETS = {"plain": plain_net, "bare": bare_net, "tied": tied_net, "concat": concat_net}


def everywhere(spec: GraphSpec) -> Iterator[tuple[type[Mutation], Site]]:
    """Every kind at every site."""
    for kind in KINDS.values():
        for site in kind.sites(spec):
            yield kind, site


def second_gradients(network: fx.GraphModule, x: Tensor, lr: float = 0.05) -> dict[str, Tensor]:
    """The gradients of the second backward pass in train mode, with a step of SGD before it, on another batch."""
    network.train()
    target = torch.arange(len(x)) % 3
    for step in range(2):
        network.zero_grad()
        nn.functional.cross_entropy(network(x + 0.1 * step), target).backward()
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.sub_(lr * parameter.grad)
    return gradients
