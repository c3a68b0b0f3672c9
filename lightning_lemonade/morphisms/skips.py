"""Skip connections: by addition and by concatenation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lightning_lemonade.graph import (
    Concat,
    Conv2d,
    Flatten,
    GraphSpec,
    Join,
    Linear,
    Mix,
    Node,
    Output,
    PassThrough,
    Shape,
)
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.maps import NEW, carry, identity, propagate, settle
from lightning_lemonade.morphisms.places import block_ends
from lightning_lemonade.morphisms.state import State, like_weights


def _ancestors(spec: GraphSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Returns each node's own bit, and the bits of all nodes that it depends on."""
    bits = {node.id: 1 << position for position, node in enumerate(spec.nodes)}
    above: dict[str, int] = {}
    for node in spec.nodes:
        above[node.id] = 0
        for source in node.inputs:
            above[node.id] |= above[source] | bits[source]
    return bits, above


def _pairs(spec: GraphSpec) -> Iterator[tuple[str, str]]:
    """Yields (source, target): two ends of one height and width, the source above the target and not yet joined with it."""
    bits, above = _ancestors(spec)
    earlier: dict[Shape, list[str]] = {}  # by height and width
    for target in block_ends(spec):
        sources = earlier.setdefault(spec.shapes[target.id][1:], [])
        joined = {i for reader in spec.consumers[target.id] if is_join(spec[reader]) for i in spec[reader].inputs}
        barred = joined.union(target.inputs)
        yield from ((source, target.id) for source in sources if above[target.id] & bits[source] and source not in barred)
        sources.append(target.id)


def is_join(node: Node) -> bool:
    """Returns whether a node joins several inputs."""
    return isinstance(node.op, Join | Concat)


@dataclass(frozen=True)
class AddSkip(Mutation):
    """Joins an earlier node to a later one by a learnt sum that starts as the later one alone (exact, type IV of the paper, section 3.1).

    Attributes:
        source: the earlier node.
        target: the later node, of the same shape; its readers read the sum.
    """

    kind = "add_skip"
    exact = True
    site_fields = ("source", "target")
    source: str | tuple[str, ...]
    target: str | tuple[str, ...]

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(source, target) for source, target in _pairs(spec) if spec.shapes[source] == spec.shapes[target]]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        source, target = site
        mix = Node(spec.fresh_ids(1)[0], Mix(), (target, source))
        return spec.edit(added=[mix], rewired={target: mix.id})

    def transfer_at(
        self,
        parent: GraphSpec,
        state: State,
        child: GraphSpec,
        site: Site,
        calibration: Tensor,
        generator: Generator,
    ) -> State:
        """See `Mutation.transfer_at`."""
        return state | {f"{parent.fresh_ids(1)[0]}.gate": like_weights(calibration, state).new_ones(())}


@dataclass(frozen=True)
class ConcatSkip(Mutation):
    """Joins an earlier node to a later one by concatenation; its part starts at zero (exact, type II of the paper, section 3.1).

    Attributes:
        source: the earlier node.
        target: the later node, of the same height and width; its readers read both.
    """

    kind = "concat_skip"
    exact = True
    site_fields = ("source", "target")
    source: str | tuple[str, ...]
    target: str | tuple[str, ...]

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        able = width_is_free(spec)
        return [(source, target) for source, target in _pairs(spec) if able[target]]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        source, target = site
        concat = Node(spec.fresh_ids(1)[0], Concat(), (target, source))
        replaced: dict[str, Node] = {}
        for node_id, more in more_channels(spec, target, spec.shapes[source][0]).items():
            node = spec[node_id]
            if isinstance(node.op, Conv2d):
                width = node.op.out_channels + more
                inputs = tuple(concat.id if i == target else i for i in node.inputs)
                replaced[node_id] = replace(node, op=replace(node.op, out_channels=width, groups=width), inputs=inputs)
        return spec.edit(added=[concat], replaced=replaced, rewired={target: concat.id})

    def transfer_at(
        self,
        parent: GraphSpec,
        state: State,
        child: GraphSpec,
        site: Site,
        calibration: Tensor,
        generator: Generator,
    ) -> State:
        """See `Mutation.transfer_at`."""
        source, target = (parent.shapes[node_id][0] for node_id in site)
        joined = torch.cat([identity(target), torch.full((source,), NEW)])
        maps = propagate(parent, child, {parent.fresh_ids(1)[0]: joined})
        return settle(child, carry(parent, state, child, maps, generator), maps, calibration)


def width_is_free(spec: GraphSpec) -> dict[str, bool]:
    """Returns for each node whether its readers could read more or fewer channels."""
    able: dict[str, bool] = {}
    for node in reversed(spec.nodes):
        able[node.id] = all(_is_flexible(spec, spec[reader], able) for reader in spec.consumers[node.id])
    return able


def _is_flexible(spec: GraphSpec, reader: Node, able: dict[str, bool]) -> bool:
    """Returns whether a node can read another number of channels: every path must end in a plain layer."""
    match reader.op:
        case Conv2d() as conv if conv.groups == 1:
            return True
        case Conv2d() as conv:
            return conv.is_depthwise(spec.input_shapes(reader.id)[0][0]) and able[reader.id]
        case Linear():
            return True
        case Output():
            return False
        case PassThrough() | Flatten() | Concat():
            return able[reader.id]
    return False


def more_channels(spec: GraphSpec, target: str, count: int) -> dict[str, int]:
    """Returns how many channels the nodes below get that pass them on, when a node's readers get `count` more."""
    more = {target: count}
    for node in spec.nodes:
        gain = sum(more.get(source, 0) for source in node.inputs)
        plain = isinstance(node.op, Linear) or (isinstance(node.op, Conv2d) and node.op.groups == 1)
        if gain and not plain:
            more[node.id] = gain
    return {node_id: gain for node_id, gain in more.items() if node_id != target}
