"""A convolution becomes depthwise-separable."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Conv2d, GraphSpec, Node
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.morphisms.moments import reestimated
from lightning_lemonade.morphisms.patches import Patches, chunks
from lightning_lemonade.morphisms.ridge import centre, moments, ridge_change
from lightning_lemonade.morphisms.solve import Observed, Refit, Shrinking, importance, layers_below, norm_behind, observe, shifted, solved
from lightning_lemonade.morphisms.state import State

ROUNDS = 5
"""How often depthwise and pointwise kernels are solved for in turn."""
MOST_UNKNOWNS = 2304
"""For more taps of a depthwise convolution, over all channels, the pointwise one alone is solved for, so that memory stays bounded."""


@dataclass(frozen=True)
class ToSeparable(Shrinking):
    """Replaces a convolution by a depthwise and a pointwise one (approximate; paper, section 3).

    The kernels start as the best approximation of rank one for each input channel (by singular values), in the sense of the weights'
    squared error. Then they are fitted to the convolution's outputs: the pointwise one (mode `"cheap"`), or both in turn and the layers
    behind them (mode `"best"`).

    Attributes:
        node: a convolution with one group, more than one input channel, and a kernel larger than 1.
        mode: see `Shrinking`.
    """

    kind = "to_separable"
    node: str | tuple[str, ...]
    mode: str = "best"

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
        if self.mode == "simple":
            return reestimated(child, weights, [pointwise], calibration)
        behind = layers_below(parent, site, self.reach - 1)
        observed = observe(parent, state, child, calibration, [site[0], *behind], generator)
        pair = RefitPair(depthwise, pointwise, site[0], ROUNDS if self.mode == "best" else 0)
        return solved(child, weights, [pair, *(Refit(i, i) for i in behind)], observed, [depthwise, pointwise])


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
    matrices = weight.permute(1, 0, 2, 3).reshape(channels, out, height * width).double()  # half precision has no decomposition
    left, values, right = (part.to(weight.dtype) for part in torch.linalg.svd(matrices, full_matrices=False))
    kernel = right[:, 0].reshape(channels, 1, height, width)
    mixing = (left[:, :, 0] * values[:, :1]).T.reshape(out, channels, 1, 1)
    return kernel.contiguous(), mixing.contiguous()


@dataclass(frozen=True)
class RefitPair:
    """A depthwise convolution and the pointwise one behind it are fitted to what a convolution of the parent put out.

    Attributes:
        node: the depthwise convolution.
        pointwise: what reads it.
        target: the parent's convolution.
        rounds: how often both are solved for in turn; the pointwise one alone is solved for once more, in the end. Where the convolution
            has more than `MOST_UNKNOWNS` inputs, the pointwise one alone is.
    """

    node: str
    pointwise: str
    target: str
    rounds: int

    def solve(self, child: GraphSpec, weights: State, x: Tensor, observed: Observed) -> State:
        """See `Job.solve`."""
        rows, target = observed.rows[self.target], observed.targets[self.target].double()
        bias = weights.get(f"{self.pointwise}.bias")
        if bias is not None:
            target = target - bias.double()
        free_mean = bias is not None or norm_behind(child, self.pointwise) is not None
        pair = Pair(
            kernel=weights[f"{self.node}.weight"].double().flatten(1),
            mixing=weights[f"{self.pointwise}.weight"].double().flatten(1),
            importance=importance(child, weights, self.pointwise).double(),
        )
        patches = Patches(x, _conv(child, self.node))
        fitted = self._fitted(pair, patches, observed, target, free_mean)
        held, shift = slice(rows.fitted, len(rows)), target.new_zeros(target.shape[1])
        if free_mean:
            shift = (target - _made(fitted, patches, observed, self.target))[: rows.fitted].mean(0)
        errors = [
            ((target - _made(p, patches, observed, self.target) - s)[held] * pair.importance).square().sum()
            for p, s in ((pair, 0.0), (fitted, shift))
        ]
        if not errors[1] < errors[0]:
            return {}
        found = {f"{self.node}.weight": fitted.kernel, f"{self.pointwise}.weight": fitted.mixing}
        changed = {name: tensor.reshape(weights[name].shape).to(weights[name].dtype) for name, tensor in found.items()}
        return changed | shifted(child, weights, self.pointwise, shift.to(weights[f"{self.node}.weight"].dtype))

    def _fitted(self, pair: "Pair", patches: Patches, observed: Observed, target: Tensor, free_mean: bool) -> "Pair":
        """Solves for the pair."""
        rows = observed.rows[self.target]
        if patches.channels * patches.taps > MOST_UNKNOWNS:
            return _pointwise_alone(pair, patches, observed, self.target, target, free_mean)
        gram, cross, sums = (moment[0] for moment in moments(patches, rows, target))
        if free_mean:
            cross -= sums.T @ target[: rows.fitted].mean(0, keepdim=True)
            centre(gram, sums, rows.fitted)
        shape = patches.channels, patches.taps
        gram, cross = gram.reshape(*shape, *shape), cross.reshape(*shape, -1)
        for _ in range(self.rounds):
            pair = pair.with_mixing(gram, cross).with_kernel(gram, cross)
        return pair.with_mixing(gram, cross)


@dataclass(frozen=True)
class Pair:
    """A depthwise and a pointwise kernel: output o is the sum over c of mixing[o, c] times the sum over t of kernel[c, t] x[c, t].

    Attributes:
        kernel: (channels, taps).
        mixing: (outputs, channels).
        importance: (outputs,): the weight of each output's error.
    """

    kernel: Tensor
    mixing: Tensor
    importance: Tensor

    def with_mixing(self, gram: Tensor, cross: Tensor) -> "Pair":
        """Solves for the pointwise kernel.

        Args:
            gram: (channels, taps, channels, taps): the inputs' products.
            cross: (channels, taps, outputs): their products with the outputs aimed at.
        """
        narrow = torch.einsum("ct,ctds,ds->cd", self.kernel, gram, self.kernel)
        right = torch.einsum("ct,cto->co", self.kernel, cross)
        return replace(self, mixing=self.mixing + ridge_change(narrow.clone(), right - narrow @ self.mixing.T).T)

    def with_kernel(self, gram: Tensor, cross: Tensor) -> "Pair":
        """Solves for the depthwise kernel; arguments as above."""
        weighted = self.mixing * self.importance[:, None].square()
        channels, taps = self.kernel.shape
        system = (gram * (self.mixing.T @ weighted)[:, None, :, None]).reshape(channels * taps, -1)
        right = torch.einsum("oc,cto->ct", weighted, cross).reshape(-1, 1)
        residual = right - system @ self.kernel.reshape(-1, 1)
        return replace(self, kernel=self.kernel + ridge_change(system, residual).reshape(channels, taps))


def _made(pair: Pair, patches: Patches, observed: Observed, target: str) -> Tensor:
    """Returns what a pair puts out: (rows, outputs)."""
    return _narrowed(pair, patches, observed, target) @ pair.mixing.T


def _narrowed(pair: Pair, patches: Patches, observed: Observed, target: str) -> Tensor:
    """Returns what the depthwise kernel puts out: (rows, channels)."""
    rows = observed.rows[target]
    parts = chunks(0, len(rows), patches.channels * patches.taps)
    return torch.cat([torch.einsum("rct,ct->rc", patches.take(rows, part), pair.kernel) for part in parts])


def _pointwise_alone(pair: Pair, patches: Patches, observed: Observed, target_id: str, target: Tensor, free_mean: bool) -> Pair:
    """Solves for the pointwise kernel without the Gram matrix of all taps."""
    fitted = observed.rows[target_id].fitted
    inputs, outputs = _narrowed(pair, patches, observed, target_id)[:fitted], target[:fitted]
    if free_mean:
        inputs, outputs = inputs - inputs.mean(0), outputs - outputs.mean(0)
    change = ridge_change(inputs.T @ inputs, inputs.T @ (outputs - inputs @ pair.mixing.T))
    return replace(pair, mixing=pair.mixing + change.T)
