"""GraphSpec: a network's architecture as an immutable, validated, topologically ordered graph."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from math import prod
from typing import Any

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph.channels import ChannelLayout, channel_layout
from lightning_lemonade.graph.hashing import structural_hash
from lightning_lemonade.graph.nodes import Node
from lightning_lemonade.graph.ops import Input, Output, Shape, op_from_arguments, shown

FORMAT = "lemonade-graph"
VERSION = 1
MAX_NODES = 4096
MAX_EDGES = 65_536
MAX_ELEMENTS = 2**31 - 1
"""Numbers that one node may put out for one sample: more than any device holds."""
MAX_LABEL = 256
MAX_TEXT = 16 * 1024 * 1024
"""Characters of a spec in JSON: the largest graph with the longest labels takes less."""
MAX_BRACKETS = MAX_NODES * (MAX_LABEL + 8)
"""Opening brackets in that text: a node has up to seven, and those of its label. Each is an object in memory."""
MAX_ID = 999_999_999
_NODE_ID = re.compile(r"n(0|[1-9][0-9]{0,8})", re.ASCII)


@dataclass(frozen=True)
class GraphSpec:
    """An architecture: nodes in topological order, exactly one `Input` and one `Output`, every node of use.

    A spec is validated when it is made: whoever holds one holds a network that builds. Shapes and channel groups are derived from it.

    Attributes:
        nodes: the nodes, each after those it reads.

    Raises:
        SpecError: if the graph is malformed; the message names the node and the reason.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        """Validates the graph."""
        _check_structure(self.nodes)
        _ = self.shapes

    @classmethod
    def from_nodes(cls, nodes: Iterable[Node]) -> "GraphSpec":
        """Makes a spec from nodes in any order.

        Raises:
            SpecError: if the graph is malformed, for instance has a cycle.
        """
        nodes = tuple(nodes)
        _check_size(nodes)
        return cls(_topological(nodes))

    def __len__(self) -> int:
        """Returns the number of nodes."""
        return len(self.nodes)

    def __getitem__(self, node_id: str) -> Node:
        """Returns the node of this id.

        Raises:
            SpecError: if there is none.
        """
        try:
            return self.by_id[node_id]
        except KeyError:
            raise SpecError(f"the graph has no node {node_id!r}") from None

    def __contains__(self, node_id: object) -> bool:
        """Returns whether there is a node of this id."""
        return node_id in self.by_id

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """The nodes by id."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each node's output for one sample, by node id."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            try:
                shape = node.op.output_shape([shapes[i] for i in node.inputs])
            except ValueError as error:
                raise SpecError(f"node {node.id} ({node.op.name}): {error}") from None
            if prod(shape) > MAX_ELEMENTS:
                raise SpecError(f"node {node.id} ({node.op.name}): an output of more than {MAX_ELEMENTS} numbers is too large")
            shapes[node.id] = shape
        return shapes

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """For each node, the ids of the nodes that read it, in topological order."""
        readers: dict[str, list[str]] = {node.id: [] for node in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.inputs):
                readers[source].append(node.id)
        return {node_id: tuple(ids) for node_id, ids in readers.items()}

    @property
    def input(self) -> Node:
        """The input node."""
        return next(node for node in self.nodes if isinstance(node.op, Input))

    @property
    def output(self) -> Node:
        """The output node."""
        return next(node for node in self.nodes if isinstance(node.op, Output))

    @property
    def input_shape(self) -> Shape:
        """The shape of one input sample."""
        return self.shapes[self.input.id]

    @property
    def output_shape(self) -> Shape:
        """The shape of the output for one sample."""
        return self.shapes[self.output.id]

    def input_shapes(self, node_id: str) -> list[Shape]:
        """Returns the shapes that a node reads, in order."""
        return [self.shapes[i] for i in self[node_id].inputs]

    @cached_property
    def parameter_count(self) -> int:
        """The number of trainable parameters."""
        return sum(node.op.parameter_count(self.input_shapes(node.id)) for node in self.nodes)

    @cached_property
    def macs(self) -> int:
        """The multiply-adds for one sample, counted as fvcore counts them."""
        return sum(node.op.macs(self.input_shapes(node.id)) for node in self.nodes)

    @cached_property
    def structural_hash(self) -> str:
        """A text that is equal for two specs exactly when they are isomorphic (see `graph.hashing`)."""
        return structural_hash(self.nodes)

    @cached_property
    def channels(self) -> ChannelLayout:
        """Which channels belong together (see `graph.channels`)."""
        return channel_layout(self.nodes, self.shapes)

    def fresh_ids(self, count: int) -> list[str]:
        """Returns ids that no node of this graph has: the next numbers after its largest, then the smallest free ones."""
        last = max(int(node.id[1:]) for node in self.nodes)
        numbers = chain(range(last + 1, MAX_ID + 1), range(last))
        return list(islice((node_id for node_id in map("n{}".format, numbers) if node_id not in self.by_id), count))

    def edit(
        self,
        *,
        replaced: Mapping[str, Node] | None = None,
        removed: Iterable[str] = (),
        added: Iterable[Node] = (),
        rewired: Mapping[str, str] | None = None,
    ) -> "GraphSpec":
        """Returns a changed copy; untouched nodes keep their ids, and nodes that nothing reads any more go.

        Args:
            replaced: new nodes for existing ids.
            removed: ids to delete.
            added: nodes with new ids; `rewired` doesn't touch their inputs.
            rewired: old source id -> new source id, for the inputs of all nodes that aren't in `added` or `replaced`.

        Raises:
            SpecError: if the result is malformed.
        """
        replaced, rewired, gone = replaced or {}, rewired or {}, set(removed)
        nodes = list(added)
        for node in self.nodes:
            if node.id in replaced:
                nodes.append(replaced[node.id])
            elif node.id not in gone:
                nodes.append(replace(node, inputs=tuple(rewired.get(i, i) for i in node.inputs)))
        return GraphSpec.from_nodes(_without_dead(nodes))

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as JSON values."""
        nodes = []
        for node in self.nodes:
            entry = {"id": node.id, "op": node.op.name, "args": node.op.arguments(), "inputs": list(node.inputs)}
            nodes.append(entry | ({"label": node.label} if node.label else {}))
        return {"format": FORMAT, "version": VERSION, "nodes": nodes}

    def to_json(self, indent: int | None = None) -> str:
        """Returns the spec as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: object) -> "GraphSpec":
        """Makes a spec from JSON values.

        Raises:
            SpecError: if they don't describe a valid graph; the message names the node and the reason.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise SpecError(f'not a graph spec: expected an object with "format": "{FORMAT}"')
        version = data.get("version")
        if type(version) is not int or version != VERSION:
            raise SpecError(f"graph spec of version {shown(version)}; this release reads version {VERSION}")
        _check_fields(data, {"format", "version", "nodes"}, "the graph")
        entries = data.get("nodes")
        if not isinstance(entries, list) or len(entries) > MAX_NODES:
            raise SpecError(f'"nodes" must be a list of at most {MAX_NODES} nodes')
        return cls.from_nodes(_node_from_dict(position, entry) for position, entry in enumerate(entries))

    @classmethod
    def from_json(cls, text: str) -> "GraphSpec":
        """Makes a spec from JSON text.

        Raises:
            SpecError: if the text is no valid spec.
        """
        if not isinstance(text, str):
            raise SpecError(f"a graph spec is read from a text, got {type(text).__name__}")
        if len(text) > MAX_TEXT:
            raise SpecError(f"a graph spec of {len(text)} characters; at most {MAX_TEXT} are read")
        if text.count("[") + text.count("{") > MAX_BRACKETS:
            raise SpecError(f"a graph spec of more than {MAX_BRACKETS} lists and objects: the largest graph has fewer")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"not a graph spec: {error}") from None
        return cls.from_dict(data)


def _node_from_dict(position: int, entry: object) -> Node:
    """Parses one node; `position` names it in errors until its id is known to be harmless."""
    if not isinstance(entry, dict):
        raise SpecError(f"node number {position} must be an object, got {type(entry).__name__}")
    node_id = _checked_id(entry.get("id"), f"node number {position}")
    _check_fields(entry, {"id", "op", "args", "inputs", "label"}, f"node {node_id}")
    inputs = entry.get("inputs", [])
    if not isinstance(inputs, list) or len(inputs) > MAX_NODES:
        raise SpecError(f"node {node_id}: inputs must be a list of node ids")
    try:
        op = op_from_arguments(entry.get("op"), entry.get("args", {}))
    except ValueError as error:
        raise SpecError(f"node {node_id}: {error}") from None
    sources = tuple(_checked_id(source, f"an input of node {node_id}") for source in inputs)
    return Node(node_id, op, sources, entry.get("label", ""))


def _check_fields(entry: Mapping[Any, object], known: set[str], what: str) -> None:
    unknown = sorted(map(shown, set(entry) - known))
    if unknown:
        raise SpecError(f"{what} has unknown fields: {', '.join(unknown[:6])}")


def _checked_id(value: object, what: str) -> str:
    if not isinstance(value, str) or not _NODE_ID.fullmatch(value):
        raise SpecError(f"{what} has the id {shown(value)}: an id is the letter n and digits, for instance n12")
    return value


def _check_size(nodes: tuple[Node, ...]) -> None:
    if not nodes or len(nodes) > MAX_NODES:
        raise SpecError(f"a graph has between 1 and {MAX_NODES} nodes, got {len(nodes)}")
    if (edges := sum(len(node.inputs) for node in nodes)) > MAX_EDGES:
        raise SpecError(f"the nodes of a graph have at most {MAX_EDGES} inputs, all together, got {edges}")


def _check_structure(nodes: tuple[Node, ...]) -> None:
    _check_size(nodes)
    seen: set[str] = set()
    for position, node in enumerate(nodes):
        _checked_id(node.id, f"node number {position}")
        if node.id in seen:
            raise SpecError(f"two nodes have the id {node.id}")
        if not _is_label(node.label):
            raise SpecError(f"node {node.id}: a label is a text of at most {MAX_LABEL} characters")
        _check_arity(node)
        for source in node.inputs:
            if source not in seen:
                raise SpecError(f"node {node.id} reads {source!r}, which is not before it")
        seen.add(node.id)
    for op in (Input, Output):
        count = sum(isinstance(node.op, op) for node in nodes)
        if count != 1:
            raise SpecError(f"a graph has exactly one {op.name} node, got {count}")
    read = {source for node in nodes for source in node.inputs}
    for node in nodes:
        if isinstance(node.op, Output) and node.id in read:
            raise SpecError(f"node {node.id}: nothing may read the output node")
        if not isinstance(node.op, Output) and node.id not in read:
            raise SpecError(f"node {node.id} ({node.op.name}) is read by no other node")


def _is_label(value: object) -> bool:
    """Returns whether a value is a short text that can be written as UTF-8 (half a surrogate pair, which JSON allows, can't)."""
    return isinstance(value, str) and len(value) <= MAX_LABEL and value == value.encode(errors="ignore").decode()


def _check_arity(node: Node) -> None:
    low, high, count = node.op.min_inputs, node.op.max_inputs, len(node.inputs)
    if count < low or (high is not None and count > high):
        expected = str(low) if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        raise SpecError(f"node {node.id} ({node.op.name}) needs {expected} inputs, got {count}")


def _topological(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Orders nodes so that each comes after those it reads; among those that are ready, the earlier given comes first."""
    by_id: dict[str, Node] = {}
    for node in nodes:
        if by_id.setdefault(node.id, node) is not node:
            raise SpecError(f"two nodes have the id {node.id}")
    for node in nodes:
        for source in node.inputs:
            if source not in by_id:
                raise SpecError(f"node {node.id} reads {source!r}, which doesn't exist")
    ordered: list[Node] = []
    state: dict[str, int] = {}  # 1: being visited, 2: done
    for start in nodes:
        stack = [start.id]
        while stack:
            node = by_id[stack[-1]]
            if state.get(node.id) == 2:
                stack.pop()
                continue
            state[node.id] = 1
            waiting = [source for source in node.inputs if state.get(source) != 2]
            if any(state.get(source) == 1 for source in waiting):
                cycle = next(source for source in waiting if state.get(source) == 1)
                raise SpecError(f"node {node.id} reads {cycle!r}, which depends on {node.id}: a cycle")
            if waiting:
                stack.extend(reversed(waiting))
            else:
                state[node.id] = 2
                ordered.append(node)
                stack.pop()
    return tuple(ordered)


def _without_dead(nodes: list[Node]) -> list[Node]:
    """Drops nodes that the output doesn't depend on."""
    by_id = {node.id: node for node in nodes}
    stack = [node.id for node in nodes if isinstance(node.op, Output)]
    alive: set[str] = set()
    while stack:
        node_id = stack.pop()
        if node_id in by_id and node_id not in alive:
            alive.add(node_id)
            stack.extend(by_id[node_id].inputs)
    return [node for node in nodes if node.id in alive]
