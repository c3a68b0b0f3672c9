"""Weights for other inputs."""

import torch
from morphisms.helpers import RELU, SHAPE, batch, conv, difference, graph, outputs, uneven_state

from lightning_lemonade.graph import Concat, Conv2d, Flatten, Input, Linear, Output, Pool2d
from lightning_lemonade.morphisms import State
from lightning_lemonade.morphisms.mixing import Mixture, mixed_readers

torch.set_num_threads(1)


def test_readers_of_a_linear_map_read_what_it_reads() -> None:
    """A 1x1 convolution without bias is such a map: behind a concat, a pool, a flatten."""
    spec = graph(
        (Input(SHAPE), []),
        (conv(5), [0]),
        (RELU, [1]),
        (conv(4, 1), [2]),
        (Concat(), [2, 3]),
        (Pool2d("avg", (2, 2), (2, 2)), [4]),
        (conv(3), [5]),
        (Flatten(), [5]),
        (Flatten(), [6]),
        (Concat(), [8, 7]),
        (Linear(3), [9]),
        (Output(), [10]),
    )
    state = uneven_state(spec)
    mixture = Mixture(state["n3.weight"].flatten(1), 5, 1)
    child = spec.edit(removed=["n3"], added=[spec["n3"].__class__("n12", Conv2d(5, (1, 1), bias=False), ("n2",))], rewired={"n3": "n12"})
    made: State = {name: tensor for name, tensor in state.items() if not name.startswith("n3.")}
    made["n12.weight"] = torch.eye(5, dtype=torch.float64)[:, :, None, None]
    made |= mixed_readers(spec, state, child, "n3", mixture)
    assert made["n6.weight"].shape == (3, 10, 3, 3)
    x = batch(spec)
    assert difference(outputs(spec, state, x), outputs(child, made, x)) < 1e-12
