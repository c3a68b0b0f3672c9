"""Pruning: tied layers, offsets, flattens; what reads the channels makes up for those that go."""

import pytest
import torch
from morphisms.helpers import (
    NETS,
    RELU,
    SHAPE,
    bare_net,
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
from torch import Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Add, BatchNorm2d, Concat, Conv2d, Flatten, GlobalPool2d, GraphSpec, Input, Linear, Output
from lightning_lemonade.morphisms import AddSkip, ConcatSkip, PruneFilters, State, Widen

torch.set_num_threads(1)
SOLVED = ["best", "cheap"]


def pruned(spec: GraphSpec, state: State, mutation: PruneFilters, size: int = 6) -> tuple[GraphSpec, State]:
    child = mutation.rewrite(spec)
    return child, mutation.transfer(spec, state, child, batch(spec, size=size), generator())


def norms(weight: Tensor) -> Tensor:
    return weight.abs().flatten(1).sum(1)


def test_the_filters_of_largest_norm_stay() -> None:
    spec = plain_net()
    state = uneven_state(spec)
    state["n1.weight"] *= torch.tensor([3.0, 0.1, 0.2, 4.0]).reshape(4, 1, 1, 1)
    child, weights = pruned(spec, state, PruneFilters("n1", mode="simple"))
    keep = [0, 3]
    assert child.shapes["n1"][0] == 2
    assert weights["n1.weight"].equal(state["n1.weight"][keep])
    assert weights["n4.weight"].equal(state["n4.weight"][:, keep])
    for name in ("n2.weight", "n2.bias"):
        assert weights[name].equal(state[name][keep])


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_all_tied_producers_count_and_follow(fraction: float) -> None:
    spec = tied_net()
    state = uneven_state(spec)
    child, weights = pruned(spec, state, PruneFilters("n8", fraction=fraction, mode="simple"))
    total = norms(state["n1.weight"]) + norms(state["n8.weight"]) + norms(state["n4.weight"])
    keep = total.argsort(descending=True)[: round(4 * (1 - fraction))].sort().values
    assert weights["n1.weight"].equal(state["n1.weight"][keep])
    assert weights["n4.weight"].equal(state["n4.weight"][keep])
    assert weights["n8.weight"].equal(state["n8.weight"][keep])
    assert weights["n7.weight"].equal(state["n7.weight"][:, keep])
    assert weights["n8.bias"].equal(state["n8.bias"][keep])
    assert weights["n9.bias"].equal(state["n9.bias"][keep])
    assert weights["n13.weight"].equal(state["n13.weight"][:, keep])
    assert weights["n13.bias"].equal(state["n13.bias"])
    outputs(child, weights, batch(spec))


def test_small_differences_of_norms_count() -> None:
    """A ranking in single precision would see no difference."""
    spec = bare_net()
    state = uneven_state(spec)
    state["n1.weight"] = torch.ones_like(state["n1.weight"]) * torch.tensor([1, 1 + 1e-12, 1 + 2e-12, 1 - 1e-12]).double().reshape(
        4, 1, 1, 1
    )
    _, weights = pruned(spec, state, PruneFilters("n1", mode="simple"))
    assert weights["n1.weight"].equal(state["n1.weight"][[1, 2]])


def test_offsets_in_a_concat_and_positions_in_a_flatten() -> None:
    spec = concat_net()
    state = uneven_state(spec)
    child, weights = pruned(spec, state, PruneFilters("n1", mode="simple"))
    depthwise = norms(state["n7.weight"])
    total = norms(state["n1.weight"]) + depthwise[:4] + depthwise[7:]
    keep = total.argsort(descending=True)[:2].sort().values
    joined = torch.cat([keep, torch.arange(4, 7), keep + 7])
    assert weights["n6.weight"].equal(state["n6.weight"][joined])
    assert weights["n7.weight"].equal(state["n7.weight"][joined])
    assert weights["n9.weight"].equal(state["n9.weight"][:, joined])
    assert weights["n3.weight"].equal(state["n3.weight"][:, keep])
    positions = (torch.cat([torch.arange(5), joined + 5])[:, None] * 36 + torch.arange(36)).reshape(-1)
    assert weights["n14.weight"].equal(state["n14.weight"][:, positions])
    assert outputs(child, weights, batch(spec)).isfinite().all()


def test_statistics_are_measured_again() -> None:
    spec = plain_net()
    child, weights = pruned(spec, uneven_state(spec), PruneFilters("n1", mode="simple"))
    after = calibrated(child, weights, batch(spec))
    assert all(torch.allclose(after[name], weights[name]) for name in weights if "running_" in name)


def twice_in_a_layer() -> GraphSpec:
    """The group of n1 stands twice in n3."""
    return graph(
        (Input(SHAPE), []),
        (conv(2), [0]),
        (Concat(), [1, 1]),
        (conv(4), [2]),
        (Add(), [2, 3]),
        (RELU, [4]),
        (GlobalPool2d(), [5]),
        (Linear(3), [6]),
        (Output(), [7]),
    )


def test_a_layer_that_holds_a_group_twice() -> None:
    spec = twice_in_a_layer()
    state = uneven_state(spec)
    child, weights = pruned(spec, state, PruneFilters("n1", mode="simple"))
    assert child.shapes["n1"][0] == 1
    assert child.shapes["n3"][0] == 2
    total = state["n1.weight"].abs().sum((1, 2, 3)) + state["n3.weight"].abs().sum((1, 2, 3)).reshape(2, 2).sum(0)
    keep = int(total.argmax())
    assert weights["n3.weight"].equal(state["n3.weight"][[keep, keep + 2]][:, [keep, keep + 2]])
    with pytest.raises(MutationError, match="can't have 3 filters"):
        PruneFilters("n3", width=3).rewrite(spec)


def test_any_width() -> None:
    for width in (1, 2, 3):
        assert PruneFilters("n1", width=width).rewrite(plain_net()).shapes["n1"][0] == width
    assert PruneFilters("n1").rewrite(plain_net()).shapes["n1"][0] == 2
    assert PruneFilters(("n1", "n8"), width=3).rewrite(tied_net()).shapes["n10"][0] == 3
    for width in (4, 5):
        with pytest.raises(MutationError, match="must be less"):
            PruneFilters("n1", width=width).rewrite(plain_net())


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"width": True}, {"width": 2.0}, {"width": 2, "fraction": 0.5}, {"mode": "worst"}, {"mode": None}]
)
def test_wrong_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(MutationError):
        PruneFilters("n1", **arguments)  # type: ignore[arg-type]


def with_doubles(spec: GraphSpec, state: State, layer: str, pairs: list[tuple[int, int]]) -> State:
    """Weights in which channels of a layer, and of the batch norm behind it, are copies of others."""
    norm = spec.consumers[layer][0]
    names = [name for name in state if name.partition(".")[0] in (layer, norm) and state[name].ndim]
    changed = {name: state[name].clone() for name in names}
    for tensor in changed.values():
        for first, second in pairs:
            tensor[second] = tensor[first]
    return state | changed


@pytest.mark.parametrize("mode", SOLVED)
@pytest.mark.parametrize("layer", ["n1", "n4"])
def test_doubled_channels_are_spared_without_loss(mode: str, layer: str) -> None:
    """Also for what stands behind it: a convolution, and a flatten and a linear layer behind pool and convolution."""
    spec = plain_net()
    x = batch(spec, size=64)
    state = with_doubles(spec, uneven_state(spec), layer, [(0, 1), (2, 3)])
    child, weights = pruned(spec, state, PruneFilters(layer, mode=mode), size=64)
    if mode == "best":
        assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-6
    else:  # by norm both of a pair may stay
        assert outputs(child, weights, x).isfinite().all()


def test_dead_channels_are_spared_without_loss() -> None:
    spec = plain_net()
    x, state = batch(spec, size=64), uneven_state(spec)
    state["n2.bias"][[0, 3]] = -1000
    child, weights = pruned(spec, state, PruneFilters("n1"), size=64)
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9
    assert weights["n1.weight"].equal(state["n1.weight"][[1, 2]])
    assert weights["n4.weight"].equal(state["n4.weight"][:, [1, 2]])


def test_a_constant_goes_into_the_mean_behind_it() -> None:
    """A channel that is the same everywhere, read without padding."""
    spec = graph(
        (Input(SHAPE), []), (conv(3), [0]), (RELU, [1]), (Conv2d(4, (1, 1), bias=False), [2]), (BatchNorm2d(), [3]), (RELU, [4]),
        (GlobalPool2d(), [5]), (Linear(3), [6]), (Output(), [7]),
    )  # fmt: skip
    spec = spec.edit(replaced={"n1": spec["n1"].__class__("n1", conv(3, bias=True), ("n0",))})
    x, state = batch(spec, size=64), uneven_state(spec)
    state["n1.weight"][1] = 0
    state["n1.bias"][1] = 2
    child, weights = pruned(spec, state, PruneFilters("n1", width=2), size=64)
    assert weights["n1.weight"].equal(state["n1.weight"][[0, 2]])
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9
    assert not weights["n4.running_mean"].equal(state["n4.running_mean"])


@pytest.mark.parametrize("mode", SOLVED)
def test_all_zero_inputs_make_no_singular_system(mode: str) -> None:
    for make in NETS.values():
        spec = make()
        state = uneven_state(spec)
        for name in state:
            if name.startswith("n1."):
                state[name] = torch.zeros_like(state[name])
        for site in PruneFilters.sites(spec):
            _, weights = pruned(spec, state, PruneFilters.at(site, mode=mode))
            assert all(tensor.isfinite().all() for tensor in weights.values())


def test_nearly_dead_channels_right_before_a_flatten() -> None:
    spec = bare_net()
    state, x = uneven_state(spec), batch(spec)
    for dead in (1, 4):
        state["n3.weight"][dead] = 1e-6 * state["n3.weight"][dead]
        state["n3.bias"][dead] = 0
    child, weights = pruned(spec, state, PruneFilters("n3", fraction=0.4))
    assert child.shapes["n3"][0] == 3
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-3


def test_doubled_channels_of_a_tied_group() -> None:
    """Every producer of the group and what follows its channels has them twice."""
    spec = tied_net()
    state = uneven_state(spec)
    for name, tensor in state.items():
        if name.split(".")[0] in ("n1", "n2", "n4", "n5", "n8", "n9") and tensor.ndim:
            tensor[[1, 3]] = tensor[[0, 2]]
    x = batch(spec, size=64)
    child, weights = pruned(spec, state, PruneFilters("n8"), size=64)
    assert child.shapes["n10"][0] == 2
    assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-6


def test_only_what_is_behind_changes() -> None:
    spec = tied_net()
    state = uneven_state(spec)
    _, weights = pruned(spec, state, PruneFilters("n7", mode="cheap"), size=64)
    same = [name for name in state if name.split(".")[0] in ("n1", "n2", "n4", "n5", "n13")]
    assert all(weights[name] is state[name] for name in same)
    assert not weights["n8.weight"].equal(state["n8.weight"])


def test_a_depthwise_group_pruned_to_one_channel() -> None:
    spec = tied_net()
    state, x = uneven_state(spec), batch(spec)
    child, weights = pruned(spec, state, PruneFilters("n1", fraction=0.9))
    assert child.shapes["n4"][0] == 1
    assert isinstance(child["n4"].op, Conv2d)
    assert child["n4"].op.groups == 1
    for mutation in (Widen("n1"), Widen("n4", factor=3), AddSkip("n3", "n6"), ConcatSkip("n3", "n6")):
        grown = mutation.rewrite(child)
        again = mutation.transfer(child, weights, grown, x, generator())
        assert difference(outputs(child, weights, x), outputs(grown, again, x)) < 1e-9
    with_one = [site for site in PruneFilters.sites(child) if child.shapes[site[0]][0] == 1]
    assert not with_one


def test_frozen_layers_are_no_sites() -> None:
    spec = graph(
        (Input((4, 6, 6)), []),
        (conv(4), [0]),
        (Add(), [0, 1]),
        (conv(4), [2]),
        (Conv2d(8, (1, 1), groups=2), [3]),
        (BatchNorm2d(), [4]),
        (Flatten(), [5]),
        (Linear(3), [6]),
        (Output(), [7]),
    )
    assert PruneFilters.sites(spec) == []
