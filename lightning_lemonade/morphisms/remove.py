"""Shallower networks: a layer goes."""

from dataclasses import dataclass

from torch import Generator, Tensor

from lightning_lemonade.graph import Activation, BatchNorm2d, Concat, Conv2d, GraphSpec, Join, Linear
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.state import State, reestimated


@dataclass(frozen=True)
class RemoveLayer(Mutation):
    """Removes a convolution or linear layer that keeps its input's shape (approximate; paper, section 3).

    The batch norm and activation behind it go, too. Its readers read its input instead; batch norm statistics below are re-estimated.

    Attributes:
        node: the layer.
    """

    kind = "remove_layer"
    exact = False
    node: str | tuple[str, ...]

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        layers = [node for node in spec.nodes if isinstance(node.op, Conv2d | Linear)]
        same = [node.id for node in layers if spec.shapes[node.id] == spec.shapes[node.inputs[0]]]
        return [(node_id,) for node_id in same if _leaves_joins_distinct(spec, node_id)]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        block = layer_block(spec, site[0])
        return spec.edit(removed=block, rewired={block[-1]: spec[site[0]].inputs[0]})

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
        block = layer_block(parent, site[0])
        kept = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in child}
        changed = [reader for reader in parent.consumers[block[-1]] if reader in child]
        return reestimated(child, kept, changed, calibration)


def layer_block(spec: GraphSpec, node_id: str) -> list[str]:
    """Returns a layer and the batch norm and activation that follow it and nothing else reads past."""
    block = [node_id]
    for kind in (BatchNorm2d, Activation):
        readers = spec.consumers[block[-1]]
        if len(readers) == 1 and isinstance(spec[readers[0]].op, kind):
            block.append(readers[0])
    return block


def _leaves_joins_distinct(spec: GraphSpec, node_id: str) -> bool:
    """Returns whether no join would read one node twice once the layer is gone."""
    end, source = layer_block(spec, node_id)[-1], spec[node_id].inputs[0]
    joins = [spec[reader] for reader in spec.consumers[end] if isinstance(spec[reader].op, Join | Concat)]
    return all(source not in join.inputs for join in joins)
