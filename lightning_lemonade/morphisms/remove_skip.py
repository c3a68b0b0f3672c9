"""Skip connections go."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lightning_lemonade.graph import Add, Concat, Conv2d, GraphSpec, Identity, Mix, Node
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.morphisms.maps import carry, identity, propagate
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.skips import is_join, more_channels, width_is_free
from lightning_lemonade.morphisms.solve import Refit, Shrinking, layers_below, observe, solved
from lightning_lemonade.morphisms.state import State


def _would_double(spec: GraphSpec, node: Node, source: str) -> bool:
    """Returns whether a join below would read one node twice if `node` gave way to its only other input."""
    rest = [i for i in node.inputs if i != source]
    readers = [spec[reader] for reader in spec.consumers[node.id]]
    return len(rest) == 1 and any(is_join(reader) and rest[0] in reader.inputs for reader in readers)


@dataclass(frozen=True)
class RemoveSkip(Shrinking):
    """Removes one input of a joining node, where that input is still read elsewhere (approximate; paper, section 3.2).

    A node that is left with one input goes. In the modes `"best"` and `"cheap"` the layers behind it are solved for, so that they put out
    what they did.

    Attributes:
        node: an Add, Mix or Concat.
        source: the input that goes.
        mode: see `Shrinking`.
    """

    kind = "remove_skip"
    site_fields = ("node", "source")
    node: str | tuple[str, ...]
    source: str | tuple[str, ...]
    mode: str = "best"

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        found: list[Site] = []
        able = width_is_free(spec)
        for node in spec.nodes:
            if isinstance(node.op, Add | Mix | Concat):
                if isinstance(node.op, Concat) and not able[node.id]:
                    continue
                for source in dict.fromkeys(node.inputs):
                    elsewhere = len(spec.consumers[source]) > 1
                    if elsewhere and node.inputs.count(source) == 1 and not _would_double(spec, node, source):
                        found.append((node.id, source))
        return found

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        between = self._shortened(spec, site)
        node = between[site[0]]
        return between.edit(removed=[node.id], rewired={node.id: node.inputs[0]}) if isinstance(node.op, Identity) else between

    def _shortened(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """Returns the graph with the input gone, and the joining node still there (as an identity if one input is left)."""
        node = spec[site[0]]
        inputs = tuple(source for source in node.inputs if source != site[1])
        shorter = replace(node, inputs=inputs, op=Identity() if len(inputs) == 1 else node.op)
        replaced = {node.id: shorter}
        if isinstance(node.op, Concat):
            lost = spec.shapes[site[1]][0]
            for node_id, count in more_channels(spec, node.id, lost).items():
                reader = spec[node_id]
                if isinstance(reader.op, Conv2d):
                    width = reader.op.out_channels - count
                    replaced[node_id] = replace(reader, op=replace(reader.op, out_channels=width, groups=width))
        return spec.edit(replaced=replaced)

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
        between = self._shortened(parent, site)
        node = parent[site[0]]
        given = {}
        if isinstance(node.op, Concat):
            parts, start = [], 0
            for source in node.inputs:
                if source != site[1]:
                    parts.append(identity(parent.shapes[source][0]) + start)
                start += parent.shapes[source][0]
            given[node.id] = torch.cat(parts)
        else:
            given[node.id] = identity(parent.shapes[node.id][0])
        maps = propagate(parent, between, given)
        weights = carry(parent, state, between, maps, generator)
        weights.pop(f"{node.id}.gate", None)
        changed = [reader for reader in parent.consumers[node.id] if reader in child]
        if self.mode == "simple":
            return reestimated(child, weights, changed, calibration)
        layers = layers_below(parent, [node.id], self.reach)
        observed = observe(parent, state, child, calibration, layers, generator)
        return solved(child, weights, [Refit(i, i, maps[i]) for i in layers], observed, changed)
