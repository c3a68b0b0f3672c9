"""The structural hash: equal for two graphs exactly when they are isomorphic.

Isomorphic means: the same ops with the same arguments, connected alike. The order of inputs counts, except for ops that commute. A node that
two others share is something else than two copies of it. Ids and labels don't count.

Nodes get colours from what lies above and below them; where colours leave nodes alike, one of them is singled out and the colouring goes
on (individualisation and refinement, McKay and Piperno, "Practical graph isomorphism II", 2014), until the graph is in a canonical order
whose text is hashed. Branches that an automorphism has already shown to be alike are not tried again.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from lightning_lemonade.graph.nodes import Node

Colours = list[int]
Certificate = tuple[tuple[str, tuple[int, ...]], ...]


def structural_hash(nodes: Sequence[Node]) -> str:
    """Returns the hash of a graph whose nodes are in topological order, as 32 hexadecimal digits."""
    graph = _Graph(nodes)
    certificate, _ = _canonical(graph, graph.refine(graph.first_colours()))
    return blake2b(repr(certificate).encode(), digest_size=16).hexdigest()


class _Graph:
    """The nodes as integers, with what refinement needs."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        number = {node.id: i for i, node in enumerate(nodes)}
        self.texts = [node.op.name + json.dumps(node.op.arguments(), sort_keys=True) for node in nodes]
        self.commutes = [node.op.commutes for node in nodes]
        self.inputs = [tuple(number[source] for source in node.inputs) for node in nodes]
        self.readers: list[list[tuple[int, int]]] = [[] for _ in nodes]  # (reader, position; 0 where the order is free)
        for i, sources in enumerate(self.inputs):
            for position, source in enumerate(sources):
                self.readers[source].append((i, 0 if self.commutes[i] else position + 1))

    def first_colours(self) -> Colours:
        """Colours by everything above a node, then by everything below it: usually final."""
        up: list[bytes] = []
        for text, sources, commutes in zip(self.texts, self.inputs, self.commutes, strict=True):
            above = [up[source] for source in sources]
            up.append(_digest(text.encode(), *(sorted(above) if commutes else above)))
        down: list[bytes] = [b""] * len(up)
        for i in reversed(range(len(up))):
            below = sorted(down[reader] + bytes([min(position, 255)]) for reader, position in self.readers[i])
            down[i] = _digest(up[i], *below)
        return _ranks(down)

    def refine(self, colours: Colours) -> Colours:
        """Splits colours by the colours of neighbours until nothing changes."""
        count = len(set(colours))
        while count < len(colours):
            signatures = []
            for i, sources in enumerate(self.inputs):
                above = [colours[source] for source in sources]
                below = sorted((colours[reader], position) for reader, position in self.readers[i])
                signatures.append((colours[i], tuple(sorted(above) if self.commutes[i] else above), tuple(below)))
            colours = _ranks(signatures)
            if len(set(colours)) == count:
                break
            count = len(set(colours))
        return colours

    def certificate(self, colours: Colours) -> Certificate:
        """Returns the graph's text when every node has a colour of its own."""
        rows: list[tuple[str, tuple[int, ...]]] = [("", ())] * len(colours)
        for i, colour in enumerate(colours):
            above = [colours[source] for source in self.inputs[i]]
            rows[colour] = (self.texts[i], tuple(sorted(above) if self.commutes[i] else above))
        return tuple(rows)


def _digest(*parts: bytes) -> bytes:
    return blake2b(b"|".join([str(len(parts)).encode(), *parts]), digest_size=16).digest()


def _ranks(values: Sequence[Any]) -> Colours:
    order = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [order[value] for value in values]


def _single_out(colours: Colours, node: int) -> Colours:
    """Gives one node of a colour a colour just below the others'."""
    return _ranks([(colour, 0 if i == node else 1) for i, colour in enumerate(colours)])


def _canonical(graph: _Graph, colours: Colours) -> tuple[Certificate, Colours]:
    """Returns the smallest certificate below a colouring, and the colouring that gives it."""
    cells: dict[int, list[int]] = {}
    for i, colour in enumerate(colours):
        cells.setdefault(colour, []).append(i)
    cell = next((cells[colour] for colour in sorted(cells) if len(cells[colour]) > 1), None)
    if cell is None:
        return graph.certificate(colours), colours
    best: tuple[Certificate, Colours] | None = None
    orbit = {node: node for node in cell}
    leaves: list[tuple[int, Certificate, Colours]] = []
    for node in cell:
        if orbit[node] != node:
            continue
        refined = graph.refine(_single_out(colours, node))
        leaf = _first_leaf(graph, refined)
        known = next((entry for entry in leaves if entry[1] == leaf[0]), None)
        if known is not None:  # an automorphism maps the known branch onto this one
            image = {colour: i for i, colour in enumerate(leaf[1])}
            mapping = {i: image[colour] for i, colour in enumerate(known[2])}
            _merge(orbit, mapping)
            continue
        leaves.append((node, *leaf))
        found = _canonical(graph, refined)
        if best is None or found[0] < best[0]:
            best = found
    if best is None:  # the first node of a cell is always tried
        raise AssertionError("a cell of colours without nodes")
    return best


def _first_leaf(graph: _Graph, colours: Colours) -> tuple[Certificate, Colours]:
    while len(set(colours)) < len(colours):
        counts: dict[int, list[int]] = {}
        for i, colour in enumerate(colours):
            counts.setdefault(colour, []).append(i)
        first = min(colour for colour, members in counts.items() if len(members) > 1)
        colours = graph.refine(_single_out(colours, counts[first][0]))
    return graph.certificate(colours), colours


def _merge(orbit: dict[int, int], mapping: dict[int, int]) -> None:
    """Joins the orbits that an automorphism connects; each node points to its orbit's first member."""
    for a, b in mapping.items():
        if a in orbit and b in orbit:
            low, high = sorted((orbit[a], orbit[b]))
            for node, first in orbit.items():
                if first == high:
                    orbit[node] = low
