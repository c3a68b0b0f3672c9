import pytest
from quick_searches import SMALL

from lightning_lemonade import LemonadeTrainer, SearchCallback
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.executors import InlineExecutor
from lightning_lemonade.history import History
from lightning_lemonade.search import GainSampling
from lightning_lemonade.search.gain import _Gain
from lightning_lemonade.spaces import ConvNetSpace


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
    assert {None, 2} <= {c.planned for c in children} <= {None, 2, 3}  # 3: three times as long as a child usually is
    assert all(c.expected.seconds > 0 for c in children)
    told = History.open(tmp_path / "run").predictions()
    off = [abs(c.objectives["error"] - c.expected.values["error"].value) for c in children]
    assert (told.children, told.errors) == (len(children), {"error": pytest.approx(sum(off) / len(off))})
    assert told.seconds > 0


def test_children_are_trained_as_long_as_they_were_proposed_for_also_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(GainSampling, "lengths", (3,))
    settings = SMALL | {"max_time": "00:01:00:00", "sampling": "gain", "run_dir": tmp_path / "run"}
    for generations in (1, 2):  # the second time it goes on
        LemonadeTrainer(**settings | {"max_generations": generations}).search(DigitsDataModule())
        children = [c for c in History.open(tmp_path / "run").candidates() if c.generation]
        assert {c.generation for c in children} == set(range(1, generations + 1))
        assert {c.planned for c in children} == {3}
        trained = [c for c in children if c.expected.worst_start is None or c.start_error <= c.expected.worst_start]
        assert trained
        assert all(c.epochs == (3 if c in trained else 0) for c in children)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_children_that_begin_too_badly_are_recorded_untrained_and_are_no_members(tmp_path, monkeypatch, asynchronous):
    monkeypatch.setattr(_Gain, "worst_start", lambda choice, child: None if choice.known.is_exact(child) else 0.3)
    run, settings = tmp_path / "run", SMALL | {"algorithm": "gain", "keep_weights": "all", "asynchronous": asynchronous}
    LemonadeTrainer(run_dir=run, **settings | {"max_generations": 5}).search(DigitsDataModule())
    history = History.open(run)
    children = [c for c in history.candidates() if c.generation]
    assert all((c.epochs == 0) == (c.expected.worst_start is not None and c.start_error > 0.3) for c in children)
    dropped = {c.id: c for c in children if not c.epochs}
    assert dropped
    assert all(c.objectives["error"] == c.start_error for c in dropped.values())
    assert not any(dropped.keys() & set(generation.front) for generation in history.generations())
    assert not any(c.parent in dropped for c in children)
    assert history.predictions().children == len(children) - len(dropped)

    known = []
    monkeypatch.setattr(GainSampling, "fit", lambda _, knowledge: known.append(list(knowledge.families)) or _Gain(knowledge))
    LemonadeTrainer(run_dir=run, **settings | {"max_generations": 6}).search(DigitsDataModule())
    assert [child.start for _, child in known[0]] == [c.start_error for c in children]  # as an earlier process measured them


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
    assert {name: value for name, value in after.config.items() if name != "polished"} == config
    assert {candidate.id for candidate in front} == set(after.generations()[-1].front)
    count = len(after.generations())
    LemonadeTrainer(run_dir=run, **SMALL | {"max_generations": 5}).search(DigitsDataModule())  # one more than the search's four
    more = [c for c in History.open(run).candidates() if c.generation >= count]
    assert [c.planned for c in more] == [None, None]
    trainer.polish(DigitsDataModule(), max_time="00:00:00:02")
    assert History.open(run).status == "finished"


class Stop(SearchCallback):
    def on_generation_end(self, search, generation):
        if generation.generation == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_that_is_interrupted_and_polished_still_has_its_whole_budget(tmp_path, asynchronous):
    small = SMALL | {"run_dir": tmp_path / "run", "asynchronous": asynchronous, "callbacks": []}
    with pytest.raises(KeyboardInterrupt):
        LemonadeTrainer(**small | {"callbacks": [Stop()]}).search(DigitsDataModule())
    LemonadeTrainer(**small).polish(DigitsDataModule(), max_time="00:00:00:02")
    LemonadeTrainer(**small).search(DigitsDataModule())
    found = [c.planned for c in History.open(tmp_path / "run").candidates() if c.parent is not None]
    assert found.count(None) == 4 * 2
    assert 2 in found
    first = found.index(2)
    assert 2 not in found[: min(first, 2)]  # it goes on after the first generation


def test_a_search_that_found_no_child_any_more_is_polished(tmp_path):
    class Exhausted(ConvNetSpace):
        def mutate(self, spec, rng):
            return None

    small = SMALL | {"run_dir": tmp_path / "run", "space": Exhausted()}
    LemonadeTrainer(**small).search(DigitsDataModule())
    assert len(History.open(tmp_path / "run").candidates()) == 4
    LemonadeTrainer(**small).polish(DigitsDataModule(), max_time="00:00:00:02")
    assert len(History.open(tmp_path / "run").candidates()) > 4


def test_asynchronously_as_many_are_polished_with_any_number_of_slots(tmp_path):
    class Wide(InlineExecutor):
        slots = 12

    settings = SMALL | {"max_generations": 6, "asynchronous": True, "polish": 0.5, "executor": Wide()}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    kinds = [bool(c.mutations) for c in History.open(tmp_path / "run").candidates() if c.parent is not None]
    assert len(kinds) == 12
    assert all(kinds[:6])
    assert not all(kinds[6:])  # members, and children where there are no more members


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
