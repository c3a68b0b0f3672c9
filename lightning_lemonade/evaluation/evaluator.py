"""One child: inherit, measure, fine-tune, validate."""

import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning
from torch import Generator, Tensor

from lightning_lemonade.errors import EvaluationError
from lightning_lemonade.evaluation.data import TaskData
from lightning_lemonade.graph import GraphSpec, initialise
from lightning_lemonade.module import LemonadeModule, Training, pair
from lightning_lemonade.morphisms import State
from lightning_lemonade.objectives import Objective, SpecObjective, TrainedObjective
from lightning_lemonade.search import Child, Failure, Measurement, Outcome, TaskResult, derived_seed

ModuleFactory = Callable[[GraphSpec, Training], LemonadeModule]


@dataclass(frozen=True)
class EvaluationRequest:
    """A child to evaluate, with what it inherits.

    Attributes:
        child: the candidate.
        parent: the parent's architecture; None if nothing is inherited.
        weights: the parent's weights by task.
    """

    child: Child
    parent: GraphSpec | None
    weights: Mapping[str, State]


@dataclass(frozen=True)
class TestRequest:
    """A trained candidate to measure on the test split.

    Attributes:
        spec: its architecture.
        weights: its weights by task.
    """

    __test__ = False  # no test class, though its name begins like one
    spec: GraphSpec
    weights: Mapping[str, State]


@dataclass(frozen=True)
class Evaluation:
    """An outcome with the trained weights by task (empty if it failed)."""

    outcome: Outcome
    weights: Mapping[str, State]


class Evaluator:
    """Evaluates children in this process, each with fresh Lightning trainers.

    Args:
        tasks: the data by task name.
        calibration: the calibration batch by task name.
        objectives: all of them.
        training: the settings.
        factory: makes a module from a spec and the settings.
        seed: the search's.
        trainer_arguments: for `pytorch_lightning.Trainer`.
        callbacks: factories of Lightning callbacks, called for each child.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, TaskData],
        calibration: Mapping[str, Tensor],
        objectives: Sequence[Objective],
        training: Training,
        factory: ModuleFactory,
        seed: int,
        trainer_arguments: Mapping[str, Any],
        callbacks: Sequence[Callable[[], pl.Callback]] = (),
    ) -> None:
        self.tasks, self.calibration, self.objectives, self.training = tasks, calibration, objectives, training
        self.factory, self.seed, self.trainer_arguments, self.callbacks = factory, seed, dict(trainer_arguments), callbacks

    def evaluate(self, request: EvaluationRequest) -> Evaluation:
        """Evaluates a child. What its training raises becomes a failure with a kind and a text."""
        seconds = {"inherit": 0.0, "fit": 0.0, "validate": 0.0}
        child = request.child
        try:
            with quiet(), seeded(derived_seed(self.seed, "fit", child.id)):
                return self._evaluate(request, seconds)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C inside fit
            raise KeyboardInterrupt from stop
        except EvaluationError as error:
            failure = Failure("not_a_number", str(error))
        except Exception as error:
            failure = Failure("exception", f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0])
        return Evaluation(Outcome(child.id, failure=failure, seconds=seconds), {})

    def _evaluate(self, request: EvaluationRequest, seconds: dict[str, float]) -> Evaluation:
        child, results, weights = request.child, {}, {}
        values: dict[str, Measurement] = {}
        epochs = self.training.initial_epochs if child.parent is None else self.training.epochs
        for task, data in self.tasks.items():
            with timed(seconds, "inherit"):
                module = self.factory(child.spec, self.training)
                initialise(module.network)
                if request.parent is not None:
                    module.network.load_state_dict(self._inherited(request, request.parent, task))
                for objective in self.objectives:
                    if isinstance(objective, SpecObjective):
                        values[objective.key] = Measurement(objective.of_network(module.network, child.spec))
            start = None
            if request.parent is not None:
                with timed(seconds, "validate"):
                    start = self.metrics(module, data)["val_error"]
            counter = _ImageCounter()
            with timed(seconds, "fit"):
                arguments = self._arguments() | {"max_epochs": epochs, "limit_val_batches": 0}
                pl.Trainer(**arguments, callbacks=[counter, *(make() for make in self.callbacks)]).fit(module, datamodule=data)
            with timed(seconds, "validate"):
                metrics = self.metrics(module, data)
            results[task] = TaskResult(start, metrics, epochs, counter.images)
            weights[task] = {name: tensor.detach().cpu().clone() for name, tensor in module.network.state_dict().items()}
            for objective in self.objectives:
                if isinstance(objective, TrainedObjective):
                    values[objective.key] = Measurement(objective.of_metrics(metrics))
        for key, measured in values.items():
            if not np.isfinite(measured.value):
                raise EvaluationError(f"objective {key} is {measured.value}")
        return Evaluation(Outcome(child.id, values, None, results, seconds), weights)

    def test(self, request: TestRequest) -> dict[str, float]:
        """Returns the error on the test split by task, for tasks that have one."""
        errors = {}
        with seeded(derived_seed(self.seed, "test")):
            for task, data in self.tasks.items():
                if data.has_test:
                    module = self.factory(request.spec, self.training)
                    module.network.load_state_dict(dict(request.weights[task]))
                    errors[task] = self.metrics(module, data, "test")["val_error"]
        return errors

    def _inherited(self, request: EvaluationRequest, spec: GraphSpec, task: str) -> State:
        """Returns the child's weights before training: the parent's, through each mutation in turn."""
        state = dict(request.weights[task])
        generator = Generator().manual_seed(derived_seed(self.seed, "inherit", request.child.id))
        for mutation in request.child.mutations:
            after = mutation.rewrite(spec)
            state = mutation.transfer(spec, state, after, self.calibration[task], generator)
            spec = after
        return state

    def metrics(self, module: LemonadeModule, data: TaskData, split: str = "val") -> dict[str, float]:
        """Returns a module's metrics on a split (`val` or `test`) by name."""
        data.evaluated_split = split
        arguments = self._arguments() | {"use_distributed_sampler": False}  # every rank sees each sample once
        with quiet():
            results = pl.Trainer(**arguments).validate(module, datamodule=data, verbose=False)
        return {name: float(value) for name, value in results[0].items()}

    def _arguments(self) -> dict[str, Any]:
        lean: dict[str, Any] = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        return lean | self.trainer_arguments


class _ImageCounter(pl.Callback):
    """Counts the training samples that this child sees."""

    def __init__(self) -> None:
        self.images = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.images += len(pair(batch)[0]) * trainer.world_size


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the time that a block takes to a phase."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's lines about devices, tips and few batches, which it would repeat for every child, off the terminal."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch for a block, and restores them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
