import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from strategies import chain
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError

from lightning_lemonade.errors import EvaluationError
from lightning_lemonade.evaluation import EvaluationRequest, TestRequest
from lightning_lemonade.evaluation.data import LEAN
from lightning_lemonade.evaluation.halves import halve, halves
from lightning_lemonade.graph import Activation, Conv2d, GlobalPool2d, Input, Linear, Output, initialise
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.search import Child

PLAIN = chain(Input((1, 8, 8)), Conv2d(4, (3, 3)), Activation("relu"), GlobalPool2d(), Linear(3), Output())


class Hungry(LemonadeModule):
    """Needs a petabyte for more than `most` samples."""

    most = 4

    def training_step(self, batch, batch_idx):
        if len(batch[0]) > self.most and self.global_step > 0:
            torch.empty(10**15)
        return super().training_step(batch, batch_idx)


class Starving(Hungry):
    most = 1


class HungryInValidation(LemonadeModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if len(batch[0]) > 4:
            torch.empty(10**15)
        return super().validation_step(batch, batch_idx, dataloader_idx)


class HungryByItself(Hungry):
    def __init__(self, spec, training):
        super().__init__(spec, training)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        torch.empty(10**15)


def test_a_child_that_needs_too_much_memory_is_trained_with_half_of_each_batch(small):
    evaluator = small.evaluator(factory=Hungry)
    with pytest.warns(UserWarning, match="^candidate 7 ran out of memory, and is tried again with half of each batch at a time$"):
        evaluation = evaluator.evaluate(small.request)
    outcome = evaluation.outcome
    assert outcome.failure is None
    assert (outcome.tasks[""].epochs, outcome.tasks[""].images) == (2, 8 + 2 * 24)  # one step of the first attempt
    with pytest.warns(UserWarning, match="out of memory"):
        again = evaluator.evaluate(small.request)
    assert all(torch.equal(again.weights[""][name], tensor) for name, tensor in evaluation.weights[""].items())


def test_it_fails_where_half_is_too_much_too(small):
    with pytest.warns(UserWarning, match="ran out of memory") as warned:
        outcome = small.outcome(factory=Starving)
    assert len([one for one in warned if "ran out of memory" in str(one.message)]) == 1
    assert outcome.failure.kind == "out_of_memory"
    assert outcome.failure.text == (
        "out of memory (4000000000000000 bytes more were needed), also with half of each batch at a time: "
        "tighten the limits, or make the batches smaller"
    )
    assert (outcome.tasks[""].epochs, outcome.tasks[""].images) == (0, 2 * 8)
    assert outcome.seconds["fit"] > 0


def test_nothing_of_the_first_attempt_is_kept_in_memory(small):
    alive = []

    class Weighed(Hungry):
        def __init__(self, spec, training):
            super().__init__(spec, training)
            self.register_buffer("_large", torch.zeros(7))
            alive.append(torch.utils.weak.WeakIdRef(self._large))

        def on_train_start(self):
            assert all(one() is None for one in alive[:-1])

    with pytest.warns(UserWarning, match="out of memory"):
        assert small.outcome(factory=Weighed).failure is None
    assert len(alive) == 3  # the middle one was looked at only


def test_a_module_that_steps_by_itself_is_not_tried_again(small, recwarn):
    failure = small.outcome(factory=HungryByItself).failure
    assert failure.kind == "out_of_memory"
    assert "a module that steps by itself isn't tried again" in failure.text
    assert not [one for one in recwarn if "out of memory" in str(one.message)]


def test_validation_and_test_take_half_of_each_batch_too(small):
    class Tested(small.data):
        def test_dataloader(self):
            return self.val_dataloader()

    whole, halved = small.evaluator(Tested()), small.evaluator(Tested(), factory=HungryInValidation)
    expected = whole.evaluate(small.request)
    with pytest.warns(UserWarning, match="candidate 7 ran out of memory"):
        evaluation = halved.evaluate(small.request)
    assert evaluation.outcome.failure is None
    request = TestRequest(small.spec, expected.weights)
    with pytest.warns(UserWarning, match="a candidate that is tested ran out of memory"):
        assert halved.test(request) == whole.test(request)
    halved.tasks[""].inner.dataset = None
    HungryInValidation.validation_step, step = lambda self, batch, batch_idx: torch.empty(10**15), HungryInValidation.validation_step
    try:
        with pytest.warns(UserWarning, match="out of memory"), pytest.raises(EvaluationError, match="also with half of each batch"):
            halved.test(request)
    finally:
        HungryInValidation.validation_step = step


def test_of_two_tasks_both_are_trained_again_and_both_attempts_are_accounted(small):
    class Other(small.data):
        num_classes = 3

    class HungryLater(Hungry):
        def training_step(self, batch, batch_idx):
            hungry = isinstance(self.trainer.datamodule.inner, Other)
            return super().training_step(batch, batch_idx) if hungry else LemonadeModule.training_step(self, batch, batch_idx)

    evaluator = small.evaluator({"one": small.data(), "other": Other()}, HungryLater)
    with pytest.warns(UserWarning, match="out of memory"):
        evaluation = evaluator.evaluate(small.request)
    results = evaluation.outcome.tasks
    assert evaluation.outcome.failure is None
    assert [(results[task].epochs, results[task].images) for task in ("one", "other")] == [(4, 4 * 24), (2, 8 + 2 * 24)]
    assert set(evaluation.weights) == {"one", "other"}
    request = EvaluationRequest(Child(small.spec, 1, 7, (), {}, 8), small.spec, evaluation.weights)
    with pytest.warns(UserWarning, match="candidate 8 ran out of memory"):
        child = evaluator.evaluate(request).outcome
    assert child.tasks["one"].start_error == evaluation.outcome.values["error/one"].value  # from the inherited weights


class Double(LemonadeModule):
    """Its loss is a mean over samples, and nothing looks at several of them; keeps what its steps are given."""

    def __init__(self, spec, training=None):
        super().__init__(spec, training)
        self.double()
        self.sizes, self.steps, self.rates = [], 0, []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[0]))
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss, "kept": loss.detach()} if self.named else loss

    named = False

    def on_before_optimizer_step(self, optimizer):
        self.steps += 1
        self.rates.append(optimizer.param_groups[0]["lr"])

    def metrics(self):
        return {"mse": MeanSquaredError()}


class Named(Double):
    named = True


def fitted(halved, factory=Double, size=23, batch_size=8, **arguments):
    torch.manual_seed(0)
    x, y = torch.rand(size, 1, 8, 8, dtype=torch.double), torch.arange(size) % 3
    module = factory(PLAIN, Training(initial_epochs=2, gradient_clip=0.5))
    initialise(module.network)
    if halved:
        halve(module)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
    trainer = pl.Trainer(**LEAN, accelerator="cpu", max_epochs=2, limit_val_batches=0, **arguments)
    trainer.fit(module, loader)
    return module


@pytest.mark.parametrize("factory", [Double, Named])
@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ({}, [4, 4, 4, 4, 4, 3]),
        ({"accumulate_grad_batches": 2}, [4, 4, 4, 4, 4, 3]),
        ({"limit_train_batches": 2, "accumulate_grad_batches": 3}, [4, 4, 4, 4]),
        ({"size": 19}, [4, 4, 4, 4, 3]),  # the last batch is too small to be halved
        ({"size": 17}, [4, 4, 4, 4, 1]),
    ],
)
def test_halves_give_the_weights_of_the_whole(factory, arguments, sizes):
    whole, halved = fitted(False, factory, **arguments), fitted(True, factory, **arguments)
    assert halved.sizes == 2 * sizes
    assert (halved.steps, halved.rates) == (whole.steps, whole.rates)
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


class Faint(LemonadeModule):
    """Gradients that 16-bit floats can't hold unless they are scaled."""

    def loss(self, logits, target):
        return super().loss(logits, target) * 1e-6

    def on_before_optimizer_step(self, optimizer):
        self.largest = max(float(p.grad.abs().max()) for p in self.parameters())


@pytest.mark.filterwarnings("ignore")
def test_small_gradients_of_sixteen_bits_survive():
    def trained(halved):
        torch.manual_seed(0)
        module = Faint(PLAIN)
        initialise(module.network)
        if halved:
            halve(module)
        loader = DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8) % 3), batch_size=8)
        scaler = torch.amp.GradScaler("cpu")
        pl.Trainer(**LEAN, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], accelerator="cpu", max_steps=1, limit_val_batches=0).fit(
            module, loader
        )
        return module.largest

    assert trained(True) == pytest.approx(trained(False), rel=0.05)


def test_batches_of_any_form_are_halved():
    x, y = torch.arange(10).reshape(5, 2), np.arange(5)
    batch = {"x": x, "names": list("abcde"), "pair": (x, torch.tensor(3)), "scale": 2.0, "nested": [x[:, 0], [x] * 5], "boxes": [{}] * 5}
    first, second = halves(batch, 5)
    assert torch.equal(torch.cat([first["x"], second["x"]]), x)
    assert (first["names"], second["names"]) == (["a", "b", "c"], ["d", "e"])
    assert [len(half["pair"][0]) for half in (first, second)] == [3, 2]
    assert first["pair"][1] == 3
    assert first["scale"] == 2.0
    assert [len(half["nested"][1]) for half in (first, second)] == [5, 5]
    assert [len(part) for part in second["nested"][1]] == [2] * 5
    assert [len(half["boxes"]) for half in (first, second)] == [3, 2]
    assert halves(y, 5) == [y, y]


class Wrapped:
    def __init__(self, x, y):
        self.x, self.y = x, y


def test_a_batch_that_cannot_be_halved_stays_whole(small):
    class Unusual(LemonadeModule):
        batch_format = staticmethod(lambda batch: (batch.x, batch.y))

        def training_step(self, batch, batch_idx):
            self.seen = len(batch.x)
            return super().training_step(batch, batch_idx)

    module = Unusual(small.spec)
    halve(module)
    module.training_step(Wrapped(torch.rand(8, 1, 8, 8), torch.arange(8) % 3), 0)
    assert module.seen == 8
