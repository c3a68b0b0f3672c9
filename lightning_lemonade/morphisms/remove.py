"""Shallower networks: a layer goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lightning_lemonade.graph import (
    Activation,
    AdaptivePool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    Flatten,
    GlobalPool2d,
    GraphSpec,
    Join,
    Linear,
    Node,
    Op,
    Output,
    Pool2d,
    Upsample2d,
)
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.morphisms.mixing import Mixture, mixed_readers
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.solve import Refit, Shrinking, layers_below, observe, solved
from lightning_lemonade.morphisms.state import State


@dataclass(frozen=True)
class RemoveLayer(Shrinking):
    """Removes a convolution or linear layer (approximate; paper, section 3.2).

    The batch norm and activation behind it go, too; what read them reads the layer's input instead. In the modes `"best"` and `"cheap"`
    the layers behind are solved for, so that they put out what they did.

    Where the layer's input has another number of channels, the layers behind get as many inputs, and start from their product with what
    the layer did to the mean over its window (without its activation): between them there may then be nothing with a number of channels
    of its own, such as a batch norm, a sum or a depthwise convolution. Where the input has another height and width, the convolutions
    behind take over the stride, if they then put out the size that they did; a pool to a fixed size needs nothing of the kind.

    Attributes:
        node: the layer. A network's only one can't go.
        mode: see `Shrinking`.
    """

    kind = "remove_layer"
    node: str | tuple[str, ...]
    mode: str = "best"

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        layers = [node.id for node in spec.nodes if isinstance(node.op, Conv2d | Linear)]
        if len(layers) < 2:
            return []
        return [(i,) for i in layers if _leaves_joins_distinct(spec, i) and _strided_readers(spec, i) is not None]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        block, source = layer_block(spec, site[0]), spec[site[0]].inputs[0]
        strided = _strided_readers(spec, site[0]) or {}
        replaced = {
            node_id: replace(node, inputs=tuple(source if i == block[-1] else i for i in node.inputs)) for node_id, node in strided.items()
        }
        return spec.edit(removed=block, replaced=replaced, rewired={block[-1]: source})

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
        end, source = layer_block(parent, site[0])[-1], parent[site[0]].inputs[0]
        weights = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in child}
        if parent.shapes[end][0] != parent.shapes[source][0]:
            mixture = Mixture(mean_response(parent, state, site[0]), parent.shapes[source][0], 1)
            weights |= mixed_readers(parent, state, child, end, mixture)
        changed = [reader for reader in parent.consumers[end] if reader in child]
        if self.mode == "simple":
            return reestimated(child, weights, changed, calibration)
        layers = layers_below(parent, [end], self.reach)
        observed = observe(parent, state, child, calibration, layers, generator)
        return solved(child, weights, [Refit(i, i) for i in layers], observed, changed)


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


def _strided_readers(spec: GraphSpec, node_id: str) -> dict[str, Node] | None:
    """Returns the convolutions that take over a layer's stride, as they then are; None if its readers can't do without it."""
    end, source = layer_block(spec, node_id)[-1], spec[node_id].inputs[0]
    old, new = spec.shapes[end], spec.shapes[source]
    other = {end: (old[0] != new[0], old[1:] != new[1:])}  # whether the channels, and the size, of what is read change
    if not any(other[end]):
        return {}
    strided: dict[str, Node] = {}
    for node in spec.nodes:
        changes = [other[i] for i in node.inputs if i in other]
        if not changes:
            continue
        wide, sized = any(change[0] for change in changes), any(change[1] for change in changes)
        if _needs_its_shape(node.op, wide, sized):
            return None
        if isinstance(node.op, Conv2d) and sized:
            taken = _strided(node.op, new, old, spec.shapes[node.id])
            if taken is None:
                return None
            strided[node.id] = replace(node, op=taken)
        if isinstance(node.op, Conv2d | Linear):
            continue
        rest = (wide, sized and not isinstance(node.op, AdaptivePool2d | GlobalPool2d))
        if any(rest):
            other[node.id] = rest
    return strided


def _needs_its_shape(op: Op, wide: bool, sized: bool) -> bool:
    """Returns whether a node can't read other channels (wide), or another size, than it does."""
    match op:
        case Output() | Join():
            return True
        case BatchNorm2d():
            return wide
        case Conv2d():
            return wide and op.groups > 1
        case Flatten() | Concat() | Pool2d() | Upsample2d():
            return sized
    return False


def _strided(conv: Conv2d, new: Sequence[int], old: Sequence[int], output: Sequence[int]) -> Conv2d | None:
    """Returns a convolution with a larger stride, so that it makes of the new input the size that it made of the old one."""
    down, across = (max(1, round(size / before)) for size, before in zip(new[1:], old[1:], strict=True))
    taken = replace(conv, stride=(conv.stride[0] * down, conv.stride[1] * across))
    try:
        fits = taken.output_shape([(conv.groups, *new[1:])])[1:] == tuple(output[1:])
    except ValueError:
        return None
    return taken if fits else None


def mean_response(spec: GraphSpec, state: Mapping[str, Tensor], node_id: str) -> Tensor:
    """Returns what a layer and the batch norm behind it make of an input that is the same everywhere: (outputs, inputs)."""
    weight = state[f"{node_id}.weight"].flatten(2).sum(2) if state[f"{node_id}.weight"].ndim > 2 else state[f"{node_id}.weight"]
    op = spec[node_id].op
    if isinstance(op, Conv2d) and op.groups > 1:
        inputs = weight.shape[1]
        spread = weight.new_zeros(op.groups, len(weight) // op.groups, op.groups, inputs)
        index = torch.arange(op.groups)
        spread[index, :, index] = weight.reshape(op.groups, -1, inputs)
        weight = spread.reshape(len(weight), -1)
    for follower in layer_block(spec, node_id)[1:]:
        norm = spec[follower].op
        if isinstance(norm, BatchNorm2d):
            scale = state[f"{follower}.weight"] / (state[f"{follower}.running_var"] + norm.eps).sqrt()
            weight = weight * scale[:, None]
    return weight
