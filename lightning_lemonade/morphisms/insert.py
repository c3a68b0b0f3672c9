"""Deeper networks: a new block that starts as the identity."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Activation, BatchNorm2d, Conv2d, GraphSpec, Node
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.state import State, output_moments


@dataclass(frozen=True)
class InsertConvBlock(Mutation):
    """Inserts Conv-BN-ReLU behind a ReLU (exact; types I and III of the paper, section 2).

    The convolution starts as the identity. The batch norm starts with the statistics of what it reads, and with the scale and shift that
    undo them, so that the block is the identity in eval mode, and in train mode on the calibration batch. A second ReLU after the first
    changes nothing.

    Attributes:
        node: a ReLU over (channels, height, width).
        kernel_size: odd; padding keeps height and width.
    """

    kind = "insert_conv_block"
    exact = True
    node: str | tuple[str, ...]
    kernel_size: int = 3

    def __post_init__(self) -> None:
        """Checks the kernel size."""
        super().__post_init__()
        size = self.kernel_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 31 or size % 2 == 0:
            raise MutationError(f"insert_conv_block: kernel_size must be odd and between 1 and 31, got {shown(size)}")

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in spec.nodes if node.op == Activation("relu") and len(spec.shapes[node.id]) == 3]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        conv, norm, act = spec.fresh_ids(3)
        channels = spec.shapes[site[0]][0]
        size = self.kernel_size
        op = Conv2d(channels, (size, size), padding=(size // 2, size // 2), bias=False)
        block = [Node(conv, op, site), Node(norm, BatchNorm2d(), (conv,)), Node(act, Activation("relu"), (norm,))]
        return spec.edit(added=block, rewired={site[0]: act})

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
        conv, norm, _ = parent.fresh_ids(3)
        mean, variance = output_moments(parent, state, site[0], calibration)
        weight = mean.new_zeros(len(mean), len(mean), self.kernel_size, self.kernel_size)
        op = child[norm].op
        if not isinstance(op, BatchNorm2d):
            raise MutationError(f"{self}: node {norm} of the child is no batch norm")
        return state | {f"{conv}.weight": nn.init.dirac_(weight)} | identity_batch_norm(norm, mean, variance, op.eps)


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
