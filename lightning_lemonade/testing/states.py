"""Networks with uneven weights, and what they compute: for checks in float64."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from lightning_lemonade.graph import Dropout, GraphSpec, build
from lightning_lemonade.morphisms import State, network_with
from lightning_lemonade.morphisms.moments import batch_norm_statistics

STEP = 0.01
NOISE = 1e-13
"""Relative to the largest gradient: a bias before a batch norm gets rounding errors only."""


def seeded_generator(seed: int = 0) -> Generator:
    """Returns a CPU generator of its own."""
    return Generator().manual_seed(seed)


def without_dropout(spec: GraphSpec) -> GraphSpec:
    """Returns the graph with the probability of every dropout at zero."""
    return spec.edit(replaced={n.id: replace(n, op=Dropout(0.0)) for n in spec.nodes if isinstance(n.op, Dropout)})


def uneven_state(spec: GraphSpec, seed: int = 0) -> State:
    """Draws weights in float64 with nothing at its default: batch norm statistics, gates and scales are drawn, too."""
    draws, state = seeded_generator(seed), {}
    with torch.device("meta"):
        empty = build(spec).state_dict()
    for name, tensor in empty.items():
        noise = torch.randn(tensor.shape, generator=draws, dtype=torch.float64)
        kind = name.rpartition(".")[2]
        if not tensor.is_floating_point():
            state[name] = torch.full(tensor.shape, 7, dtype=tensor.dtype)
        elif kind == "gate":
            state[name] = 0.7 + 0.1 * noise
        elif kind == "running_var" or (kind == "weight" and tensor.ndim == 1):
            state[name] = 0.5 + noise.abs()
        elif tensor.ndim > 1:
            state[name] = noise * (2 / tensor[0].numel()) ** 0.5
        else:
            state[name] = 0.3 * noise
    return state


def sample_batch(spec: GraphSpec, seed: int = 1, size: int = 6) -> Tensor:
    """Draws a batch in float64: (size, *spec.input_shape)."""
    return torch.randn(size, *spec.input_shape, generator=seeded_generator(seed), dtype=torch.float64)


def outputs(spec: GraphSpec, state: Mapping[str, Tensor], x: Tensor, *, train: bool = False) -> Tensor:
    """Returns what a network makes of a batch."""
    with torch.no_grad():
        result: Tensor = network_with(spec, state).train(train)(x)
    return result


def calibrated(spec: GraphSpec, state: State, x: Tensor) -> State:
    """Returns the weights with all batch norm statistics those of a batch, as they are after a training."""
    return state | batch_norm_statistics(spec, state, x)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Returns the largest difference, relative to the largest value of the first."""
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))


def gradients(spec: GraphSpec, state: Mapping[str, Tensor], x: Tensor, passes: int = 1) -> dict[str, Tensor]:
    """Returns the largest absolute gradient of each weight in some backward passes in train mode, with a step downhill between two.

    The loss is the squared distance from random targets. A step moves every tensor by a hundredth of its size: with one rate for all, gates
    inside several branches that start without effect would move by less than a float can tell. What had a gradient in an earlier pass
    counts, since a training on random targets may silence a unit for reasons of its own.

    Args:
        spec: the graph, without dropout.
        state: its weights.
        x: (batch, *spec.input_shape).
        passes: how many; the first comes before any step, and each has another batch.
    """
    network = network_with(spec, state).train()
    draws = seeded_generator(3)
    parameters = dict(network.named_parameters())
    if not parameters:
        return {}
    largest = [torch.zeros_like(parameter) for parameter in parameters.values()]
    for number in range(passes):
        inputs = x + 0.1 * number * torch.randn(x.shape, generator=draws, dtype=x.dtype)
        out = network(inputs)
        target = torch.randn(out.shape, generator=draws, dtype=out.dtype)
        loss = (out / out.detach().square().mean().sqrt().clamp(min=1e-6) - target).square().mean()
        found = torch.autograd.grad(loss, list(parameters.values()))
        largest = [torch.maximum(before, gradient.abs()) for before, gradient in zip(largest, found, strict=True)]
        if number < passes - 1:
            _step(list(parameters.values()), found)
    return dict(zip(parameters, largest, strict=True))


def _step(parameters: list[nn.Parameter], found: tuple[Tensor, ...]) -> None:
    """Moves every tensor by a hundredth of its size, or of the size that it would have with a tenth everywhere."""
    with torch.no_grad():
        for parameter, gradient in zip(parameters, found, strict=True):
            length = float(gradient.norm())
            size = max(float(parameter.norm()), 0.1 * parameter.numel() ** 0.5)
            if length:
                parameter.sub_(STEP * size / length * gradient)


def silent_units(found: Mapping[str, Tensor], tolerance: float = 0.0) -> Iterator[tuple[str, str, int]]:
    """Yields (tensor, "row" or "column", index) of every filter and every input channel whose gradient is zero.

    Args:
        found: gradients by tensor.
        tolerance: what counts as zero, relative to the largest gradient of all.
    """
    largest = tolerance * max((float(gradient.abs().max()) for gradient in found.values()), default=0.0)
    for name, gradient in found.items():
        size = gradient.abs()
        rows = size.reshape(1) if size.ndim == 0 else size.reshape(len(size), -1).amax(1)
        yield from ((name, "row", i) for i in torch.nonzero(rows <= largest).flatten().tolist())
        if size.ndim > 1:
            columns = size.transpose(0, 1).reshape(size.shape[1], -1).amax(1)
            yield from ((name, "column", i) for i in torch.nonzero(columns <= largest).flatten().tolist())
