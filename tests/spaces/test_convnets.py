from itertools import pairwise

import numpy as np
import pytest

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import Conv2d, Pool2d
from lightning_lemonade.spaces import EXACT_OPERATORS, ConvNetSpace, strided_net


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((3, 32, 32), (15_000, 50_000, 100_000, 400_000)), ((1, 8, 8), (500, 1_500, 4_000, 10_000))],
)
@pytest.mark.parametrize("starts", ["strided", "paper"])
def test_starting_networks_have_the_sizes_that_are_promised(shape, sizes, starts):
    specs = ConvNetSpace(starts=starts).initial(shape, 10)
    assert [spec.parameter_count for spec in specs] == pytest.approx(sizes, rel=0.15)
    assert all(spec.input_shape == shape and spec.output_shape == (10,) for spec in specs)


@pytest.mark.parametrize(
    ("shape", "count", "least", "most"),
    [((3, 32, 32), 8, 12_000, 600_000), ((1, 28, 28), 7, 5_500, 125_000), ((1, 8, 8), 4, 1_300, 7_000)],
)
def test_the_spanning_ones_reach_from_small_to_large(shape, count, least, most):
    specs = ConvNetSpace(starts="spanning").initial(shape, 10)
    sizes = [spec.parameter_count for spec in specs]
    assert (len(sizes), [sizes[0], sizes[-1]]) == (count, pytest.approx([least, most], rel=0.2))
    assert all(1.3 < larger / smaller < 2.3 for smaller, larger in pairwise(sizes))
    for spec in specs:
        filters = [
            node.op.out_channels if isinstance(node.op, Conv2d) else "pool" for node in spec.nodes if isinstance(node.op, Conv2d | Pool2d)
        ]
        width = filters[0]
        assert filters == [width, "pool", 2 * width, 2 * width, "pool", 4 * width, 4 * width]


def test_of_the_papers_two_are_plain_and_two_separable():
    starts = ConvNetSpace(starts="paper").initial((3, 32, 32), 10)
    depthwise = [any(isinstance(n.op, Conv2d) and n.op.groups > 1 for n in spec.nodes) for spec in starts]
    assert sorted(depthwise) == [False, False, True, True]


@pytest.mark.parametrize(("size", "strides"), [(32, [2, 2, 2]), (28, [2, 2, 2]), (8, [1, 2, 2]), (4, [1, 2, 1]), (2, [1, 1, 1])])
def test_ours_halve_images_by_strides_where_they_are_large_enough(size, strides):
    spec = strided_net((3, size, size), 10, 4)
    assert [node.op.stride[0] for node in spec.nodes if isinstance(node.op, Conv2d)] == strides


def test_other_starting_networks_are_refused_by_name():
    with pytest.raises(ConfigurationError, match="starts must be paper, strided or spanning, got 'small'"):
        ConvNetSpace(starts="small")


def test_the_papers_pool_between_their_blocks():
    for spec in ConvNetSpace(starts="paper").initial((3, 32, 32), 10):
        assert sum(isinstance(node.op, Pool2d) for node in spec.nodes) == 2


def test_children_have_one_to_three_mutations_of_every_kind():
    space, rng = ConvNetSpace(), np.random.default_rng(0)
    spec = space.initial((1, 8, 8), 10)[2]
    kinds, counts = set(), set()
    for draw in range(300):
        mutations, child = space.mutate(spec, rng)
        if draw < 4:  # the others begin at a network with more layers, and with skips to remove
            spec = child
        kinds |= {mutation.kind for mutation in mutations}
        counts.add(len(mutations))
    assert counts == {1, 2, 3}
    assert len(kinds) == 8


def test_a_space_of_exact_operators_draws_no_others():
    space, rng = ConvNetSpace(operators=EXACT_OPERATORS), np.random.default_rng(0)
    spec = space.initial((1, 8, 8), 10)[0]
    assert all(m.exact for _ in range(50) for m in space.mutate(spec, rng)[0])


def test_samples_that_are_no_images_are_named():
    with pytest.raises(ConfigurationError, match="images"):
        ConvNetSpace().initial((64,), 10)
