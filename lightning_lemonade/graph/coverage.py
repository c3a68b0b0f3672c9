"""Coverage: which layers of a network can get another number of channels, and what keeps the others as they are. Source: ours."""

from dataclasses import dataclass

from lightning_lemonade.graph.spec import GraphSpec


@dataclass(frozen=True)
class LayerCoverage:
    """Whether the number of channels that a layer puts out can change.

    Attributes:
        node: the layer's id.
        label: its readable name.
        op: what it computes, in a short readable form.
        changeable: whether the number can change.
        reason: why it can't; empty if it can.
    """

    node: str
    label: str
    op: str
    changeable: bool
    reason: str


def coverage(spec: GraphSpec) -> list[LayerCoverage]:
    """Returns a row for each node with weights (convolutions, linear layers, batch norms, learnt gates), in the graph's order.

    A layer is changeable if all its channels are, see `ChannelLayout.frozen_reason`. Batch norms, depthwise convolutions and gates have the
    channels of what they read, and change with it. A layer whose number of channels is fixed may still be replaced or removed.

    Args:
        spec: any graph.

    Examples:
        >>> from lightning_lemonade.graph import Conv2d, GlobalPool2d, Input, Linear, Node, Output
        >>> layers = [Input((3, 8, 8)), Conv2d(4, 3), GlobalPool2d(), Linear(10), Output()]
        >>> spec = GraphSpec(tuple(Node(f"n{i}", op, (f"n{i - 1}",) if i else ()) for i, op in enumerate(layers)))
        >>> for row in coverage(spec):
        ...     print(row.node, row.op, row.reason or "changeable", sep=" - ")
        n1 - conv2d(out_channels=4, kernel_size=3x3) - changeable
        n3 - linear(out_features=10) - fixed by n4 (output): the network's output
    """
    rows = []
    for node in spec.nodes:
        if node.op.parameter_count(spec.input_shapes(node.id)):
            reason = spec.channels.frozen_reason(node.id)
            rows.append(LayerCoverage(node.id, node.label, str(node.op), not reason, reason))
    return rows
