"""Larger kernels and split convolutions."""

import pytest
import torch
from morphisms.helpers import SHAPE, batch, conv, difference, generator, graph, outputs, plain_net, tied_net, uneven_state
from torch.nn.functional import conv2d

from lightning_lemonade.errors import MutationError, SpecError
from lightning_lemonade.graph import AdaptivePool2d, Concat, Conv2d, Flatten, GraphSpec, Input, Linear, Output
from lightning_lemonade.morphisms import GrowKernel, SplitConv, Widen

torch.set_num_threads(1)


def single(op: Conv2d, shape: tuple[int, int, int] = SHAPE) -> GraphSpec:
    return graph((Input(shape), []), (op, [0]), (Flatten(), [1]), (Linear(2), [2]), (Output(), [3]))


@pytest.mark.parametrize(
    "op",
    [
        conv(4),
        conv(4, 1),
        Conv2d(6, (3, 1), (2, 1), (1, 0), (1, 2), 3),
        Conv2d(4, 2, 2),
        Conv2d(3, 3, 1, 2, 2, 3),
        Conv2d(3, 1, 2, 1),
    ],
    ids=str,
)
def test_growing_keeps_shape_and_function(op: Conv2d) -> None:
    spec = single(op)
    state, x = uneven_state(spec), batch(spec)
    child = GrowKernel("n1").rewrite(spec)
    assert child.shapes == spec.shapes
    weights = GrowKernel("n1").transfer(spec, state, child, x, generator())
    assert weights["n1.weight"].shape[2:] == tuple(size + 2 for size in op.kernel_size)
    assert weights["n1.weight"][:, :, 1:-1, 1:-1].equal(state["n1.weight"])
    assert weights["n1.weight"].count_nonzero() == state["n1.weight"].count_nonzero()
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-14


def test_a_kernel_grows_by_any_even_number() -> None:
    assert GrowKernel("n1", by=4).rewrite(single(conv(4)))["n1"].op == conv(4, 7)
    for wrong in (0, 1, 3, -2, 2.0, True, 32):
        with pytest.raises(MutationError, match="by must be even"):
            GrowKernel("n1", by=wrong)  # type: ignore[arg-type]


def test_no_tap_may_see_padding_only() -> None:
    """Held against a convolution that counts what the outermost taps see."""
    for size in range(1, 7):
        for op in (conv(1), conv(1, 1), Conv2d(1, 2, 2), Conv2d(1, 1, 3), Conv2d(1, 3, 1, 1), Conv2d(1, 2, 3, 1)):
            try:
                spec = single(op, (1, size, 6))
            except SpecError:  # the window is larger than the image
                continue
            sees = True
            larger = Conv2d(1, tuple(k + 2 for k in op.kernel_size), op.stride, tuple(p + 1 for p in op.padding))  # type: ignore[arg-type]
            for corner in (0, -1):
                kernel = torch.zeros(1, 1, *larger.kernel_size)
                kernel[..., corner, corner] = 1
                sees &= bool(conv2d(torch.ones(1, 1, size, 6), kernel, stride=op.stride, padding=larger.padding).any())
            assert (("n1",) in GrowKernel.sites(spec)) is sees, (size, op)


def test_a_convolution_over_one_position_does_not_grow() -> None:
    spec = graph(
        (Input(SHAPE), []), (AdaptivePool2d("avg", 1), [0]), (conv(4, 1), [1]), (Flatten(), [2]), (Linear(2), [3]), (Output(), [4])
    )
    assert GrowKernel.sites(spec) == []
    with pytest.raises(MutationError, match="would only see padding"):
        GrowKernel("n1", by=16).rewrite(single(conv(4)))


@pytest.mark.parametrize("node", ["n1", "n4", "n8"])
def test_two_branches_hold_the_filters_in_order(node: str) -> None:
    spec = plain_net()
    state, x = uneven_state(spec), batch(spec)
    child = SplitConv(node).rewrite(spec)
    weights = SplitConv(node).transfer(spec, state, child, x, generator())
    assert child["n15"].op == Concat()
    assert child["n15"].inputs == (node, "n14")
    assert torch.cat([weights[f"{node}.weight"], weights["n14.weight"]]).equal(state[f"{node}.weight"])
    for train in (True, False):
        assert difference(outputs(spec, state, x, train=train), outputs(child, weights, x, train=train)) < 1e-12


def test_branches_change_by_themselves() -> None:
    spec = SplitConv("n1").rewrite(plain_net())
    assert GrowKernel("n14").rewrite(spec)["n1"].op == conv(2)
    assert Widen("n14", width=5).rewrite(spec).shapes["n15"][0] == 7


def test_one_group_and_two_filters_at_least() -> None:
    assert ("n4",) not in SplitConv.sites(tied_net())
    assert SplitConv.sites(tied_net()) == [("n1",), ("n7",), ("n8",)]
    assert SplitConv.sites(single(conv(1))) == []
