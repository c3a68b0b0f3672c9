"""Deeper networks: a new block that starts as the identity."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Activation, BatchNorm2d, Conv2d, GraphSpec, Node, RelaxedActivation
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.moments import output_moments
from lightning_lemonade.morphisms.places import has_positions
from lightning_lemonade.morphisms.state import State, like_weights

IDEMPOTENT = ("relu", "relu6")
"""The functions f with f(f(x)) = f(x)."""


@dataclass(frozen=True)
class InsertConvBlock(Mutation):
    """Inserts Conv-BN-activation behind an activation (exact; types I and III of the paper, section 3.1).

    The convolution starts as the identity. The batch norm starts with the statistics of what it reads, and with the scale and shift that
    undo them, so that the block is the identity in eval mode, and in train mode on the calibration batch. A second ReLU after the first
    changes nothing. Behind an activation for which that isn't so (SiLU, for instance), the new one is relaxed: it starts as the identity
    and learns how far to go to the activation.

    Attributes:
        node: an activation over (channels, height, width) with more than one position: a batch norm needs several values.
        kernel_size: odd; padding keeps height and width.
    """

    kind = "insert_conv_block"
    exact = True
    node: str | tuple[str, ...]
    kernel_size: int = 3

    def __post_init__(self) -> None:
        """Checks the kernel size."""
        super().__post_init__()
        checked_kernel_size(self.kind, self.kernel_size)

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in spec.nodes if isinstance(node.op, Activation) and has_positions(spec, node.id)]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        conv = _same_size(spec.shapes[site[0]][0], self.kernel_size)
        return inserted(spec, site[0], [conv, BatchNorm2d(), _once_more(spec, site[0])])

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
        return identity_block(parent, state, child, site[0], parent.fresh_ids(3), calibration)


@dataclass(frozen=True)
class InsertSeparableBlock(Mutation):
    """Inserts a depthwise and a 1x1 convolution, BN and an activation behind an activation (exact; types I and III; the block is ours).

    Both convolutions start as the identity; for the rest, see `InsertConvBlock`.

    Attributes:
        node: an activation over (channels, height, width) with more than one position.
        kernel_size: of the depthwise convolution; odd; padding keeps height and width.
    """

    kind = "insert_separable_block"
    exact = True
    node: str | tuple[str, ...]
    kernel_size: int = 3

    def __post_init__(self) -> None:
        """Checks the kernel size."""
        super().__post_init__()
        checked_kernel_size(self.kind, self.kernel_size)

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return InsertConvBlock.sites(spec)

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        channels = spec.shapes[site[0]][0]
        depthwise = replace(_same_size(channels, self.kernel_size), groups=channels)
        return inserted(spec, site[0], [depthwise, _same_size(channels, 1), BatchNorm2d(), _once_more(spec, site[0])])

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
        return identity_block(parent, state, child, site[0], parent.fresh_ids(4), calibration)


def checked_kernel_size(kind: str, size: object) -> None:
    """Raises MutationError unless a kernel size is odd and of a sensible size."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 31 or size % 2 == 0:
        raise MutationError(f"{kind}: kernel_size must be odd and between 1 and 31, got {shown(size)}")


def _same_size(channels: int, kernel: int) -> Conv2d:
    """Returns a convolution that keeps height and width."""
    return Conv2d(channels, (kernel, kernel), padding=(kernel // 2, kernel // 2), bias=False)


def _once_more(spec: GraphSpec, node_id: str) -> Activation:
    """Returns an activation that changes nothing (yet) behind this one."""
    op = spec[node_id].op
    if not isinstance(op, Activation):
        raise MutationError(f"node {node_id} is no activation")
    return op if op.function in IDEMPOTENT and type(op) is Activation else RelaxedActivation(op.function)


def inserted(spec: GraphSpec, node_id: str, ops: list[Conv2d | BatchNorm2d | Activation]) -> GraphSpec:
    """Returns the graph with a chain of new nodes between a node and its readers."""
    ids = spec.fresh_ids(len(ops))
    chain = [Node(new, op, (source,)) for new, op, source in zip(ids, ops, [node_id, *ids], strict=False)]
    return spec.edit(added=chain, rewired={node_id: ids[-1]})


def identity_block(parent: GraphSpec, state: State, child: GraphSpec, node_id: str, ids: list[str], x: Tensor) -> State:
    """Returns the weights when new convolutions, batch norms and relaxed activations behind a node start as the identity.

    Args:
        parent: the graph without the block.
        state: its weights.
        child: the graph with the block.
        node_id: the node that the block follows.
        ids: the new nodes.
        x: the calibration batch (batch, *input shape).
    """
    mean, variance = output_moments(parent, state, node_id, x)
    weights = dict(state)
    for new in ids:
        match child[new].op:
            case Conv2d() as op:
                kernel = mean.new_zeros(op.weight_shape(child.input_shapes(new)))
                weights[f"{new}.weight"] = nn.init.dirac_(kernel, op.groups)
            case BatchNorm2d() as op:
                weights |= identity_batch_norm(new, mean, variance, op.eps)
            case RelaxedActivation():
                weights[f"{new}.gate"] = like_weights(x, state).new_ones(())
    return weights


def identity_batch_norm(node_id: str, mean: Tensor, variance: Tensor, eps: float) -> State:
    """Returns the weights of a batch norm that is the identity for inputs with these moments. Source: ours.

    With weight 1 and bias 0 it would be the identity in eval mode only, and would change the function on the first training batch.

    Args:
        node_id: the batch norm.
        mean: (channels,).
        variance: (channels,), biased.
        eps: the batch norm's.
    """
    return {
        f"{node_id}.weight": (variance + eps).sqrt(),
        f"{node_id}.bias": mean.clone(),
        f"{node_id}.running_mean": mean.clone(),
        f"{node_id}.running_var": variance.clone(),
        f"{node_id}.num_batches_tracked": torch.zeros((), dtype=torch.int64, device=mean.device),
    }
