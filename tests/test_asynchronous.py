"""A search that is told of each child as it comes."""

import sqlite3
from collections import deque

import pytest
from events import Events

from lightning_lemonade import InlineExecutor, LemonadeModule, LemonadeTrainer, SearchCallback
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import HistoryError, SearchError
from lightning_lemonade.history import DATABASE, History
from lightning_lemonade.spaces import ConvNetSpace

TINY = {
    "algorithm": "paper",
    "max_generations": 3,
    "proposals": 6,
    "accepted": 2,
    "epochs": 1,
    "initial_epochs": 1,
    "calibration_size": 64,
    "threads_per_child": 1,
    "limit_train_batches": 4,
    "accelerator": "cpu",
    "asynchronous": True,
}


def search(run_dir, executor="inline", **settings):
    return LemonadeTrainer(run_dir=run_dir, executor=executor, **TINY | settings).search(DigitsDataModule())


class Shuffled(InlineExecutor):
    """Works on three children at a time, and gives back the last one first: as slow and fast workers would."""

    slots = 3

    def __init__(self):
        super().__init__()
        self.most = 0
        self._done = deque()

    def next(self):
        self.most = max(self.most, len(self._requests) + len(self._done))
        while self._requests:
            self._done.append(super().next())
        return self._done.pop()


class Prompt(Shuffled):
    """The same, and says what is there already."""

    @property
    def ready(self):
        return bool(self._done)


class Barren(ConvNetSpace):
    def mutate(self, spec, rng):
        return None


class Failing(LemonadeModule):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("never")


class Interrupt(SearchCallback):
    def __init__(self, ends):
        self.left = ends

    def on_candidate_end(self, search, candidate):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    search(run)
    return History.open(run)


def test_every_child_of_the_budget_is_evaluated_and_counted_once(whole):
    candidates, generations = whole.candidates(), whole.generations()
    starts = sum(candidate.parent is None for candidate in candidates)
    assert len(candidates) == starts + 3 * 2
    assert [generation.accepted for generation in generations] == [starts, 2, 2, 2]
    assert sum(generation.proposed for generation in generations) == sum(map(whole.proposed, {c.generation for c in candidates}))
    assert sorted(candidate.told for candidate in candidates) == list(range(1, len(candidates) + 1))
    assert all(candidate.after < candidate.told for candidate in candidates)
    assert whole.stop_reason == "max_generations is reached"


def test_a_child_is_bred_from_what_was_told_before(whole):
    told = {candidate.id: candidate.told for candidate in whole.candidates()}
    for candidate in whole.candidates():
        assert candidate.parent is None or told[candidate.parent] <= candidate.after


@pytest.mark.parametrize("algorithm", ["paper", "gain"])
def test_several_children_are_underway_and_come_back_in_any_order(tmp_path, algorithm):
    executor = Shuffled()
    search(tmp_path / "run", executor, algorithm=algorithm)
    candidates = History.open(tmp_path / "run").candidates()
    assert executor.most == 3
    assert [candidate.told for candidate in candidates] != sorted(candidate.told for candidate in candidates)
    changed = [candidate.hash for candidate in candidates if candidate.parent is None or candidate.mutations]  # others are trained on
    assert len(set(changed)) == len(changed)
    assert any(
        candidate.after < 3 for candidate in candidates if candidate.parent is not None
    )  # it hasn't waited for all starting networks


def test_it_takes_all_that_is_there_before_it_proposes_again(tmp_path):
    proposals = []
    for executor in (Shuffled(), Prompt()):
        run = tmp_path / type(executor).__name__
        search(run, executor)
        bred = [candidate for candidate in History.open(run).candidates() if candidate.parent is not None]
        assert len(bred) == 3 * 2
        proposals.append(len({candidate.after for candidate in bred}))
    assert proposals == [6, 2]


@pytest.mark.parametrize("ends", [2, 5, 8])
def test_an_interrupted_one_goes_on_as_if_it_had_not_been(tmp_path, whole, ends):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", callbacks=[Interrupt(ends)])
    search(tmp_path / "run")
    assert History.open(tmp_path / "run").digest() == whole.digest()


def test_so_does_choice_by_gain(tmp_path):
    search(tmp_path / "whole", algorithm="gain")
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", algorithm="gain", callbacks=[Interrupt(6)])
    search(tmp_path / "run", algorithm="gain")
    assert History.open(tmp_path / "run").digest() == History.open(tmp_path / "whole").digest()


def test_one_that_is_interrupted_with_children_underway_loses_none(tmp_path):
    for ends in (2, 3, 3):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "run", Shuffled(), callbacks=[Interrupt(ends)])
    search(tmp_path / "run", Shuffled())
    candidates = History.open(tmp_path / "run").candidates()
    assert {candidate.state for candidate in candidates} == {"evaluated"}
    assert sum(candidate.parent is not None for candidate in candidates) == 3 * 2


def test_it_stops_when_its_time_is_spent_and_goes_on_with_more(tmp_path):
    search(tmp_path / "run", max_generations=None, max_time="00:00:00:00")
    history = History.open(tmp_path / "run")
    assert history.stop_reason == "max_time is spent"
    assert all(candidate.parent is None for candidate in history.candidates())
    search(tmp_path / "run", max_generations=1, max_time=None)
    assert sum(candidate.parent is not None for candidate in history.candidates()) == 2


def test_it_ends_where_no_child_is_left(tmp_path):
    search(tmp_path / "run", space=Barren())
    history = History.open(tmp_path / "run")
    assert history.stop_reason == "no new child within the limits was found"
    assert all(candidate.parent is None for candidate in history.candidates())


def test_starting_networks_that_all_fail_end_it(tmp_path):
    with pytest.raises(SearchError, match="no starting network could be evaluated"):
        search(tmp_path / "run", module=Failing)


def test_the_phases_of_a_generation_add_up_to_no_more_than_its_time(tmp_path):
    search(tmp_path / "run", Shuffled())
    history = History.open(tmp_path / "run")
    children = sum(sum(candidate.seconds.values()) for candidate in history.candidates())
    generations = sum(sum(generation.seconds.values()) for generation in history.generations())
    assert generations > 0.9 * children  # one process did it all


def test_a_synchronous_run_is_no_asynchronous_one(tmp_path):
    search(tmp_path / "run", max_generations=1, asynchronous=False)
    with pytest.raises(HistoryError, match="asynchronous was false and is true"):
        search(tmp_path / "run", max_generations=1)


def test_an_order_that_contradicts_itself_is_told(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", callbacks=[Interrupt(7)])
    connection = sqlite3.connect(tmp_path / "run" / DATABASE)
    connection.execute("UPDATE candidate SET told = 2 WHERE told = 5")
    connection.commit()
    connection.close()
    with pytest.raises(HistoryError, match="in which order"):
        search(tmp_path / "run")


def test_generations_that_begin_end(tmp_path):
    events = Events()
    search(tmp_path / "run", Shuffled(), callbacks=[events], max_generations=1)
    heard = [name for name in events.names if name in ("on_generation_start", "on_generation_end")]
    assert heard == ["on_generation_start", "on_generation_end"] * 2
    again = Events()
    search(tmp_path / "run", callbacks=[again], max_generations=1)
    assert again.names == ["on_search_resume", "on_search_end"]
