"""Two layers become one."""

import pytest
import torch
from morphisms.helpers import RELU, bare_net, batch, conv, difference, generator, graph, outputs, plain_net, tied_net, uneven_state

from lightning_lemonade.graph import BatchNorm2d, Conv2d, Flatten, GraphSpec, Input, Linear, Output
from lightning_lemonade.morphisms import MergeLayers

torch.set_num_threads(1)


def pair(first: Conv2d, second: Conv2d, *, norm: bool) -> GraphSpec:
    """Two convolutions with nothing, or a batch norm, between."""
    nodes = [(Input((3, 12, 13)), []), (first, [0])]
    nodes += [(BatchNorm2d(), [1])] if norm else []
    nodes += [(second, [len(nodes) - 1])]
    rest = len(nodes)
    nodes += [(RELU, [rest - 1]), (Flatten(), [rest]), (Linear(3), [rest + 1]), (Output(), [rest + 2])]
    return graph(*nodes)


PAIRS = {
    "3x3, 1x1": (Conv2d(4, (3, 3), padding=(1, 1)), Conv2d(5, (1, 1)), (3, 3), (1, 1)),
    "1x1, 3x3": (Conv2d(4, (1, 1), bias=False), Conv2d(5, (3, 3), (2, 2), bias=False), (3, 3), (1, 1)),
    "3x3, 3x3": (Conv2d(4, (3, 3)), Conv2d(5, (3, 3)), (5, 5), (1, 1)),
    "strided": (Conv2d(4, (3, 1), (2, 1)), Conv2d(5, (2, 3), (1, 2), bias=False), (5, 3), (1, 1)),
    "dilated": (Conv2d(4, (3, 1), dilation=(2, 1)), Conv2d(5, (1, 3), dilation=(1, 3)), (3, 3), (2, 3)),
    "strided, then dilated": (Conv2d(4, (1, 1), (2, 2)), Conv2d(5, (2, 2), dilation=(2, 1)), (2, 2), (4, 2)),
}


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("mode", ["best", "simple"])
@pytest.mark.parametrize("name", PAIRS)
def test_without_an_activation_between_nothing_is_lost(name: str, mode: str, norm: bool) -> None:
    """Where nothing is padded behind the first layer."""
    first, second, size, dilation = PAIRS[name]
    spec = pair(first, second, norm=norm)
    state, x, mutation = uneven_state(spec), batch(spec, size=12), MergeLayers("n1", mode=mode)
    child = mutation.rewrite(spec)
    merged = next(node.op for node in child.nodes if isinstance(node.op, Conv2d))
    assert (merged.kernel_size, merged.dilation) == (size, dilation)
    assert "n1" not in child
    weights = mutation.transfer(spec, state, child, x, generator())
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9


def test_linear_layers() -> None:
    spec = graph((Input((6,)), []), (Linear(5), [0]), (Linear(4, bias=False), [1]), (RELU, [2]), (Linear(3), [3]), (Output(), [4]))
    state, x, mutation = uneven_state(spec), batch(spec, size=16), MergeLayers("n1", mode="simple")
    child = mutation.rewrite(spec)
    assert child["n2"].op == Linear(4)  # the first one's bias goes on
    weights = mutation.transfer(spec, state, child, x, generator())
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-12


def test_where_layers_can_merge() -> None:
    assert MergeLayers.sites(plain_net()) == [("n1",)]  # a pool is between n4 and n8
    assert MergeLayers.sites(bare_net()) == [("n1",), ("n5",)]
    assert MergeLayers.sites(tied_net()) == [("n7",)]  # n4 is depthwise
    too_large = pair(conv(4, 5), conv(5, 3), norm=False)
    assert MergeLayers.sites(too_large) == []


def test_an_activation_between_is_approximated() -> None:
    spec = plain_net()
    state, x = uneven_state(spec), batch(spec, size=128)
    child = MergeLayers("n1").rewrite(spec)
    assert child["n4"].inputs == ("n0",)
    wanted = outputs(spec, state, x)
    errors = []
    for mode in ("simple", "cheap"):
        weights = MergeLayers("n1", mode=mode).transfer(spec, state, child, x, generator())
        errors.append((wanted - outputs(child, weights, x)).norm())
        assert all(weights[name] is state[name] for name in ("n8.weight", "n12.weight", "n12.bias"))
    assert errors[1] < errors[0]
