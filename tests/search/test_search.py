from dataclasses import replace
from math import inf

import pytest

from lightning_lemonade.errors import ConfigurationError, SearchError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.search import (
    DensitySampling,
    Failure,
    GainSampling,
    Limits,
    Measurement,
    Member,
    NonDominatedSurvival,
    Outcome,
    Room,
    Search,
    TaskResult,
    UniformSampling,
    derived_rng,
    derived_seed,
)
from lightning_lemonade.search.candidate import Expected
from lightning_lemonade.spaces import ConvNetSpace

SPACE = ConvNetSpace()
STARTS = SPACE.initial((1, 8, 8), 10)


def make_search(limits=None, proposals=12, sampling=None, inherits=True, timed=False, epochs=3, tasks=1):
    return Search(
        space=SPACE,
        objectives={"params": lambda spec: float(spec.parameter_count)},
        keys=["error", "params"],
        limits=Limits.parse(limits),
        sampling=sampling or DensitySampling(),
        survival=NonDominatedSurvival(),
        proposals=proposals,
        bounds={"error": (0.0, 0.9), "params": (1e2, 1e6)},
        epochs=epochs,
        tasks=tasks,
        inherits=inherits,
        timed=timed,
    )


def evaluated(child, error):
    values = {"error": Measurement(error), "params": Measurement(float(child.spec.parameter_count))}
    return Outcome(child.id, values)


def started(**settings):
    search = make_search(**settings)
    children = search.start(STARTS).children
    search.tell(evaluated(child, 1.0 / (2 + child.id)) for child in children)
    return search


def test_larger_and_better_networks_all_survive():
    search = started()
    assert [member.id for member in search.population] == [0, 1, 2, 3]
    assert 0 < search.hypervolume < 1


def test_a_dominated_child_goes_and_a_dominating_one_replaces():
    search = started()
    child = search.ask(derived_rng(0, "ask", 1), 1, 1).children[0]
    assert not search.tell([evaluated(child, 0.95)]) or child.spec.parameter_count < STARTS[0].parameter_count
    child = search.ask(derived_rng(0, "ask", 2), 1, 2).children[0]
    assert search.tell([evaluated(child, 0.0)])
    assert all(m.id == child.id or m.values["params"] < child.spec.parameter_count for m in search.population)


def test_a_full_set_of_proposals_is_made_from_a_population_of_four():
    asked = started(proposals=24).ask(derived_rng(0, "ask", 1), 6, 1)
    assert asked.proposed == 24
    assert len(asked.children) == 6


def test_the_same_seed_asks_the_same():
    first, second = (started().ask(derived_rng(3, "ask", 1), 5, 1).children for _ in range(2))
    assert first == second


def test_an_accepted_architecture_is_never_accepted_again():
    search = started()
    for generation in range(1, 6):
        children = search.ask(derived_rng(0, "ask", generation), 6, generation).children
        search.tell(evaluated(child, 0.01 * (child.id % 7)) for child in children)
    hashes = [spec.structural_hash for spec in STARTS]
    assert len(search._seen) == search._next_id >= len(hashes)


def test_children_outside_the_limits_are_not_proposed():
    search = started(limits={"params": (400, 12_000)})
    children = search.ask(derived_rng(0, "ask", 1), 12, 1).children
    assert children
    assert all(400 <= child.spec.parameter_count <= 12_000 for child in children)


def test_limits_that_no_child_meets_give_no_children():
    search = started()
    search.limits = Limits.parse({"params": (1, 2)})
    assert search.ask(derived_rng(0, "ask", 1), 4, 1).children == ()


def test_a_failed_child_is_not_in_the_population_and_frees_its_place():
    search = started()
    child = search.ask(derived_rng(0, "ask", 1), 1, 1).children[0]
    assert child.id in search.in_flight
    assert not search.tell([Outcome(child.id, failure=Failure("exception", "boom"))])
    assert not search.in_flight


def test_children_carry_their_lineage():
    search = started()
    for child in search.ask(derived_rng(1, "ask", 1), 8, 1).children:
        spec = STARTS[child.parent]
        for mutation in child.mutations:
            spec = mutation.rewrite(spec)
        assert spec == child.spec
        assert 1 <= len(child.mutations) <= 3


def test_each_member_is_trained_on_once_for_each_length_and_for_one_at_a_time():
    search = started(sampling=GainSampling(), proposals=1, timed=True)
    done = []
    for generation in range(1, 9):
        children = [child for child in search.ask(derived_rng(0, "ask", generation), 5, generation).children if not child.mutations]
        assert all(child.spec == search.members[child.parent].spec for child in children)
        assert len({child.parent for child in children}) == len(children)
        again = search.ask(derived_rng(1, "ask", generation), 5, generation).children
        assert {child.parent for child in children}.isdisjoint(child.parent for child in again if not child.mutations)
        children += [child for child in again if not child.mutations]
        done += [(child.parent, child.epochs) for child in children]
        search.tell(evaluated(child, 0.9) for child in [*search.in_flight.values()])
    assert len(set(done)) == len(done)
    assert {(parent, epochs) for parent in range(4) for epochs in (None, 9)} <= set(done)


class Lengths(UniformSampling):
    """Uniform choice, with what it says of how long children are trained."""

    def __init__(self, lengths, *, continues=False):
        self.lengths, self.continues = lengths, continues


def test_where_times_are_known_children_are_proposed_for_each_length_and_accepted_for_one():
    def asked(**settings):
        return started(sampling=Lengths((1, 3), continues=True), proposals=16, **settings).ask(derived_rng(0, "ask", 1), 12, 1)

    assert asked(timed=True).proposed == 16 + 4  # each counts once
    assert {child.epochs for child in asked(timed=True).children} == {None, 9}
    assert len({child.kinship for child in asked(timed=True).children}) == len(asked(timed=True).children)
    assert {child.epochs for child in asked(timed=True, epochs=6, tasks=2).children} == {None, 9}  # for each of the two tasks
    assert {child.epochs for child in asked(timed=False).children} == {None}
    assert {child.epochs for child in asked(timed=True, inherits=False).children} == {None}


@pytest.mark.parametrize("lengths", [(), (0,), (-1, 1), (1, 1), (1, 2.5), (True,)])
def test_lengths_that_are_none_are_told(lengths):
    with pytest.raises(ConfigurationError, match=r"Lengths\.lengths must be distinct whole numbers of at least 1, got \("):
        make_search(sampling=Lengths(lengths), timed=True)


def test_the_choice_of_lengths_doesnt_depend_on_which_objects_architectures_are():
    """A member and what came of training it on share their architecture, as one object until a search is resumed."""

    def asked(restored):
        search = started(sampling=GainSampling(), proposals=1, timed=True)
        size = float(STARTS[0].parameter_count)
        twins = [Member(90 + i, STARTS[0], {"error": 0.5 - 0.01 * i, "params": size}, 3 + 3 * i) for i in range(2)]
        if restored:
            twins = [replace(twin, spec=GraphSpec.from_dict(twin.spec.to_dict())) for twin in twins]
        search.population = twins
        search.members |= {twin.id: twin for twin in twins}
        return [(child.parent, child.epochs) for child in search.ask(derived_rng(0, "ask", 1), 6, 1).children if not child.mutations]

    assert asked(True) == asked(False)
    assert {parent for parent, _ in asked(False)} == {90, 91}


def test_without_inheritance_no_member_is_trained_on_and_epochs_are_a_childs_own():
    search = started(sampling=GainSampling(), inherits=False)
    children = search.ask(derived_rng(0, "ask", 1), 12, 1).children
    assert all(child.mutations for child in children)
    task = TaskResult(None, {}, 3, 100)
    search.tell(replace(evaluated(child, 0.1), tasks={"": task}) for child in children)
    asked = {child.id for child in children}
    assert {member.epochs for member in search.population if member.id in asked} == {3}


def took(child, error, seconds_a_mac):
    """The child's evaluation, whose training of 3 epochs took time in proportion to its multiply-adds."""
    fit = 3 * seconds_a_mac * child.spec.macs
    return replace(evaluated(child, error), tasks={"": TaskResult(None, {}, 3, 100)}, seconds={"fit": fit, "validate": 0.1})


def test_children_that_there_is_no_time_for_give_way_to_cheaper_ones():
    def begun():
        search = make_search(sampling=GainSampling(), timed=True, proposals=24)
        search.tell(took(child, 0.5 / (1 + child.id), 1e-5) for child in search.start(STARTS).children)
        search.tell(took(child, 0.3, 1e-5) for child in search.ask(derived_rng(0, "ask", 1), 2, 1).children)
        return search

    cheaper = 0
    for seed in range(5):
        (free,) = begun().ask(derived_rng(seed, "ask", 2), 1, 2).children
        (least,) = begun().ask(derived_rng(seed, "ask", 2), 1, 2, room=Room(0.0, 0.0)).children
        room = Room((least.expected.seconds + free.expected.seconds) / 2, inf)
        (bounded,) = begun().ask(derived_rng(seed, "ask", 2), 1, 2, room=room).children
        assert least.expected.seconds <= bounded.expected.seconds <= room.each
        cheaper += bounded.expected.seconds < free.expected.seconds
        together = begun().ask(derived_rng(seed, "ask", 2), 4, 2, room=Room(inf, 2 * free.expected.seconds)).children
        assert len(together) >= 1
        assert sum(child.expected.seconds for child in together) <= 2 * free.expected.seconds
    assert cheaper > 2


def test_seconds_are_expected_of_the_whole_evaluation():
    search = make_search(sampling=GainSampling(), timed=True)
    search.tell(took(child, 0.5 / (1 + child.id), 1e-9) for child in search.start(STARTS).children)
    search.tell(took(child, 0.3, 1e-9) for child in search.ask(derived_rng(0, "ask", 1), 2, 1).children)
    assert search.ask(derived_rng(0, "ask", 2), 1, 2).children[0].expected.seconds == pytest.approx(0.1, rel=0.1)


def test_what_a_look_takes_is_known_from_children_that_were_left_as_they_began():
    search = make_search(sampling=GainSampling(), timed=True)
    search.tell(took(child, 0.5 / (1 + child.id), 1e-9) for child in search.start(STARTS).children)
    trained, left = search.ask(derived_rng(0, "ask", 1), 2, 1).children
    assert (search._knowledge().overhead, search._knowledge().look) == (0.0, 0.0)
    search.tell([replace(took(trained, 0.3, 1e-9), seconds={"inherit": 2.0, "fit": 5.0, "validate": 1.0})])
    assert (search._knowledge().overhead, search._knowledge().look) == (3.0, 3.0)  # as far as is known
    search.in_flight[left.id] = replace(left, expected=Expected(worst_start=0.5))
    looked = TaskResult(0.8, {}, 0, 0)
    search.tell([replace(evaluated(left, 0.8), tasks={"": looked}, seconds={"inherit": 1.0, "validate": 0.5})])
    assert (search._knowledge().overhead, search._knowledge().look) == (3.0, 1.5)
    assert left.id not in [member.id for member in search.population]


def test_only_what_children_may_inherit_from_is_remembered():
    search = started()
    first = search.ask(derived_rng(0, "ask", 1), 4, 1).children
    search.tell(evaluated(child, 0.0001) for child in first[:1])
    assert set(search.members) == {member.id for member in search.population} | {child.parent for child in first[1:]}
    search.tell(evaluated(child, 0.9) for child in first[1:])
    assert set(search.members) == {member.id for member in search.population}


def test_adopted_children_are_as_accepted_ones():
    one, other = started(), started()
    children = one.ask(derived_rng(0, "ask", 1), 4, 1).children
    other.adopt(children)
    for search in (one, other):
        search.tell(evaluated(child, 0.1 + 0.01 * child.id) for child in children)
    assert one.population == other.population
    assert one.ask(derived_rng(0, "ask", 2), 4, 2) == other.ask(derived_rng(0, "ask", 2), 4, 2)
    with pytest.raises(SearchError, match="candidate 4 can't follow"):
        other.adopt(children)


def test_asking_an_empty_population_is_an_error():
    with pytest.raises(SearchError, match="empty"):
        make_search().ask(derived_rng(0, "ask", 1), 1, 1)


@pytest.mark.parametrize("bad", [{"params": "many"}, {"params": (1, 2, 3)}, {"params": (5, 1)}])
def test_malformed_limits_are_named(bad):
    with pytest.raises(ConfigurationError, match="params"):
        Limits.parse(bad)


def test_derived_seeds_differ_by_purpose_and_stay_the_same():
    seeds = {derived_seed(0, "fit", i) for i in range(100)} | {derived_seed(0, "ask", i) for i in range(100)}
    assert len(seeds) == 200
    assert derived_seed(0, "fit", 1) == derived_seed(0, "fit", 1)
