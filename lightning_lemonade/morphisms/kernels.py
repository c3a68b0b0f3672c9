"""Larger kernels, and convolutions in two parts."""

from dataclasses import dataclass, replace

from torch import Generator, Tensor
from torch.nn.functional import pad

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Concat, Conv2d, GraphSpec, Node
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Mutation, Site
from lightning_lemonade.morphisms.state import State

MAX_GROWTH = 30


@dataclass(frozen=True)
class GrowKernel(Mutation):
    """Gives a convolution a larger window, whose new taps start at zero (exact, source: ours).

    Any stride, dilation and number of groups; the padding grows along, so that the output keeps its size.

    Attributes:
        node: a convolution whose new taps would see more than padding.
        by: how much the window grows in height and width; even.
    """

    kind = "grow_kernel"
    exact = True
    node: str | tuple[str, ...]
    by: int = 2

    def __post_init__(self) -> None:
        """Checks the growth."""
        super().__post_init__()
        if isinstance(self.by, bool) or not isinstance(self.by, int) or not 2 <= self.by <= MAX_GROWTH or self.by % 2:
            raise MutationError(f"grow_kernel: by must be even and between 2 and {MAX_GROWTH}, got {shown(self.by)}")

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in spec.nodes if isinstance(node.op, Conv2d) and _new_taps_see(node.op, spec, node.id, 1)]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        node = spec[site[0]]
        op = _conv(node)
        if not _new_taps_see(op, spec, node.id, self.by // 2):
            raise MutationError(f"{shown(str(self))}: the outermost of the new taps of {node.id} would only see padding")
        (kh, kw), (ph, pw), (dh, dw), each = op.kernel_size, op.padding, op.dilation, self.by // 2
        larger = replace(op, kernel_size=(kh + self.by, kw + self.by), padding=(ph + each * dh, pw + each * dw))
        return spec.edit(replaced={node.id: replace(node, op=larger)})

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
        name = f"{site[0]}.weight"
        return state | {name: pad(state[name], [self.by // 2] * 4)}


def _new_taps_see(op: Conv2d, spec: GraphSpec, node_id: str, each: int) -> bool:
    """Returns whether, for some place of the window, each of the outermost new taps lies inside the image."""
    shapes = zip(spec.input_shapes(node_id)[0][1:], spec.shapes[node_id][1:], strict=True)
    for (size, places), kernel, stride, padding, dilation in zip(shapes, op.kernel_size, op.stride, op.padding, op.dilation, strict=True):
        first, last = -padding - each * dilation, -padding + (kernel - 1 + each) * dilation
        for tap in (first, last):
            place = max(0, -(tap // stride))  # the first place of the window where the tap isn't above the image
            if place >= places or tap + place * stride >= size:
                return False
    return True


@dataclass(frozen=True)
class SplitConv(Mutation):
    """Splits the filters of a convolution into two branches, whose outputs are concatenated (exact, type II; ours).

    The two can then change by themselves: grow different kernels, be widened, gain layers.

    Attributes:
        node: a convolution in one group with two filters or more; it keeps the first half of them.
    """

    kind = "split_conv"
    exact = True
    node: str | tuple[str, ...]

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        convs = [(node.id, node.op) for node in spec.nodes if isinstance(node.op, Conv2d)]
        return [(node_id,) for node_id, op in convs if op.groups == 1 and op.out_channels > 1]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        node = spec[site[0]]
        op, (second, joined) = _conv(node), spec.fresh_ids(2)
        kept = _first_half(op)
        rest = Node(second, replace(op, out_channels=op.out_channels - kept), node.inputs)
        concat = Node(joined, Concat(), (node.id, second))
        return spec.edit(
            replaced={node.id: replace(node, op=replace(op, out_channels=kept))}, added=[rest, concat], rewired={node.id: joined}
        )

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
        second, kept = parent.fresh_ids(2)[0], _first_half(_conv(parent[site[0]]))
        weights = dict(state)
        for kind in ("weight", "bias"):
            whole = state.get(f"{site[0]}.{kind}")
            if whole is not None:
                weights[f"{site[0]}.{kind}"], weights[f"{second}.{kind}"] = whole[:kept].clone(), whole[kept:].clone()
        return weights


def _first_half(op: Conv2d) -> int:
    return (op.out_channels + 1) // 2


def _conv(node: Node) -> Conv2d:
    if not isinstance(node.op, Conv2d):
        raise MutationError(f"node {node.id} is no convolution")
    return node.op
