"""A node of a graph spec."""

from dataclasses import dataclass

from lightning_lemonade.graph.ops import Op


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        id: `n` and digits; nothing else, because torch.fx writes it into generated Python.
        op: what the node computes.
        inputs: ids of the nodes whose outputs it reads, in order.
        label: a readable name; data only.
    """

    id: str
    op: Op
    inputs: tuple[str, ...] = ()
    label: str = ""
