"""Narrower networks: filters go, and what reads them is solved for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.morphisms.choice import ReaderMaker, eliminated, keeps_readable
from lightning_lemonade.morphisms.maps import carry, propagate, segment_map
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.resize import resizable, resized
from lightning_lemonade.morphisms.solve import Refit, Shrinking, layers_below, observe, solved
from lightning_lemonade.morphisms.state import State


@dataclass(frozen=True)
class PruneFilters(Shrinking):
    """Removes filters of a layer (approximate; paper, section 3).

    Tied layers lose the same channels, and once, however many of them are named. In the modes `"best"` and `"cheap"` every layer that
    reads the channels is solved for, so that it puts out what it did. In `"best"` those channels go whose loss the readers can make up for;
    otherwise those with the smallest sum of absolute weights.

    Attributes:
        node: a convolution or linear layer whose channels aren't frozen.
        fraction: the share that goes, in (0, 1); at least one filter stays. One half, if no width is given either.
        width: how many filters stay, instead of a share. Where some of the layer's channels are tied to others than the rest, each part
            shrinks by the same share, as closely as whole channels allow.
        mode: see `Shrinking`.
    """

    kind = "prune_filters"
    together = True
    node: str | tuple[str, ...]
    fraction: float | None = None
    width: int | None = None
    mode: str = "best"

    def __post_init__(self) -> None:
        """Checks fraction and width."""
        super().__post_init__()
        if self.width is None and self.fraction is None:
            object.__setattr__(self, "fraction", 0.5)
        if self.width is not None and self.fraction is not None:
            raise MutationError("prune_filters: give either fraction or width, not both")
        if self.fraction is not None and (
            isinstance(self.fraction, bool) or not isinstance(self.fraction, int | float) or not 0 < self.fraction < 1
        ):
            raise MutationError(f"prune_filters: fraction must be between 0 and 1, got {shown(self.fraction)}")
        if self.width is not None and (isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1):
            raise MutationError(f"prune_filters: width must be an integer of at least 1, got {shown(self.width)}")

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        groups = spec.channels.groups
        return [site for site in resizable(spec) if all(groups[g].size > 1 for g in spec.channels.groups_of(site[0]))]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        return resized(spec, self._sizes(spec, site))

    def _sizes(self, spec: GraphSpec, site: Site) -> dict[int, int]:
        """Returns how many channels of each group stay."""
        sizes: dict[int, int] = {}
        for node_id in site:
            before = spec.shapes[node_id][0]
            if self.width is not None and self.width >= before:
                raise MutationError(f"prune_filters: {node_id} has {before} filters, so its new width must be less, got {self.width}")
            share = self.width / before if self.width is not None else 1 - (self.fraction or 0.0)
            new = _shares({g: spec.channels.groups[g].size for g in spec.channels.groups_of(node_id)}, share)
            wanted = self.width if self.width is not None else spec.channels.width(node_id, new)
            if spec.channels.width(node_id, new) != wanted:
                raise MutationError(f"prune_filters: {node_id} can't have {wanted} filters, since some of its channels stand in it twice")
            if any(sizes.get(group, size) != size for group, size in new.items()):
                raise MutationError(f"prune_filters: {node_id} is tied to another layer of {', '.join(site)} that gets another width")
            sizes |= new
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
        sizes = self._sizes(parent, site)
        producers = [node_id for group in sizes for node_id in parent.channels.groups[group].producers]
        if self.mode == "simple":
            weights, _ = carried(parent, state, child, largest(parent, state, sizes), generator)
            return reestimated(child, weights, producers, calibration)
        layers = layers_below(parent, producers, self.reach)
        looks = self._looks(parent, state, producers, tuple(sizes))
        observed = observe(parent, state, child, calibration, layers, generator, looks)
        if looks:
            made = [look.made for look in looks.values() if look.made is not None]
            looks.clear()
            kept = eliminated(made, {group: (parent.channels.groups[group].size, size) for group, size in sizes.items()})
            made.clear()
        else:
            kept = largest(parent, state, sizes)
        weights, maps = carried(parent, state, child, kept, generator)
        return solved(child, weights, [Refit(i, i, maps[i]) for i in layers], observed, producers)

    def _looks(self, parent: GraphSpec, state: State, producers: Sequence[str], groups: Sequence[int]) -> dict[str, ReaderMaker]:
        """Returns what looks at the inputs of those that read the channels; nothing if channels are chosen by norm."""
        readers = layers_below(parent, producers) if self.mode == "best" else []
        return {i: ReaderMaker(parent, state, i, groups) for i in readers if keeps_readable(parent, i)}


def _shares(sizes: Mapping[int, int], share: float) -> dict[int, int]:
    """Returns the sizes times a share, at least one and at least one fewer; their sum is rounded, too, by the largest remainders."""
    exact = {group: size * share for group, size in sizes.items()}
    new = {group: max(1, min(size - 1, int(exact[group]))) for group, size in sizes.items()}
    missing = round(sum(exact.values())) - sum(new.values())
    for group in sorted(sizes, key=lambda g: new[g] - exact[g])[: max(0, missing)]:
        new[group] = min(new[group] + 1, sizes[group] - 1)
    return new


def carried(
    parent: GraphSpec, state: State, child: GraphSpec, kept: Mapping[int, Tensor], generator: Generator
) -> tuple[State, dict[str, Tensor]]:
    """Returns the child's weights and channel maps when these channels of groups stay."""
    producers = {node_id for group in kept for node_id in parent.channels.groups[group].producers}
    maps = propagate(parent, child, {node_id: segment_map(parent, node_id, kept) for node_id in producers})
    return carry(parent, state, child, maps, generator), maps


def largest(spec: GraphSpec, state: State, sizes: Mapping[int, int]) -> dict[int, Tensor]:
    """Returns for each group the channels with the largest sum of absolute weights, ascending."""
    kept = {}
    for group, size in sizes.items():
        ranking = filter_norms(spec, state, group).argsort(descending=True, stable=True)
        kept[group] = ranking[:size].sort().values.cpu()
    return kept


def filter_norms(spec: GraphSpec, state: State, group: int) -> Tensor:
    """Returns the sum of absolute weights of each channel of a group over all its producers: (channels,)."""
    total = torch.zeros(spec.channels.groups[group].size, dtype=torch.float64)
    for node_id in spec.channels.groups[group].producers:
        rows = state[f"{node_id}.weight"].abs().flatten(1).sum(1).to(total)
        start = 0
        for segment in spec.channels.segments[node_id]:
            if segment.group == group:
                total += rows[start : start + segment.size]
            start += segment.size * segment.repeat
    return total
