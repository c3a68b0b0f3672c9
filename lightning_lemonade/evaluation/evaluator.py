"""One child: inherit, measure, fine-tune, validate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Generator, Tensor

from lightning_lemonade.callback import Heir, Inheritance
from lightning_lemonade.errors import ConfigurationError, DataError, EvaluationError
from lightning_lemonade.evaluation.data import LEAN, TaskData
from lightning_lemonade.evaluation.scopes import quiet, seed_all, seeded, timed
from lightning_lemonade.graph import Conv2d, GraphSpec, Linear, Output, initialise, is_module, with_outputs
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.morphisms import Mutation, State, network_with
from lightning_lemonade.morphisms.state import load_state
from lightning_lemonade.objectives import Error, Objective, SpecObjective, TrainedObjective
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

    Where tasks differ in their outputs, each has a network of the same architecture with outputs of its own (see `with_outputs`).
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
        self._tried: set[str] = set()

    def evaluate(self, request: EvaluationRequest) -> Evaluation:
        """Evaluates a child. What its training raises becomes a failure with a kind and a text; its cost up to there is kept."""
        seconds = {"inherit": 0.0, "fit": 0.0, "validate": 0.0}
        results: dict[str, TaskResult] = {}
        child = request.child
        try:
            with quiet(), seeded(derived_seed(self.seed, "fit", child.id)):
                return self._evaluate(request, seconds, results)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C inside fit
                raise KeyboardInterrupt from stop
            if isinstance(stop, SIGTERMException):
                raise
            failure = Failure("exception", f"SystemExit: {stop}")
        except (ConfigurationError, DataError):  # the same for every child: no failure of this one
            raise
        except EvaluationError as error:
            failure = Failure("not_a_number", str(error))
        except Exception as error:
            failure = Failure("exception", f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0])
        return Evaluation(Outcome(child.id, failure=failure, tasks=results, seconds=seconds), {})

    def _evaluate(self, request: EvaluationRequest, seconds: dict[str, float], results: dict[str, TaskResult]) -> Evaluation:
        """Evaluates a child; `results` holds each task's cost also where this raises."""
        child, weights = request.child, {}
        values: dict[str, Measurement] = {}
        epochs = self.training.initial_epochs if child.parent is None else self.training.epochs
        for task, data in self.tasks.items():
            with timed(seconds, "inherit"):
                module = self._module(child.spec, data)
                if request.parent is None:
                    initialise(module.network)
                else:
                    load_state(module.network, self._inherited(request, request.parent, task))
                if module.spec == child.spec:  # the widest outputs of any task are the ones that count
                    values |= self._architecture(module, child.spec)
            self._try(task, module)
            start = None
            if request.parent is not None:
                with timed(seconds, "validate"):
                    start = self._quality(task, self.metrics(module, data))
            watch = _Watch(derived_seed(self.seed, "fit", child.id))
            callbacks = [make() for make in self.callbacks]
            heirs = [callback for callback in callbacks if isinstance(callback, Heir)]
            try:
                with timed(seconds, "fit"):
                    self._introduce(heirs, module, request, task)
                    arguments = self._arguments() | {"max_epochs": epochs, "limit_val_batches": 0}
                    pl.Trainer(**arguments, callbacks=[watch, *callbacks]).fit(module, datamodule=data)
                if not watch.images:
                    raise ConfigurationError("the training saw no batch: see train_dataloader's batch size and limit_train_batches")
            finally:
                results[task] = TaskResult(start, {}, watch.epochs, watch.images, sum(heir.teacher_images for heir in heirs))
            with timed(seconds, "validate"):
                metrics = self.metrics(module, data)
            results[task] = replace(results[task], metrics=metrics)
            weights[task] = {name: tensor.detach().cpu() for name, tensor in module.network.state_dict().items()}
            for objective in self._trained(task):
                values[objective.key] = Measurement(objective.of_metrics(metrics))
        for key, measured in values.items():
            if not np.isfinite(measured.value):
                raise EvaluationError(f"objective {key} is {measured.value}")
        return Evaluation(Outcome(child.id, values, None, results, seconds), weights)

    def test(self, request: TestRequest) -> dict[str, float]:
        """Returns each task's first trained objective on the test split, for tasks that have one."""
        errors = {}
        with quiet(), seeded(derived_seed(self.seed, "test")):
            for task, data in self.tasks.items():
                if data.has_test:
                    module = self._module(request.spec, data)
                    load_state(module.network, request.weights[task])
                    errors[task] = self._quality(task, self.metrics(module, data, "test"))
        return errors

    def _architecture(self, module: LemonadeModule, spec: GraphSpec) -> dict[str, Measurement]:
        """Returns the objectives of the architecture, as they are recorded."""
        spec_objectives = [objective for objective in self.objectives if isinstance(objective, SpecObjective)]
        return {objective.key: Measurement(objective.of_network(module.network, spec)) for objective in spec_objectives}

    def _try(self, task: str, module: LemonadeModule) -> None:
        """Validates the first module of a task once, so that a metric that isn't logged is told before a training, not after it."""
        if task not in self._tried:
            with seeded(0):
                self._quality(task, self.metrics(module, self.tasks[task]))
            self._tried.add(task)

    def _module(self, spec: GraphSpec, data: TaskData) -> LemonadeModule:
        """Returns a new module of an architecture for a task."""
        module = self.factory(with_outputs(spec, data.outputs), self.training)
        if data.batch_format is not None:
            module.batch_format = data.batch_format
        return module

    def _trained(self, task: str) -> list[TrainedObjective]:
        """Returns the trained objectives of a task, in order."""
        return [o for o in self.objectives if isinstance(o, TrainedObjective) and o.task == task]

    def _quality(self, task: str, metrics: Mapping[str, float]) -> float:
        """Returns a task's first trained objective; its error where it has none."""
        values = [objective.of_metrics(metrics) for objective in self._trained(task)]
        return values[0] if values else Error().of_metrics(metrics)

    def _inherited(self, request: EvaluationRequest, spec: GraphSpec, task: str) -> State:
        """Returns the child's weights before training: the parent's, through each mutation in turn."""
        state = dict(request.weights[task])
        spec = with_outputs(spec, self.tasks[task].outputs)
        generator = Generator().manual_seed(derived_seed(self.seed, "inherit", request.child.id))
        for mutation in request.child.mutations:
            spec, state = mutation.descend(spec, state, self.calibration[task], generator)
        return state

    def _introduce(self, heirs: Sequence[Heir], module: LemonadeModule, request: EvaluationRequest, task: str) -> None:
        """Tells callbacks about the child's parent, if it has one."""
        if request.parent is None:
            return
        spec = with_outputs(request.parent, self.tasks[task].outputs)
        for heir in heirs:
            parent = network_with(spec, request.weights[task]).eval()
            exact = all(mutation.exact for mutation in request.child.mutations)
            heir.on_inherit(module, Inheritance(parent, exact, joints(spec, request.child.mutations)))

    @cached_property
    def _validator(self) -> pl.Trainer:
        """One trainer validates all networks, unlike fits, for which each needs its own."""
        return pl.Trainer(**self._arguments(), use_distributed_sampler=False)  # every rank sees each sample once

    def metrics(self, module: LemonadeModule, data: TaskData, split: Literal["val", "test"] = "val") -> dict[str, float]:
        """Returns a module's metrics on a split (`val` or `test`) by name."""
        data.evaluated_split = split
        results = self._validator.validate(module, datamodule=data, verbose=False)
        return {name: float(value) for result in results for name, value in result.items()}

    def _arguments(self) -> dict[str, Any]:
        return LEAN | self.trainer_arguments


def joints(parent: GraphSpec, mutations: Sequence[Mutation]) -> list[str]:
    """Returns the nodes at which a child meets its parent again: the same op and output shape, reading something that changed.

    Other nodes than convolutions and linear layers count only where none of these does, and only if they are modules of a network; what
    feeds the output doesn't, since it is the output.

    Args:
        parent: the parent's architecture.
        mutations: what makes the child of it, in order.
    """
    child, kept = parent, set(parent.by_id)
    for mutation in mutations:
        child = mutation.rewrite(child)
        kept &= set(child.by_id)  # an id that went and came again stands for another node

    def same(node_id: str) -> bool:
        return node_id in kept and parent[node_id].op == child[node_id].op and parent.shapes[node_id] == child.shapes[node_id]

    changed = [
        node
        for node in child.nodes
        if node.inputs
        and same(node.id)
        and not any(isinstance(child[reader].op, Output) for reader in child.consumers[node.id])
        and (node.inputs != parent[node.id].inputs or not all(same(source) for source in node.inputs))
    ]
    layers = [node.id for node in changed if isinstance(node.op, Conv2d | Linear)]
    return layers or [node.id for node in changed if is_module(node.op)]


class _Watch(pl.Callback):
    """Counts what a training costs, and sees that its loss and its weights stay finite.

    What isn't finite on one of several ranks is raised on all of them, at the end of the epoch: one rank that stopped at once would
    leave the others waiting for its gradients.

    Args:
        seed: the child's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.images = self.epochs = 0
        self._losses: Tensor | float = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # each rank draws dropout and augmentation of its own
            seed_all(derived_seed(self.seed, "rank", trainer.global_rank))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.images += len(cast(LemonadeModule, pl_module).unpack(batch)[0]) * trainer.world_size
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # summed on the device: looking at each one would make every step wait
            self._losses = self._losses + loss.detach().float()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1
        losses, self._losses = torch.as_tensor(self._losses, device=pl_module.device), 0.0
        self._check(trainer, losses.isfinite().all(), f"the loss was nan or infinite in epoch {self.epochs}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = pl_module.get_submodule("network").state_dict()
        finite = [tensor.isfinite().all() for tensor in weights.values()]
        self._check(trainer, torch.stack(finite).all(), "the trained weights are nan or infinite")

    def _check(self, trainer: pl.Trainer, finite: Tensor, problem: str) -> None:
        """Raises on every rank if something isn't finite on any."""
        if float(trainer.strategy.reduce((~finite).float(), reduce_op="max")):
            raise EvaluationError(f"{problem}: lower the learning rate or check the data")
