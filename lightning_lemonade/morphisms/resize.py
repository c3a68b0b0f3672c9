"""Widening: channel groups of a graph get new sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Conv2d, GraphSpec, Linear
from lightning_lemonade.graph.ops import MAX_SIZE, shown
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.maps import NEW, Init, carry, identity, propagate, segment_map, settle
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


WidenInit = Literal["scaled", "he", "duplicate"]


@dataclass(frozen=True)
class Widen(Mutation):
    """Gives a layer more filters (exact, type II of the paper, section 3.1).

    Layers that are tied to it (the summands of an Add, for instance) widen together, and once, however many of them are named. New filters
    are active; what their readers make of them starts at zero. Duplicates, instead, share with their originals what is read from these.

    Attributes:
        node: a convolution or linear layer whose channels aren't frozen.
        factor: more than 1; the number of filters is rounded up. 2 if neither factor nor width is given.
        width: the number of filters, instead of a factor. A layer that a concat ties to several others divides the gain in proportion.
        init: the new filters: `"he"` (normal, by fan in; measured to be the best, see docs/benchmarks.md), `"scaled"` (normal, with the
            root mean square of the layer's other weights), or `"duplicate"` (of filters drawn at random, each as often as the others, or
            once more).
    """

    kind = "widen"
    exact = True
    together = True
    node: str | tuple[str, ...]
    factor: float | None = None
    width: int | None = None
    init: WidenInit = "he"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        if self.init not in get_args(WidenInit):
            raise MutationError(f"widen: init must be one of {', '.join(get_args(WidenInit))}, got {shown(self.init)}")
        if self.width is not None:
            if self.factor is not None:
                raise MutationError(f"widen: give a factor or a width, not both; got {shown(self.factor)} and {shown(self.width)}")
            if isinstance(self.width, bool) or not isinstance(self.width, int) or not 2 <= self.width <= MAX_SIZE:
                raise MutationError(f"widen: width must be an integer between 2 and {MAX_SIZE}, got {shown(self.width)}")
        elif self.factor is None:
            object.__setattr__(self, "factor", 2.0)
        elif isinstance(self.factor, bool) or not isinstance(self.factor, int | float) or not 1 < self.factor <= 64:
            raise MutationError(f"widen: factor must be more than 1 and at most 64, got {shown(self.factor)}")

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return resizable(spec)

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        return resized(spec, self._sizes(spec, site))

    def _sizes(self, spec: GraphSpec, site: Site) -> dict[int, int]:
        if self.factor is not None:
            return {group: ceil(round(size * self.factor, 6)) for group, size in _groups(spec, site).items()}
        sizes: dict[int, int] = {}
        for node_id in site:
            sizes |= _sizes_for_width(spec, node_id, self.width or 0, sizes)
        return sizes

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
            added = _duplicates(old, size - old, generator) if self.init == "duplicate" else torch.full((size - old,), NEW)
            groups[group] = torch.cat([identity(old), added])
        weights, maps = _carry_groups(parent, state, child, groups, generator, "he" if self.init == "he" else "scaled")
        return weights if self.init == "duplicate" else settle(child, weights, maps, calibration)


def _sizes_for_width(spec: GraphSpec, node_id: str, width: int, taken: Mapping[int, int]) -> dict[int, int]:
    """Returns new sizes of a layer's channel groups that give it a width, as close to proportional as whole numbers allow.

    Args:
        spec: the graph.
        node_id: a convolution or linear layer.
        width: its new number of filters.
        taken: groups that have a new size already, and keep it.

    Raises:
        MutationError: if the layer can't get this width.
    """
    layout, now = spec.channels, spec.channels.width(node_id, taken)
    times: dict[int, int] = {}  # how often the layer holds each of its groups
    for segment in layout.segments[node_id]:
        times[segment.group] = times.get(segment.group, 0) + segment.repeat
    free = {group: layout.groups[group].size for group in times if group not in taken}
    if width == now and taken:
        return {}
    rest = width - now
    sizes = {group: size + max(0, rest) * size // max(1, layout.width(node_id, {})) for group, size in free.items()}
    rest -= sum((sizes[group] - size) * times[group] for group, size in free.items())
    while rest > 0 and (fitting := [group for group in free if times[group] <= rest]):
        least = min(fitting, key=lambda group: sizes[group] / free[group])
        sizes[least] += 1
        rest -= times[least]
    if width <= now or rest:
        why = f"it has {now}" if width <= now else f"its channels are tied to others; {width - rest} would do"
        raise MutationError(f"widen: {node_id} can't get {width} filters: {why}")
    return {group: size for group, size in sizes.items() if size > free[group]}


def _duplicates(size: int, count: int, generator: Generator) -> Tensor:
    """Draws channels to duplicate: (count,); each of them as often as the others, or once more."""
    rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
    return torch.cat(rounds)[:count]


def _carry_groups(
    parent: GraphSpec,
    state: State,
    child: GraphSpec,
    groups: Mapping[int, Tensor],
    generator: Generator,
    init: Init = "scaled",
) -> tuple[State, dict[str, Tensor]]:
    """Returns the child's weights and channel maps when channel groups change by these maps."""
    producers = {node_id for group in groups for node_id in parent.channels.groups[group].producers}
    maps = propagate(parent, child, {node_id: segment_map(parent, node_id, groups) for node_id in producers})
    return carry(parent, state, child, maps, generator, init), maps
