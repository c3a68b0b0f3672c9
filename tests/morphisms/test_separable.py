"""Depthwise-separable convolutions in place of plain ones."""

import pytest
import torch
from morphisms.helpers import RELU, bare_net, batch, calibrated, conv, difference, generator, graph, outputs, plain_net, uneven_state

from lightning_lemonade.graph import Conv2d, Flatten, Input, Linear, Output
from lightning_lemonade.morphisms import ToSeparable
from lightning_lemonade.morphisms.separable import rank_one

torch.set_num_threads(1)


def test_sites_are_plain_convolutions() -> None:
    spec = graph(
        (Input((1, 9, 9)), []),
        (conv(4), [0]),
        (conv(4, groups=4), [1]),
        (conv(6, 1), [2]),
        (Conv2d(4, (3, 1), groups=2), [3]),
        (Conv2d(4, (1, 3)), [4]),
        (Flatten(), [5]),
        (Linear(3), [6]),
        (Output(), [7]),
    )
    assert ToSeparable.sites(spec) == [("n5",)]


@pytest.mark.parametrize("bias", [True, False])
def test_a_kernel_of_rank_one_keeps_the_function(bias: bool) -> None:
    odd = Conv2d(5, (3, 2), (2, 1), (1, 0), (1, 2), bias=bias)
    spec = graph((Input((3, 9, 8)), []), (odd, [0]), (RELU, [1]), (Flatten(), [2]), (Linear(3), [3]), (Output(), [4]))
    state, x, mutation = uneven_state(spec), batch(spec), ToSeparable("n1")
    draws = generator(3)
    depthwise = torch.randn(1, 3, 3, 2, generator=draws, dtype=torch.float64)
    state["n1.weight"] = depthwise * torch.randn(5, 3, 1, 1, generator=draws, dtype=torch.float64)
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    assert ("n7.bias" in weights) is bias
    assert child["n6"].op == Conv2d(3, (3, 2), (2, 1), (1, 0), (1, 2), 3, bias=False)
    assert child["n7"].op == Conv2d(5, (1, 1), bias=bias)
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-12


def test_the_rank_one_kernel_is_the_closest() -> None:
    draws = generator()
    weight = torch.randn(6, 4, 3, 3, generator=draws, dtype=torch.float64)
    kernel, mixing = rank_one(weight)
    assert kernel.shape == (4, 1, 3, 3)
    assert mixing.shape == (6, 4, 1, 1)
    assert torch.allclose(kernel.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64))
    best = ((weight - mixing * kernel.transpose(0, 1)) ** 2).sum()
    for _ in range(20):
        kernel2 = kernel + 0.05 * torch.randn(kernel.shape, generator=draws, dtype=torch.float64)
        mixing2 = mixing + 0.05 * torch.randn(mixing.shape, generator=draws, dtype=torch.float64)
        assert best < ((weight - mixing2 * kernel2.transpose(0, 1)) ** 2).sum()


def test_a_kernel_of_zeros() -> None:
    kernel, mixing = rank_one(torch.zeros(3, 2, 3, 3))
    assert kernel.isfinite().all()
    assert not mixing.any()


@pytest.mark.parametrize("net", [plain_net, bare_net])
def test_statistics_and_readers_follow(net: object) -> None:
    spec = plain_net() if net is plain_net else bare_net()
    x, state = batch(spec), uneven_state(spec)
    for site in ToSeparable.sites(spec):
        mutation = ToSeparable.at(site, mode="simple")
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, x, generator())
        _, pointwise = spec.fresh_ids(2)
        assert site[0] not in child
        assert child.consumers[pointwise] == spec.consumers[site[0]]
        after = calibrated(child, weights, x)
        below = [f"n{i}.running_mean" for i in range(int(site[0][1:]), 13) if f"n{i}.running_mean" in weights]
        assert all(torch.allclose(after[name], weights[name]) for name in below)
