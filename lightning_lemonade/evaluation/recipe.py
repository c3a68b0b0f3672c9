"""How an evaluator is made, in this process or in another one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl

from lightning_lemonade.batches import BatchFormat
from lightning_lemonade.errors import DataError
from lightning_lemonade.evaluation.data import TaskData
from lightning_lemonade.evaluation.evaluator import Evaluator, ModuleFactory
from lightning_lemonade.evaluation.failures import from_data_module
from lightning_lemonade.evaluation.scopes import gathered, seeded
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.objectives import Objective
from lightning_lemonade.search import derived_seed


class Prepare(Protocol):
    """Runs a data module's `prepare_data` on those processes that shall: see `Ranks.prepare`."""

    def __call__(self, action: Callable[[], None], *, per_node: bool) -> None:
        """Runs it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what an evaluation gives, as it is before any data is set up.

    Two processes that follow the same recipe give equal evaluations of equal requests, bit for bit on a CPU with as many threads.

    Attributes:
        modules: the data modules by task.
        batch_format: where their batches hold samples and targets.
        objectives: all of them.
        training: the settings.
        factory: makes a module from a spec and the settings.
        seed: the search's.
        calibration_size: training samples for the transfer of weights.
        trainer_arguments: for `pytorch_lightning.Trainer`.
        callbacks: factories of Lightning callbacks, called for each child.
        max_child_seconds: how long the evaluation of one child may take, or None.
    """

    modules: Mapping[str, pl.LightningDataModule]
    batch_format: BatchFormat
    objectives: Sequence[Objective]
    training: Training
    factory: ModuleFactory
    seed: int
    calibration_size: int
    trainer_arguments: Mapping[str, Any]
    callbacks: Sequence[Callable[[], pl.Callback]]
    max_child_seconds: float | None

    def evaluator(self, prepare: Prepare) -> Evaluator:
        """Prepares the data, sets it up, and returns an evaluator; whoever calls closes it.

        Args:
            prepare: runs `prepare_data`.

        Raises:
            DataError: if a data module raises, or doesn't yield what a search needs.
        """
        tasks: dict[str, TaskData] = {}
        try:
            calibration = {}
            for task, datamodule in self.modules.items():
                with _named(task):
                    with from_data_module(datamodule, "prepare_data"):
                        prepare(datamodule.prepare_data, per_node=datamodule.prepare_data_per_node)
                    # a split that draws from the global generators is the same in every process and in every run
                    with seeded(derived_seed(self.seed, "data")):
                        tasks[task] = TaskData(datamodule, self.batch_format, classifies=_classifies(self.factory))
                        _ = tasks[task].shapes  # what is wrong with the data is said first
                        calibration[task] = tasks[task].calibration(self.calibration_size, self.seed)
            _compare({task: data.checksums for task, data in tasks.items()})
            return Evaluator(
                tasks=tasks,
                calibration=calibration,
                objectives=self.objectives,
                training=self.training,
                factory=self.factory,
                seed=self.seed,
                trainer_arguments=self.trainer_arguments,
                callbacks=self.callbacks,
                max_child_seconds=self.max_child_seconds,
            )
        except BaseException:
            for data in tasks.values():
                data.close()
            raise


def _classifies(module: ModuleFactory) -> bool:
    """Returns whether a module certainly is the classifier that `LemonadeModule` is, to whose targets much can be said."""
    return isinstance(module, type) and all(
        getattr(module, name) is getattr(LemonadeModule, name) for name in ("loss", "metrics", "training_step", "validation_step")
    )


def _compare(checksums: Mapping[str, Mapping[str, str]]) -> None:
    """Raises a DataError where ranks that train together have other data."""
    for rank, others in enumerate(gathered(checksums)):
        for task, parts in others.items():
            for part, checksum in parts.items():
                if checksums[task].get(part) != checksum:
                    raise DataError(
                        f"the ranks have different data: the {part} batch of rank {rank} isn't this one's; copy the same files to each "
                        f"machine, and draw splits by a fixed seed"
                    )


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Says of which task a problem with the data is, where tasks have names."""
    try:
        yield
    except DataError as error:
        if not task:
            raise
        raise DataError(f"task {task}: {error}") from error
