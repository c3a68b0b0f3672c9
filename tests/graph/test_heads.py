import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lemonade.errors import SpecError
from lightning_lemonade.graph import (
    Add,
    BatchNorm2d,
    Concat,
    Conv2d,
    GlobalPool2d,
    GraphSpec,
    Input,
    Linear,
    Node,
    Output,
    with_outputs,
)
from lightning_lemonade.spaces import ALL_OPERATORS, ConvNetSpace, conv_net, random_mutation, strided_net


def test_a_network_gets_another_number_of_classes_and_nothing_else():
    spec = conv_net((3, 16, 16), 10, 8, separable=True)
    wider = with_outputs(spec, 37)
    assert wider.output_shape == (37,)
    assert [node.id for node in wider.nodes] == [node.id for node in spec.nodes]
    assert with_outputs(wider, 10) == spec
    assert with_outputs(spec, 10) is spec


def test_an_output_for_each_position_is_written_by_convolutions():
    nodes = (
        Node("n0", Input((3, 8, 8))),
        Node("n1", Conv2d(4, (1, 1)), ("n0",)),
        Node("n2", Conv2d(4, (3, 3), padding=(1, 1)), ("n0",)),
        Node("n3", BatchNorm2d(), ("n2",)),
        Node("n4", Add(), ("n1", "n3")),
        Node("n5", Output(), ("n4",)),
    )
    assert with_outputs(GraphSpec(nodes), 9).output_shape == (9, 8, 8)


def test_what_has_no_layer_of_its_own_at_the_output_is_refused():
    nodes = (
        Node("n0", Input((3, 8, 8))),
        Node("n1", Conv2d(4, (1, 1)), ("n0",)),
        Node("n2", Concat(), ("n1", "n0")),
        Node("n3", GlobalPool2d(), ("n2",)),
        Node("n4", Output(), ("n3",)),
    )
    with pytest.raises(SpecError, match="n2"):
        with_outputs(GraphSpec(nodes), 9)
    assert with_outputs(GraphSpec(nodes), 7) == GraphSpec(nodes)


@given(st.integers(0, 2**32 - 1))
def test_mutations_and_the_width_of_the_output_commute(seed):
    rng = np.random.default_rng(seed)
    spec = [strided_net((1, 28, 28), 10, 4), *ConvNetSpace().initial((3, 16, 16), 10)][int(rng.integers(5))]
    for _ in range(4):
        drawn = random_mutation(spec, rng, ALL_OPERATORS)
        assert drawn is not None
        mutation, child = drawn
        assert mutation.rewrite(with_outputs(spec, 23)) == with_outputs(child, 23)
        spec = child


def test_a_linear_head_keeps_its_bias():
    nodes = (
        Node("n0", Input((3,))),
        Node("n1", Linear(4, bias=False), ("n0",)),
        Node("n2", Output(), ("n1",)),
    )
    assert not with_outputs(GraphSpec(nodes), 5)["n1"].op.bias
