import pytest

from lightning_lemonade import LemonadeModule, LemonadeTrainer
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.history import History
from lightning_lemonade.module import Training

SMALL = {
    "max_generations": 4,
    "proposals": 8,
    "accepted": 2,
    "training": Training(epochs=1, initial_epochs=1, polish_epochs=2),
    "calibration_size": 64,
    "limit_train_batches": 5,
    "accelerator": "cpu",
}


def planned(run):
    return [(c.generation, c.planned, c.epochs, bool(c.mutations)) for c in History.open(run).candidates() if c.generation]


def test_the_last_part_of_a_search_trains_its_front_on(tmp_path):
    LemonadeTrainer(run_dir=tmp_path / "run", polish=0.5, **SMALL).search(DigitsDataModule())
    found = planned(tmp_path / "run")
    assert [generation for generation, *_ in found] == [1, 1, 2, 2, 3, 3, 4, 4]
    bred, polished = (None, 1, True), (2, 2, False)
    assert {tuple(kind) for generation, *kind in found if generation <= 2} == {bred}
    late = {tuple(kind) for generation, *kind in found if generation > 2}
    assert {polished} <= late <= {polished, bred}  # children where the front has fewer members than a generation
    fronts = [set(generation.front) for generation in History.open(tmp_path / "run").generations()]
    polished = [c for c in History.open(tmp_path / "run").candidates() if c.planned]
    assert all(c.parent in fronts[c.generation - 1] for c in polished)
    assert len({c.parent for c in polished}) == len(polished)
    assert all(c.expected.values["error"].spread > 0 and c.expected.seconds is None for c in polished)


def test_a_search_that_is_bounded_by_time_expects_seconds(tmp_path):
    settings = SMALL | {"max_time": "00:01:00:00", "sampling": "gain", "polish": 0.5}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    children = [c for c in History.open(tmp_path / "run").candidates() if c.generation]
    assert {c.planned for c in children} == {None, 2}
    assert all(c.expected.seconds > 0 for c in children)


def test_a_finished_run_can_be_polished_and_goes_on_afterwards(tmp_path):
    run = tmp_path / "run"
    trainer = LemonadeTrainer(run_dir=run, **SMALL)
    trainer.search(DigitsDataModule())
    before = History.open(run)
    config, generations = before.config, before.generations()
    front = trainer.polish(DigitsDataModule(), max_time="00:00:00:02")
    after = History.open(run)
    added = [c for c in after.candidates() if c.generation >= len(generations)]
    assert added
    assert all(c.planned == 2 and not c.mutations for c in added)
    assert after.generations()[-1].hypervolume >= generations[-1].hypervolume
    assert after.config == config
    assert {candidate.id for candidate in front} == set(after.generations()[-1].front)
    count = len(after.generations())
    LemonadeTrainer(run_dir=run, **SMALL | {"max_generations": count}).search(DigitsDataModule())
    assert [c.planned for c in History.open(run).candidates() if c.generation == count] == [None, None]


@pytest.mark.parametrize(
    ("settings", "text"),
    [({}, "give the directory of a search"), ({"inherit": False}, "nothing is trained on"), ({"run_dir": None}, "run_dir is None")],
)
def test_what_cannot_be_polished_is_told(tmp_path, settings, text):
    if "inherit" in settings:
        LemonadeTrainer(run_dir=tmp_path / "run", **SMALL | settings | {"max_generations": 1}).search(DigitsDataModule())
    with pytest.raises(ConfigurationError, match=text):
        LemonadeTrainer(**{"run_dir": tmp_path / "run"} | SMALL | settings).polish(DigitsDataModule(), max_time="00:00:00:02")


@pytest.mark.parametrize("share", [1, -0.1, True, "half"])
def test_a_share_that_is_none_is_told(share):
    with pytest.raises(ConfigurationError, match="polish must be a share of the budget"):
        LemonadeTrainer(polish=share)


def test_starting_networks_take_no_more_than_their_share_of_the_time(tmp_path):
    settings = SMALL | {"max_generations": None, "max_time": "00:00:00:09", "training": Training(epochs=2, initial_epochs=5000)}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    starts = [c for c in History.open(tmp_path / "run").candidates() if not c.generation]
    assert {c.planned for c in starts} == {c.epochs for c in starts}
    assert 2 <= starts[0].planned < 5000


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
