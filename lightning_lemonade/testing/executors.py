"""What every executor must do, ours or a user's."""

from collections.abc import Callable, Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Recipe, Tested, TestRequest
from lightning_lemonade.executors import Executor, InlineExecutor, Request, Result
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.objectives import for_tasks, resolve
from lightning_lemonade.search import Child
from lightning_lemonade.spaces import ConvNetSpace

SPECS = ConvNetSpace().initial((1, 8, 8), 3)[:3]


class Noise(pl.LightningDataModule):
    """Sixty small random images of three classes; the same in every process."""

    num_classes = 3

    def setup(self, stage: str | None = None) -> None:
        """Draws them."""
        generator = torch.Generator().manual_seed(0)
        self.data = TensorDataset(torch.randn(60, 1, 8, 8, generator=generator), torch.arange(60) % 3)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Returns a loader of batches of ten."""
        return DataLoader(self.data, batch_size=10, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Returns the same samples, in order."""
        return DataLoader(self.data, batch_size=25)

    test_dataloader = val_dataloader


class Fragile(LemonadeModule):
    """Raises while it trains the second architecture."""

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Raises, or goes on."""
        if self.spec.structural_hash == SPECS[1].structural_hash:
            raise RuntimeError("this child fails")
        return super().training_step(batch, batch_idx)


class Mute(LemonadeModule):
    """Logs no error, which no child of a search can do without."""

    def on_validation_epoch_end(self) -> None:
        """Logs nothing."""


def check_executor(make: Callable[[], Executor]) -> None:
    """Runs small searches' worth of requests through executors.

    Args:
        make: returns a new executor, or the same one again, which must be fit to be opened again once it is closed.

    Raises:
        AssertionError: if one breaks the contract of `Executor`.
    """
    _check_results(make)
    _check_errors(make)
    executor = make()
    executor.close()  # before it was prepared
    executor.close()


def _check_results(make: Callable[[], Executor]) -> None:
    """Each request gives one result, equal to that of this process; a child that raises is a failure."""
    requests = {i: EvaluationRequest(Child(spec, 0, None, (), {}, id=i), None, {}) for i, spec in enumerate(SPECS)}
    expected = _results(InlineExecutor(), Fragile, requests)
    found = _results(make(), Fragile, requests)
    assert found.keys() == expected.keys(), f"the requests {sorted(expected)} gave results for {sorted(found)}"
    for i, wanted in expected.items():
        given = found[i]
        assert isinstance(given, Evaluation)
        assert isinstance(wanted, Evaluation)
        assert given.outcome.failure == wanted.outcome.failure, (
            f"candidate {i}: {given.outcome.failure} instead of {wanted.outcome.failure}"
        )
        assert given.outcome.values == wanted.outcome.values, f"candidate {i} has other values"
        for task, state in wanted.weights.items():
            equal = all(torch.equal(given.weights[task][name], tensor) for name, tensor in state.items())
            assert equal, f"candidate {i} has other weights"
    first = expected[0]
    assert isinstance(first, Evaluation)
    tests: dict[int, Request] = {0: TestRequest(SPECS[0], first.weights, 0)}
    assert _results(make(), Fragile, tests) == _results(InlineExecutor(), Fragile, tests), "a test gives another error"


def _check_errors(make: Callable[[], Executor]) -> None:
    """What would be the same for every child is raised."""
    requests: dict[int, Request] = {0: EvaluationRequest(Child(SPECS[0], 0, None, (), {}, id=0), None, {})}
    try:
        _results(make(), Mute, requests)
    except ConfigurationError:
        return
    raise AssertionError("a module that no child can be evaluated with raised no ConfigurationError")


def _results(
    executor: Executor, factory: type[LemonadeModule], requests: Mapping[int, Request] | Mapping[int, EvaluationRequest]
) -> dict[int, Result]:
    """Runs requests through an executor, as a search does."""
    recipe = Recipe(
        modules={"": Noise()},
        batch_format=None,
        objectives=for_tasks(resolve(["error", "params"]), [""]),
        training=Training(epochs=1, initial_epochs=1),
        factory=factory,
        seed=0,
        calibration_size=16,
        trainer_arguments={"accelerator": "cpu"},
        callbacks=(),
        max_child_seconds=None,
    )
    waiting, results = list(requests.values()), dict[int, Result]()
    threads = torch.get_num_threads()
    try:
        ranks = executor.prepare(recipe)
        evaluator = recipe.evaluator(ranks.prepare)
        torch.set_num_threads(1)
        executor.open(ranks, evaluator)
        underway = 0
        while waiting or underway:
            assert executor.slots >= 1, f"an executor of {executor.slots} slots evaluates nothing"
            while waiting and underway < executor.slots:
                executor.submit(waiting.pop(0))
                underway += 1
            result = executor.next()
            if result is None:
                continue
            number = result.id if isinstance(result, Tested) else result.outcome.id
            assert number not in results, f"candidate {number} came twice"
            results[number], underway = result, underway - 1
        evaluator.close()
        return results
    finally:
        executor.close()
        torch.set_num_threads(threads)
