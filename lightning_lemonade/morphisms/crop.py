"""Smaller kernels."""

from dataclasses import dataclass, replace

from torch import Generator, Tensor

from lightning_lemonade.graph import Conv2d, GraphSpec
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.solve import Refit, Shrinking, layers_below, observe, solved
from lightning_lemonade.morphisms.state import State


@dataclass(frozen=True)
class ShrinkKernel(Shrinking):
    """Takes the outermost taps off a convolution's window: a 5x5 becomes a 3x3, a 3x3 a 1x1 (approximate, source: ours).

    Sides shorter than three stay. The padding shrinks along, so that the output keeps its size. In the modes `"best"` and `"cheap"` the
    taps that are left are fitted to what the convolution put out; in `"best"` the layers behind it are fitted, too.

    Attributes:
        node: a convolution, with any number of groups, with a side of three or more, and enough padding there.
        mode: see `Shrinking`.
    """

    kind = "shrink_kernel"
    node: str | tuple[str, ...]
    mode: str = "best"

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in spec.nodes if isinstance(node.op, Conv2d) and cropped(node.op) is not None]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        node = spec[site[0]]
        smaller = cropped(node.op) if isinstance(node.op, Conv2d) else None
        return spec.edit(replaced={node.id: replace(node, op=smaller or node.op)})

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
        height, width = state[name].shape[2:]
        rows, columns = (slice(1, -1) if size > 2 else slice(None) for size in (height, width))
        weights = state | {name: state[name][:, :, rows, columns].clone()}
        if self.mode == "simple":
            return reestimated(child, weights, site, calibration)
        layers = [site[0], *layers_below(parent, site, self.reach - 1)]
        observed = observe(parent, state, child, calibration, layers, generator)
        return solved(child, weights, [Refit(i, i) for i in layers], observed, site)


def cropped(op: Conv2d) -> Conv2d | None:
    """Returns a convolution without its outermost taps; None if no side has taps to spare, or one of them too little padding."""
    sides = list(zip(op.kernel_size, op.padding, op.dilation, strict=True))
    if max(op.kernel_size) < 3 or any(size > 2 and padding < step for size, padding, step in sides):
        return None
    (height, top), (width, left) = ((size - 2, padding - step) if size > 2 else (size, padding) for size, padding, step in sides)
    return replace(op, kernel_size=(height, width), padding=(top, left))
