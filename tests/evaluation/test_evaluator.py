import os
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import DataError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData, seeded
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.objectives import resolve
from lightning_lemonade.search import Child
from lightning_lemonade.search.candidate import Expected
from lightning_lemonade.spaces import EXACT_OPERATORS, ConvNetSpace

SPEC = ConvNetSpace().initial((1, 8, 8), 10)[1]


class Exploding(LemonadeModule):
    def loss(self, logits, target):
        return super().loss(logits, target) * float("nan")


class Raising(LemonadeModule):
    def loss(self, logits, target):
        raise RuntimeError("the user's own bug")


def make_evaluator(factory=LemonadeModule, **training):
    data = TaskData(DigitsDataModule())
    return Evaluator(
        tasks={"": data},
        calibration={"": data.calibration(256, 0)},
        objectives=resolve(["error", "params", "macs"]),
        training=Training(epochs=1, initial_epochs=2, **training),
        factory=factory,
        seed=0,
        trainer_arguments={"accelerator": "cpu"},
    )


@pytest.fixture(scope="module")
def parent():
    torch.set_num_threads(1)
    evaluator = make_evaluator()
    return evaluator, evaluator.evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {}))


def test_a_starting_network_is_trained_and_measured(parent):
    outcome = parent[1].outcome
    assert outcome.failure is None
    assert outcome.values["error"].value < 0.85
    assert outcome.values["params"].value == SPEC.parameter_count
    assert outcome.values["macs"].value == SPEC.macs
    assert outcome.tasks[""].epochs == 2
    assert outcome.tasks[""].images == 2 * len(parent[0].tasks[""].inner.train_dataloader().dataset)
    assert outcome.tasks[""].start_error is None


def test_children_by_exact_mutations_start_at_their_parents_error(parent):
    evaluator, trained = parent
    space, rng = ConvNetSpace(operators=EXACT_OPERATORS), np.random.default_rng(0)
    validation = len(evaluator.tasks[""].inner.val_dataloader().dataset)
    for i in range(1, 7):
        mutations, spec = space.mutate(SPEC, rng)
        outcome = evaluator.evaluate(EvaluationRequest(Child(spec, 1, 0, mutations, {}, i), SPEC, trained.weights)).outcome
        images = abs(outcome.tasks[""].start_error - trained.outcome.values["error"].value) * validation
        assert images < 1.5, [str(mutation) for mutation in mutations]


def test_a_child_that_begins_too_badly_is_not_trained(parent):
    evaluator, trained = parent
    mutations, spec = ConvNetSpace(operators=EXACT_OPERATORS).mutate(SPEC, np.random.default_rng(0))
    begins = trained.outcome.values["error"].value

    def evaluated(worst):
        child = Child(spec, 1, 0, mutations, {}, 1, expected=Expected(worst_start=worst))
        return evaluator.evaluate(EvaluationRequest(child, SPEC, trained.weights))

    dropped, kept = evaluated(begins - 0.01), evaluated(begins + 0.01)
    result = dropped.outcome.tasks[""]
    assert (result.epochs, result.images, kept.outcome.tasks[""].epochs) == (0, 0, 1)
    assert dropped.outcome.values["error"].value == result.start_error == pytest.approx(begins, abs=1e-3)
    assert dropped.outcome.values["params"].value == spec.parameter_count
    assert dropped.outcome.seconds["fit"] == 0
    assert dropped.weights[""].keys() == kept.weights[""].keys()


def test_the_same_candidate_twice_gives_the_same_weights(parent):
    evaluator, trained = parent
    again = evaluator.evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {}))
    assert again.outcome.values == trained.outcome.values
    assert all(torch.equal(again.weights[""][name], tensor) for name, tensor in trained.weights[""].items())


@pytest.mark.parametrize(("factory", "kind", "text"), [(Exploding, "not_a_number", "nan"), (Raising, "exception", "own bug")])
def test_a_training_that_fails_is_a_failure_with_its_reason(factory, kind, text):
    evaluation = make_evaluator(factory).evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {}))
    assert evaluation.outcome.failure.kind == kind
    assert text in evaluation.outcome.failure.text
    assert not evaluation.outcome.values
    assert not evaluation.weights


@pytest.mark.parametrize("clip", [1e-9, None])
def test_a_steps_gradient_is_no_larger_than_asked_for(parent, clip):
    evaluator = make_evaluator(gradient_clip=clip, weight_decay=0.0)
    outcome = evaluator.evaluate(EvaluationRequest(Child(SPEC, 1, 0, (), {}, 1), SPEC, parent[1].weights))
    moved = max(
        float((tensor - parent[1].weights[""][name]).abs().max())
        for name, tensor in outcome.weights[""].items()
        if name.endswith((".weight", ".bias"))
    )
    assert (moved < 1e-6) == (clip is not None)


@pytest.mark.parametrize(
    ("inherits", "epochs", "rate"), [(True, None, 0.1), (True, 1, 0.1), (True, 2, 0.4), (True, 9, 0.4), (False, 2, 0.1), (False, None, 0.1)]
)
def test_what_inherits_and_is_trained_for_longer_than_usual_is_trained_at_a_higher_rate(parent, inherits, epochs, rate):
    seen = []

    class Noting(LemonadeModule):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(self.optimizers().param_groups[0] | {})

    evaluator = make_evaluator(Noting, learning_rate=0.1, long_rate=4.0, momentum=0.5, weight_decay=0.03)
    child = Child(SPEC, 1, 0, (), {}, 1, epochs=epochs)
    done = evaluator.evaluate(EvaluationRequest(child, SPEC if inherits else None, parent[1].weights if inherits else {}))
    assert done.outcome.failure is None
    assert max(group["lr"] for group in seen) == pytest.approx(rate)
    assert {(group["momentum"], group["weight_decay"]) for group in seen} == {(0.5, 0.03)}


class Manual(LemonadeModule):
    """Steps by itself, and hands back no loss, as is usual then."""

    factor = 1.0

    def __init__(self, spec, training):
        super().__init__(spec, training)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimiser = self.optimizers()
        optimiser.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) * self.factor)
        optimiser.step()


class ManualExploding(Manual):
    factor = float("nan")


def test_a_module_that_steps_by_itself_is_trained():
    evaluation = make_evaluator(Manual).evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {}))
    assert evaluation.outcome.failure is None
    assert evaluation.outcome.values["error"].value < 0.85


def test_weights_that_are_no_numbers_fail_where_no_loss_is_seen():
    evaluation = make_evaluator(ManualExploding).evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {}))
    assert evaluation.outcome.failure.kind == "not_a_number"
    assert not evaluation.weights


@pytest.mark.parametrize(("arguments", "expected"), [({}, 1.0), ({"gradient_clip_val": 0.25}, 0.25), ({"gradient_clip_val": 0}, None)])
def test_the_trainers_own_limit_goes_before_the_settings(arguments, expected):
    norms = []

    class Looking(LemonadeModule):
        def loss(self, logits, target):
            return super().loss(logits, target) * 1000

        def on_before_zero_grad(self, optimizer):
            grads = [p.grad.norm() for p in self.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.stack(grads).norm()))

    data = TaskData(DigitsDataModule())
    module = Looking(SPEC, Training())
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**quiet, max_steps=5, accelerator="cpu", limit_val_batches=0, **arguments).fit(module, datamodule=data)
    assert norms
    assert (max(norms) > 5) if expected is None else (max(norms) < expected + 1e-3)


def test_seeding_restores_the_global_generators():
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    with seeded(7):
        first = (random.random(), np.random.rand(), torch.rand(1).item())
    with seeded(7):
        assert first == (random.random(), np.random.rand(), torch.rand(1).item())
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


class Custom(pl.LightningDataModule):
    def __init__(self, dataset, collate=None):
        super().__init__()
        self.dataset, self.collate, self.setups = dataset, collate, 0

    def setup(self, stage):
        self.setups += 1

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=8, collate_fn=self.collate)

    val_dataloader = train_dataloader


def test_a_users_data_module_is_set_up_once_and_its_classes_are_counted():
    inner = Custom(TensorDataset(torch.rand(32, 3, 12, 12), torch.arange(32) % 5))
    data = TaskData(inner)
    module = LemonadeModule(ConvNetSpace().initial((3, 12, 12), 5)[0])
    for _ in range(2):
        pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
        ).fit(module, datamodule=data)
    assert data.shapes == ((3, 12, 12), 5)
    assert inner.setups == 1
    assert not data.has_test


def test_batches_may_be_dicts():
    def collate(rows):
        return {"picture": torch.stack([row[0] for row in rows]), "kind": torch.stack([row[1] for row in rows])}

    inner = Custom(TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8)), collate)
    assert TaskData(inner, ("picture", "kind")).shapes == ((1, 8, 8), 8)
    with pytest.raises(DataError, match="picture, kind"):
        _ = TaskData(inner).shapes


class Halfway(LemonadeModule):
    def loss(self, logits, target):
        if self.current_epoch == 1:
            raise RuntimeError("in the second epoch")
        return super().loss(logits, target)


def test_a_training_that_fails_keeps_what_it_cost():
    evaluator = make_evaluator(Halfway)
    outcome = evaluator.evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {})).outcome
    images = len(evaluator.tasks[""].inner.train_dataloader().dataset)
    line = Halfway.loss.__code__.co_firstlineno + 2
    assert outcome.failure.text == f"RuntimeError: in the second epoch (test_evaluator.py, line {line})"
    assert (outcome.tasks[""].epochs, outcome.tasks[""].images, outcome.tasks[""].metrics) == (1, images, {})
    assert outcome.seconds["fit"] > 0


class Hooked(Custom):
    """Yields dicts of bytes, which its hook makes into pairs of floats, and augments while it trains."""

    def __init__(self):
        rows = [{"image": torch.full((1, 8, 8), i, dtype=torch.uint8), "label": torch.tensor(i % 3)} for i in range(24)]
        super().__init__(rows)
        self.torn_down = []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x = batch["image"].float()
        return (x + 1000 if self.trainer.training else x), batch["label"]

    def teardown(self, stage):
        self.torn_down.append(stage)


def test_the_hooks_of_a_data_module_shape_the_calibration_batch_without_augmentation():
    data = TaskData(Hooked())
    assert data.shapes == ((1, 8, 8), 3)
    assert sorted(data.calibration(24, 0)[:, 0, 0, 0].tolist()) == list(range(24))
    data.close()
    assert data.inner.torn_down == ["fit"]


def test_seeding_reaches_distributed_samplers(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    with seeded(2**40 + 3):
        assert os.environ["PL_GLOBAL_SEED"] == "3"
    assert "PL_GLOBAL_SEED" not in os.environ


def labelled(y, x=None):
    y = torch.as_tensor(y)
    return Custom(TensorDataset(torch.rand(len(y), 1, 8, 8) if x is None else x, y))


class Held(Custom):
    def __init__(self, train, held):
        super().__init__(train)
        self.held = held

    def val_dataloader(self):
        return DataLoader(self.held, batch_size=8)


class Dropping(Custom):
    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=64, drop_last=True)


@pytest.mark.parametrize(
    ("datamodule", "text"),
    [
        (lambda: labelled([-1, 0, 1, 2]), "labels must be from 0 to 2, got -1"),
        (lambda: labelled([0, 0, 0]), "at least two classes"),
        (lambda: labelled([0.5, 1.0]), "class numbers"),
        (lambda: labelled([0, 1], torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), "float32, got torch.uint8"),
        (lambda: Dropping(TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4))), "train_dataloader yields no batch"),
        (lambda: Held(labelled([0, 1]).dataset, TensorDataset(torch.rand(0, 1, 8, 8), torch.zeros(0))), "val_dataloader yields no batch"),
    ],
)
def test_data_that_cannot_be_learnt_is_explained(datamodule, text):
    with pytest.raises(DataError, match=text):
        _ = TaskData(datamodule()).shapes


def test_classes_that_only_validation_shows_are_counted_with_a_warning():
    data = TaskData(Held(labelled([0, 1, 3]).dataset, labelled([0, 1, 5]).dataset))
    with pytest.warns(match="2, 4, 5"):
        assert data.shapes[1] == 6


def test_narrow_integer_labels_are_taken():
    assert TaskData(labelled(torch.tensor([0, 1, 2], dtype=torch.int32))).shapes[1] == 3


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.rand(1, 8, 8), 1


def test_a_stream_is_refused_in_one_line():
    with pytest.raises(DataError, match="IterableDataset"):
        TaskData(Custom(Stream())).calibration(8, 0)


def test_samples_of_differing_sizes_are_told_in_one_line():
    rows = [(torch.rand(1, 8, 8 + i % 2), i % 3) for i in range(24)]
    with pytest.raises(DataError, match=r"differ in size \(\[1, 8, .\] and \[1, 8, .\]\)"):
        _ = TaskData(Custom(rows)).shapes


class Unvalidated(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(labelled([0, 1, 2]).dataset, batch_size=3)


def test_a_missing_validation_loader_is_told_with_what_to_do():
    with pytest.raises(DataError, match=r"Unvalidated has no val_dataloader.*random_split"):
        _ = TaskData(Unvalidated()).shapes


def test_a_data_module_made_from_data_sets_has_the_loaders_that_it_was_given():
    dataset = labelled([0, 1, 2, 0]).dataset
    data = TaskData(pl.LightningDataModule.from_datasets(dataset, dataset, batch_size=2, num_workers=0))
    assert data.shapes == ((1, 8, 8), 3)
    assert not data.has_test


@pytest.mark.parametrize(
    ("targets", "outputs"),
    [(torch.rand(6), 1), (torch.rand(6, 4), 4), (torch.arange(6), 6), (torch.arange(24).reshape(6, 2, 2) % 3, 3)],
)
def test_the_outputs_of_other_tasks_than_classification_come_from_the_targets(targets, outputs):
    inner = Custom(TensorDataset(torch.rand(6, 1, 8, 8), targets))
    assert TaskData(inner, classifies=False).outputs == outputs
    inner.num_outputs = 7
    assert TaskData(inner, classifies=False).outputs == 7
    inner.num_outputs = "7"
    with pytest.raises(DataError, match="num_outputs of Custom"):
        _ = TaskData(inner, classifies=False).outputs


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.rand(1, 8, 8), 1


def test_an_endless_stream_is_refused_before_its_labels_are_counted():
    with pytest.raises(DataError, match="IterableDataset"):
        _ = TaskData(Custom(Endless())).shapes


def test_several_labels_may_be_whole_numbers():
    inner = Custom(TensorDataset(torch.rand(6, 1, 8, 8), torch.randint(2, (6, 4))))
    assert TaskData(inner, classifies=False).outputs == 4


@pytest.mark.parametrize("loader", [None, []])
def test_a_test_loader_that_is_none_counts_as_none(loader):
    inner = type("Inherited", (Custom,), {"test_dataloader": lambda self: loader})(labelled([0, 1, 2]).dataset)
    assert not TaskData(inner).has_test


def test_a_test_loader_that_is_refused_counts_as_none_with_a_warning():
    class Inherited(Custom):
        def test_dataloader(self):
            raise NotImplementedError("no test split here")

    with pytest.warns(UserWarning, match=r"Inherited refuses a test loader \(NotImplementedError: no test split here\)"):
        assert not TaskData(Inherited(labelled([0, 1, 2]).dataset)).has_test
