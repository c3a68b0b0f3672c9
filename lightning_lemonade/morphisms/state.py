"""Weights of networks, and networks with given weights."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import GraphSpec, build

State = dict[str, Tensor]
"""A network's state dict: `<node id>.<tensor>` -> tensor."""


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Copies weights into a network.

    Args:
        network: changed in place.
        state: its new weights.
        assign: let the network hold these tensors themselves, in their precision and on their device, instead of copies.

    Raises:
        MutationError: if a tensor is missing, superfluous or of another shape.
    """
    try:
        network.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise MutationError(f"these weights don't belong to this network: {error}") from error


def network_with(spec: GraphSpec, state: Mapping[str, Tensor]) -> fx.GraphModule:
    """Returns a network that holds copies of the weights, in their precision and on their device; draws nothing from a generator.

    Raises:
        MutationError: if the weights don't belong to this spec.
    """
    with torch.device("meta"):
        network = build(spec)
    load_state(network, {name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)
    return network


def like_weights(x: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Returns a batch in the precision and on the device of the weights."""
    first = next((tensor for tensor in state.values() if tensor.is_floating_point()), None)
    return x if first is None else x.to(first)


def descendants(spec: GraphSpec, node_ids: Iterable[str]) -> set[str]:
    """Returns some nodes of a graph and all that depend on them."""
    found = {node_id for node_id in node_ids if node_id in spec}
    for node in spec.nodes:
        if any(source in found for source in node.inputs):
            found.add(node.id)
    return found
