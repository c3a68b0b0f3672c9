"""Backward elimination: the downdates are right, and the channels that can be spared go."""

import itertools

import pytest
import torch
from morphisms.helpers import concat_net, generator, plain_net, uneven_state

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import choice
from lightning_lemonade.morphisms.choice import Reader, ReaderMaker, eliminated
from lightning_lemonade.morphisms.solve import observe

torch.set_num_threads(1)
CHANNELS, TAPS, OUTPUTS = 6, 2, 5


def system(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A Gram matrix (unknowns, unknowns) and weights (unknowns, outputs)."""
    draws = generator(seed)
    x = torch.randn(60, CHANNELS * TAPS, generator=draws, dtype=torch.float64)
    x = x @ torch.randn(CHANNELS * TAPS, CHANNELS * TAPS, generator=draws, dtype=torch.float64)
    return x.T @ x, torch.randn(CHANNELS * TAPS, OUTPUTS, generator=draws, dtype=torch.float64)


def left(gram: torch.Tensor, weight: torch.Tensor, channels: tuple[int, ...]) -> float:
    """What can't be reconstructed without some channels, by plain least squares."""
    gone = [c * TAPS + t for c in channels for t in range(TAPS)]
    kept = [i for i in range(len(gram)) if i not in gone]
    schur = gram[gone][:, gone] - gram[gone][:, kept] @ torch.linalg.solve(gram[kept][:, kept], gram[kept][:, gone])
    return float((weight[gone] * (schur @ weight[gone])).sum())


def reader(seed: int) -> Reader:
    gram, weight = system(seed)
    return Reader(gram.inverse(), weight @ weight.T, {0: torch.arange(CHANNELS * TAPS).reshape(CHANNELS, TAPS)})


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_those_of_least_squares_after_every_removal(seed: int) -> None:
    gram, weight = system(seed)
    made, total = reader(seed), 0.0
    for gone in ((), (2,), (2, 5), (2, 5, 0)):
        if gone:
            made.remove(0, gone[-1])
        total = left(gram, weight, gone) if gone else 0.0
        alive = torch.tensor([c for c in range(CHANNELS) if c not in gone])
        expected = [left(gram, weight, (*gone, int(c))) - total for c in alive]
        assert torch.allclose(made.losses(0, alive), torch.tensor(expected, dtype=torch.float64), rtol=1e-6)


def test_elimination_is_greedy_over_all_readers() -> None:
    parts = [system(seed) for seed in (0, 1)]
    kept = eliminated([reader(0), reader(1)], {0: (CHANNELS, 4)})[0]
    first = min(range(CHANNELS), key=lambda c: sum(left(*part, (c,)) for part in parts))
    pairs = [pair for pair in itertools.permutations(range(CHANNELS), 2) if pair[0] == first]
    best = min(pairs, key=lambda pair: sum(left(*part, pair) for part in parts))
    assert kept.tolist() == [c for c in range(CHANNELS) if c not in best]


def made(spec: GraphSpec, node: str, groups: tuple[int, ...], size: int = 200) -> Reader:
    state = uneven_state(spec)
    maker = ReaderMaker(spec, state, node, groups)
    x = torch.randn(size, *spec.input_shape, generator=generator(), dtype=torch.float64)
    observe(spec, state, spec, x, [node], generator(), {node: maker})
    assert maker.made is not None
    return maker.made


def test_unknowns_of_a_group_that_stands_twice() -> None:
    spec = concat_net()
    group = spec.channels.groups_of("n1")[0]
    found = made(spec, "n9", (group,)).unknowns[group]
    assert found.shape == (4, 18)
    assert found[1].tolist() == [*range(9, 18), *range(72, 81)]


@pytest.mark.parametrize("shared", [True, False])
def test_a_flatten_shares_its_positions_where_rows_are_few(shared: bool) -> None:
    spec = plain_net()
    group = spec.channels.groups_of("n8")[0]
    found = made(spec, "n12", (group,), 24 if shared else 400)
    assert len(found.inverse) == (5 if shared else 45)
    assert found.unknowns[group].shape == (5, 1 if shared else 9)


def test_large_readers_share_their_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = plain_net()
    group = spec.channels.groups_of("n1")[0]
    assert len(made(spec, "n4", (group,)).inverse) == 36
    monkeypatch.setattr(choice, "MOST_UNKNOWNS", 35)
    assert len(made(spec, "n4", (group,)).inverse) == 4
