"""Which starting networks a search begins with, and for how many epochs they are trained."""

import pytest

from lightning_lemonade import LemonadeModule, LemonadeTrainer, trainer
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import SearchError
from lightning_lemonade.history import History
from lightning_lemonade.module import Training
from lightning_lemonade.search.cost import work
from lightning_lemonade.spaces import ConvNetSpace
from lightning_lemonade.starts import START_SHARE, begun, that_fit

SMALL = {
    "algorithm": "paper",
    "max_generations": 4,
    "proposals": 8,
    "accepted": 2,
    "training": Training(epochs=1, initial_epochs=1, polish_epochs=2),
    "calibration_size": 64,
    "limit_train_batches": 5,
    "accelerator": "cpu",
}


def test_starting_networks_take_no_more_than_their_share_of_the_time(tmp_path):
    settings = SMALL | {"max_generations": None, "max_time": "00:00:00:09", "training": Training(epochs=2, initial_epochs=5000)}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    starts = [c for c in History.open(tmp_path / "run").candidates() if not c.generation]
    assert {c.planned for c in starts} == {c.epochs for c in starts}
    assert 2 <= starts[0].planned < 5000


def fitting(room, starts="spanning", slots=1, fixed=0, max_child_time=None, **training):
    """Returns sizes and epochs of the starting networks, where an epoch takes 1, 2, 4 and 8 seconds, and each training some more."""
    settings = LemonadeTrainer(
        max_time=None if room is None else clock(round(room / START_SHARE)),
        max_child_time=max_child_time,
        space=ConvNetSpace(starts=starts),
        training=Training(**training),
    ).settings
    specs = settings.space.initial((1, 8, 8), 10)
    begun, epochs = that_fit(settings, specs, lambda spec, epochs: epochs * 2.0 ** specs.index(spec) + fixed, slots)
    return [specs.index(spec) for spec in begun], epochs


def clock(seconds):
    return f"00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@pytest.mark.parametrize(("room", "begun"), [(900, [3]), (81, [3]), (79, [2]), (41, [2]), (39, [1]), (21, [1]), (19, [0]), (11, [0])])
def test_of_spanning_networks_the_largest_that_fits_is_trained_whole(room, begun):
    assert fitting(room, epochs=3, initial_epochs=10) == (begun, 10)


@pytest.mark.parametrize(("slots", "room", "begun"), [(2, 81, [0, 1, 2, 3]), (2, 79, [0, 1, 2]), (64, 81, [0, 1, 2, 3]), (64, 21, [0, 1])])
def test_others_are_trained_beside_it_where_there_is_room(slots, room, begun):
    assert fitting(room, slots=slots, epochs=3, initial_epochs=10) == (begun, 10)


def test_where_none_fits_the_smallest_gets_fewer_epochs_and_so_do_networks_that_were_asked_for():
    assert fitting(8.5, epochs=3, initial_epochs=10) == ([0], 8)
    assert fitting(8.5, fixed=2, epochs=3, initial_epochs=10) == ([0], 6)  # 2 + 6 of 8 seconds
    assert fitting(0.3, epochs=3, initial_epochs=10) == ([0], 3)
    assert fitting(61, starts="paper", epochs=3, initial_epochs=10) == ([0, 1, 2, 3], 4)
    assert fitting(41, starts="paper", slots=64, epochs=3, initial_epochs=10) == ([0, 1, 2, 3], 5)
    assert fitting(None, epochs=3, initial_epochs=10) == ([0, 1, 2, 3], 10)
    assert fitting(900, max_child_time=clock(45), epochs=3, initial_epochs=10) == ([2], 10)


def measuring(room, seconds, failing=(), slots=1):
    """Returns which of eight spanning networks are begun with, for how many epochs, and which were measured, in order."""
    settings = LemonadeTrainer(max_time=clock(round(room / START_SHARE)), space=ConvNetSpace(starts="spanning")).settings
    specs, asked = settings.space.initial((3, 32, 32), 10), []

    def measured(spec):
        asked.append(specs.index(spec))
        if asked[-1] in failing:
            raise SearchError("too large")
        return lambda epochs: epochs * seconds(work(spec) / work(specs[0]))

    chosen, epochs = begun(settings, specs, measured, slots)
    return [specs.index(spec) for spec in chosen], epochs, asked


@pytest.mark.parametrize(
    ("room", "fitting", "asked"), [(900, 7, [0, 4, 7]), (100, 6, [0, 4, 6]), (60, 5, [0, 4, 5]), (40, 4, [0, 4]), (20, 2, [0, 4, 2])]
)
def test_of_spanning_networks_only_those_are_measured_that_may_fit(room, fitting, asked):
    assert measuring(room, lambda work: work) == ([fitting], 8, asked)


def test_networks_that_all_take_equally_long_all_fit_or_none():
    assert measuring(100, lambda work: 10) == ([7], 8, [0, 4, 7])
    assert measuring(59, lambda work: 10) == ([0], 5, [0, 4])


def test_what_takes_longer_than_its_work_says_is_found_when_it_is_measured():
    assert measuring(130, lambda work: work**1.3) == ([5], 8, [0, 4, 6, 5])


def test_what_cannot_be_measured_is_returned_and_others_take_its_place():
    assert measuring(900, lambda work: work, failing=[7]) == ([6, 7], 8, [0, 4, 7, 6])
    assert measuring(900, lambda work: work, failing=[0, 4, 7]) == ([0, 4, 6, 7], 8, [0, 4, 1, 2, 7, 6])
    assert measuring(900, lambda work: work, failing=range(8)) == ([*range(8)], 8, [0, 4, 1, 2, 3, 5, 6, 7])


def test_what_is_trained_beside_the_largest_is_not_measured():
    assert measuring(100, lambda work: work, slots=64) == ([*range(7)], 8, [0, 4, 6])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_starting_networks_left_out_are_not_counted(tmp_path, monkeypatch, asynchronous):
    monkeypatch.setattr(trainer, "beginning", lambda settings, evaluator, specs: (specs[:2], 1))
    small = SMALL | {"space": ConvNetSpace(starts="spanning"), "asynchronous": asynchronous, "run_dir": tmp_path / "run"}
    for generations in (1, 2):  # the second time it goes on
        LemonadeTrainer(**small | {"max_generations": generations}).search(DigitsDataModule())
        found = [c.generation for c in History.open(tmp_path / "run").candidates()]
        assert found == [0, 0, *(generation for generation in range(1, generations + 1) for _ in range(2))]
        assert [g.accepted for g in History.open(tmp_path / "run").generations()] == [2] * (generations + 1)


class TooLarge(LemonadeModule):
    def training_step(self, batch, batch_idx):
        if self.spec.parameter_count > 9000:
            raise RuntimeError("too large")
        return super().training_step(batch, batch_idx)


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
