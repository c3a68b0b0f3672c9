from dataclasses import replace

import numpy as np
import pytest

from lightning_lemonade.search import GainSampling, Knowledge, Member, Proposal, gain
from lightning_lemonade.search.gain import FEWEST_FAMILIES, PRIOR, ChangeModel
from lightning_lemonade.spaces import strided_net

BOUNDS = {"error": (0.0, 0.9), "params": (1e2, 1e6)}


def member(number, width, error, epochs=3):
    spec = strided_net((1, 28, 28), 10, width)
    return Member(number, spec, {"error": error, "params": float(spec.parameter_count)}, epochs)


def proposal(parent, width):
    spec = strided_net((1, 28, 28), 10, width)
    return Proposal(spec, 1, parent.id, (), {"params": float(spec.parameter_count)})


def fitted(population, families=()):
    return GainSampling().fit(Knowledge(population, list(families), ("params",), ("error", "params"), BOUNDS, 3))


def families(count, change):
    """Children whose error is `change(factor)` times their parent's, where `factor` is what their width is multiplied with."""
    made = []
    for i in range(count):
        parent, factor = member(2 * i, 8 + i % 4, 0.2 + 0.01 * (i % 3)), (0.5, 1, 2)[i % 3]
        child = member(2 * i + 1, int((8 + i % 4) * factor), parent.values["error"] * change(factor), epochs=6)
        made.append((parent.outline, child.outline))
    return made


def test_the_model_learns_what_widening_does():
    model = ChangeModel(families(30, lambda factor: 0.9 / factor**0.3), "error", (0.0, 0.9))
    parent = member(0, 9, 0.2)
    (shrunk, kept, grown), spread = model.predict([parent] * 3, [member(0, width, 0).spec for width in (5, 9, 18)], [3] * 3)
    assert grown < kept < shrunk
    assert grown == pytest.approx(0.2 * 0.9 / 2**0.3, rel=0.1)
    assert (spread > 0).all()


def test_without_enough_families_the_model_is_a_prior():
    model = ChangeModel(families(FEWEST_FAMILIES - 1, lambda _: 0.5), "error", (0.0, 0.9))
    mean, spread = model.predict([member(0, 9, 0.2)], [member(0, 18, 0).spec], [3])
    assert mean == pytest.approx([0.2 * (1 + PRIOR[0])])
    assert spread == pytest.approx([0.2 * PRIOR[1]])


def test_of_two_proposals_with_equal_gain_the_cheaper_one_is_accepted():
    parent = member(0, 16, 0.3)
    cheap = proposal(parent, 15)
    dear = replace(cheap, spec=strided_net((1, 56, 56), 10, 15))  # the same parameters, four times the work
    assert dear.spec.parameter_count == cheap.spec.parameter_count
    assert fitted([parent]).accept([dear, cheap], 1, np.random.default_rng(0)) == [1]


def test_where_the_front_is_weak_a_proposal_gains_more():
    weak, strong = member(0, 8, 0.5), member(1, 32, 0.1)
    rng = np.random.default_rng(0)
    assert fitted([weak, strong]).accept([proposal(strong, 31), proposal(weak, 9)], 1, rng) == [1]


def test_a_second_child_counts_the_first_as_if_it_were_there(monkeypatch):
    """Twins whose values are certain gain nothing beside each other, so that the second choice is another network."""
    monkeypatch.setattr(gain, "PRIOR", (-0.1, 0.0))
    weak, strong = member(0, 8, 0.5), member(1, 32, 0.3)
    twins_and_another = [proposal(weak, 9), proposal(weak, 9), proposal(strong, 30)]
    assert sorted(fitted([weak, strong]).accept(twins_and_another, 2, np.random.default_rng(0))) in ([0, 2], [1, 2])


def test_no_proposals_give_no_children():
    assert fitted([member(0, 8, 0.5)]).accept([], 3, np.random.default_rng(0)) == []
    assert len(fitted([member(0, 8, 0.5)]).accept([proposal(member(0, 8, 0.5), 9)], 3, np.random.default_rng(0))) == 1


def test_one_parent_without_any_error_does_not_spoil_the_model():
    ordinary = families(30, lambda factor: 0.9 / factor**0.3)
    perfect = (member(98, 8, 0.0).outline, member(99, 8, 0.02, epochs=6).outline)
    model = ChangeModel([*ordinary, perfect], "error", BOUNDS["error"])
    parent = member(0, 9, 0.2)
    (shrunk, kept, grown), spread = model.predict([parent] * 3, [member(0, width, 0).spec for width in (5, 9, 18)], [3] * 3)
    assert grown < kept < shrunk
    assert spread.max() < 0.2


def test_where_nothing_gains_chance_decides():
    outside = member(0, 8, 5.0)
    proposals = [proposal(outside, width) for width in range(4, 12)]
    chosen = {fitted([outside]).accept(proposals, 1, np.random.default_rng(seed))[0] for seed in range(20)}
    assert len(chosen) > 3
