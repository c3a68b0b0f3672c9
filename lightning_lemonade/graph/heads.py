"""One architecture for tasks whose outputs differ in width: the layers that write the output."""

from collections.abc import Iterator
from dataclasses import replace

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph.nodes import Node
from lightning_lemonade.graph.ops import Conv2d, Join, Linear, PassThrough
from lightning_lemonade.graph.spec import GraphSpec


def with_outputs(spec: GraphSpec, outputs: int) -> GraphSpec:
    """Returns the same architecture with another width of its output: features or channels. Source: ours.

    Args:
        spec: the architecture.
        outputs: of its output, as many as its first dimension is to have.

    Returns:
        A spec whose nodes have the same ids; the same one if the width is right already.

    Raises:
        SpecError: if the output is written by something else than linear layers and plain convolutions, or can't be so wide.
    """
    if spec.output_shape[0] == outputs:
        return spec
    try:
        heads = list(_heads(spec, outputs))
    except ValueError as error:
        raise SpecError(f"the output can't be given that width: {error}") from error
    return spec.edit(replaced={node.id: node for node in heads})


def _heads(spec: GraphSpec, outputs: int) -> Iterator[Node]:
    """Yields the layers from which the output has its channels, widened or narrowed."""
    waiting, seen = [spec.output.id], set[str]()
    while waiting:
        node = spec[waiting.pop()]
        if node.id in seen:
            continue
        seen.add(node.id)
        match node.op:
            case Linear():
                yield replace(node, op=replace(node.op, out_features=outputs))
            case Conv2d(groups=1):
                yield replace(node, op=replace(node.op, out_channels=outputs))
            case PassThrough() | Join():
                waiting += node.inputs
            case _:
                raise SpecError(
                    f"the output can't be given {outputs} channels: {node.id} ({node.op}) writes it, which has them from its inputs"
                )
