"""What the layers behind a skip make up for, when it goes."""

import pytest
import torch
from morphisms.helpers import RELU, SHAPE, batch, conv, difference, generator, graph, outputs, uneven_state

from lightning_lemonade.graph import Add, Concat, Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Op, Output
from lightning_lemonade.morphisms import RemoveSkip

torch.set_num_threads(1)


def joined(join: Op) -> GraphSpec:
    """The node n2 and a 1x1 convolution of it are joined, and read by a convolution without padding."""
    return graph(
        (Input(SHAPE), []), (conv(4), [0]), (RELU, [1]), (Conv2d(4, (1, 1)), [2]), (join, [3, 2]), (Conv2d(5, (3, 3)), [4]), (RELU, [5]),
        (GlobalPool2d(), [6]), (Linear(3), [7]), (Output(), [8]),
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["best", "cheap"])
@pytest.mark.parametrize("join", [Add(), Concat()], ids=str)
def test_a_skip_that_the_other_branch_tells_is_spared_without_loss(join: Op, mode: str) -> None:
    spec = joined(join)
    state, x, mutation = uneven_state(spec), batch(spec, size=128), RemoveSkip("n4", "n2", mode=mode)
    state["n3.weight"] = torch.eye(4, dtype=torch.float64)[:, :, None, None] + 0.1 * state["n3.weight"]
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    simple = RemoveSkip("n4", "n2", mode="simple").transfer(spec, state, child, x, generator())
    wanted = outputs(spec, state, x)
    assert difference(wanted, outputs(child, weights, x)) < 1e-6
    assert difference(wanted, outputs(child, simple, x)) > 0.05
    assert weights["n3.weight"] is state["n3.weight"]
