"""Graph specs for tests: random ones from the package's own kit, and what only these tests do with them."""

import random
from dataclasses import replace

from torch import Tensor, fx

from lightning_lemonade.graph import GraphSpec, Node, ops
from lightning_lemonade.testing.graphs import ACTIVATION_NAMES, random_spec
from lightning_lemonade.testing.strategies import specs

__all__ = ["ACTIVATION_NAMES", "chain", "graph", "named", "near_misses", "node_outputs", "random_spec", "relabelled", "specs"]


def chain(*layers: ops.Op) -> GraphSpec:
    """A spec of ops one after the other, n0, n1, and so on."""
    return GraphSpec(tuple(Node(f"n{i}", op, (f"n{i - 1}",) if i else ()) for i, op in enumerate(layers)))


def graph(**nodes: tuple[ops.Op, str]) -> GraphSpec:
    """A spec of `name=(op, "names of inputs")`; names become labels."""
    ids = {name: f"n{i}" for i, name in enumerate(nodes)}
    return GraphSpec(tuple(Node(ids[name], op, tuple(ids[source] for source in read.split()), name) for name, (op, read) in nodes.items()))


def named(spec: GraphSpec, name: str) -> str:
    """The id of the node of this label."""
    return next(node.id for node in spec.nodes if node.label == name)


def relabelled(spec: GraphSpec, rng: random.Random) -> GraphSpec:
    """An isomorphic spec: other ids, another order, other labels, commuting inputs shuffled."""
    numbers = rng.sample(range(10 * len(spec)), len(spec))
    names = {node.id: f"n{number}" for node, number in zip(spec.nodes, numbers, strict=True)}
    nodes = []
    for node in spec.nodes:
        inputs = [names[source] for source in node.inputs]
        if node.op.commutes:
            rng.shuffle(inputs)
        nodes.append(Node(names[node.id], node.op, tuple(inputs), rng.choice(["", "layer", node.id])))
    rng.shuffle(nodes)
    return GraphSpec.from_nodes(nodes)


def near_misses(spec: GraphSpec, rng: random.Random) -> list[GraphSpec]:
    """Specs that differ from this one in one small way; by accident some may be isomorphic to it all the same."""
    changes = (_swapped_inputs, _shared_node_copied, _reader_moved, _argument_changed)
    return [near for near in (change(spec, rng) for change in changes) if near is not None and near != spec]


def _swapped_inputs(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """Two inputs of a node the other way round: nothing changes where they commute."""
    joins = [node for node in spec.nodes if len(set(node.inputs)) > 1]
    if not joins:
        return None
    node = rng.choice(joins)
    return spec.edit(replaced={node.id: replace(node, inputs=node.inputs[::-1])})


def _shared_node_copied(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """One of the readers of a shared node gets a copy of it."""
    shared = [node for node in spec.nodes if len(spec.consumers[node.id]) > 1 and not isinstance(node.op, ops.Input)]
    if not shared:
        return None
    node = rng.choice(shared)
    reader = spec[rng.choice(spec.consumers[node.id])]
    copy = replace(node, id=spec.fresh_ids(1)[0])
    inputs = tuple(copy.id if source == node.id else source for source in reader.inputs)
    return spec.edit(added=[copy], replaced={reader.id: replace(reader, inputs=inputs)})


def _reader_moved(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """A node reads another node of the same shape, which comes before it."""
    places = list(spec.by_id)
    moves = [
        (node, position, other)
        for node in spec.nodes
        for position, source in enumerate(node.inputs)
        for other in places[: places.index(node.id)]
        if other != source and spec.shapes[other] == spec.shapes[source]
    ]
    if not moves:
        return None
    node, position, other = rng.choice(moves)
    inputs = (*node.inputs[:position], other, *node.inputs[position + 1 :])
    return spec.edit(replaced={node.id: replace(node, inputs=inputs)})


def _argument_changed(spec: GraphSpec, rng: random.Random) -> GraphSpec | None:
    """One activation, or the bias of one layer, is another."""
    nodes = [node for node in spec.nodes if isinstance(node.op, ops.Activation | ops.Conv2d | ops.Linear)]
    if not nodes:
        return None
    node = rng.choice(nodes)
    if isinstance(node.op, ops.Activation):
        op: ops.Op = ops.Activation(rng.choice([name for name in ACTIVATION_NAMES if name != node.op.function]))
    else:
        assert isinstance(node.op, ops.Conv2d | ops.Linear)
        op = replace(node.op, bias=not node.op.bias)
    return spec.edit(replaced={node.id: replace(node, op=op)})


def node_outputs(network: fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    """What every node of a network puts out for a batch, in the network's mode."""
    interpreter = fx.Interpreter(network, garbage_collect_values=False)
    interpreter.run(x)
    return {node.name: value for node, value in interpreter.env.items()}
