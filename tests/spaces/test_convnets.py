import numpy as np
import pytest

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import Conv2d, Pool2d
from lightning_lemonade.spaces import EXACT_OPERATORS, ConvNetSpace


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((3, 32, 32), (15_000, 50_000, 100_000, 400_000)), ((1, 8, 8), (500, 1_500, 4_000, 10_000))],
)
def test_starting_networks_have_the_sizes_that_are_promised(shape, sizes):
    specs = ConvNetSpace().initial(shape, 10)
    assert [spec.parameter_count for spec in specs] == pytest.approx(sizes, rel=0.15)
    assert all(spec.input_shape == shape and spec.output_shape == (10,) for spec in specs)


def test_two_are_plain_and_two_separable():
    depthwise = [any(isinstance(n.op, Conv2d) and n.op.groups > 1 for n in spec.nodes) for spec in ConvNetSpace().initial((3, 32, 32), 10)]
    assert sorted(depthwise) == [False, False, True, True]


def test_they_pool_between_their_blocks():
    for spec in ConvNetSpace().initial((3, 32, 32), 10):
        assert sum(isinstance(node.op, Pool2d) for node in spec.nodes) == 2


def test_children_have_one_to_three_mutations_of_every_kind():
    space, rng = ConvNetSpace(), np.random.default_rng(0)
    spec = space.initial((1, 8, 8), 10)[2]
    kinds, counts = set(), set()
    for _ in range(300):
        mutations, _ = space.mutate(spec, rng)
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
