import random

import hypothesis
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_lemonade import LemonadeTrainer
from lightning_lemonade.callbacks import Distillation
from lightning_lemonade.callbacks.distillation import _Recorded, divergence
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData
from lightning_lemonade.evaluation.evaluator import joints
from lightning_lemonade.graph import build
from lightning_lemonade.history import History
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.morphisms import InsertConvBlock, PruneFilters, RemoveLayer, network_with
from lightning_lemonade.objectives import resolve
from lightning_lemonade.search import Child
from lightning_lemonade.spaces import ALL_OPERATORS, ConvNetSpace, conv_net, random_mutation
from lightning_lemonade.testing import random_spec

SPEC = ConvNetSpace().initial((1, 8, 8), 10)[1]
FIRST = next(node.id for node in SPEC.nodes if node.label == "block1.conv")
SECOND = next(node.id for node in SPEC.nodes if node.label == "block2.conv")
PRUNED = PruneFilters(FIRST, fraction=0.5)


class Spy(Distillation):
    made: list["Spy"] = []  # noqa: RUF012 (shared on purpose)

    def on_train_end(self, trainer, pl_module):
        super().on_train_end(trainer, pl_module)
        self.terms_left = len(pl_module.loss_terms)
        Spy.made.append(self)


def evaluator(*callbacks):
    data = TaskData(DigitsDataModule())
    return Evaluator(
        tasks={"": data},
        calibration={"": data.calibration(256, 0)},
        objectives=resolve(["error", "params"]),
        training=Training(epochs=2, initial_epochs=8, learning_rate=0.03),
        factory=LemonadeModule,
        seed=0,
        trainer_arguments={"accelerator": "cpu"},
        callbacks=callbacks,
    )


@pytest.fixture(scope="module")
def parent():
    torch.set_num_threads(1)
    return evaluator().evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 0), None, {}))


def child_of(parent, mutation, *callbacks):
    request = EvaluationRequest(Child(mutation.rewrite(SPEC), 1, 0, (mutation,), {}, 1), SPEC, parent.weights)
    return evaluator(*callbacks).evaluate(request), request.child.spec


def test_a_distilled_child_stays_nearer_to_its_parent(parent):
    x = TaskData(DigitsDataModule()).calibration(512, 1)
    target = network_with(SPEC, parent.weights[""]).eval()(x)
    distances = []
    for callbacks in ([], [lambda: Distillation(weight=3.0)]):
        evaluation, spec = child_of(parent, PRUNED, *callbacks)
        with torch.no_grad():
            distances.append(float(divergence(network_with(spec, evaluation.weights[""]).eval()(x), target)))
    assert distances[1] < 0.8 * distances[0], distances


@pytest.mark.parametrize(("settings", "epochs"), [({}, 2), ({"epochs": 1}, 1)])
def test_what_it_costs_is_accounted_and_nothing_of_it_stays(parent, settings, epochs):
    Spy.made.clear()
    evaluation, _ = child_of(parent, PRUNED, lambda: Spy(**settings))
    result = evaluation.outcome.tasks[""]
    assert result.teacher_images == result.images * epochs / 2
    (spy,) = Spy.made
    assert spy.terms_left == 0


def test_exact_children_are_left_to_grow_unless_asked(parent):
    insertion = InsertConvBlock(next(node.id for node in SPEC.nodes if node.op.name == "activation"))
    assert child_of(parent, insertion, Distillation)[0].outcome.tasks[""].teacher_images == 0
    evaluation, _ = child_of(parent, insertion, lambda: Distillation(exact=True))
    assert evaluation.outcome.tasks[""].teacher_images == evaluation.outcome.tasks[""].images


def test_child_and_parent_meet_again_behind_the_change():
    assert joints(SPEC, [PRUNED]) == [SECOND]
    insertion = InsertConvBlock(next(node.id for node in SPEC.nodes if node.op.name == "activation"))
    grown = insertion.rewrite(SPEC)
    assert joints(SPEC, [insertion, RemoveLayer(next(n.id for n in grown.nodes if n.id not in SPEC))]) == []


def test_an_id_that_went_and_came_again_is_no_joint():
    parent = InsertConvBlock("n3").rewrite(InsertConvBlock("n3").rewrite(conv_net((1, 8, 8), 10, 4, separable=False)))
    last = max((node.id for node in parent.nodes if node.op.name == "conv2d"), key=lambda node_id: int(node_id[1:]))
    chain = [RemoveLayer(last), InsertConvBlock("n3")]
    child = chain[1].rewrite(chain[0].rewrite(parent))
    assert child[last].op == parent[last].op
    assert last not in joints(parent, chain)


@given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=60, deadline=None)
def test_every_joint_can_be_listened_to(seed):
    rng = random.Random(seed)
    spec = random_spec(rng, 8)
    drawn = random_mutation(spec, np.random.default_rng(seed), ALL_OPERATORS)
    if drawn is None:
        return
    found = joints(spec, [drawn[0]])
    for side in (spec, drawn[1]):
        network = build(side).eval()
        seen = _Recorded(network, found)
        network(torch.zeros(2, *side.input_shape))
        assert {joint: tuple(output.shape[1:]) for joint, output in seen.outputs.items()} == {joint: side.shapes[joint] for joint in found}
        seen.close()


def test_a_search_takes_lightning_callbacks_as_classes_functions_and_examples(tmp_path):
    Spy.made.clear()
    stopper = pl.callbacks.LambdaCallback(on_train_start=lambda trainer, module: None)
    LemonadeTrainer(
        algorithm="paper",
        max_generations=1,
        proposals=8,
        accepted=4,
        epochs=1,
        initial_epochs=1,
        accelerator="cpu",
        run_dir=tmp_path / "run",
        callbacks=[lambda: Spy(exact=True), stopper],
    ).search(DigitsDataModule())
    candidates = History.open(tmp_path / "run").candidates()
    assert all(candidate.state == "evaluated" for candidate in candidates)
    assert [candidate.teacher_images for candidate in candidates] == [0] * 4 + [candidates[4].images] * 4
    assert len(Spy.made) == len({id(spy) for spy in Spy.made}) == 8


@pytest.mark.parametrize("settings", [{"weight": -1}, {"temperature": 0.5}, {"temperature": float("nan")}, {"hint_weight": -0.1}])
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Distillation(**settings)


def test_something_that_is_no_callback_is_refused():
    with pytest.raises(ConfigurationError, match="42"):
        LemonadeTrainer(callbacks=[42])
