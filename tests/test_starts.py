"""Which starting networks a search begins with, and for how many epochs they are trained."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
from quick_searches import SMALL, TooLarge

from lightning_lemonade import LemonadeTrainer, starts, trainer
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import SearchError
from lightning_lemonade.history import History
from lightning_lemonade.module import Training
from lightning_lemonade.search.cost import work
from lightning_lemonade.spaces import ConvNetSpace
from lightning_lemonade.starts import START_SHARE, choose_starts, that_fit, unchosen


def test_starting_networks_take_no_more_than_their_share_of_the_time(tmp_path):
    settings = SMALL | {"max_generations": None, "max_time": "00:00:00:09", "training": Training(epochs=2, initial_epochs=5000)}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    starts = [c for c in History.open(tmp_path / "run").candidates() if not c.generation]
    assert {c.planned for c in starts} == {c.epochs for c in starts}
    assert 2 <= starts[0].planned < 5000


def fitting(room, starts="spanning", slots=1, fixed=0, max_child_time=None, seconds=None, **training):
    """Returns sizes and epochs of the starting networks, where an epoch takes 1, 2, 4 and 8 seconds, or others."""
    settings = LemonadeTrainer(
        max_time=clock(round(room / START_SHARE)),
        max_child_time=max_child_time,
        space=ConvNetSpace(starts=starts),
        training=Training(**training),
    ).settings
    specs = settings.space.initial((1, 8, 8), 10)
    seconds = [1, 2, 4, 8] if seconds is None else seconds
    chosen, epochs = that_fit(settings, specs, lambda spec, epochs: epochs * seconds[specs.index(spec)] + fixed, slots)
    return [specs.index(spec) for spec in chosen], epochs


def clock(seconds):
    return f"00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@pytest.mark.parametrize(
    ("room", "begun"),
    [(900, [0, 3]), (91, [0, 3]), (89, [0, 2]), (81, [0, 2]), (51, [0, 2]), (49, [2]), (41, [2]), (39, [1]), (21, [1]), (19, [0])],
)
def test_of_spanning_networks_the_largest_is_trained_that_fits_with_the_smallest_before_it_or_else_alone(room, begun):
    assert fitting(room, epochs=3, initial_epochs=10) == (begun, 10)


def test_it_may_be_any_smaller_one_with_which_the_smallest_fits():
    assert fitting(60, seconds=[1, 4, 5.5, 5.7], epochs=3, initial_epochs=10) == ([0, 1], 10)


def test_the_largest_that_fits_is_trained_alone_where_the_smallest_takes_more_than_a_third_of_its_time():
    assert fitting(900, seconds=[2.6, 2, 4, 8], epochs=3, initial_epochs=10) == ([0, 3], 10)
    assert fitting(900, seconds=[2.7, 2, 4, 8], epochs=3, initial_epochs=10) == ([3], 10)  # by work, not what luck made the quickest
    assert fitting(900, seconds=[2.5, 2, 4, 8], fixed=2, epochs=3, initial_epochs=10) == ([0, 3], 10)  # though not of 3 epochs


@pytest.mark.parametrize(("slots", "room", "begun"), [(2, 81, [0, 1, 2, 3]), (2, 79, [0, 1, 2]), (64, 81, [0, 1, 2, 3]), (64, 21, [0, 1])])
def test_others_are_trained_beside_it_where_there_is_room(slots, room, begun):
    assert fitting(room, slots=slots, epochs=3, initial_epochs=10) == (begun, 10)


def test_where_none_fits_the_smallest_gets_fewer_epochs_and_so_do_networks_that_were_asked_for():
    assert fitting(8.5, epochs=3, initial_epochs=10) == ([0], 8)
    assert fitting(8.5, fixed=2, epochs=3, initial_epochs=10) == ([0], 6)  # 2 + 6 of 8 seconds
    assert fitting(0.3, epochs=3, initial_epochs=10) == ([0], 3)
    assert fitting(61, starts="paper", epochs=3, initial_epochs=10) == ([0, 1, 2, 3], 4)
    assert fitting(41, starts="paper", slots=64, epochs=3, initial_epochs=10) == ([0, 1, 2, 3], 5)
    assert fitting(8.5, seconds=[3, 1, 2, 4], epochs=3, initial_epochs=10) == ([0], 3)  # the smallest, not what luck made the quickest
    assert fitting(900, max_child_time=clock(45), epochs=3, initial_epochs=10) == ([0, 2], 10)


def chosen_of(room, seconds, failing=(), slots=1, starts="spanning"):
    """Returns which starting networks are chosen, for how many epochs, and which were measured, each in order: numbers by size.

    They are given in another order than that of their sizes.
    """
    settings = LemonadeTrainer(max_time=clock(round(room / START_SHARE)), space=ConvNetSpace(starts=starts)).settings
    specs = sorted(settings.space.initial((3, 32, 32), 10), key=work)
    asked = []

    def measured(spec):
        asked.append(specs.index(spec))
        if asked[-1] in failing:
            raise SearchError("too large")
        return lambda epochs: epochs * seconds(work(spec) / work(specs[0]))

    chosen, epochs = choose_starts(settings, [*specs[1::2], *specs[::2]], measured, slots)
    return [specs.index(spec) for spec in chosen], epochs, asked


@pytest.mark.parametrize(
    ("room", "fits", "asked"),
    [(900, [0, 7], [0, 4, 7]), (100, [0, 6], [0, 4, 6]), (60, [0, 5], [0, 4, 5]), (40, [4], [0, 4]), (20, [2], [0, 4, 2])],
)
def test_of_spanning_networks_only_those_are_measured_that_may_fit(room, fits, asked):
    assert chosen_of(room, lambda work: work) == (fits, 8, asked)


def test_networks_that_all_take_equally_long_all_fit_or_none():
    assert chosen_of(100, lambda work: 10) == ([7], 8, [0, 4, 7])
    assert chosen_of(59, lambda work: 10) == ([0], 5, [0, 4])


def test_where_luck_makes_the_middle_one_quicker_larger_ones_are_not_taken_to_be_quicker_still():
    assert chosen_of(39, lambda work: 10 if work < 3 else 5) == ([0], 3, [0, 4])


def test_what_takes_longer_than_its_work_says_is_found_when_it_is_measured():
    assert chosen_of(145, lambda work: work**1.3) == ([0, 5], 8, [0, 4, 6, 5])


def test_what_cannot_be_measured_is_returned_and_others_take_its_place():
    assert chosen_of(900, lambda work: work, failing=[7]) == ([0, 6, 7], 8, [0, 4, 7, 6])
    assert chosen_of(900, lambda work: work, failing=[0, 4, 7]) == ([0, 1, 4, 6, 7], 8, [0, 4, 1, 2, 7, 6])
    assert chosen_of(900, lambda work: work, failing=range(8)) == ([0, 2, 5, 7], 8, [0, 4, 1, 2, 3, 5, 6, 7])


def test_what_is_trained_beside_the_largest_is_not_measured():
    assert chosen_of(100, lambda work: work, slots=64) == ([*range(7)], 8, [0, 4, 6])


def test_other_starting_networks_are_all_measured():
    chosen, epochs, asked = chosen_of(100, lambda work: 6, starts="strided")
    assert (chosen, epochs, sorted(asked)) == ([1, 3, 0, 2], 4, [0, 1, 2, 3])  # in the order in which they were given


@pytest.mark.parametrize(("starts", "kept"), [("spanning", [0, 2, 5, 7]), ("paper", [0, 1, 2, 3])])
def test_four_are_trained_where_none_is_chosen(starts, kept):
    settings = LemonadeTrainer(space=ConvNetSpace(starts=starts)).settings
    specs = settings.space.initial((3, 32, 32), 10)
    assert unchosen(settings, specs) == [specs[i] for i in kept]
    assert unchosen(settings, specs[:1]) == specs[:1]
    assert unchosen(SimpleNamespace(space=object()), specs) == specs  # a space of a user's own has no name for them


class Proportional(NamedTuple):
    """The pace of a network that takes as many seconds as it has thousands of parameters, for an epoch, and one for a validation."""

    params: int

    def seconds(self, epochs, validations):
        return epochs * self.params / 1000 + validations


@pytest.mark.parametrize(
    ("room", "tasks", "devices", "begun"),
    [
        (39, ["a"], 1, [4630]),
        (37, ["a"], 1, [2665]),  # 8 epochs of 4.6 seconds, and the validation
        (39, ["a", "b"], 1, [1240]),
        (39, ["a"], 2, [1240, 2665, 4630, 7135]),  # what several processes take isn't measured
        (None, ["a"], 1, [1240, 2665, 4630, 7135]),
    ],
)
def test_starting_networks_are_trained_for_all_tasks_and_validated(monkeypatch, room, tasks, devices, begun):
    monkeypatch.setattr(starts, "measure", lambda evaluator, task, spec, where, processes: Proportional(spec.parameter_count))
    budget = {"max_generations": 1} if room is None else {"max_time": clock(round(room / START_SHARE))}
    settings = LemonadeTrainer(algorithm="gain", accelerator="cpu", devices=devices, strategy="ddp", **budget).settings
    specs = settings.space.initial((1, 8, 8), 10)
    chosen, epochs = starts.beginning(settings, SimpleNamespace(tasks=dict.fromkeys(tasks)), specs)
    assert ([spec.parameter_count for spec in chosen], epochs) == (begun, 8)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_starting_networks_left_out_are_not_counted(tmp_path, monkeypatch, asynchronous):
    monkeypatch.setattr(trainer, "beginning", lambda settings, evaluator, specs: (specs[:2], 1))
    small = SMALL | {"space": ConvNetSpace(starts="spanning"), "asynchronous": asynchronous, "run_dir": tmp_path / "run"}
    for generations in (1, 2):  # the second time it goes on
        LemonadeTrainer(**small | {"max_generations": generations}).search(DigitsDataModule())
        found = [c.generation for c in History.open(tmp_path / "run").candidates()]
        assert found == [0, 0, *(generation for generation in range(1, generations + 1) for _ in range(2))]
        assert [g.accepted for g in History.open(tmp_path / "run").generations()] == [2] * (generations + 1)


def test_a_starting_network_that_cannot_be_measured_fails_alone(tmp_path):
    settings = SMALL | {"max_generations": 1, "max_time": "00:01:00:00", "module": TooLarge}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    starts = [c for c in History.open(tmp_path / "run").candidates() if not c.generation]
    assert [c.state for c in starts] == ["evaluated"] * 3 + ["failed"]


def test_a_starting_network_that_cannot_be_measured_does_not_lift_the_limit_of_the_others(tmp_path):
    training = Training(epochs=1, initial_epochs=100_000, polish_epochs=2)
    settings = SMALL | {"max_generations": 1, "max_time": "00:00:00:10", "module": TooLarge, "training": training}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    starts = [c for c in History.open(tmp_path / "run").candidates() if not c.generation]
    assert all(1 <= c.planned < 100_000 for c in starts)
