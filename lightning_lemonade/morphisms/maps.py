"""Channel maps: where each channel of a child's tensor comes from in the parent, and how weights follow.

A map is an int64 tensor with one entry for each feature of a node's output in the child: the index of the same feature in the parent, or -1
for a new one. An index that stands there several times is a feature and its duplicates. A mutation gives the maps of the nodes it changes;
`propagate` follows them through the rest of the graph.
"""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import BatchNorm2d, Concat, Conv2d, Flatten, GraphSpec, Input, Linear, Node
from lightning_lemonade.morphisms.moments import given_input
from lightning_lemonade.morphisms.passes import Pass
from lightning_lemonade.morphisms.state import State

NEW = -1
LEARNING = Conv2d | Linear | BatchNorm2d
"""Ops that hold weights or statistics for each channel."""
SILENCE = 0.01
"""The bias of a new filter where all others are zero. It is above zero, so that a filter lives where it only sees padding, too."""
Init = Literal["scaled", "he"]
"""How new filters are drawn: with the root mean square of the layer's other weights, or He-normal (fan in)."""


def identity(size: int) -> Tensor:
    """Returns the map of features that stay as they are: (size,)."""
    return torch.arange(size)


def segment_map(spec: GraphSpec, node_id: str, groups: Mapping[int, Tensor]) -> Tensor:
    """Returns the map of a node whose channel groups change.

    Args:
        spec: the parent.
        node_id: one of its nodes.
        groups: for each changed group, the map of its channels.
    """
    parts, start = [], 0
    for segment in spec.channels.segments[node_id]:
        inner = groups.get(segment.group, identity(segment.size))
        spread = _repeat(inner, segment.repeat)
        parts.append(torch.where(spread == NEW, NEW, spread + start))
        start += segment.size * segment.repeat
    return torch.cat(parts)


def propagate(parent: GraphSpec, child: GraphSpec, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the map of every node of the child.

    Args:
        parent: the graph before the change.
        child: the graph after it.
        given: the maps of changed and new nodes. A new node's map refers to the parent's tensor that its readers read before.

    Raises:
        MutationError: if the map of a new node isn't given.
    """
    maps: dict[str, Tensor] = {}
    for node in child.nodes:
        if node.id in given:
            maps[node.id] = given[node.id]
        elif node.id not in parent:
            raise MutationError(f"node {node.id} is new and has no channel map")
        else:
            maps[node.id] = _follow(parent, child, node, maps)
        if len(maps[node.id]) != child.shapes[node.id][0]:
            raise MutationError(f"node {node.id} has {child.shapes[node.id][0]} channels and a map of {len(maps[node.id])}")
    return maps


def _follow(parent: GraphSpec, child: GraphSpec, node: Node, maps: Mapping[str, Tensor]) -> Tensor:
    """Returns the map of a node whose op is the parent's, from the maps of its inputs."""
    if isinstance(node.op, Concat):
        parts, start = [], 0
        for source, before in zip(node.inputs, parent[node.id].inputs, strict=True):
            parts.append(torch.where(maps[source] == NEW, NEW, maps[source] + start))
            start += parent.shapes[before][0]
        return torch.cat(parts)
    if isinstance(node.op, Flatten):
        return _repeat(maps[node.inputs[0]], prod(child.shapes[node.inputs[0]][1:]))
    if isinstance(node.op, Input | Linear) or (isinstance(node.op, Conv2d) and not _is_depthwise(parent, parent[node.id])):
        return identity(child.shapes[node.id][0])
    return maps[node.inputs[0]]


def _is_depthwise(spec: GraphSpec, node: Node) -> bool:
    return isinstance(node.op, Conv2d) and node.op.is_depthwise(spec.input_shapes(node.id)[0][0])


def _repeat(channels: Tensor, positions: int) -> Tensor:
    """Spreads a map of channels over the positions of a Flatten."""
    if positions == 1:
        return channels
    spread = channels[:, None] * positions + torch.arange(positions)
    return torch.where(channels[:, None] == NEW, NEW, spread).reshape(-1)


def carry(
    parent: GraphSpec,
    state: Mapping[str, Tensor],
    child: GraphSpec,
    maps: Mapping[str, Tensor],
    generator: Generator,
    init: Init = "scaled",
) -> State:
    """Returns the child's weights for every node that the parent has, too.

    New filters are drawn from a normal distribution, by default with the root mean square of the layer's other weights, so that they are as
    active as their neighbours; what old filters read from new channels is zero, so that the function stays (types I and II of the paper,
    section 3.1). New biases are as large as the others, and positive. New channels of a batch norm get the mean scale of the others and no
    shift; `settle` gives them their statistics. Duplicates share what is read from them unevenly (see `shares`), so that the function stays
    and they don't stay alike. Tensors that nothing touches are the parent's own.

    Args:
        parent: the graph before the change.
        state: its weights.
        child: the graph after it.
        maps: see `propagate`.
        generator: the source of new weights.
        init: how new filters are drawn.
    """
    weights: State = {}
    for node in child.nodes:
        names = [name for name in state if name.partition(".")[0] == node.id] if node.id in parent else []
        if not names:
            continue
        rows = maps[node.id]
        columns = maps[node.inputs[0]]
        before = parent.shapes[parent[node.id].inputs[0]][0]
        whole = _is_identity(rows, parent.shapes[node.id][0]) and _is_identity(columns, before)
        for name in names:
            tensor = state[name]
            if whole or tensor.ndim == 0:
                weights[name] = tensor
            elif tensor.ndim == 1:
                weights[name] = _carry_vector(name, tensor, rows, SILENCE if isinstance(node.op, Conv2d | Linear) else 0.0)
            elif _is_depthwise(parent, parent[node.id]):
                weights[name] = _carry_matrix(tensor, rows, identity(1), generator, init)
            else:
                weights[name] = _carry_matrix(tensor, rows, columns, generator, init)
    return weights


def _is_identity(mapping: Tensor, size: int) -> bool:
    return len(mapping) == size and bool((mapping == identity(size)).all())


def _carry_vector(name: str, tensor: Tensor, rows: Tensor, shift: float) -> Tensor:
    """Carries a bias, or a vector of a batch norm: (channels,). The biases of new filters are as large as the others', or `shift`."""
    new = rows == NEW
    carried = tensor[rows.clamp(min=0)].clone()
    kind = name.rpartition(".")[2]
    if kind == "weight":  # a batch norm's scale
        carried[new] = _or(tensor.abs().mean(), 1.0)
    elif kind == "running_var":
        carried[new] = 1.0
    elif kind == "bias" and shift:
        carried[new] = _or(tensor.abs().mean(), shift)
    else:
        carried[new] = 0.0
    return carried


def _carry_matrix(tensor: Tensor, rows: Tensor, columns: Tensor, generator: Generator, init: Init) -> Tensor:
    """Carries a weight (out, in, ...): keeps what is old, zeroes old rows' new columns, draws new rows."""
    carried = tensor[rows.clamp(min=0)][:, columns.clamp(min=0)].clone()
    carried[:, columns == NEW] = 0.0
    share = shares(columns)
    if (share != 1).any():
        carried *= share.to(carried).reshape(1, -1, *[1] * (carried.ndim - 2))
    new = rows == NEW
    if new.any():
        he = (2.0 / prod(carried.shape[1:])) ** 0.5
        drawn = torch.randn((int(new.sum()), *carried.shape[1:]), generator=generator, dtype=tensor.dtype)
        carried[new] = drawn.to(tensor.device) * (he if init == "he" else _or(tensor.square().mean().sqrt(), he))
    return carried


def shares(mapping: Tensor) -> Tensor:
    """Returns what part of the old weight each of several duplicates is read with. Source: Net2Net, with uneven parts (ours).

    Two share 70 to 30, more of them in even steps with the same ratio between the largest and the smallest. Equal parts would give
    duplicates equal gradients: they would stay alike for ever.

    Args:
        mapping: see the module.

    Returns:
        float64, (len(mapping),): 1 for what stands there once.
    """
    alike = (mapping[:, None] == mapping) & (mapping != NEW)
    count = alike.sum(1)
    rank = alike.tril(-1).sum(1)
    weight = 0.7 - 0.4 * rank.double() / (count - 1).clamp(min=1)
    total = (alike * weight).sum(1)
    return torch.where(count > 1, weight / total.clamp(min=0.1), 1.0)


def _or(scale: Tensor, fallback: float) -> Tensor:
    """Returns a scale, or the fallback where it is zero: what starts at zero on both sides of a unit never learns."""
    return torch.where(scale == 0, fallback, scale)


def settle(child: GraphSpec, weights: State, maps: Mapping[str, Tensor], x: Tensor) -> State:
    """Returns a child's weights with new channels set by what a batch shows: no new filter is silent, new statistics are measured.

    A new filter whose outputs are almost all negative would be dead behind a ReLU, and with zero weights behind it, it could never recover;
    its sign is turned. Source: ours.

    Args:
        child: the graph.
        weights: as `carry` gave them.
        maps: see `propagate`.
        x: the calibration batch (batch, *input shape).
    """
    fresh = {i: mapping == NEW for i, mapping in maps.items() if isinstance(child[i].op, LEARNING) and (mapping == NEW).any()}
    if not fresh:
        return weights
    network = Pass(child, weights).measuring()
    layers = [i for i in fresh if not isinstance(child[i].op, BatchNorm2d)]
    network.put({f"{i}.weight": weights[f"{i}.weight"].clone() for i in layers})
    turns = {i: partial(_turn_silent, fresh[i], network.submodules[i]) for i in layers}
    network.run_from(given_input(child, weights, x), list(fresh), after=turns)
    measured = {f"{i}.weight": network.submodules[i].get_parameter("weight").detach() for i in layers}
    measured |= network.statistics(i for i in fresh if i not in layers)
    settled = dict(weights)
    for name, tensor in measured.items():
        new = fresh[name.partition(".")[0]].to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
        settled[name] = torch.where(new, tensor, weights[name]).contiguous()
    return settled


def _turn_silent(new: Tensor, module: nn.Module, _: Tensor, values: Tensor) -> Tensor:
    """Turns the weights of new filters with fewer than one positive output for twenty negative ones, and their outputs, but no bias."""
    dims = [d for d in range(values.ndim) if d != 1]
    silent = 20 * (values > 0).sum(dims) < (values < 0).sum(dims)
    sign = torch.where(silent & new.to(values.device), -1, 1).to(values.dtype)
    weight = module.get_parameter("weight")
    weight.mul_(sign.reshape(-1, *[1] * (weight.ndim - 1)))
    turned = sign.reshape(-1, *[1] * (values.ndim - 2))
    if "bias" not in module.state_dict():
        return values * turned
    return values * turned + (1 - turned) * module.get_parameter("bias").reshape(turned.shape)
