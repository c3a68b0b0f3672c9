"""One child: inherit, measure, fine-tune, validate."""

import gc
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Generator, Tensor

from lightning_lemonade.callback import Heir, Inheritance
from lightning_lemonade.errors import ConfigurationError, DataError, EvaluationError
from lightning_lemonade.evaluation.data import LEAN, TaskData
from lightning_lemonade.evaluation.failures import deaths_told, failure_of, memory_error, ran_out_of_memory
from lightning_lemonade.evaluation.halves import halve
from lightning_lemonade.evaluation.interrupts import as_sent
from lightning_lemonade.evaluation.limit import AfterEachBatch, OutOfTime, TimeLimit
from lightning_lemonade.evaluation.requests import Evaluation, EvaluationRequest, Spent, TestRequest
from lightning_lemonade.evaluation.scopes import gathered, quiet, seeded, several_processes, timed
from lightning_lemonade.evaluation.syncing import alone, can_be_shared
from lightning_lemonade.evaluation.watch import Watch, check_output
from lightning_lemonade.graph import Conv2d, GraphSpec, Linear, Output, initialise, is_module, with_outputs
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.morphisms import Mutation, State, network_with
from lightning_lemonade.morphisms.state import load_state
from lightning_lemonade.objectives import Error, Objective, SpecObjective, TrainedObjective
from lightning_lemonade.search import Measurement, Outcome, TaskResult, derived_seed

ModuleFactory = Callable[[GraphSpec, Training], LemonadeModule]
T = TypeVar("T")


class Evaluator:
    """Evaluates children in this process, each with fresh Lightning trainers.

    Where tasks differ in their outputs, each has a network of the same architecture with outputs of its own (see `with_outputs`).

    Args:
        tasks: the data by task name.
        calibration: the calibration batch by task name.
        objectives: all of them.
        training: the settings.
        factory: makes a module from a spec and the settings.
        seed: the search's.
        trainer_arguments: for `pytorch_lightning.Trainer`.
        callbacks: factories of Lightning callbacks, called for each child.
        max_child_seconds: how long the evaluation of one child may take, all tasks together.

    Raises:
        ConfigurationError: if `max_child_seconds` isn't positive.
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
        max_child_seconds: float | None = None,
    ) -> None:
        self.tasks, self.calibration, self.objectives, self.training = tasks, calibration, objectives, training
        self.factory, self.seed, self.trainer_arguments, self.callbacks = factory, seed, dict(trainer_arguments), callbacks
        self._limit = TimeLimit(max_child_seconds)
        self._tried: set[str] = set()

    def close(self) -> None:
        """Lets the data modules tear down what they have set up."""
        for data in self.tasks.values():
            data.close()

    def evaluate(self, request: EvaluationRequest) -> Evaluation:
        """Evaluates a child. What its training raises becomes a failure with a kind and a text; its cost up to there is kept.

        A child that runs out of memory is evaluated once more, with half of each batch at a time, from the same weights and seed.
        """
        child, spent = request.child, Spent()

        def attempt(halved: bool) -> Evaluation:
            with quiet(), seeded(derived_seed(self.seed, "fit", child.id)):
                return self._evaluate(request, spent, halved)

        try:
            with as_sent(), deaths_told(), self._limit.running():
                return self._twice(attempt, child.spec, f"candidate {child.id}")
        except (ConfigurationError, DataError, SIGTERMException):  # the same for every child, or for the search: no failure of this one
            raise
        except (Exception, SystemExit, OutOfTime) as error:
            self._limit.stop()
            failure = failure_of(error)
        self._let_go(free=failure.kind == "out_of_memory")
        return Evaluation(Outcome(child.id, failure=failure, tasks=spent.results, seconds=spent.seconds), {})

    def test(self, request: TestRequest) -> dict[str, float]:
        """Returns each task's first trained objective on the test split, for tasks that have one.

        Raises:
            EvaluationError: if there is too little memory, also for half of each batch at a time, or it takes longer than a child may.
        """

        def attempt(halved: bool) -> dict[str, float]:
            with quiet(), seeded(derived_seed(self.seed, "test")):
                return self._test(request, halved)

        try:
            with as_sent(), deaths_told(), self._limit.running():
                return self._twice(attempt, request.spec, "a candidate that is tested")
        except OutOfTime as error:
            self._limit.stop()
            raise EvaluationError(str(error), "time_limit") from error

    def _twice(self, attempt: Callable[[bool], T], spec: GraphSpec, who: str) -> T:
        """Returns what an attempt gives with whole batches, or with half of each at a time where these take too much memory.

        Raises:
            EvaluationError: of the kind `out_of_memory`.
        """
        try:
            return attempt(False)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            if why_not := self._why_whole(spec):
                raise memory_error(error, why_not) from error
        self._let_go(free=True)  # here the exception is gone, whose traceback holds every tensor that was there when it was raised
        warnings.warn(f"{who} ran out of memory, and is tried again with half of each batch at a time", stacklevel=3)
        try:
            return attempt(True)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            raise memory_error(error, "also with half of each batch at a time") from error

    def _why_whole(self, spec: GraphSpec) -> str:
        """Returns why an architecture can't be trained with half of each batch at a time; empty where it can."""
        if several_processes():  # one of them alone may have too little memory, while the others wait for its gradients
            return "and where several processes train a child, it isn't tried again with smaller batches"
        if not all(self._module(spec, data).automatic_optimization for data in self.tasks.values()):
            return "and a module that steps by itself isn't tried again with smaller batches"
        return ""

    def _let_go(self, *, free: bool) -> None:
        """Lets go of the last module, which trainers keep and data modules keep by their trainer; `free` frees its memory at once."""
        self.__dict__.pop("_validator", None)
        self.__dict__.pop("_lone_validator", None)
        for data in self.tasks.values():
            data.trainer = None
        if free:  # takes some tenths of a second
            gc.collect()
            torch.cuda.empty_cache()

    def _evaluate(self, request: EvaluationRequest, spent: Spent, halved: bool) -> Evaluation:
        """Evaluates a child; `spent` holds its cost also where this raises."""
        child, weights = request.child, {}
        values: dict[str, Measurement] = {}
        for task, data in self.tasks.items():
            with timed(spent.seconds, "inherit"):
                module = self._begun(request, task)
                if module.spec == child.spec:  # the widest outputs of any task are the ones that count
                    values |= self._architecture(module, child.spec)
                check_output(module, self.calibration[task][:2], with_outputs(child.spec, data.outputs).output_shape)
            if halved:
                halve(module)
            metrics = self._trained(module, request, task, spent)
            weights[task] = {name: tensor.detach().cpu() for name, tensor in module.network.state_dict().items()}
            for objective in self._trained_objectives(task):
                values[objective.key] = Measurement(objective.of_metrics(metrics))
        for key, measured in values.items():
            if not np.isfinite(measured.value):
                raise EvaluationError(f"objective {key} is {measured.value}")
        return Evaluation(Outcome(child.id, values, None, spent.results, spent.seconds), weights)

    def _trained(self, module: LemonadeModule, request: EvaluationRequest, task: str, spent: Spent) -> dict[str, float]:
        """Trains a child's module for a task; returns its metrics."""
        data = self.tasks[task]
        self._try(task, module)
        start = None
        if request.parent is not None:
            with timed(spent.seconds, "validate"):
                metrics = self.metrics(module, data)
            start = self._quality(task, metrics)
            worst = request.child.expected.worst_start
            if worst is not None and worst < start < float("inf"):
                spent.results[task] = TaskResult(start, metrics, 0, 0)
                return metrics
        data.seed = derived_seed(self.seed, "fit", request.child.id)
        watch = Watch(data.seed)
        callbacks = [make() for make in self.callbacks]
        heirs = [callback for callback in callbacks if isinstance(callback, Heir)]
        epochs = request.child.epochs or (self.training.initial_epochs if request.child.parent is None else self.training.epochs)
        try:
            with timed(spent.seconds, "fit"):
                self._introduce(heirs, module, request, task)
                arguments = self._arguments() | {"max_epochs": epochs, "limit_val_batches": 0, "use_distributed_sampler": False}
                pl.Trainer(**arguments, callbacks=[watch, AfterEachBatch(self._limit), *callbacks]).fit(module, datamodule=data)
            if not watch.images:
                raise ConfigurationError("the training saw no batch: see train_dataloader's batch size and limit_train_batches")
        finally:
            spent.add(task, start, watch, heirs)
        with timed(spent.seconds, "validate"):
            metrics = self.metrics(module, data)
        spent.results[task] = replace(spent.results[task], metrics=metrics)
        return metrics

    def _begun(self, request: EvaluationRequest, task: str) -> LemonadeModule:
        """Returns a child's module for a task, with the weights that its training begins with."""
        child, data = request.child, self.tasks[task]
        module = self._module(child.spec, data, self.training if request.parent is None else self.training.of_heir(child.epochs))
        if request.parent is None:
            initialise(module.network)
        else:
            load_state(module.network, self._inherited(request, request.parent, task))
        return module

    def _test(self, request: TestRequest, halved: bool) -> dict[str, float]:
        errors = {}
        for task, data in self.tasks.items():
            if data.has_test:
                module = self._module(request.spec, data)
                load_state(module.network, request.weights[task])
                if halved:
                    halve(module)
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

    def _module(self, spec: GraphSpec, data: TaskData, training: Training | None = None) -> LemonadeModule:
        """Returns a new module of an architecture for a task."""
        module = self.factory(with_outputs(spec, data.outputs), training or self.training)
        if data.batch_format is not None:
            module.batch_format = data.batch_format
        return module

    def _trained_objectives(self, task: str) -> list[TrainedObjective]:
        """Returns the trained objectives of a task, in order."""
        return [o for o in self.objectives if isinstance(o, TrainedObjective) and o.task == task]

    def _quality(self, task: str, metrics: Mapping[str, float]) -> float:
        """Returns a task's first trained objective; its error where it has none."""
        values = [objective.of_metrics(metrics) for objective in self._trained_objectives(task)]
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
        return self._measuring(self._arguments())

    @cached_property
    def _lone_validator(self) -> pl.Trainer:
        """One that validates on this rank's device as if there were no others: what is logged is reduced over nobody."""
        index = self._validator.strategy.root_device.index
        alone = {"devices": 1 if index is None else [index], "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
        return self._measuring(self._arguments() | alone)

    def _measuring(self, arguments: Mapping[str, Any]) -> pl.Trainer:
        return pl.Trainer(**arguments, callbacks=[AfterEachBatch(self._limit)], use_distributed_sampler=False)

    def metrics(self, module: LemonadeModule, data: TaskData, split: Literal["val", "test"] = "val") -> dict[str, float]:
        """Returns a module's metrics on a split (`val` or `test`) by name, the same on every rank; each sample is counted once.

        Several ranks validate a share each where both the metrics and the loaders can be shared, else everything each.
        """
        data.by_share = several_processes() and data.can_share(split) and can_be_shared(module)
        data.evaluated_split = split
        if data.by_share or not several_processes():
            return _validated(self._validator, module, data)
        metrics, over = {}, ""
        try:
            with alone(module):
                metrics = _validated(self._lone_validator, module, data)
        except OutOfTime as error:  # here a rank looks at the clock by itself
            over = str(error)
        told = gathered((metrics, over))
        if any(over for _, over in told):
            raise OutOfTime(next(over for _, over in told if over))
        return told[0][0]  # batch norms count what their rank has seen, and rank 0's are recorded

    def _arguments(self) -> dict[str, Any]:
        return LEAN | self.trainer_arguments | {"plugins": plugins(self.trainer_arguments.get("plugins"))}


def plugins(given: Any) -> list[Any]:  # noqa: ANN401 (one of Lightning's, or several)
    """Returns plugins for a child's trainer: in a job of SLURM's one more, so that Lightning doesn't requeue the job from inside a fit.

    Args:
        given: the user's.
    """
    own = list(given) if isinstance(given, list | tuple) else [given] if given is not None else []
    managed = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    processes = dist.get_world_size() if several_processes() else 1
    if not managed or int(os.environ["SLURM_NTASKS"]) != processes or any(isinstance(one, ClusterEnvironment) for one in own):
        return own  # Lightning, too, takes as many tasks as devices for a job that SLURM manages
    return [*own, SLURMEnvironment(auto_requeue=False)]


def _validated(trainer: pl.Trainer, module: LemonadeModule, data: TaskData) -> dict[str, float]:
    results = trainer.validate(module, datamodule=data, verbose=False)
    return {name: float(value) for result in results for name, value in result.items()}


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
