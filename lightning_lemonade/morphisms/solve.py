"""One pass over the parent, one over the child: the layers behind a change are solved for, so that they put out what the parent's did.

The parent's pass records what is aimed at. In the child's pass each layer concerned is solved for just before it runs, on what really
reaches it there, so that later layers correct what earlier ones couldn't. A third pass tries batch norm statistics measured anew; they stay
if the logits of held-out samples are then closer to the parent's. Source: ours.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import log_softmax

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import BatchNorm2d, Conv2d, GraphSpec, Linear
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.morphisms.base import Mutation
from lightning_lemonade.morphisms.moments import given_input
from lightning_lemonade.morphisms.passes import Pass, shared
from lightning_lemonade.morphisms.patches import Patches, Rows, Split, sample_rows
from lightning_lemonade.morphisms.ridge import Problem, refit
from lightning_lemonade.morphisms.state import State, descendants

MODES = ("best", "cheap", "simple")
Look = Callable[[Patches, Rows], None]
"""What is called with a layer's inputs in the parent's pass."""


class Shrinking(Mutation):
    """A mutation that approximates its parent, with a choice of how much is spent on it.

    Its argument `mode` is `"best"` (what is left is solved for, what goes is chosen by what can then be reconstructed), `"cheap"` (solved
    for, chosen by simple rules), or `"simple"` (not solved for; batch norm statistics are measured anew). It only matters to `transfer`.
    """

    exact: ClassVar[bool] = False
    mode: str

    def __post_init__(self) -> None:
        """Checks the mode."""
        super().__post_init__()
        if self.mode not in MODES:
            raise MutationError(f"{self.kind}: mode must be one of {', '.join(MODES)}, got {shown(self.mode)}")

    @property
    def reach(self) -> int:
        """How many layers in a row are solved for behind a change: also those that read what the first of them could only approximate."""
        return 2 if self.mode == "best" else 1


@dataclass(frozen=True)
class Observed:
    """What the parent's pass recorded.

    Attributes:
        split: which samples of the calibration batch are fitted to.
        rows: positions of the layers looked at, by the parent's node id.
        targets: what these layers put out there: (rows, channels).
        shared: what the nodes put out at which the child leaves its parent (batch, *shape), by id.
        logits: the parent's outputs for the held-out samples.
    """

    split: Split
    rows: Mapping[str, Rows]
    targets: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    logits: Tensor


class Job(Protocol):
    """Something to solve for, when the child's pass arrives at a node."""

    @property
    def node(self) -> str:
        """The node before which it is solved."""

    def solve(self, child: GraphSpec, weights: State, x: Tensor, observed: Observed) -> State:
        """Returns the tensors that change.

        Args:
            child: the graph.
            weights: its weights so far.
            x: what the node reads.
            observed: what the parent's pass recorded.
        """


@dataclass(frozen=True)
class Refit:
    """A layer of the child is fitted to what a layer of the parent put out.

    Attributes:
        node: the child's layer.
        target: the parent's layer.
        channels: which of the parent's outputs the child's layer has: (outputs,); None if it has all.
    """

    node: str
    target: str
    channels: Tensor | None = None

    def solve(self, child: GraphSpec, weights: State, x: Tensor, observed: Observed) -> State:
        """See `Job.solve`."""
        op, target = layer_of(child, self.node), observed.targets[self.target]
        problem = Problem(
            patches=Patches(x, op),
            rows=observed.rows[self.target],
            target=target if self.channels is None else target[:, self.channels],
            weight=weights[f"{self.node}.weight"],
            bias=weights.get(f"{self.node}.bias"),
            groups=op.groups if isinstance(op, Conv2d) else 1,
            importance=importance(child, weights, self.node),
            free_mean=op.bias or norm_behind(child, self.node) is not None,
        )
        solution = refit(problem)
        if solution is None:
            return {}
        return {f"{self.node}.weight": solution[0]} | shifted(child, weights, self.node, solution[1])


def layer_of(spec: GraphSpec, node_id: str) -> Conv2d | Linear:
    """Returns the op of a convolution or linear layer.

    Raises:
        MutationError: if the node is something else.
    """
    op = spec[node_id].op
    if not isinstance(op, Conv2d | Linear):
        raise MutationError(f"node {node_id} ({op.name}) is no convolution or linear layer")
    return op


def norm_behind(spec: GraphSpec, node_id: str) -> str | None:
    """Returns the batch norm that alone reads a node, or None."""
    readers = spec.consumers[node_id]
    return readers[0] if len(readers) == 1 and isinstance(spec[readers[0]].op, BatchNorm2d) else None


def importance(spec: GraphSpec, weights: Mapping[str, Tensor], node_id: str) -> Tensor:
    """Returns by what the batch norm behind a layer multiplies each of its outputs (channels,); ones if there is none."""
    norm = norm_behind(spec, node_id)
    if norm is None:
        return torch.ones_like(weights[f"{node_id}.weight"].flatten(1)[:, 0])
    op = spec[norm].op
    eps = op.eps if isinstance(op, BatchNorm2d) else 0.0
    return weights[f"{norm}.weight"].abs() / (weights[f"{norm}.running_var"] + eps).sqrt()


def shifted(spec: GraphSpec, weights: Mapping[str, Tensor], node_id: str, shift: Tensor) -> State:
    """Returns what changes when a layer's outputs are moved by a constant (channels,): its bias, or the running mean behind it."""
    if f"{node_id}.bias" in weights:
        return {f"{node_id}.bias": weights[f"{node_id}.bias"] + shift}
    norm = norm_behind(spec, node_id)
    return {} if norm is None else {f"{norm}.running_mean": weights[f"{norm}.running_mean"] - shift}


def layers_below(spec: GraphSpec, changed: Iterable[str], reach: int = 1) -> list[str]:
    """Returns the first layers on every path below some nodes, in order.

    A path ends at a convolution with one group or a linear layer, since its weights can make up for what changed; grouped convolutions are
    named, too, but what reads them is followed further.

    Args:
        spec: the graph.
        changed: ids of nodes.
        reach: how many layers of one path are named.
    """
    left, found = dict.fromkeys(changed, reach), []
    for node in spec.nodes:
        budget = max((left.get(source, 0) for source in node.inputs), default=0)
        if budget:
            layer = isinstance(node.op, Conv2d | Linear)
            if layer:
                found.append(node.id)
            ends = layer and not (isinstance(node.op, Conv2d) and node.op.groups > 1)
            left[node.id] = max(left.get(node.id, 0), budget - 1 if ends else budget)
    return found


def observe(
    parent: GraphSpec,
    state: Mapping[str, Tensor],
    child: GraphSpec,
    x: Tensor,
    layers: Sequence[str],
    generator: Generator,
    looks: Mapping[str, Look] | None = None,
) -> Observed:
    """Runs the calibration batch through the parent, once, in eval mode.

    Args:
        parent: the graph.
        state: its weights.
        child: the graph whose weights are to be solved for.
        x: the calibration batch.
        layers: ids of the layers whose outputs are recorded.
        generator: which positions are recorded is drawn from it.
        looks: what looks at a layer's inputs, by id.
    """
    split, output = Split.of(len(x)), parent.output.id
    rows = {i: sample_rows(parent.shapes[i], state[f"{i}.weight"][0].numel(), split, generator) for i in layers}
    targets: dict[str, Tensor] = {}

    def record(node_id: str, values: Tensor, result: Tensor) -> None:
        targets[node_id] = rows[node_id].of(result)
        if looks and node_id in looks:
            looks[node_id](Patches(values, layer_of(parent, node_id)), rows[node_id])

    found = Pass(parent, state).run_from(
        given_input(parent, state, x),
        [*shared(parent, child), output],
        after={i: partial(record, i) for i in layers},
        narrow=split.held,
    )
    return Observed(split, rows, targets, found, found.pop(output))


def solved(child: GraphSpec, weights: State, jobs: Sequence[Job], observed: Observed, changed: Iterable[str]) -> State:
    """Runs the calibration batch through the child, once, and solves for layers on the way; then measures batch norms if that helps.

    The pass begins where the child leaves its parent, with what the parent's pass recorded there.

    Args:
        child: the graph.
        weights: its weights so far; left as they are.
        jobs: what to solve for.
        observed: what the parent's pass recorded.
        changed: ids of nodes whose output isn't the parent's; batch norms below them may be measured anew.
    """
    result, output = dict(weights), child.output.id
    network = Pass(child, weights)

    def before(job: Job, values: Tensor) -> None:
        found = job.solve(child, result, values, observed)
        result.update(found)
        network.put(found)

    solving = {job.node: partial(before, job) for job in jobs}
    logits = network.run_from(observed.shared, [output], before=solving, narrow=observed.split.held)[output]
    below = descendants(child, [*changed, *solving])
    norms = [node.id for node in child.nodes if isinstance(node.op, BatchNorm2d) and node.id in below]
    if not norms or len(observed.split.fit) < 2:  # statistics of one image are none
        return result
    return result | _measured(network, norms, observed, divergence(observed.logits, logits))


def _measured(network: Pass, norms: Sequence[str], observed: Observed, without: float) -> State:
    """Returns the statistics of some batch norms, as the fitted samples show them; nothing if held-out logits are no closer with them.

    Args:
        network: in eval mode.
        norms: ids of batch norms.
        observed: what the parent's pass recorded.
        without: the divergence without new statistics.
    """
    output = network.spec.output.id
    fit, held = ({i: value[index] for i, value in observed.shared.items()} for index in (observed.split.fit, observed.split.held))
    network.measuring(norms).run_from(fit, norms)
    network.module.eval()
    logits = network.run_from(held, [output])[output]
    return network.statistics(norms) if divergence(observed.logits, logits) < without else {}


def divergence(parent: Tensor, child: Tensor) -> float:
    """Returns how far a child's outputs are from its parent's: the mean Kullback-Leibler divergence of their classes' probabilities.

    Args:
        parent: (batch, classes, ...).
        child: the same; a single output for each sample is no classification, and the mean squared difference is returned.

    Returns:
        At least zero, but for rounding; infinite if the child's outputs aren't finite.
    """
    if parent.shape[1] == 1:
        value = (parent.double() - child.double()).square().mean()
    else:
        p, q = log_softmax(parent.double(), 1), log_softmax(child.double(), 1)
        value = (p.exp() * (p - q)).sum(1).mean()
    return float(value) if value.isfinite() else float("inf")
