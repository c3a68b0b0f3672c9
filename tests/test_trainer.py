import json
import math
import subprocess
import sys
import textwrap
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch
from events import Events
from torchmetrics import MeanSquaredError

from lightning_lemonade import GraphSpec, LemonadeModule, LemonadeTrainer, SearchCallback, load
from lightning_lemonade.callbacks import WandbPopulationLogger
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError, DataError, HistoryError, LemonadeError, ObjectiveError, SearchError
from lightning_lemonade.evaluation import TaskData
from lightning_lemonade.history import History
from lightning_lemonade.module import Training
from lightning_lemonade.morphisms import mutation_from_dict
from lightning_lemonade.objectives import SpecObjective, TrainedObjective
from lightning_lemonade.run import new_directory
from lightning_lemonade.search import SAMPLING, GainSampling
from lightning_lemonade.spaces import PAPER_OPERATORS, SCALING_OPERATORS, ConvNetSpace

SMALL = {"algorithm": "paper", "max_generations": 2, "proposals": 8, "accepted": 3, "epochs": 1, "initial_epochs": 2, "accelerator": "cpu"}


class Depth(SpecObjective):
    name = "depth"
    unit = "nodes"

    def of_spec(self, spec):
        return float(len(spec))


class FailsSometimes(LemonadeModule):
    def loss(self, logits, target):
        if len(self.spec) % 2 == 0:  # the starting networks have an odd number of nodes
            raise RuntimeError("even networks fail here")
        return super().loss(logits, target)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    directory, events = tmp_path_factory.mktemp("run") / "one", Events()
    front = LemonadeTrainer(run_dir=directory, callbacks=[events], **SMALL).search(DigitsDataModule())
    return directory, front, events


def test_a_search_returns_a_front_of_trained_networks(run):
    directory, front, _ = run
    assert len(front) >= 2
    for candidate in front:
        assert candidate.network(torch.rand(3, 1, 8, 8)).shape == (3, 10)
        assert 0 <= candidate.test_error <= 1
    assert load(directory).ids == front.ids


def test_the_reported_error_is_that_of_the_weights_on_disk(run):
    loader = DigitsDataModule().val_dataloader()
    for candidate in run[1]:
        wrong = sum(int((candidate.network(x).argmax(1) != y).sum()) for x, y in loader)
        assert wrong / len(loader.dataset) == pytest.approx(candidate.objectives["error"], abs=1e-6)


def test_the_history_accounts_for_everything(run):
    history = History.open(run[0])
    candidates, generations = history.candidates(), history.generations()
    assert [c.id for c in candidates] == list(range(len(candidates)))
    assert sum(g.accepted for g in generations) == len(candidates)
    assert generations[-1].total_epochs == sum(c.epochs for c in candidates)
    for candidate in candidates:
        above = candidates[candidate.parent].cumulative_epochs if candidate.parent is not None else 0
        assert candidate.cumulative_epochs == above + candidate.epochs
    volumes = [g.hypervolume for g in generations]
    assert volumes == sorted(volumes)


def test_events_come_in_order(run):
    names = run[2].names
    assert names[0] == "on_search_start"
    assert names[-1] == "on_search_end"
    assert names.count("on_generation_end") == 3
    assert names.count("on_candidate_start") == names.count("on_candidate_end") == names.count("on_candidate_accepted")


def test_candidates_are_read_only_for_callbacks_that_hear_of_them(tmp_path, monkeypatch):
    class Generations(SearchCallback):
        ended = 0

        def on_generation_end(self, search, record):
            self.ended += 1

    def refused(*arguments):
        raise AssertionError("read for nobody")

    monkeypatch.setattr(History, "front", refused)
    generations = Generations()
    trainer = LemonadeTrainer(run_dir=tmp_path / "run", callbacks=[generations], **SMALL | {"max_generations": 1, "initial_epochs": 1})
    with pytest.raises(AssertionError, match="read for nobody"):  # the front that is returned
        trainer.search(DigitsDataModule())
    assert generations.ended == 2
    assert History.open(tmp_path / "run").status == "finished"


def test_the_same_seed_in_another_process_gives_the_same_split_and_history(run, tmp_path):
    code = f"""
        import torch; torch.set_num_threads(1)
        from lightning_lemonade import LemonadeTrainer
        from lightning_lemonade.datamodules import DigitsDataModule
        LemonadeTrainer(run_dir={str(tmp_path / "two")!r}, **{SMALL!r}).search(DigitsDataModule())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, timeout=300)
    two, one = History.open(tmp_path / "two"), History.open(run[0])
    assert two.config["tasks"] == one.config["tasks"]  # checksums of the split
    assert two.digest() == one.digest()


def test_another_seed_gives_another_history(run, tmp_path):
    LemonadeTrainer(run_dir=tmp_path / "run", seed=1, **SMALL).search(DigitsDataModule())
    assert History.open(tmp_path / "run").digest() != History.open(run[0]).digest()


def test_without_inheritance_nothing_has_a_start_error(tmp_path):
    front = LemonadeTrainer(run_dir=tmp_path / "run", inherit=False, **SMALL | {"max_generations": 1}).search(DigitsDataModule())
    assert all(c.start_error is None for c in History.open(front.run_dir).candidates())


def test_failed_children_are_recorded_and_the_search_goes_on(tmp_path):
    settings = SMALL | {"max_generations": 3}
    LemonadeTrainer(run_dir=tmp_path / "run", module=FailsSometimes, **settings).search(DigitsDataModule())
    failed = [c for c in History.open(tmp_path / "run").candidates() if c.state == "failed"]
    assert failed
    assert all("even networks" in c.failure.text and "error" not in c.objectives for c in failed)


def test_a_search_whose_starting_networks_all_fail_says_why(tmp_path):
    class Broken(LemonadeModule):
        def loss(self, logits, target):
            raise RuntimeError("broken loss")

    with pytest.raises(SearchError, match="broken loss"):
        LemonadeTrainer(run_dir=tmp_path / "run", module=Broken, **SMALL).search(DigitsDataModule())


def test_an_objective_of_ones_own_takes_part(tmp_path):
    settings = SMALL | {"max_generations": 1}
    front = LemonadeTrainer(run_dir=tmp_path / "run", objectives=["error", Depth()], limits={"depth": 40}, **settings).search(
        DigitsDataModule()
    )
    assert all(candidate.objectives["depth"] == len(candidate.spec) <= 40 for candidate in front)


@pytest.mark.parametrize(
    ("most", "text"), [(400, "no starting network meets the limits: params 530"), (10, "0 to 10, but the space has networks from 300")]
)
def test_limits_that_no_starting_network_meets_are_an_error(tmp_path, most, text):
    with pytest.raises((SearchError, ConfigurationError), match=text):
        LemonadeTrainer(run_dir=tmp_path / "run", limits={"params": most}, **SMALL).search(DigitsDataModule())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_epochs": 3}, ConfigurationError, "epochs and initial_epochs"),
        ({"objectives": ["error", "watts"]}, ObjectiveError, "watts"),
        ({"objectives": ["params"]}, ObjectiveError, "trained objective"),
        ({"limits": {"error": 0.1}}, ConfigurationError, "error"),
        ({"max_time": "two hours"}, ConfigurationError, "DD:HH:MM:SS"),
        ({"accepted": 0}, ConfigurationError, "accepted"),
        ({"sampling": "best"}, ConfigurationError, "sampling"),
        ({"schedule": "fast"}, ConfigurationError, "schedule"),
        ({"algorithm": "best"}, ConfigurationError, "algorithm must be paper or gain"),
        ({"population_size": 0}, ConfigurationError, "population_size"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        LemonadeTrainer(**arguments)


def test_the_algorithm_is_one_argument():
    settings = LemonadeTrainer(algorithm="paper").settings
    assert (settings.sampling, settings.polish, settings.population_size, settings.space.starts) == ("density", 0.0, None, "paper")
    assert (settings.proposals, settings.accepted, settings.asynchronous, settings.space.operators) == (32, 8, False, PAPER_OPERATORS)
    settings = LemonadeTrainer().settings
    assert (settings.sampling, settings.polish, settings.population_size, settings.space.starts) == ("gain", 0.0, None, "spanning")
    assert (settings.proposals, settings.accepted, settings.asynchronous) == (256, 8, True)
    assert settings.space.operators == (*PAPER_OPERATORS, *SCALING_OPERATORS)
    assert LemonadeTrainer(inherit=False).settings.polish == 0.0
    settings = LemonadeTrainer(sampling="uniform", asynchronous=False, proposals=8, polish=0.2).settings
    assert (settings.sampling, settings.asynchronous, settings.proposals, settings.polish) == ("uniform", False, 8, 0.2)


def test_a_search_by_the_defaults_shrinks_all_layers_at_once_and_grows(tmp_path):
    """Seeds 0 to 5 grow 7, 2, 6, 3, 1 and 3 of 16 children."""
    LemonadeTrainer(run_dir=tmp_path / "run", max_generations=2, epochs=1, initial_epochs=3, accelerator="cpu", seed=0).search(
        DigitsDataModule()
    )
    candidates = {c.id: c for c in History.open(tmp_path / "run").candidates()}
    children = [c for c in candidates.values() if c.parent is not None]
    assert len(children) == 16
    assert min(c.objectives["params"] / candidates[c.parent].objectives["params"] for c in children) < 0.3
    assert sum(c.objectives["params"] > candidates[c.parent].objectives["params"] for c in children) >= 3
    assert any(len(mutation_from_dict(m).places) > 3 for c in children for m in c.mutations)  # all layers at once


def test_the_papers_schedule_is_one_argument():
    training = LemonadeTrainer(schedule="paper").settings.training
    assert (training.epochs, training.learning_rate, training.warmup) == (20, 0.01, 0.0)


def test_a_wandb_run_read_from_its_files_equals_the_history(tmp_path, monkeypatch):
    from wandb_files import read_history, read_tables, run_dirs

    monkeypatch.setenv("WANDB_SILENT", "true")
    directory = tmp_path / "run"
    LemonadeTrainer(run_dir=directory, callbacks=[WandbPopulationLogger(mode="offline")], **SMALL).search(DigitsDataModule())
    (files,) = run_dirs(directory)
    history = History.open(directory)
    logged = {int(row["generation"]): row["hypervolume"] for row in read_history(files) if "hypervolume" in row}
    assert logged == {g.generation: pytest.approx(g.hypervolume) for g in history.generations()}
    table = {int(row["id"]): row for row in read_tables(files)["front"]}
    assert table.keys() == {candidate.id for candidate in history.front()}
    for candidate in history.front():
        assert {key: table[candidate.id][key] for key in candidate.objectives} == pytest.approx(dict(candidate.objectives))


def test_a_starting_network_outside_the_limits_is_dropped_with_a_line(tmp_path):
    settings = SMALL | {"max_generations": 1, "proposals": 2, "accepted": 1, "initial_epochs": 1}
    with pytest.warns(UserWarning, match="dropped: params 9640"):
        LemonadeTrainer(run_dir=tmp_path / "run", limits={"params": 5000}, **settings).search(DigitsDataModule())
    starts = [candidate for candidate in History.open(tmp_path / "run").candidates() if candidate.generation == 0]
    assert [candidate.objectives["params"] for candidate in starts] == [530, 1702, 4010]


def test_choice_by_gain_trains_members_on_from_where_they_were_and_can_be_repeated(tmp_path):
    settings = SMALL | {"max_generations": 3, "proposals": 2, "accepted": 4, "sampling": "gain"}
    with pytest.raises(ConfigurationError, match="accepted"):
        LemonadeTrainer(**settings)
    settings |= {"proposals": 4}
    digests = []
    for name in ("one", "two"):
        front = LemonadeTrainer(run_dir=tmp_path / name, **settings).search(DigitsDataModule())
        digests.append([(c.id, c.objectives, c.mutations) for c in front])
    assert digests[0] == digests[1]
    records = {candidate.id: candidate for candidate in History.open(tmp_path / "one").candidates()}
    on = [record for record in records.values() if record.parent is not None and not record.mutations]
    assert on
    for record in on:
        parent = records[record.parent]
        assert record.spec == parent.spec
        assert record.start_error == parent.objectives["error"]
        assert record.cumulative_epochs == parent.cumulative_epochs + record.epochs


def test_choice_by_gain_without_inheritance_only_makes_new_networks(tmp_path):
    settings = SMALL | {"sampling": "gain", "inherit": False}
    LemonadeTrainer(run_dir=tmp_path / "run", **settings).search(DigitsDataModule())
    children = [c for c in History.open(tmp_path / "run").candidates() if c.parent is not None]
    assert len(children) == 6
    assert all(child.mutations and child.cumulative_epochs == 1 for child in children)


class NoTestImages(DigitsDataModule):
    def test_dataloader(self):
        raise OSError("the test images are on another disk")


def test_a_test_split_that_fails_does_not_lose_the_front(tmp_path):
    with pytest.raises(SearchError, match=r"another disk.*load"):
        LemonadeTrainer(run_dir=tmp_path / "run", **SMALL | {"max_generations": 1}).search(NoTestImages())
    assert len(load(tmp_path / "run")) > 0
    assert History.open(tmp_path / "run").status == "finished"


class Skips(SpecObjective):
    name = "skips"
    unit = "skips"

    def of_spec(self, spec):
        return float(sum(len(node.inputs) > 1 for node in spec.nodes))


class Loss(TrainedObjective):
    name = "loss"
    unit = "nats"

    def of_metrics(self, metrics):
        return metrics["val_loss"]

    def bounds(self, num_outputs):
        return 1e-3, math.log(num_outputs)


class WithLoss(LemonadeModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_loss", self.loss(self(batch[0]), batch[1]), add_dataloader_idx=False)


class OnlyLoss(WithLoss):
    def on_validation_epoch_end(self):
        pass


class Leaving(LemonadeModule):
    def training_step(self, batch, batch_idx):
        sys.exit("no data left")


class Boom(SearchCallback):
    def on_generation_end(self, search, record):
        raise RuntimeError("the callback's own bug")

    def on_search_exception(self, search, exception):
        raise RuntimeError("another one")


TINY = SMALL | {"max_generations": 1, "accepted": 2, "initial_epochs": 1}


def test_a_spec_objective_that_is_not_positive_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ObjectiveError, match="skips is 0"):
        LemonadeTrainer(objectives=["error", Skips()], run_dir=tmp_path / "run", **TINY).search(DigitsDataModule())
    assert not (tmp_path / "run").exists()


def test_a_users_trained_objective_counts_in_the_hypervolume(tmp_path):
    trainer = LemonadeTrainer(objectives=["error", "params", Loss()], module=WithLoss, run_dir=tmp_path / "run", **TINY)
    front = trainer.search(DigitsDataModule())
    assert History.open(tmp_path / "run").bounds["loss"] == (1e-3, pytest.approx(math.log(10)))
    assert front.hypervolume > 0


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"module": OnlyLoss}, ConfigurationError, "logs no val_error in validation, but val_loss"),
        ({"module": Leaving}, SearchError, "SystemExit: no data left"),
        ({"limit_train_batches": 0}, ConfigurationError, "saw no batch"),
    ],
)
def test_what_would_fail_every_child_stops_the_search_with_its_reason(tmp_path, settings, error, text):
    with pytest.raises(error, match=text):
        LemonadeTrainer(run_dir=tmp_path / "run", **TINY | settings).search(DigitsDataModule())


def test_a_callback_that_raises_is_named_and_the_others_hear_of_it(tmp_path):
    events = Events()
    with (
        pytest.raises(SearchError, match=r"Boom.on_generation_end raised RuntimeError: the callback's own bug"),
        pytest.warns(match="another one"),
    ):
        LemonadeTrainer(run_dir=tmp_path / "run", callbacks=[Boom(), events], **TINY).search(DigitsDataModule())
    assert "on_search_exception" in events.names


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"acelerator": "cpu"}, "did you mean accelerator"),
        ({"strategy": object()}, "strategy must be a text"),
        ({"accepted": 9, "proposals": 4}, "accepted=9 of proposals=4"),
        ({"max_generations": 1.5}, "whole number"),
        ({"calibration_size": 1}, "at least 2"),
        ({"max_time": "00:00:00:-5"}, "DD:HH:MM:SS"),
        ({"callbacks": [Boom]}, "Boom"),
    ],
)
def test_arguments_that_lightning_or_a_search_would_stumble_over_later_are_refused_at_once(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        LemonadeTrainer(**arguments)


def test_objectives_may_be_one_text():
    assert [objective.key for objective in LemonadeTrainer(objectives="error, params").settings.objectives] == ["error", "params"]


def test_what_is_no_data_module_is_named():
    with pytest.raises(DataError, match="got NoneType"):
        LemonadeTrainer().search(None)


@pytest.mark.parametrize(("given", "used"), [(3, 3), (None, 1)])
def test_tiny_images_are_trained_on_by_one_thread_unless_told_otherwise(tmp_path, given, used):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        LemonadeTrainer(run_dir=tmp_path / "run", threads_per_child=given, **TINY).search(DigitsDataModule())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert History.open(tmp_path / "run").config["threads_per_child"] == used


def test_searches_without_a_name_get_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {new_directory() for _ in range(5)}
    assert len(made) == 5
    assert all(directory.is_dir() for directory in made)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"precision": "bf16-true"}, "give bf16-mixed"),
        ({"callbacks": [pl.callbacks.ModelCheckpoint()]}, "Checkpoint can't be used in a search: the run directory"),
        ({"callbacks": [pl.callbacks.LearningRateMonitor]}, "LearningRateMonitor can't"),
        ({"callbacks": [pl.callbacks.EarlyStopping("val_error")]}, "EarlyStopping can't"),
        ({"callbacks": None}, "callbacks must be a list, got None"),
        ({"inherit": "no"}, "inherit must be true or false, got 'no'"),
        ({"limits": 5}, "limits must be given by name"),
        ({"max_time": "0:0:0:" + 30 * "9"}, "max_time must be"),
        ({"overfit_batches": 1}, "validates on training images"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_search(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        LemonadeTrainer(**arguments)


def test_a_class_in_place_of_a_data_module_is_named():
    with pytest.raises(DataError, match="got the class DigitsDataModule: make one"):
        LemonadeTrainer().search(DigitsDataModule)


class Sabotage(SearchCallback):
    def __init__(self):
        self.heard = None

    def on_generation_start(self, search, generation):
        search.history.finish = self.refuse
        raise ValueError("the first error")

    def refuse(self, status, reason):
        raise HistoryError("the disk is full")

    def on_search_exception(self, search, error):
        self.heard = error


def test_callbacks_hear_of_the_end_also_where_it_cannot_be_recorded(tmp_path):
    callback = Sabotage()
    with pytest.warns(UserWarning, match="the disk is full"), pytest.raises(SearchError, match="the first error") as raised:
        LemonadeTrainer(run_dir=tmp_path / "run", callbacks=[callback], **TINY).search(DigitsDataModule())
    assert callback.heard is raised.value


class Fewer(DigitsDataModule):
    """The digits 0 to 6 are seven classes; the others belong to the last."""

    num_classes = 7
    class_names = None

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0], batch[1].clamp(max=6)


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    torch.set_num_threads(1)
    trainer = LemonadeTrainer(run_dir=tmp_path_factory.mktemp("two") / "run", objectives=["error", "params"], **SMALL)
    return trainer.search({"all": DigitsDataModule(), "fewer": Fewer()})


def test_a_search_of_two_tasks_keeps_weights_and_errors_for_each(two_tasks):
    assert [o.key for o in two_tasks.objectives] == ["error/all", "error/fewer", "params"]
    for candidate in two_tasks:
        fewer = candidate.of_task("fewer")
        assert candidate.network(torch.rand(3, 1, 8, 8)).shape == (3, 10)
        assert fewer.network(torch.rand(3, 1, 8, 8)).shape == (3, 7)
        assert candidate.metrics["val_error"] == candidate.objectives["error/all"]
        assert fewer.metrics["val_error"] == candidate.objectives["error/fewer"]
        assert 0 <= fewer.test_error <= 1
        assert fewer.test_error != candidate.test_error
        assert candidate.record.objectives["params"] == candidate.of_task("all").spec.parameter_count


def test_children_inherit_from_their_parent_for_each_task(two_tasks):
    history = History.open(two_tasks.run_dir)
    exact = {"insert_conv_block", "widen", "add_skip", "concat_skip"}
    records = [c for c in history.candidates() if c.parent is not None and {m["kind"] for m in c.mutations} <= exact]
    assert records
    for record in records:
        parent = history.candidate(record.parent)
        for task in ("all", "fewer"):
            assert record.tasks[task].start_error == pytest.approx(parent.objectives[f"error/{task}"], abs=2e-3)


def test_the_cost_of_a_candidate_is_that_of_all_its_tasks(two_tasks):
    start = History.open(two_tasks.run_dir).candidates()[0]
    assert start.epochs == 2 * SMALL["initial_epochs"]
    images = sum(len(data.train_dataloader().dataset) for data in (DigitsDataModule(), Fewer()))
    assert start.images == SMALL["initial_epochs"] * images


class Long(GainSampling):
    """Choice by gain with long trainings alone."""

    lengths = (3,)


class NotingRates(LemonadeModule):
    """Notes of each training its classes, its epochs, and its highest rate."""

    seen: ClassVar[set] = set()

    def on_train_start(self):
        self.highest = 0.0

    def on_train_batch_start(self, batch, batch_idx):
        self.highest = max(self.highest, self.optimizers().param_groups[0]["lr"])

    def on_train_end(self):
        if type(self.trainer.datamodule) is TaskData:  # not where a few batches tell how long a training takes
            self.seen.add((self.spec.output_shape[0], self.trainer.max_epochs, round(self.highest, 9)))


def test_the_rate_of_long_trainings_reaches_every_task_of_a_search(tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLING, "long", Long)
    NotingRates.seen.clear()
    LemonadeTrainer(
        run_dir=tmp_path / "run",
        objectives=["error", "params"],
        module=NotingRates,
        algorithm="gain",
        sampling="long",
        training=Training(epochs=1, initial_epochs=2, learning_rate=0.1, long_rate=4.0),
        proposals=4,
        accepted=2,
        max_generations=2,
        max_time="00:01:00:00",
        accelerator="cpu",
    ).search({"all": DigitsDataModule(), "fewer": Fewer()})
    assert NotingRates.seen == {(classes, *each) for classes in (10, 7) for each in ((2, 0.1), (3, 0.4))}


def test_a_table_of_two_tasks_has_the_errors_of_both(two_tasks):
    frame = two_tasks.to_pandas()
    assert {"start_error/all", "start_error/fewer", "test_error/all", "test_error/fewer"} <= set(frame.columns)
    assert frame["test_error/fewer"].tolist() == [candidate.of_task("fewer").test_error for candidate in two_tasks]
    with pytest.raises(LemonadeError, match=r"no task 'third'; its tasks: all, fewer"):
        next(iter(two_tasks)).of_task("third")


def test_a_confusion_matrix_counts_every_sample_once(two_tasks):
    candidate = next(iter(two_tasks))
    counts = candidate.confusion_matrix(DigitsDataModule())
    assert list(counts.index) == list(counts.columns) == [str(digit) for digit in range(10)]
    assert counts.to_numpy().sum() == len(DigitsDataModule().test_dataloader().dataset)
    right = counts.to_numpy().trace() / counts.to_numpy().sum()
    assert 1 - right == pytest.approx(candidate.test_error, abs=1e-6)
    fewer = candidate.of_task("fewer").confusion_matrix(Fewer(), "val")
    assert fewer.shape == (7, 7)
    with pytest.raises(DataError, match="numbers from 0 to 9, but the network tells the classes 0 to 6"):
        candidate.of_task("fewer").confusion_matrix(DigitsDataModule())


def test_what_is_exported_of_a_task_is_its_own_network(two_tasks, tmp_path):
    fewer = next(iter(two_tasks)).of_task("fewer")
    fewer.export(tmp_path / "fewer")
    facts = json.loads((tmp_path / "fewer" / "candidate.json").read_text())
    spec = GraphSpec.from_json((tmp_path / "fewer" / "spec.json").read_text())
    assert (facts["hash"], facts["parameters"], facts["multiply_adds"]) == (spec.structural_hash, spec.parameter_count, spec.macs)
    assert facts["hash"] != fewer.record.hash


class Larger(DigitsDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return torch.nn.functional.pad(batch[0], (1, 1, 1, 1)), batch[1]


class Unlabelled(DigitsDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0]


@pytest.mark.parametrize(
    ("datamodules", "error", "text"),
    [
        ({}, DataError, "empty"),
        ({"a": DigitsDataModule(), "b": Larger()}, DataError, "a: 1x8x8, b: 1x10x10"),
        ({"a": DigitsDataModule(), "b": Unlabelled()}, DataError, "task b: .*batch_format"),
        ({"a/b": DigitsDataModule()}, ConfigurationError, "a/b"),
        ({1: DigitsDataModule()}, ConfigurationError, "called 1"),
        ({"a": DigitsDataModule}, DataError, "the class DigitsDataModule"),
    ],
)
def test_tasks_that_cannot_be_searched_are_told_by_name(tmp_path, datamodules, error, text):
    with pytest.raises(error, match=text):
        LemonadeTrainer(run_dir=tmp_path / "run", objectives=["error", "params"], **SMALL).search(datamodules)


def test_metric_and_objectives_go_together():
    def keys(**arguments):
        return [objective.key for objective in LemonadeTrainer(**arguments).settings.objectives]

    assert keys(metric="val_loss") == ["val_loss", "params", "macs"]
    assert keys(metric="val_f1", mode="max", objectives="params,val_f1") == ["params", "1-val_f1"]
    assert keys(metric="val_f1", mode="max", objectives=["error", "params"]) == ["1-val_f1", "error", "params"]
    with pytest.raises(ConfigurationError, match="give metric"):
        LemonadeTrainer(mode="max")
    with pytest.raises(ConfigurationError, match="schedule=paper and training"):
        LemonadeTrainer(schedule="paper", training=Training())


def test_a_metric_that_no_module_logs_ends_the_search_in_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match="no val_f1 in validation, but val_error, val_top5_error"):
        LemonadeTrainer(run_dir=tmp_path / "run", metric="val_f1", mode="max", **SMALL).search(DigitsDataModule())


def test_one_value_as_the_target_is_learnt(tmp_path):
    class Values(DigitsDataModule):
        num_classes = None

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0], batch[1].float() / 9

    class Regressor(LemonadeModule):
        def loss(self, output, target):
            return torch.nn.functional.mse_loss(output, target)

        def metrics(self):
            return {"mse": MeanSquaredError()}

    small = SMALL | {"initial_epochs": 6}
    front = LemonadeTrainer(run_dir=tmp_path / "run", module=Regressor, metric="val_mse", **small).search(Values())
    assert front.best("val_mse").objectives["val_mse"] < 0.06  # the variance of the targets is 0.1


def test_a_space_whose_networks_have_other_outputs_is_told(tmp_path):
    class Twelve(ConvNetSpace):
        def initial(self, sample_shape, num_outputs):
            return super().initial(sample_shape, 12)

    with pytest.raises(ConfigurationError, match=r"Twelve\.initial gave a network of 12 outputs instead of 10"):
        LemonadeTrainer(run_dir=tmp_path / "run", space=Twelve(), **SMALL).search(DigitsDataModule())


def test_values_as_targets_need_a_module_of_their_own(tmp_path):
    class Values(DigitsDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0], batch[1].float()

    with pytest.raises(DataError, match="give module="):
        LemonadeTrainer(run_dir=tmp_path / "run", **SMALL).search(Values())
