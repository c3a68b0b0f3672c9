"""Widening: channel groups of a graph get new sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Conv2d, GraphSpec, Linear
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.maps import NEW, carry, identity, propagate, segment_map, settle
from lightning_lemonade.morphisms.state import State


def resizable(spec: GraphSpec) -> list[Site]:
    """Returns the layers whose number of filters can change: none of their channel groups is frozen."""
    layers = [node.id for node in spec.nodes if isinstance(node.op, Conv2d | Linear)]
    layers = [node_id for node_id in layers if not _is_depthwise(spec, node_id)]
    return [(node_id,) for node_id in layers if not spec.channels.frozen_reason(node_id)]


def _groups(spec: GraphSpec, site: Site) -> dict[int, int]:
    """Returns the sizes of the channel groups of some layers, each once: layers that are tied together change once."""
    return {group: spec.channels.groups[group].size for node_id in site for group in spec.channels.groups_of(node_id)}


def _is_depthwise(spec: GraphSpec, node_id: str) -> bool:
    op = spec[node_id].op
    return isinstance(op, Conv2d) and op.is_depthwise(spec.input_shapes(node_id)[0][0])


def resized(spec: GraphSpec, sizes: Mapping[int, int]) -> GraphSpec:
    """Returns the graph with channel groups of other sizes (group index -> channels)."""
    replaced = {}
    for node in spec.nodes:
        width = spec.channels.width(node.id, sizes)
        if isinstance(node.op, Conv2d) and width != node.op.out_channels:
            groups = width if _is_depthwise(spec, node.id) else node.op.groups
            replaced[node.id] = replace(node, op=replace(node.op, out_channels=width, groups=groups))
        elif isinstance(node.op, Linear) and width != node.op.out_features:
            replaced[node.id] = replace(node, op=replace(node.op, out_features=width))
    return spec.edit(replaced=replaced)


@dataclass(frozen=True)
class Widen(Mutation):
    """Multiplies the number of filters of a layer (exact, type II of the paper, section 2).

    Layers that are tied to it (the summands of an Add, for instance) widen together, and once, however many of them are named. New filters
    are active; what their readers make of them starts at zero.

    Attributes:
        node: a convolution or linear layer whose channels aren't frozen.
        factor: more than 1; the number of filters is rounded up.
    """

    kind = "widen"
    exact = True
    together = True
    node: str | tuple[str, ...]
    factor: float = 2.0

    def __post_init__(self) -> None:
        """Checks the factor."""
        super().__post_init__()
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float) or not 1 < self.factor <= 64:
            raise MutationError(f"widen: factor must be more than 1 and at most 64, got {shown(self.factor)}")

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return resizable(spec)

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        return resized(spec, self._sizes(spec, site))

    def _sizes(self, spec: GraphSpec, site: Site) -> dict[int, int]:
        return {group: ceil(round(size * self.factor, 6)) for group, size in _groups(spec, site).items()}

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
        groups = {}
        for group, size in self._sizes(parent, site).items():
            old = parent.channels.groups[group].size
            groups[group] = torch.cat([identity(old), torch.full((size - old,), NEW)])
        weights, maps = _carry_groups(parent, state, child, groups, generator)
        return settle(child, weights, maps, calibration)


def _carry_groups(
    parent: GraphSpec,
    state: State,
    child: GraphSpec,
    groups: Mapping[int, Tensor],
    generator: Generator,
) -> tuple[State, dict[str, Tensor]]:
    """Returns the child's weights and channel maps when channel groups change by these maps."""
    producers = {node_id for group in groups for node_id in parent.channels.groups[group].producers}
    maps = propagate(parent, child, {node_id: segment_map(parent, node_id, groups) for node_id in producers})
    return carry(parent, state, child, maps, generator), maps
