"""What shrinking mutations share."""

import math

import pytest
import torch
from morphisms.helpers import (
    NETS,
    batch,
    calibrated,
    concat_net,
    conv,
    difference,
    generator,
    graph,
    outputs,
    plain_net,
    tied_net,
    uneven_state,
)

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import BatchNorm2d, Flatten, Input, Linear, Mix, Output, Pool2d
from lightning_lemonade.morphisms import MergeLayers, PruneFilters, RemoveLayer, RemoveSkip, ShrinkKernel, ToSeparable, solve
from lightning_lemonade.morphisms.solve import Shrinking, divergence, importance, layers_below, norm_behind, shifted

KINDS = (PruneFilters, RemoveLayer, RemoveSkip, ShrinkKernel, ToSeparable, MergeLayers)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_mode_is_named(kind: type[Shrinking]) -> None:
    with pytest.raises(MutationError, match="one of best, cheap, simple, got 'fast'"):
        kind.at(("n1",) * len(kind.site_fields), mode="fast")


def test_layers_below_a_change_end_every_path() -> None:
    assert layers_below(plain_net(), ["n1"]) == ["n4"]
    assert layers_below(plain_net(), ["n1"], 2) == ["n4", "n8"]
    assert layers_below(plain_net(), ["n1"], 0) == []
    assert layers_below(tied_net(), ["n1"]) == ["n4", "n7", "n13"]  # the depthwise n4 can't make up for it alone; the skip leads to n13
    assert layers_below(concat_net(), ["n1"]) == ["n3", "n7", "n9", "n14"]


def test_the_norm_behind_a_layer_is_the_one_that_alone_reads_it() -> None:
    assert [norm_behind(tied_net(), i) for i in ("n1", "n4", "n7")] == ["n2", "n5", None]
    assert norm_behind(concat_net(), "n3") is None


def test_importance_is_the_factor_of_the_norm() -> None:
    spec = plain_net()
    state = uneven_state(spec)
    expected = state["n2.weight"].abs() / (state["n2.running_var"] + 1e-5).sqrt()
    torch.testing.assert_close(importance(spec, state, "n1"), expected)
    assert importance(spec, state, "n12").tolist() == [1, 1, 1]


@pytest.mark.parametrize("node", ["n1", "n12"])
def test_a_shift_moves_what_comes_out(node: str) -> None:
    """By the bias of n12, by the running mean behind n1."""
    spec = plain_net()
    state, x = uneven_state(spec), batch(spec)
    shift = torch.arange(1.0, 1 + len(state[f"{node}.weight"]), dtype=torch.float64)
    moved = state | shifted(spec, state, node, shift)
    if node == "n12":
        torch.testing.assert_close(outputs(spec, moved, x), outputs(spec, state, x) + shift)
    else:
        torch.testing.assert_close(moved["n2.running_mean"], state["n2.running_mean"] - shift)


def test_divergence() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    even = torch.zeros(1, 2)
    assert divergence(logits, logits) == pytest.approx(0)
    assert divergence(even, logits) == pytest.approx(0.5 * math.log(4 / 3))
    assert divergence(logits, logits + 5) == pytest.approx(0)
    assert divergence(torch.tensor([[1.0]]), torch.tensor([[3.0]])) == pytest.approx(4)  # one output is no classification
    assert divergence(logits, logits * math.nan) == math.inf


def test_statistics_stay_where_new_ones_would_not_help() -> None:
    """Filters that no reader heeds go: the child is its parent, and statistics of a few images would only be worse."""
    spec = plain_net()
    state = uneven_state(spec)
    state["n4.weight"][:, :2] = 0
    state["n1.weight"][:2] *= 1e-3  # so that they are the ones that go by their norm, too
    for mode in ("cheap", "best"):
        mutation = PruneFilters("n1", fraction=0.5, mode=mode)
        child, x = mutation.rewrite(spec), batch(spec, size=32)
        weights = mutation.transfer(spec, state, child, x, generator())
        assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-10
        assert all(torch.equal(weights[f"{i}.running_var"], state[f"{i}.running_var"]) for i in ("n5", "n9"))


def test_statistics_are_measured_anew_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the held-out images, against the same change without new statistics."""
    spec = plain_net()
    x = batch(spec, size=64)
    state, held = calibrated(spec, uneven_state(spec), x), slice(3, None, 4)
    old, gains = outputs(spec, state, x)[held], []
    changes = [kind.at(site, mode="cheap") for kind in (PruneFilters, ToSeparable, RemoveLayer) for site in kind.sites(spec)]
    for mutation in changes:
        lost = []
        for measured in (True, False):
            with monkeypatch.context() as patch:
                if not measured:
                    patch.setattr(solve, "_measured", lambda *_: {})
                child = mutation.rewrite(spec)
                lost.append(divergence(old, outputs(child, mutation.transfer(spec, state, child, x, generator()), x)[held]))
        gains.append(lost[1] - lost[0])
    assert min(gains) > -1e-9
    assert max(gains) > 1e-3
    assert 0 in gains


@pytest.mark.parametrize("net", NETS)
def test_the_modes_of_one_mutation_make_one_graph(net: str) -> None:
    spec = NETS[net]()
    for kind in KINDS:
        for site in kind.sites(spec):
            assert len({kind.at(site, mode=mode).rewrite(spec).structural_hash for mode in ("best", "cheap", "simple")}) == 1


@pytest.mark.parametrize("mode", ["best", "cheap"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_calibration_images_are_enough(kind: type[Shrinking], mode: str) -> None:
    """Also where a batch norm sees one position of each: it can't be measured on the single image that is fitted to."""
    spec = graph(
        (Input((2, 2, 2)), []),
        (conv(4), [0]),
        (Pool2d("max", (2, 2), (2, 2)), [1]),
        (BatchNorm2d(), [2]),
        (conv(4), [3]),
        (BatchNorm2d(), [4]),
        (Mix(), [5, 3]),
        (conv(4), [6]),
        (conv(4), [7]),
        (Flatten(), [8]),
        (Linear(3), [9]),
        (Output(), [10]),
    )
    state, sites = uneven_state(spec), kind.sites(spec)
    assert sites
    for site in sites:
        mutation = kind.at(site, mode=mode)
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, batch(spec, size=2), generator())
        assert outputs(child, weights, batch(spec, size=2)).isfinite().all()
