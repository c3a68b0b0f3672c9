"""What training a network takes: the time of a step and the memory, measured in a few real steps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from statistics import median
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_lemonade.errors import ConfigurationError, DataError, LemonadeError, ObjectiveError, SearchError
from lightning_lemonade.evaluation.data import LEAN, TaskData
from lightning_lemonade.evaluation.evaluator import Evaluator
from lightning_lemonade.evaluation.failures import deaths_told, failure_of
from lightning_lemonade.evaluation.halves import first_of
from lightning_lemonade.evaluation.interrupts import as_sent
from lightning_lemonade.evaluation.scopes import quiet, seeded
from lightning_lemonade.evaluation.watch import check_output
from lightning_lemonade.graph import GraphSpec, initialise, with_outputs
from lightning_lemonade.module import LemonadeModule
from lightning_lemonade.search import derived_seed

WARM_UP, STEPS, LONGEST = 2, 9, 3.0
"""Steps that aren't measured, steps of the measured training (its first one isn't counted), and the seconds after which it ends."""
OF_PLACES = frozenset({"accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "plugins", "profiler"})
"""Arguments of a trainer that say where it runs, or that write."""


@dataclass(frozen=True)
class Pace:
    """What training a network takes on one device.

    Attributes:
        step: seconds of a training step, with the loading of its batch.
        validation: seconds of a batch of validation.
        start: seconds that a training takes besides its steps.
        look: seconds that a validation takes besides its batches.
        batches: of an epoch.
        held_out: batches of a validation, on one device.
        samples: in a training step on one device.
        memory: bytes that a training step takes at most. On CUDA what torch allocated; elsewhere weights, gradients, the optimiser's state
            and what is kept for the backward pass.
        gradients: bytes of the gradients.
    """

    step: float
    validation: float
    start: float
    look: float
    batches: int
    held_out: int
    samples: int
    memory: int
    gradients: int

    def seconds(self, epochs: int, validations: int, processes: int = 1) -> float:
        """Returns the time of a training with validations, of which each process does a share."""
        validation = self.validation * self.held_out / processes + self.look
        return epochs * self.batches * self.step + self.start + validations * validation


def measure(evaluator: Evaluator, task: str, spec: GraphSpec, where: Mapping[str, Any], processes: int) -> Pace:
    """Trains a network for a few steps, as a search would, and looks at the clock. Writes nothing; draws from generators that it restores.

    The user's callbacks aren't there: they may write.

    Args:
        evaluator: with its data set up.
        task: the task's name.
        spec: the architecture.
        where: `accelerator` and `devices` of the trainer: one device.
        processes: that share each batch in a search.

    Raises:
        SearchError: if the network can't be trained.
        ConfigurationError: if the trainer's arguments can't be used.
        DataError: if the data isn't what it must be.
    """
    data = _Share(evaluator.tasks[task], processes)
    if where["accelerator"] == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # else what the user's seed is to become would be drawn in the scope below
    try:
        with quiet(), seeded(derived_seed(evaluator.seed, "plan")), as_sent(), deaths_told():
            return _measured(evaluator, task, with_outputs(spec, data.outputs), data, _arguments(evaluator, where))
    except (ConfigurationError, DataError, ObjectiveError, SIGTERMException):
        raise
    except (Exception, SystemExit) as error:
        failure = failure_of(error)
        text = str(error) if isinstance(error, LemonadeError) else failure.text
        raise SearchError(f"a starting network of {spec.parameter_count:,} parameters can't be trained: {failure.kind}: {text}") from error
    finally:
        evaluator.tasks[task].trainer = None


def _measured(evaluator: Evaluator, task: str, spec: GraphSpec, data: "_Share", arguments: Mapping[str, Any]) -> Pace:
    first = _begun(evaluator, spec, data)
    check_output(first, evaluator.calibration[task][:2], spec.output_shape)
    saved = _Saved(first)
    training = dict(arguments) | {"max_epochs": evaluator.training.initial_epochs, "limit_val_batches": 0}
    pl.Trainer(**training, callbacks=[_Clock(WARM_UP), saved]).fit(first, datamodule=data)
    del first
    module = _begun(evaluator, spec, data)
    clock, began = _Clock(STEPS), time.perf_counter()
    trainer = pl.Trainer(**training, callbacks=[clock])
    on_cuda = trainer.strategy.root_device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    trainer.fit(module, datamodule=data)
    if not clock.times:
        raise ConfigurationError("the training saw no batch: see train_dataloader's batch size and limit_train_batches")
    start = time.perf_counter() - began - sum(clock.times)
    memory = torch.cuda.max_memory_allocated(trainer.strategy.root_device) if on_cuda else saved.memory
    clock_of_validation = _Clock(0)
    judge = pl.Trainer(**{**arguments, "limit_val_batches": 2, "use_distributed_sampler": False}, callbacks=[clock_of_validation])
    look = 0.0
    for _ in range(2):  # the first time warms up
        clock_of_validation.times.clear()
        began = time.perf_counter()
        results = judge.validate(module, datamodule=data, verbose=False)
        look = max(0.0, time.perf_counter() - began - sum(clock_of_validation.times))
    # as a search does: what is minimised must be logged
    evaluator._quality(task, {name: float(value) for result in results for name, value in result.items()})
    return Pace(
        step=median(clock.times[1:] or clock.times),
        validation=clock_of_validation.times[-1] if clock_of_validation.times else 0.0,
        start=start,
        look=look,
        batches=int(trainer.num_training_batches),
        held_out=sum(_length(loader) for loader in tree_leaves(judge.val_dataloaders)),
        samples=clock.samples,
        memory=int(memory),
        gradients=saved.gradients,
    )


def _begun(evaluator: Evaluator, spec: GraphSpec, data: TaskData) -> LemonadeModule:
    module = evaluator._module(spec, data)
    initialise(module.network)
    return module


def _arguments(evaluator: Evaluator, where: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a trainer that runs in this process alone, whoever launched it."""
    kept = {name: value for name, value in evaluator.trainer_arguments.items() if name not in OF_PLACES}
    given = evaluator.trainer_arguments.get("plugins") or []
    plugins = [one for one in (given if isinstance(given, Sequence) else [given]) if not isinstance(one, ClusterEnvironment)]
    return LEAN | kept | {**where, "plugins": [*plugins, LightningEnvironment()]}


def _length(loader: object) -> int:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # of a batch sampler that doesn't say
        return 1


class _Share(TaskData):
    """Data of which one process of several gets its share of each training batch.

    Args:
        data: the whole.
        processes: that share it.
    """

    def __init__(self, data: TaskData, processes: int) -> None:
        super().__init__(data, data.batch_format, classifies=data.classifies)
        self.processes = processes

    @property
    def outputs(self) -> int:
        """Those of the whole."""
        whole: TaskData = self.inner  # type: ignore[assignment]
        return whole.outputs

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401 (Lightning's)
        """Delegates, and takes the share."""
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        if self.processes == 1 or self.trainer is None or not self.trainer.training:
            return batch
        try:
            size = len(cast(LemonadeModule, self.trainer.lightning_module).unpack(batch)[0])
        except DataError:  # a batch that can't be read before the hooks that follow
            return batch
        return first_of(batch, size, -(-size // self.processes))


class _Clock(pl.Callback):
    """Takes the time of each batch, with its loading where it isn't an epoch's first; ends a training after some.

    Args:
        steps: after which a training ends.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.times, self.samples = steps, list[float](), 0
        self._last: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A new epoch's loader isn't counted to its first batch."""
        self._last = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        """Begins."""
        self._last = time.perf_counter() if self._last is None else self._last

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Takes the time."""
        self._take(pl_module.device)
        self.samples = max(self.samples, len(cast(LemonadeModule, pl_module).unpack(batch)[0]))
        if len(self.times) >= self.steps or sum(self.times[1:]) > LONGEST:
            trainer.should_stop = True

    def on_validation_batch_start(self, *_: object) -> None:
        """Begins."""
        self._last = time.perf_counter()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Takes the time."""
        self._take(pl_module.device)

    def _take(self, device: torch.device) -> None:
        if device.type in ("cuda", "mps"):  # which work on while Python goes on
            getattr(torch, device.type).synchronize()
        now = time.perf_counter()
        self.times.append(now - (now if self._last is None else self._last))
        self._last = now


class _Saved(pl.Callback):
    """Counts the bytes that a module's training keeps: weights, gradients, the optimiser's state, and what the backward pass needs.

    Args:
        module: its training step is wrapped.
    """

    def __init__(self, module: LemonadeModule) -> None:
        self.memory = self.gradients = 0
        self._storages: dict[int, int] = {}
        step = module.training_step

        @wraps(step)  # Lightning reads the signature
        def watched(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self._storages.clear()
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
                return step(*arguments, **named)

        module.training_step = watched  # type: ignore[method-assign]

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()  # views share one
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Adds up."""
        weights = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in (*pl_module.parameters(), *pl_module.buffers())}
        self.gradients = sum(parameter.nbytes for parameter in pl_module.parameters() if parameter.requires_grad)
        states = [leaf for optimiser in trainer.optimizers for leaf in tree_leaves(dict(optimiser.state)) if isinstance(leaf, Tensor)]
        kept = sum(size for pointer, size in self._storages.items() if pointer not in weights)
        self.memory = max(self.memory, sum(weights.values()) + self.gradients + sum(state.nbytes for state in states) + kept)
