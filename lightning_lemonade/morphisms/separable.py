"""A convolution becomes depthwise-separable."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Conv2d, GraphSpec, Node
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.state import State, reestimated


@dataclass(frozen=True)
class ToSeparable(Mutation):
    """Replaces a convolution by a depthwise and a pointwise one (approximate; paper, section 3).

    The kernels start as the best approximation of rank one for each input channel (by singular values), in the sense of the weights'
    squared error. Batch norm statistics below are re-estimated.

    Attributes:
        node: a convolution with one group, more than one input channel, and a kernel larger than 1.
    """

    kind = "to_separable"
    exact = False
    node: str | tuple[str, ...]

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        found: list[Site] = []
        for node in spec.nodes:
            plain = isinstance(node.op, Conv2d) and node.op.groups == 1 and max(node.op.kernel_size) > 1
            if plain and spec.input_shapes(node.id)[0][0] > 1:
                found.append((node.id,))
        return found

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        node, op = spec[site[0]], _conv(spec, site[0])
        channels = spec.input_shapes(node.id)[0][0]
        depthwise, pointwise = spec.fresh_ids(2)
        first = replace(op, out_channels=channels, groups=channels, bias=False)
        second = Conv2d(op.out_channels, (1, 1), bias=op.bias)
        pair = [
            Node(depthwise, first, node.inputs, node.label),
            Node(pointwise, second, (depthwise,), node.label),
        ]
        return spec.edit(removed=[node.id], added=pair, rewired={node.id: pointwise})

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
        depthwise, pointwise = parent.fresh_ids(2)
        kernel, mixing = rank_one(state[f"{site[0]}.weight"])
        kept = {name: tensor for name, tensor in state.items() if name.partition(".")[0] != site[0]}
        weights = kept | {f"{depthwise}.weight": kernel, f"{pointwise}.weight": mixing}
        if f"{site[0]}.bias" in state:
            weights[f"{pointwise}.bias"] = state[f"{site[0]}.bias"].clone()
        return reestimated(child, weights, [pointwise], calibration)


def _conv(spec: GraphSpec, node_id: str) -> Conv2d:
    op = spec[node_id].op
    if not isinstance(op, Conv2d):
        raise MutationError(f"node {node_id} is no convolution")
    return op


def rank_one(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Factors a kernel into a depthwise and a pointwise one.

    Args:
        weight: (out, in, height, width).

    Returns:
        The depthwise kernel (in, 1, height, width) of unit norm per channel, and the pointwise one (out, in, 1, 1), whose product is the
        closest of its form.
    """
    out, channels, height, width = weight.shape
    matrices = weight.permute(1, 0, 2, 3).reshape(channels, out, height * width)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    kernel = right[:, 0].reshape(channels, 1, height, width)
    mixing = (left[:, :, 0] * values[:, :1]).T.reshape(out, channels, 1, 1)
    return kernel.contiguous(), mixing.contiguous()
