"""Passes of a batch through a network, node by node: only the nodes that are needed, from values that are known. Source: ours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, fx, nn

from lightning_lemonade.graph import BatchNorm2d, GraphSpec
from lightning_lemonade.graph.build import channels_last, parts
from lightning_lemonade.morphisms.state import State, load_state

Before = Callable[[Tensor], None]
"""Called with what a node reads first, before it runs."""
After = Callable[[Tensor, Tensor], Tensor | None]
"""Called with what a node reads first and what it puts out; what it returns, if anything, replaces the latter."""


class Pass(fx.Interpreter):
    """A network in eval mode that writes into none of the tensors that it is given.

    Args:
        spec: the architecture.
        state: its weights.

    Raises:
        MutationError: if the weights don't belong to this spec.
    """

    def __init__(self, spec: GraphSpec, state: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            root, graph = parts(spec)
        load_state(root, {name: tensor.detach() for name, tensor in state.items()}, assign=True)
        super().__init__(channels_last(root).eval(), garbage_collect_values=False, graph=graph)
        self.spec = spec

    def put(self, state: Mapping[str, Tensor]) -> None:
        """Lets the network hold other tensors."""
        for name, tensor in state.items():
            owner, _, kind = name.rpartition(".")
            module = self.submodules[owner]
            setattr(module, kind, nn.Parameter(tensor, requires_grad=False) if kind in module._parameters else tensor)

    def measuring(self, norms: Iterable[str] | None = None) -> Self:
        """Lets batch norms use the batch's statistics and keep them as running ones: some of them, or all for None; dropout stays off."""
        ids = [node.id for node in self.spec.nodes if isinstance(node.op, BatchNorm2d)] if norms is None else norms
        for node_id in ids:
            module = self.submodules[node_id]
            self.put({f"{node_id}.{kind}": buffer.clone() for kind, buffer in module.named_buffers()})
            module.train().momentum = 1.0
        return self

    def statistics(self, norms: Iterable[str]) -> State:
        """Returns running mean and variance of some batch norms."""
        return {f"{i}.{kind}": self.submodules[i].get_buffer(kind) for i in norms for kind in ("running_mean", "running_var")}

    def run_from(
        self,
        given: Mapping[str, Tensor],
        wanted: Sequence[str],
        *,
        before: Mapping[str, Before] | None = None,
        after: Mapping[str, After] | None = None,
        narrow: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Runs what lies between known values and wanted ones.

        Args:
            given: (batch, *shape) of some nodes' outputs, by id; what is read from the input of the graph must follow from them.
            wanted: ids of nodes; those in `given` come back as they are.
            before: what is called before some nodes.
            after: what is called after some nodes.
            narrow: indices of samples that alone go on, once all nodes of `before`, `after` and `wanted` but the last have run.

        Returns:
            The wanted nodes' outputs (batch, *shape), by id: the last one's for the samples that go on.
        """
        before, after = before or {}, after or {}
        nodes = self._between(given, wanted)
        if odd := {*before, *after} - {node.name for node in nodes}:
            raise ValueError(f"{', '.join(sorted(odd))} don't run between {', '.join(given)} and {', '.join(wanted)}")
        last_use = {source: node for node in nodes for source in node.all_input_nodes}
        self.env = {node: given[node.name] for node in self.graph.nodes if node.name in given}
        found = {name: value for name, value in given.items() if name in wanted}
        pending = {*before, *after, *wanted[:-1]} - set(found)
        with torch.no_grad():
            if not pending:
                self._narrow(narrow)
            for node in nodes:
                sources = node.all_input_nodes
                if node.name in before:
                    before[node.name](self.env[sources[0]])
                value = self.run_node(node)
                if node.name in after:
                    changed = after[node.name](self.env[sources[0]], value)
                    value = value if changed is None else changed
                self.env[node] = value
                if node.name in wanted:
                    found[node.name] = value
                for source in sources:
                    if last_use[source] is node:
                        self.env.pop(source, None)
                if node.name in pending:
                    pending.remove(node.name)
                    if not pending:
                        self._narrow(narrow)
        self.env = {}
        return found

    def _between(self, given: Mapping[str, Tensor], wanted: Sequence[str]) -> list[fx.Node]:
        """Returns the nodes to run, in order."""
        needed: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            if node.name not in given and (node.name in wanted or any(user in needed for user in node.users)):
                needed.add(node)
        return [node for node in self.graph.nodes if node in needed]

    def _narrow(self, samples: Tensor | None) -> None:
        if samples is not None:
            self.env = {node: value[samples] for node, value in self.env.items()}


def shared(parent: GraphSpec, child: GraphSpec) -> list[str]:
    """Returns the nodes at which a child leaves its parent: those that compute the same in both, and are read by others in the child."""
    same: dict[str, None] = {}  # in the order of the graph
    for node in child.nodes:
        if node.id in parent and parent[node.id] == node and all(source in same for source in node.inputs):
            same[node.id] = None
    return [node_id for node_id in same if any(reader not in same for reader in child.consumers[node_id])]
