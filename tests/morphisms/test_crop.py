"""Smaller kernels."""

import pytest
import torch
from morphisms.helpers import RELU, SHAPE, batch, calibrated, conv, difference, generator, graph, outputs, plain_net, uneven_state
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_lemonade.graph import Conv2d, Flatten, GraphSpec, Input, Linear, Output
from lightning_lemonade.morphisms import ShrinkKernel, State
from lightning_lemonade.morphisms.crop import cropped
from lightning_lemonade.morphisms.solve import divergence


def smooth(spec: GraphSpec, size: int) -> Tensor:
    """Images whose neighbouring pixels are alike, as those of photographs: in white noise, outer taps see what no inner tap can tell."""
    channels, height, width = spec.input_shape
    coarse = torch.randn(size, channels, 3, 3, generator=generator(5), dtype=torch.float64)
    return interpolate(coarse, (height, width), mode="bilinear", align_corners=True)


def shrunk(spec: GraphSpec, state: State, x: Tensor, mode: str, node: str) -> tuple[GraphSpec, State]:
    mutation = ShrinkKernel(node, mode=mode)
    child = mutation.rewrite(spec)
    return child, mutation.transfer(spec, state, child, x, generator())


@pytest.mark.parametrize(
    ("op", "smaller"),
    [
        (conv(4, 5), conv(4, 3)),
        (conv(4), conv(4, 1)),
        (conv(4, 1), None),
        (Conv2d(4, (5, 1), padding=(2, 0)), Conv2d(4, (3, 1), padding=(1, 0))),
        (Conv2d(4, (3, 3), padding=(2, 2), dilation=(2, 2)), Conv2d(4, (1, 1), dilation=(2, 2))),
        (Conv2d(4, (3, 3), padding=(1, 0)), None),
        (Conv2d(4, (4, 4), (2, 2), (1, 1)), Conv2d(4, (2, 2), (2, 2))),
    ],
)
def test_sides_lose_two_taps_where_padding_allows(op: Conv2d, smaller: Conv2d | None) -> None:
    assert cropped(op) == smaller
    if smaller is not None:
        shape = (3, 12, 12)
        assert op.output_shape([shape]) == smaller.output_shape([shape])


@pytest.mark.parametrize("mode", ["best", "cheap", "simple"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_whose_outer_taps_are_zero_keeps_the_function(mode: str, groups: int) -> None:
    first = Conv2d(4, (5, 3), padding=(2, 1), groups=groups)
    spec = graph((Input((4, 8, 7)), []), (first, [0]), (RELU, [1]), (Flatten(), [2]), (Linear(3), [3]), (Output(), [4]))
    state, x = uneven_state(spec), batch(spec, size=16)
    state["n1.weight"][:, :, [0, -1]] = 0
    state["n1.weight"][..., [0, -1]] = 0
    child, weights = shrunk(spec, state, x, mode, "n1")
    assert tuple(weights["n1.weight"].shape[2:]) == (3, 1)
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-12


def test_what_is_left_takes_over_on_smooth_images() -> None:
    spec = graph((Input((2, 16, 16)), []), (conv(4, 5, bias=True), [0]), (RELU, [1]), (Flatten(), [2]), (Linear(3), [3]), (Output(), [4]))
    state, fitted, fresh = uneven_state(spec), smooth(spec, 256), smooth(spec, 320)[256:]
    old = outputs(spec, state, fresh)
    lost = {}
    for mode in ("simple", "cheap", "best"):
        child, weights = shrunk(spec, state, fitted, mode, "n1")
        lost[mode] = divergence(old, outputs(child, weights, fresh))
    assert lost["cheap"] < 0.5 * lost["simple"]
    assert lost["best"] < 0.5 * lost["simple"]


def test_only_the_kernel_and_what_lies_behind_it_changes() -> None:
    spec = plain_net()
    x = batch(spec, size=32)
    state = calibrated(spec, uneven_state(spec), x)
    _, weights = shrunk(spec, state, x, "best", "n4")
    for name in state:
        if int(name.partition(".")[0][1:]) < 4:
            assert weights[name] is state[name]


def test_a_size_of_one_is_left_as_it_is() -> None:
    assert SHAPE[1:] != (1, 1)
    assert ("n1",) not in ShrinkKernel.sites(graph((Input(SHAPE), []), (conv(4, 1), [0]), (Output(), [1])))
