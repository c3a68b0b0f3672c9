from dataclasses import replace

import numpy as np
import pytest

from lightning_lemonade.morphisms import PruneFilters
from lightning_lemonade.search import GainSampling, Knowledge, Member, Proposal, gain
from lightning_lemonade.search.gain import FEWEST_FAMILIES, PRIOR, PRIOR_OF_SHRINKING, PRIOR_SPREADS, ChangeModel
from lightning_lemonade.spaces import strided_net

BOUNDS = {"error": (0.0, 0.9), "params": (1e2, 1e6)}


def member(number, width, error, epochs=3):
    spec = strided_net((1, 28, 28), 10, width)
    return Member(number, spec, {"error": error, "params": float(spec.parameter_count)}, epochs)


def proposal(parent, width, *, exact=False):
    spec = strided_net((1, 28, 28), 10, width)
    return Proposal(spec, 1, parent.id, () if exact else (PruneFilters("n1"),), {"params": float(spec.parameter_count)})


def fitted(population, families=()):
    return GainSampling().fit(Knowledge(population, list(families), ("params",), ("error", "params"), BOUNDS, 3))


def predicted(model, parent, children, epochs=None):
    return model.predict(
        [parent] * len(children), [child.spec for child in children], [child.exact for child in children], epochs or [3] * len(children)
    )


def families(count, change, *, exact=False):
    """Children whose error is `change(factor)` times their parent's, where `factor` is what their width is multiplied with."""
    made = []
    for i in range(count):
        parent, factor = member(2 * i, 8 + i % 4, 0.2 + 0.01 * (i % 3)), (0.5, 1, 2)[i % 3]
        child = member(2 * i + 1, int((8 + i % 4) * factor), parent.values["error"] * change(factor), epochs=6)
        made.append((parent.outline, replace(child.outline, exact=exact)))
    return made


def test_the_model_learns_what_widening_does():
    model = ChangeModel(families(30, lambda factor: 0.9 / factor**0.3), "error", (0.0, 0.9))
    parent = member(0, 9, 0.2)
    (shrunk, kept, grown), spread = predicted(model, parent, [proposal(parent, width) for width in (5, 9, 18)])
    assert grown < kept < shrunk
    assert grown == pytest.approx(0.2 * 0.9 / 2**0.3, rel=0.1)
    assert (spread > 0).all()


def test_without_families_the_model_is_a_prior():
    model = ChangeModel([], "error", (0.0, 0.9))
    parent = member(0, 9, 0.2)
    children = [proposal(parent, 18), proposal(parent, 4), proposal(parent, 9, exact=True)]
    mean, spread = predicted(model, parent, children, [3, 3, 1])
    lost = np.log(parent.spec.parameter_count / children[1].spec.parameter_count)
    changes = np.array([PRIOR, PRIOR + PRIOR_OF_SHRINKING * lost, -((1 / 4) ** 2)])
    assert mean == pytest.approx(0.2 * (1 + changes))
    assert spread == pytest.approx([0.2 * PRIOR_SPREADS[False]] * 2 + [0.2 * PRIOR_SPREADS[True]])


@pytest.mark.parametrize("exact", [True, False])
def test_the_prior_gives_way_family_by_family(exact):
    parent = member(0, 9, 0.2, 6)
    before = 0.0
    for count in (0, 1, FEWEST_FAMILIES - 1, 40):
        worse = [(parent.outline, replace(member(1, 9, 0.24, 9).outline, exact=exact))] * count
        mean, spread = predicted(ChangeModel(worse, "error", BOUNDS["error"]), parent, [proposal(parent, 9, exact=exact)])
        assert mean[0] > before
        before = mean[0]
    assert mean[0] == pytest.approx(0.24, abs=0.002)
    assert spread[0] < 0.2 * PRIOR_SPREADS[exact]


def test_what_begins_as_its_parent_is_learnt_apart_and_is_less_uncertain():
    rng = np.random.default_rng(0)
    wild = families(30, lambda factor: factor**-0.3 * rng.uniform(0.8, 1.3))
    model = ChangeModel([*wild, *families(30, lambda _: rng.uniform(0.97, 0.98), exact=True)], "error", BOUNDS["error"])
    parent = member(0, 9, 0.2)
    mean, spread = predicted(model, parent, [proposal(parent, 9, exact=True), proposal(parent, 5)])
    assert mean[0] == pytest.approx(0.2 * 0.975, rel=0.01)
    assert spread[1] > 5 * spread[0]


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
    monkeypatch.setattr(gain, "PRIOR_SPREADS", {True: 0.0, False: 0.0})
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
    (shrunk, kept, grown), spread = predicted(model, parent, [proposal(parent, width) for width in (5, 9, 18)])
    assert grown < kept < shrunk
    assert spread.max() < 0.2


def test_a_child_that_was_ruined_does_not_spoil_the_model():
    ordinary = families(30, lambda factor: 0.9 / factor**0.3)
    ruined = (member(98, 9, 0.2).outline, member(99, 18, 0.9, epochs=6).outline)
    with_it, without = (ChangeModel(known, "error", BOUNDS["error"]) for known in ([*ordinary, ruined], ordinary))
    parent = member(0, 9, 0.2)
    (worse,), _ = predicted(with_it, parent, [proposal(parent, 18)])
    (right,), _ = predicted(without, parent, [proposal(parent, 18)])
    assert worse - right < 0.02


def test_parents_are_drawn_most_where_there_are_few():
    crowd, alone = [member(i, 8, 0.5) for i in range(6)], [member(6 + i, 20 + 10 * i, 0.3) for i in range(2)]
    weights = fitted([*crowd, *alone]).parents()
    assert weights[6:].min() > weights[:6].max()


def test_where_nothing_gains_chance_decides():
    outside = member(0, 8, 5.0)
    proposals = [proposal(outside, width) for width in range(4, 12)]
    chosen = {fitted([outside]).accept(proposals, 1, np.random.default_rng(seed))[0] for seed in range(20)}
    assert len(chosen) > 3
