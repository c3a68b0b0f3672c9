"""New branches beside what is there: a residual bottleneck, and squeeze-and-excitation. They start without effect."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import (
    Activation,
    AdaptivePool2d,
    Add,
    BatchNorm2d,
    Conv2d,
    GraphSpec,
    Mix,
    Mul,
    Node,
    Op,
)
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.insert import checked_kernel_size
from lightning_lemonade.morphisms.maps import NEW, settle
from lightning_lemonade.morphisms.moments import output_moments
from lightning_lemonade.morphisms.places import block_ends, has_positions
from lightning_lemonade.morphisms.state import State, like_weights

MAX_REDUCTION = 1024
MIN_CHANNELS = 4
"""Of a branch. Between two batch norms, a single channel could be scaled without any effect, and would not learn its scale."""


@dataclass(frozen=True)
class InsertBottleneck(Mutation):
    """Adds a residual branch 1x1-BN-ReLU, kxk-BN-ReLU, 1x1-BN to the end of a block (exact, source: ours).

    The scale and the shift of its last batch norm start at zero, and nothing else does. So the branch is without effect in eval and in
    train mode, on any batch; one step gives each channel a scale of its own, and from the next one on every weight of the branch learns. (A
    mix with a gate would need as many steps, and would have one gate for all channels, that takes from the block what it gives to the
    branch.)

    Attributes:
        node: an activation, pool or join over (channels, height, width) with more than one channel and position.
        reduction: the branch is narrower than the block by this factor; it has at least four channels.
        kernel_size: of the middle convolution; odd.
    """

    kind = "insert_bottleneck"
    exact = True
    node: str | tuple[str, ...]
    reduction: int = 4
    kernel_size: int = 3

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _check_reduction(self.kind, self.reduction)
        checked_kernel_size(self.kind, self.kernel_size)

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in block_ends(spec) if has_positions(spec, node.id) and spec.shapes[node.id][0] > 1]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        channels, size = spec.shapes[site[0]][0], self.kernel_size
        narrow = max(MIN_CHANNELS, channels // self.reduction)
        relu, middle = Activation("relu"), Conv2d(narrow, (size, size), padding=(size // 2, size // 2), bias=False)
        branch: list[Op] = [Conv2d(narrow, (1, 1), bias=False), BatchNorm2d(), relu, middle, BatchNorm2d(), relu]
        return _with_branch(spec, site[0], [*branch, Conv2d(channels, (1, 1), bias=False), BatchNorm2d()], [Add()])

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
        ids = parent.fresh_ids(9)
        weights = state | fresh_weights(child, ids, state, calibration, generator)
        last = f"{ids[-2]}.weight"
        weights[last] = torch.zeros_like(weights[last])
        return settled(child, weights, ids, calibration)


@dataclass(frozen=True)
class InsertSqueezeExcite(Mutation):
    """Scales the channels at the end of a block by what a small network sees in their averages (exact, type IV; the block is ours).

    Global average, 1x1, ReLU, 1x1, sigmoid, product; the result is mixed with the unscaled channels by a learnt gate that starts at 1, that
    is, at the unscaled ones. Averages differ little from sample to sample, so the first bias centres them: a ReLU that sees one sign only
    would be dead, or no ReLU. The sigmoid's inputs are scaled down to about one where they are larger: it would be saturated.

    Attributes:
        node: an activation, pool or join over (channels, height, width) with more than one position.
        reduction: the small network is narrower than the block by this factor; it has at least four channels.
    """

    kind = "insert_squeeze_excite"
    exact = True
    node: str | tuple[str, ...]
    reduction: int = 4

    def __post_init__(self) -> None:
        """Checks the reduction."""
        super().__post_init__()
        _check_reduction(self.kind, self.reduction)

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in block_ends(spec) if has_positions(spec, node.id)]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        channels = spec.shapes[site[0]][0]
        narrow = max(MIN_CHANNELS, channels // self.reduction)
        squeeze = [AdaptivePool2d("avg", (1, 1)), Conv2d(narrow, (1, 1)), Activation("relu")]
        return _with_branch(spec, site[0], [*squeeze, Conv2d(channels, (1, 1)), Activation("sigmoid")], [Mul(), Mix()])

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
        ids = parent.fresh_ids(7)
        weights = state | fresh_weights(child, ids, state, calibration, generator)
        mean, variance = output_moments(child, weights, ids[1], calibration)
        weights[f"{ids[1]}.bias"] = torch.maximum(variance.sqrt(), 0.1 * mean.abs()) - mean
        mean, variance = output_moments(child, weights, ids[3], calibration)
        weights[f"{ids[3]}.weight"] /= (mean.square() + variance).sqrt().clamp(min=1).reshape(-1, 1, 1, 1)
        return weights


def _check_reduction(kind: str, reduction: object) -> None:
    if isinstance(reduction, bool) or not isinstance(reduction, int) or not 1 <= reduction <= MAX_REDUCTION:
        raise MutationError(f"{kind}: reduction must be an integer between 1 and {MAX_REDUCTION}, got {shown(reduction)}")


def _with_branch(spec: GraphSpec, node_id: str, branch: list[Op], joins: list[Op]) -> GraphSpec:
    """Returns the graph with a chain of new nodes behind a node, and joins of the node with its end, which the node's readers then read."""
    ids = spec.fresh_ids(len(branch) + len(joins))
    nodes: list[Node] = []
    end = node_id
    for new, op in zip(ids, [*branch, *joins], strict=True):
        nodes.append(Node(new, op, (node_id, end) if len(nodes) >= len(branch) else (end,)))
        end = new
    return spec.edit(added=nodes, rewired={node_id: end})


def fresh_weights(child: GraphSpec, ids: list[str], state: State, x: Tensor, generator: Generator) -> State:
    """Returns first weights for new nodes: He-normal convolutions (fan in), plain batch norms, gates at 1.

    Args:
        child: the graph.
        ids: its new nodes.
        state: the parent's weights, whose precision and device the new ones have.
        x: the calibration batch, which they follow if the parent has no weights.
        generator: the source of new weights.
    """
    like = like_weights(x, state)
    weights: State = {}
    for new in ids:
        match child[new].op:
            case Conv2d() as op:
                shape = op.weight_shape(child.input_shapes(new))
                drawn = torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)
                weights[f"{new}.weight"] = drawn * (2.0 / prod(shape[1:])) ** 0.5
                if op.bias:
                    weights[f"{new}.bias"] = like.new_zeros(shape[0])
            case BatchNorm2d():
                channels = child.shapes[new][0]
                weights |= {f"{new}.weight": like.new_ones(channels), f"{new}.bias": like.new_zeros(channels)}
                weights |= {f"{new}.running_mean": like.new_zeros(channels), f"{new}.running_var": like.new_ones(channels)}
                weights[f"{new}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64, device=like.device)
            case Mix():
                weights[f"{new}.gate"] = like.new_ones(())
    return weights


def settled(child: GraphSpec, weights: State, ids: list[str], x: Tensor) -> State:
    """Returns the weights with new nodes set by what the calibration batch shows: see `maps.settle`."""
    return settle(child, weights, {new: torch.full((child.shapes[new][0],), NEW) for new in ids}, x)
