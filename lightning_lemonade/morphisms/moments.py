"""What is measured with the calibration batch: moments of a node's channels, statistics of batch norms."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_lemonade.graph import BatchNorm2d, GraphSpec, Input
from lightning_lemonade.morphisms.passes import Pass
from lightning_lemonade.morphisms.state import State, descendants, like_weights


def given_input(spec: GraphSpec, state: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Returns a batch, in the precision and on the device of the weights, as the input node's value."""
    return {node.id: like_weights(x, state) for node in spec.nodes if isinstance(node.op, Input)}


def output_moments(spec: GraphSpec, state: Mapping[str, Tensor], node_id: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and (biased) variance of a node's channels over a batch, with the batch norms upstream in train mode.

    Recorded in train mode, because a batch norm initialised with them is then the identity in train mode, too, on this batch. Source: ours.

    Returns:
        Two tensors of shape (channels,).
    """
    values = Pass(spec, state).measuring().run_from(given_input(spec, state, x), [node_id])[node_id]
    dims = [d for d in range(values.ndim) if d != 1]
    return values.mean(dims), values.var(dims, unbiased=False)


def batch_norm_statistics(spec: GraphSpec, state: Mapping[str, Tensor], x: Tensor, ids: Iterable[str] | None = None) -> State:
    """Returns running mean and variance of batch norms as one batch in train mode gives them: of some of them, or all for None."""
    norms = [node.id for node in spec.nodes if isinstance(node.op, BatchNorm2d) and (ids is None or node.id in ids)]
    network = Pass(spec, state).measuring()
    network.run_from(given_input(spec, state, x), norms)
    return network.statistics(norms)


def reestimated(spec: GraphSpec, state: State, changed: Iterable[str], x: Tensor) -> State:
    """Returns the weights with the statistics of all batch norms below changed nodes measured anew.

    Args:
        spec: the child.
        state: its weights.
        changed: ids of nodes whose output changed.
        x: the calibration batch (batch, *input shape).
    """
    return state | batch_norm_statistics(spec, state, x, descendants(spec, changed))
