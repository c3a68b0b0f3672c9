"""The structural hash: equal for two graphs exactly when they are isomorphic.

Isomorphic means: the same ops with the same arguments, connected alike. The order of inputs counts, except for ops that commute. A node
that two others share is something else than two copies of it. Ids and labels don't count.

Nodes get colours from what lies above and below them. What colours leave alike falls into parts that have nothing to do with each other
(parallel branches); each part is ordered by itself, and equal parts are interchangeable. In a part that doesn't fall apart, each node of
one colour is singled out in turn and the colouring goes on, until the graph is in a canonical order whose text is hashed. Nodes that an
automorphism has already shown to be alike are not tried again.

Networks are told apart by the first colours, nearly always. Graphs that were made to be hard (strongly regular ones of thousands of nodes)
could take longer than anybody waits, so the work is bounded.

Source: individualisation and refinement, McKay and Piperno, "Practical graph isomorphism II", 2014; parts, Junttila and Kaski, "Conflict
propagation and component recursion for canonical labeling", 2011.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph.nodes import Node
from lightning_lemonade.graph.ops import Op

Colours = dict[int, int]
"""The colour of each node of a part of a graph."""
Rows = tuple[tuple[Any, tuple[tuple[int, int], ...]], ...]
"""The text of a part: for each node in order, its tag and what it reads as (position, place in the order)."""
MAX_WORK = 1_000_000
"""Nodes and edges that are looked at for one hash: hundreds of times what a network takes, and a few seconds."""


def structural_hash(nodes: Sequence[Node]) -> str:
    """Returns the hash of a graph whose nodes are in topological order, as 32 hexadecimal digits.

    Raises:
        SpecError: if that takes too long, since the nodes are too much alike.
    """
    graph = _Graph(nodes)
    try:
        order = _order(graph, graph.refine(graph.first_colours()), thorough=True)
    except RecursionError:
        raise graph.too_symmetric() from None
    return blake2b(repr(graph.rows(order, graph.texts)).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=4096)
def _text(op: Op) -> str:
    """Returns what an op is, as one text."""
    return op.name + json.dumps(op.arguments(), sort_keys=True)


class _Graph:
    """The nodes as integers, and their edges as (position, other end); the position is 0 where the order is free."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        number = {node.id: i for i, node in enumerate(nodes)}
        self.texts = {i: _text(node.op) for i, node in enumerate(nodes)}
        self.above: list[list[tuple[int, int]]] = []
        self.below: list[list[tuple[int, int]]] = [[] for _ in nodes]
        for i, node in enumerate(nodes):
            self.above.append([(0 if node.op.commutes else k + 1, number[source]) for k, source in enumerate(node.inputs)])
            for position, source in self.above[i]:
                self.below[source].append((position, i))
        self.price = 1 + sum(map(len, self.above)) / len(nodes)
        self.work = 0.0

    def look_at(self, count: int) -> None:
        """Counts the work of looking at some nodes and their edges.

        Raises:
            SpecError: if it is too much.
        """
        self.work += count * self.price
        if self.work > MAX_WORK:
            raise self.too_symmetric()

    def too_symmetric(self) -> SpecError:
        """Returns the error of a graph whose hash takes too long."""
        return SpecError(f"the {len(self.texts)} nodes of the graph are too much alike to be told apart: give it fewer that are the same")

    def first_colours(self) -> Colours:
        """Colours by everything above a node, then by everything below it: usually final."""
        up: list[bytes] = []
        for i, edges in enumerate(self.above):
            up.append(_digest(self.texts[i].encode(), edges, up))
        down: list[bytes] = [b""] * len(up)
        for i in reversed(range(len(up))):
            down[i] = _digest(up[i], self.below[i], down)
        return _ranks(dict(enumerate(down)))

    def refine(self, colours: Colours) -> Colours:
        """Splits the colours of a part by those of neighbours in it until nothing changes."""
        count = 0
        while True:
            self.look_at(len(colours))
            before, count = count, len(set(colours.values()))
            if count in (before, len(colours)):
                return colours
            colours = _ranks(
                {i: (colour, self._seen(self.above[i], colours), self._seen(self.below[i], colours)) for i, colour in colours.items()}
            )

    def rows(self, order: Sequence[int], tags: Mapping[int, Any]) -> Rows:
        """Returns the text of a part in some order."""
        place = {node: i for i, node in enumerate(order)}
        return tuple((tags[node], self._seen(self.above[node], place)) for node in order)

    @staticmethod
    def _seen(edges: Sequence[tuple[int, int]], colours: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
        """Returns the other ends of those edges that stay in the part, as sorted (position, colour)."""
        return tuple(sorted((position, colours[other]) for position, other in edges if other in colours))


def _digest(own: bytes, edges: Sequence[tuple[int, int]], others: Sequence[bytes]) -> bytes:
    return blake2b(repr((own, sorted((position, others[other]) for position, other in edges))).encode(), digest_size=16).digest()


def _ranks(values: Mapping[int, Any]) -> Colours:
    rank = {value: i for i, value in enumerate(sorted(set(values.values())))}
    return {node: rank[value] for node, value in values.items()}


def _order(graph: _Graph, colours: Colours, *, thorough: bool) -> list[int]:
    """Returns the nodes of a part in canonical order.

    Args:
        graph: the whole graph.
        colours: a colouring of the part that `refine` leaves as it is; the order begins with the smallest colour.
        thorough: otherwise, the first of several choices is taken, and the order is not canonical.
    """
    graph.look_at(len(colours))
    if len(set(colours.values())) == len(colours):
        return sorted(colours, key=colours.__getitem__)
    parts = _parts(graph, colours)
    if len(parts) == 1 and len(colours) > 1:
        return _order_of_tangle(graph, colours, thorough=thorough)
    inner = [part if len(part) == 1 else _order(graph, {i: colours[i] for i in part}, thorough=thorough) for part in parts]
    inner.sort(key=lambda order: graph.rows(order, colours))
    places = {node: (colours[node], rank, place) for rank, order in enumerate(inner) for place, node in enumerate(order)}
    return sorted(places, key=places.__getitem__)


def _parts(graph: _Graph, colours: Colours) -> list[list[int]]:
    """Returns the components of a part; edges between two colours all of whose nodes are connected alike tell nothing and don't count."""
    sizes = Counter(colours.values())
    links: dict[tuple[int, int], list[tuple[int, int]]] = {}
    kinds: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for reader in colours:
        ends: dict[int, list[int]] = {}
        for position, source in graph.above[reader]:
            if source in colours:
                ends.setdefault(source, []).append(position)
        for source, positions in ends.items():
            pair = colours[source], colours[reader]
            links.setdefault(pair, []).append((source, reader))
            kinds.setdefault(pair, []).append(tuple(positions))
    neighbours: dict[int, list[int]] = {node: [] for node in colours}
    for pair, edges in links.items():
        if len(edges) < sizes[pair[0]] * sizes[pair[1]] or len(set(kinds[pair])) > 1:
            for source, reader in edges:
                neighbours[source].append(reader)
                neighbours[reader].append(source)
    return _components(neighbours)


def _components(neighbours: Mapping[int, Sequence[int]]) -> list[list[int]]:
    components, seen = [], set()
    for start in neighbours:
        if start in seen:
            continue
        component, stack = [], [start]
        seen.add(start)
        while stack:
            node = stack.pop()
            component.append(node)
            new = [other for other in dict.fromkeys(neighbours[node]) if other not in seen]
            seen.update(new)
            stack.extend(new)
        components.append(component)
    return components


def _order_of_tangle(graph: _Graph, colours: Colours, *, thorough: bool) -> list[int]:
    """Like `_order`, for a part that doesn't fall apart: of the orders that singling out a node gives, the one of the smallest text."""
    sizes = Counter(colours.values())
    colour = min(colour for colour, size in sizes.items() if size > 1)
    cell = sorted(node for node in colours if colours[node] == colour)
    if not thorough:
        return _order(graph, graph.refine(_single_out(colours, cell[0])), thorough=False)
    orbit = {node: node for node in cell}
    leaves: dict[Rows, list[int]] = {}
    found: list[list[int]] = []
    for node in cell:
        if orbit[node] != node:
            continue
        refined = graph.refine(_single_out(colours, node))
        leaf = _order(graph, refined, thorough=False)
        known = leaves.setdefault(graph.rows(leaf, colours), leaf)
        if known is leaf:
            found.append(_order(graph, refined, thorough=True))
        else:  # an automorphism maps the known leaf onto this one
            _merge(orbit, dict(zip(known, leaf, strict=True)))
    return min(found, key=lambda order: graph.rows(order, colours))


def _single_out(colours: Colours, node: int) -> Colours:
    """Gives one node of a colour a colour just below the others'."""
    return _ranks({i: (colour, 0 if i == node else 1) for i, colour in colours.items()})


def _merge(orbit: dict[int, int], mapping: Mapping[int, int]) -> None:
    """Joins the orbits that an automorphism connects; each node points to its orbit's first member."""
    for a, b in mapping.items():
        if a in orbit and b in orbit:
            low, high = sorted((orbit[a], orbit[b]))
            for node, first in orbit.items():
                if first == high:
                    orbit[node] = low
