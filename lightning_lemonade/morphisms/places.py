"""Places of a graph that several kinds of mutations look for."""

from lightning_lemonade.graph import Activation, Concat, GraphSpec, Join, Node, Pool2d, Upsample2d


def block_ends(spec: GraphSpec) -> list[Node]:
    """Returns the ends of blocks: activations, pools, upsamplings and joins that put out (channels, height, width)."""
    kinds = Activation | Pool2d | Upsample2d | Join | Concat
    return [node for node in spec.nodes if isinstance(node.op, kinds) and len(spec.shapes[node.id]) == 3]


def has_positions(spec: GraphSpec, node_id: str) -> bool:
    """Returns whether a node puts out an image of more than one position."""
    shape = spec.shapes[node_id]
    return len(shape) == 3 and shape[1] * shape[2] > 1
