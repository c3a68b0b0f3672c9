"""Two layers in a row become one."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv_transpose2d

from lightning_lemonade.graph import BatchNorm2d, Conv2d, GraphSpec, Linear, Node
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.remove import layer_block
from lightning_lemonade.morphisms.solve import Refit, Shrinking, layer_of, layers_below, norm_behind, observe, solved
from lightning_lemonade.morphisms.state import State

LARGEST = 5
"""Larger windows cost more than they are worth."""


@dataclass(frozen=True)
class MergeLayers(Shrinking):
    """Merges a layer with the one behind it, without the activation between them (approximate, source: ours).

    The new layer stands in the second one's place. It starts as the product of both (and of the batch norm between them), which is exact
    inside the image if there is no activation. Its window is as large as what the second layer sees through the first. In the modes
    `"best"` and `"cheap"` it is then fitted to what the second layer put out; in `"best"` the layers behind it are fitted, too.

    Attributes:
        node: a convolution with one group or a linear layer, which one of the same kind alone reads, with nothing but a batch norm and an
            activation between; the window of both is at most `LARGEST`.
        mode: see `Shrinking`.
    """

    kind = "merge_layers"
    node: str | tuple[str, ...]
    mode: str = "best"

    @classmethod
    def sites(cls, spec: GraphSpec) -> list[Site]:
        """See `Mutation.sites`."""
        return [(node.id,) for node in spec.nodes if merged(spec, node) is not None]

    def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
        """See `Mutation.rewrite_at`."""
        both = merged(spec, spec[site[0]])
        return spec.edit(removed=layer_block(spec, site[0]), replaced={both.id: both} if both else {})

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
        second = parent.consumers[layer_block(parent, site[0])[-1]][0]
        kept = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in child and name != f"{second}.bias"}
        weights = kept | _product(parent, state, child, site[0], second)
        if self.mode == "simple":
            return reestimated(child, weights, [second], calibration)
        layers = [second, *layers_below(parent, [second], self.reach - 1)]
        observed = observe(parent, state, child, calibration, layers, generator)
        return solved(child, weights, [Refit(i, i) for i in layers], observed, [second])


def merged(spec: GraphSpec, node: Node) -> Node | None:
    """Returns the layer that stands for two: the second node with a new op and inputs; None if they can't be merged."""
    if not isinstance(node.op, Conv2d | Linear):
        return None
    readers = spec.consumers[layer_block(spec, node.id)[-1]]
    if len(readers) != 1:
        return None
    second = spec[readers[0]]
    op: Conv2d | Linear | None = None
    if isinstance(node.op, Linear) and isinstance(second.op, Linear):
        op = second.op
    elif isinstance(node.op, Conv2d) and isinstance(second.op, Conv2d):
        op = _product_op(node.op, second.op)
    if op is None or not isinstance(second.op, Conv2d | Linear) or not _keeps_shape(op, spec, node, second):
        return None
    constant = node.op.bias or isinstance(spec[spec.consumers[node.id][0]].op, BatchNorm2d)
    bias = second.op.bias or (constant and norm_behind(spec, second.id) is None)
    return replace(second, op=replace(op, bias=bias), inputs=node.inputs)


def _keeps_shape(op: Conv2d | Linear, spec: GraphSpec, first: Node, second: Node) -> bool:
    try:
        return op.output_shape(spec.input_shapes(first.id)) == spec.shapes[second.id]
    except ValueError:
        return False


def _product_op(first: Conv2d, second: Conv2d) -> Conv2d | None:
    """Returns the convolution that sees what two in a row see."""
    if first.groups > 1 or second.groups > 1:
        return None
    sides = []
    for i in range(2):
        step = first.stride[i] * second.dilation[i]
        span = (first.kernel_size[i] - 1) * first.dilation[i] + step * (second.kernel_size[i] - 1)
        dilation = first.dilation[i] if second.kernel_size[i] == 1 else step if first.kernel_size[i] == 1 else 1
        padding = first.padding[i] + first.stride[i] * second.padding[i]
        sides.append((span // dilation + 1, first.stride[i] * second.stride[i], padding, dilation if span else 1))
    sizes, strides, paddings, dilations = zip(*sides, strict=True)
    if max(sizes) > LARGEST:
        return None
    return replace(second, kernel_size=sizes, stride=strides, padding=paddings, dilation=dilations)


def _product(parent: GraphSpec, state: State, child: GraphSpec, first: str, second: str) -> State:
    """Returns weight and bias of the merged layer, as if there were no activation between the two."""
    a, b = (state[f"{i}.weight"].double() for i in (first, second))
    constant = state[f"{first}.bias"].double() if f"{first}.bias" in state else a.new_zeros(len(a))
    norm = norm_behind(parent, first)
    if norm is not None:
        op = parent[norm].op
        eps = op.eps if isinstance(op, BatchNorm2d) else 0.0
        weight, bias, mean, var = (state[f"{norm}.{kind}"].double() for kind in ("weight", "bias", "running_mean", "running_var"))
        scale = weight / (var + eps).sqrt()
        a, constant = a * scale.reshape(-1, *[1] * (a.ndim - 1)), (constant - mean) * scale + bias
    made = b @ a if a.ndim == 2 else _window_product(parent, child, first, second, a, b)
    moved = (b.flatten(2).sum(2) if b.ndim > 2 else b) @ constant
    if f"{second}.bias" in state:
        moved = moved + state[f"{second}.bias"].double()
    dtype = state[f"{second}.weight"].dtype
    found = {f"{second}.weight": made.to(dtype).contiguous()}
    if layer_of(child, second).bias:
        found[f"{second}.bias"] = moved.to(dtype)
    return found


def _window_product(parent: GraphSpec, child: GraphSpec, first: str, second: str, a: Tensor, b: Tensor) -> Tensor:
    """Returns the kernel of two convolutions in a row: (outputs, inputs, height, width)."""
    ops = parent[first].op, parent[second].op, child[second].op
    assert isinstance(ops[0], Conv2d)
    assert isinstance(ops[1], Conv2d)
    assert isinstance(ops[2], Conv2d)
    strides = [ops[0].stride[i] * ops[1].dilation[i] for i in range(2)]
    inner = torch.zeros(*a.shape[:2], *((a.shape[2 + i] - 1) * ops[0].dilation[i] + 1 for i in range(2)), dtype=a.dtype, device=a.device)
    inner[:, :, :: ops[0].dilation[0], :: ops[0].dilation[1]] = a
    full = conv_transpose2d(b, inner, stride=strides)
    return full[:, :, :: ops[2].dilation[0], :: ops[2].dilation[1]]
