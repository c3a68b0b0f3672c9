"""Networks with given weights, and what is measured on them with the calibration batch."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import BatchNorm2d, GraphSpec, build, record_outputs

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


def as_calibrating(network: fx.GraphModule) -> fx.GraphModule:
    """Lets batch norms use the batch's statistics and keep them as running ones; dropout stays off."""
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    return network


def like_weights(x: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Returns a batch in the precision and on the device of the weights."""
    first = next((tensor for tensor in state.values() if tensor.is_floating_point()), None)
    return x if first is None else x.to(first)


def output_moments(spec: GraphSpec, state: Mapping[str, Tensor], node_id: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and (biased) variance of a node's channels over a batch, with the batch norms upstream in train mode.

    Recorded in train mode, because a batch norm initialised with them is then the identity in train mode, too, on this batch. Source: ours.

    Returns:
        Two tensors of shape (channels,).
    """
    network = as_calibrating(network_with(spec, state))
    values = record_outputs(network, [node_id], like_weights(x, state))[node_id]
    dims = [d for d in range(values.ndim) if d != 1]
    return values.mean(dims), values.var(dims, unbiased=False)


def batch_norm_statistics(spec: GraphSpec, state: Mapping[str, Tensor], x: Tensor) -> State:
    """Returns running mean and variance of every batch norm as one batch in train mode gives them."""
    ids = [node.id for node in spec.nodes if isinstance(node.op, BatchNorm2d)]
    if not ids:
        return {}
    network = as_calibrating(network_with(spec, state))
    with torch.no_grad():
        network(like_weights(x, state))
    measured = network.state_dict()
    return {f"{i}.{name}": measured[f"{i}.{name}"] for i in ids for name in ("running_mean", "running_var")}


def reestimated(spec: GraphSpec, state: State, changed: Iterable[str], x: Tensor) -> State:
    """Returns the weights with the statistics of all batch norms below changed nodes measured anew.

    Args:
        spec: the child.
        state: its weights.
        changed: ids of nodes whose output changed.
        x: the calibration batch (batch, *input shape).
    """
    below = descendants(spec, changed)
    measured = batch_norm_statistics(spec, state, x)
    return state | {name: tensor for name, tensor in measured.items() if name.partition(".")[0] in below}


def descendants(spec: GraphSpec, node_ids: Iterable[str]) -> set[str]:
    """Returns some nodes of a graph and all that depend on them."""
    found = {node_id for node_id in node_ids if node_id in spec}
    for node in spec.nodes:
        if any(source in found for source in node.inputs):
            found.add(node.id)
    return found
