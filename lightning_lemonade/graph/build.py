"""From a spec to a network: a `torch.fx.GraphModule` whose state dict is keyed by node id.

Every node that holds weights, or whose behaviour differs between training and evaluation, is a submodule named by the node's id; the rest
are function calls. The result deep-copies, compiles, and exports with torch.export and ONNX (with a dynamic batch).
"""

import operator
from collections.abc import Sequence

import torch
from torch import fx, nn

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph import ops
from lightning_lemonade.graph.modules import module_of
from lightning_lemonade.graph.spec import GraphSpec


def build(spec: GraphSpec) -> fx.GraphModule:
    """Builds the network of a spec, freshly initialised from torch's global generator.

    Args:
        spec: the architecture.

    Returns:
        A module that maps (batch, *spec.input_shape) to (batch, *spec.output_shape). Its state dict's keys are `<node id>.<tensor>`.
    """
    root, graph = parts(spec)
    network = fx.GraphModule(root, graph, class_name="LemonadeNetwork")
    network.meta["spec"] = spec
    return network


def parts(spec: GraphSpec) -> tuple[nn.Module, fx.Graph]:
    """Returns what a network is made of: a module that holds the submodules, freshly initialised, and the graph of calls."""
    root = nn.Module()
    graph = fx.Graph()
    values: dict[str, fx.Node] = {}
    for node in spec.nodes:
        sources = [values[source] for source in node.inputs]
        match node.op:
            case ops.Input():
                values[node.id] = graph.placeholder(node.id)
            case ops.Output():
                graph.create_node("output", "output", (sources[0],), name=node.id)
            case ops.Add():
                values[node.id] = _sum(graph, sources, node.id)
            case ops.Mul():
                values[node.id] = graph.create_node("call_function", operator.mul, tuple(sources), name=node.id)
            case ops.Concat():
                values[node.id] = graph.create_node("call_function", torch.cat, (sources, 1), name=node.id)
            case ops.Flatten():
                values[node.id] = graph.create_node("call_function", torch.flatten, (sources[0], 1), name=node.id)
            case _:
                root.add_module(node.id, module_of(node.op, spec.input_shapes(node.id)))
                values[node.id] = graph.call_module(node.id, tuple(sources))
    return root, graph


def is_module(op: ops.Op) -> bool:
    """Returns whether a node of this op is a submodule of a network that `build` makes, rather than a call of a function."""
    return not isinstance(op, ops.Input | ops.Output | ops.Add | ops.Mul | ops.Concat | ops.Flatten)


def spec_of(network: fx.GraphModule) -> GraphSpec:
    """Returns the spec that a network was built from.

    Raises:
        SpecError: if the network wasn't made by `build`.
    """
    spec = getattr(network, "meta", {}).get("spec")
    if not isinstance(spec, GraphSpec):
        raise SpecError(f"{type(network).__name__} was not built from a graph spec: make networks with build(spec)")
    return spec


def channels_last(network: nn.Module) -> nn.Module:
    """Lays out a network's convolutions so that channels are neighbours in memory, as they then are in all images.

    CPUs and GPUs are faster so, except Apple's, on which results were wrong in past releases of PyTorch: there all stays as it is.

    Returns:
        The network, changed in place; its outputs differ by rounding.
    """
    return network if torch.backends.mps.is_available() else network.to(memory_format=torch.channels_last)


def _sum(graph: fx.Graph, sources: Sequence[fx.Node], name: str) -> fx.Node:
    """Adds two or more values; the last sum has the node's name."""
    total = sources[0]
    for source in sources[1:-1]:
        total = graph.call_function(operator.add, (total, source))
    return graph.create_node("call_function", operator.add, (total, sources[-1]), name=name)


def initialise(network: nn.Module) -> None:
    """Draws weights for a training from scratch: He-normal convolutions (fan out), PyTorch's default for the rest. Source: ours.

    Args:
        network: changed in place; draws come from torch's global generator.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
