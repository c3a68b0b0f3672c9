"""Channel groups: which channels of which nodes belong together and must be widened or pruned together.

The channels of every node's output are cut into segments, and segments that must have the same width form a group. An Add ties its
summands, a batch norm or a depthwise convolution follows its input, a Concat places its inputs' segments side by side, a Flatten repeats
each channel once per position. Cuts travel in both directions (the sum of a Concat and a plain convolution cuts the convolution's filters,
too), so this holds for any graph, not for chains only. Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from lightning_lemonade.graph.nodes import Node
from lightning_lemonade.graph.ops import Concat, Conv2d, Flatten, Input, Join, Linear, Output, PassThrough, Shape


@dataclass(frozen=True)
class Segment:
    """A run of a node's output channels.

    Attributes:
        group: index of its channel group.
        size: channels of the group, of which this segment holds every one.
        repeat: features for each channel (more than 1 behind a Flatten).
    """

    group: int
    size: int
    repeat: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that change together.

    Attributes:
        size: number of channels.
        producers: ids of the convolutions and linear layers that make them.
        frozen: why the number can't be changed; empty if it can.
    """

    size: int
    producers: tuple[str, ...]
    frozen: str


@dataclass(frozen=True)
class ChannelLayout:
    """The channel groups of a graph.

    Attributes:
        groups: the groups.
        segments: for each node id, the segments of its output in order.
    """

    groups: tuple[ChannelGroup, ...]
    segments: Mapping[str, tuple[Segment, ...]]

    def groups_of(self, node_id: str) -> tuple[int, ...]:
        """Returns the indices of the groups in a node's output, each once."""
        return tuple(dict.fromkeys(segment.group for segment in self.segments[node_id]))

    def frozen_reason(self, node_id: str) -> str:
        """Returns why the channels of a node can't be changed, or an empty text if they can."""
        return next((self.groups[g].frozen for g in self.groups_of(node_id) if self.groups[g].frozen), "")

    def width(self, node_id: str, sizes: Mapping[int, int]) -> int:
        """Returns the number of features of a node's output when groups get new sizes (group index -> channels)."""
        return sum(sizes.get(s.group, s.size) * s.repeat for s in self.segments[node_id])


Atom = tuple[str, int]


def channel_layout(nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> ChannelLayout:
    """Returns the channel groups of a graph, by cutting every output into segments and tying segments by union-find."""
    cuts = _cuts(nodes, shapes)
    ties = _Ties()
    sizes: dict[Atom, int] = {}
    repeats: dict[Atom, int] = {}
    for node in nodes:
        edges = [0, *sorted(cuts[node.id]), shapes[node.id][0]]
        for k in range(len(edges) - 1):
            sizes[node.id, k] = edges[k + 1] - edges[k]
            repeats[node.id, k] = 1
        _tie(node, shapes, cuts, repeats, ties)
    return _collect(nodes, cuts, sizes, repeats, ties)


class _Ties:
    """Union-find over segments, with a reason on those that can't change."""

    def __init__(self) -> None:
        self.parent: dict[Atom, Atom] = {}
        self.frozen: dict[Atom, str] = {}

    def find(self, atom: Atom) -> Atom:
        root = atom
        while (above := self.parent.get(root, root)) != root:
            root = above
        while atom != root:
            self.parent[atom], atom = root, self.parent[atom]
        return root

    def union(self, a: Atom, b: Atom) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[b] = a
            reason = self.frozen.pop(b, "")
            if reason:
                self.frozen.setdefault(a, reason)

    def freeze(self, atom: Atom, reason: str) -> None:
        self.frozen.setdefault(self.find(atom), reason)


def _in_channels(node: Node, shapes: Mapping[str, Shape]) -> int:
    return shapes[node.inputs[0]][0]


def _follows_input(node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Returns whether a node has exactly the channels of each of its inputs."""
    if isinstance(node.op, Conv2d):
        return node.op.is_depthwise(_in_channels(node, shapes))
    return isinstance(node.op, PassThrough | Join)


@dataclass(frozen=True)
class _Link:
    """Channel c of the source stands at `offset + c * repeat` in the reader's output."""

    source: str
    reader: str
    offset: int
    repeat: int


def _links(node: Node, shapes: Mapping[str, Shape]) -> list[_Link]:
    """Returns how the channels of a node's inputs stand in its output; nothing if it makes channels of its own."""
    if isinstance(node.op, Concat):
        starts = accumulate((shapes[source][0] for source in node.inputs), initial=0)
        return [_Link(source, node.id, start, 1) for source, start in zip(node.inputs, starts, strict=False)]
    if isinstance(node.op, Flatten):
        return [_Link(node.inputs[0], node.id, 0, prod(shapes[node.inputs[0]][1:]))]
    return [_Link(source, node.id, 0, 1) for source in node.inputs] if _follows_input(node, shapes) else []


def _cuts(nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> dict[str, set[int]]:
    """Returns where each node's output is cut, as the smallest sets that are closed under all ops."""
    above = {node.id: _links(node, shapes) for node in nodes}
    below: dict[str, list[_Link]] = {node.id: [] for node in nodes}
    for links in above.values():
        for link in links:
            below[link.source].append(link)
    cuts: dict[str, set[int]] = {node.id: set() for node in nodes}
    waiting = [(link.reader, link.offset) for links in above.values() for link in links if link.offset]
    while waiting:
        node_id, cut = waiting.pop()
        if cut in cuts[node_id]:
            continue
        cuts[node_id].add(cut)
        waiting += [(link.reader, link.offset + cut * link.repeat) for link in below[node_id]]
        for link in above[node_id]:
            channel, inside = divmod(cut - link.offset, link.repeat)
            if not inside and 0 < channel < shapes[link.source][0]:
                waiting.append((link.source, channel))
    return cuts


def _tie(
    node: Node,
    shapes: Mapping[str, Shape],
    cuts: Mapping[str, set[int]],
    repeats: dict[Atom, int],
    ties: _Ties,
) -> None:
    """Ties a node's segments to those of its inputs, and freezes what can't change."""

    def atoms(node_id: str) -> list[Atom]:
        return [(node_id, k) for k in range(len(cuts[node_id]) + 1)]

    own = atoms(node.id)
    links = _links(node, shapes)
    if isinstance(node.op, Concat):
        rows = [[(atom, link.repeat) for link in links for atom in atoms(link.source)]]
    else:
        rows = [[(atom, link.repeat) for atom in atoms(link.source)] for link in links]
    for number, row in enumerate(rows):
        if len(row) != len(own):  # a cut behind a Flatten that lies inside a channel
            _freeze(ties, [*own, *(atom for atom, _ in row)], _fixed_by(node, "what joins it is split between positions of one channel"))
            continue
        for mine, (theirs, repeat) in zip(own, row, strict=True):
            ties.union(mine, theirs)
            kind = repeats[theirs] * repeat
            if number and kind != repeats[mine]:
                ties.freeze(mine, _fixed_by(node, "it joins whole channels with single positions behind a flatten"))
            repeats[mine] = kind
    reason = _frozen_reason(node, shapes)
    if reason:
        _freeze(ties, [*own, *(atom for source in node.inputs for atom in atoms(source))], reason)


def _freeze(ties: _Ties, atoms: Sequence[Atom], reason: str) -> None:
    for atom in atoms:
        ties.freeze(atom, reason)


def _frozen_reason(node: Node, shapes: Mapping[str, Shape]) -> str:
    """Returns why the channels that a node reads and puts out can't change, or an empty text if they can for its part."""
    match node.op:
        case Input():
            return _fixed_by(node, "the network's input")
        case Output():
            return _fixed_by(node, "the network's output")
        case Conv2d(groups=groups) if groups > 1 and not node.op.is_depthwise(_in_channels(node, shapes)):
            return _fixed_by(node, f"a convolution in {groups} groups")
    return ""


def _fixed_by(node: Node, why: str) -> str:
    return f"fixed by {node.id} ({node.op.name}): {why}"


def _collect(
    nodes: Sequence[Node],
    cuts: Mapping[str, set[int]],
    sizes: Mapping[Atom, int],
    repeats: Mapping[Atom, int],
    ties: _Ties,
) -> ChannelLayout:
    index: dict[Atom, int] = {}
    producers: list[dict[str, None]] = []
    segments: dict[str, tuple[Segment, ...]] = {}
    group_sizes: list[int] = []
    for node in nodes:
        row = []
        for k in range(len(cuts[node.id]) + 1):
            root = ties.find((node.id, k))
            size = sizes[node.id, k] // repeats[node.id, k]
            if root not in index:
                index[root] = len(producers)
                producers.append({})
                group_sizes.append(size)
            if isinstance(node.op, Conv2d | Linear | Input):
                producers[index[root]][node.id] = None
            row.append(Segment(index[root], size, repeats[node.id, k]))
        segments[node.id] = tuple(row)
    groups = tuple(ChannelGroup(group_sizes[i], tuple(producers[i]), ties.frozen.get(root, "")) for root, i in index.items())
    return ChannelLayout(groups, segments)
