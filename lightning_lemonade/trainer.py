"""LemonadeTrainer: from a data module to a Pareto front."""

import copy
import difflib
import inspect
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_lemonade.batches import BatchFormat, check_format
from lightning_lemonade.callback import SearchCallback
from lightning_lemonade.configuration import described, versions
from lightning_lemonade.errors import ConfigurationError, DataError, HistoryError
from lightning_lemonade.evaluation import Evaluator, Prepare, Recipe, remembered
from lightning_lemonade.evaluation.evaluator import ModuleFactory
from lightning_lemonade.executors import Executor, make_executor
from lightning_lemonade.front import Front, load
from lightning_lemonade.history import DATABASE, History
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.objectives import Metric, Objective, for_tasks, resolve
from lightning_lemonade.plan import Plan, make_plan
from lightning_lemonade.ranks import Ranks, Stop
from lightning_lemonade.run import Run
from lightning_lemonade.search import Limits
from lightning_lemonade.settings import SearchSettings, algorithm_of, parse_time, parse_training
from lightning_lemonade.spaces import ConvNetSpace
from lightning_lemonade.starts import beginning

RESERVED = {
    "barebones": "it records no metrics, which a search needs",
    "callbacks": "pass callbacks to LemonadeTrainer",
    "default_root_dir": "use run_dir",
    "enable_checkpointing": "the run directory keeps the weights",
    "fast_dev_run": "use max_generations=1 with few proposals",
    "limit_val_batches": "every child is validated on the whole validation split",
    "logger": "pass callbacks=[WandbPopulationLogger()]",
    "max_epochs": "use epochs and initial_epochs",
    "max_steps": "use epochs and initial_epochs",
    "max_time": "use LemonadeTrainer's own max_time",
    "min_epochs": "use epochs and initial_epochs",
    "min_steps": "use epochs and initial_epochs",
    "overfit_batches": "it validates on training images",
    "num_sanity_val_steps": "children are validated before they are trained",
    "use_distributed_sampler": "a search sets it itself",
}
"""Arguments of `pytorch_lightning.Trainer` that a search keeps for itself, and what to use instead."""
OTHER_WEIGHTS = {"bf16-true": "bf16-mixed", "16-true": "16-mixed", "64-true": "32-true", "64": "32-true"}
"""Precisions in which a network's weights would be kept, and what to use instead."""
REFUSED_CALLBACKS = {
    pl.callbacks.Checkpoint: "the run directory keeps the weights",
    pl.callbacks.EarlyStopping: "every child is trained for its epochs, and validated after them",
    pl.callbacks.LearningRateMonitor: "a child's training has no logger",
}
"""Lightning callbacks that make no sense in a child's training, and why."""
TASK_NAME = re.compile(r"[\w.-]+")
_DESCRIPTIONS = "_lemonade_descriptions"
"""Attribute of a data module that was searched with: what it was before its `setup`, and after the search."""
ONE_THREAD = 256
"""Samples of up to so many numbers are trained on by one thread: more threads are slower, and wait for each other on a busy machine."""


class LemonadeTrainer:
    """Searches for architectures by Algorithm 1 of the paper, and trains them with Lightning.

    Args:
        objectives: names or objects; all are minimised. By default the error (or `metric`), `params` and `macs`. With several tasks
            `error/TASK` is a task's error, and `error` that of each.
        metric: a metric of validation that the module logs, to be an objective in place of the error; see `Metric`.
        mode: `"min"` or `"max"`: whether less or more of the metric is better.
        limits: `{"params": 2e6}` (at most) or `{"params": (1e4, 2e6)}`.
        algorithm: `"gain"` (ours), or `"paper"` for Algorithm 1 as the paper has it: what sampling, starting networks, operators,
            `proposals` and `asynchronous` are where they aren't given; see `ALGORITHMS`.
        space: where to search; by default a `ConvNetSpace` with the algorithm's starting networks and operators. One of your own has the
            paper's where it isn't given others.
        max_generations: when to stop; 15 if neither this nor `max_time` is given.
        max_time: when to stop, as `"DD:HH:MM:SS"`; the generation in progress is finished. Choice by gain then looks at the seconds that
            trainings take, and doesn't train a child that begins badly where another promises more for them; it counts as a child.
        proposals: children proposed each generation (n_pc): 32, or 256 for `"gain"`.
        accepted: children trained each generation (n_ac).
        epochs: of a child. Where `max_time` is given, choice by gain trains one three times as long if that promises more for the time.
        initial_epochs: of a starting network. Where `max_time` is given, and one process of this machine trains a child, starting
            networks may take a fifth of it, as measured in a few steps: of those of `"spanning"` the smallest is trained, and the
            largest with which it fits and of whose time it takes a third at most; where there is none, the largest that fits; and what
            can be trained beside these. Others are all trained. Where that takes longer, it is for fewer epochs.
        schedule: `"default"` or `"paper"`: the paper's learning rate and epochs.
        training: all settings of training, in place of a schedule.
        inherit: whether children inherit their parent's weights.
        sampling: how parents and children are chosen: `"density"` (the paper's), `"gain"` (ours, see `GainSampling`) or `"uniform"`.
        polish: share of the budget, at its end, in which members of the front are trained on for `Training.polish_epochs` instead of
            children being bred. Source: ours.
        population_size: the most members of the population, and so of the front; those go that add least hypervolume. None: no bound, as
            in the paper.
        seed: of every draw.
        calibration_size: training samples for the transfer of weights.
        threads_per_child: torch's threads; by default one where a sample has no more than 256 numbers, else left as they are.
        max_child_time: the longest that one child may take, as `"DD:HH:MM:SS"`; one that takes longer fails.
        max_failures: children that may fail in a row before the search stops.
        keep_weights: `"front"` deletes the weights of candidates that left the front; `"all"` keeps them. The numbers stay in any case.
        asynchronous: whether children are proposed as soon as one can be evaluated, in place of generations that wait for their slowest
            child. With an executor of several children at a time it can't be repeated bit for bit.
        executor: where children are evaluated: `"inline"` (one after the other, here), `"ray"` (one for each device, on this machine or a
            cluster), or an `Executor`, for instance `RayExecutor(address="auto")`.
        module: makes a module from a spec and the settings of training; a subclass of LemonadeModule will do.
        batch_format: where a batch holds samples and targets: two keys of a dict or two places of a tuple, or a function of the batch
            that returns both. By default a tuple or list of two tensors, or a dict with usual names (`image` and `label`, ...).
        callbacks: of the search (`SearchCallback`), or of each child's training: Lightning callbacks, which are copied for every child, or
            classes and functions that make one.
        run_dir: where everything is kept; by default a new folder in `lemonade_runs`. A run that is there already goes on, if it was
            configured alike; its budget may be larger now.
        trainer_kwargs: for `pytorch_lightning.Trainer`, for instance `accelerator`, `devices`, `precision`. With several devices each
            child is trained by all of them, which share each batch of your loader; `sync_batchnorm=True` lets its batch norms see the whole
            batch (GPUs alone).

    Raises:
        ConfigurationError: if an argument can't be used.
        ObjectiveError: if an objective is unknown.
    """

    def __init__(
        self,
        *,
        objectives: Sequence[str | Objective] | str | None = None,
        metric: str | None = None,
        mode: Literal["min", "max"] = "min",
        limits: Mapping[str, Any] | None = None,
        algorithm: Literal["gain", "paper"] = "gain",
        space: ConvNetSpace | None = None,
        max_generations: int | None = None,
        max_time: str | None = None,
        proposals: int | None = None,
        accepted: int = 8,
        epochs: int | None = None,
        initial_epochs: int | None = None,
        schedule: Literal["default", "paper"] = "default",
        training: Training | None = None,
        inherit: bool = True,
        sampling: Literal["density", "gain", "uniform"] | None = None,
        polish: float = 0.0,
        population_size: int | None = None,
        seed: int = 0,
        calibration_size: int = 512,
        threads_per_child: int | None = None,
        max_child_time: str | None = None,
        max_failures: int = 16,
        keep_weights: Literal["front", "all"] = "front",
        asynchronous: bool | None = None,
        executor: Literal["inline", "ray"] | Executor = "inline",
        module: ModuleFactory | None = None,
        batch_format: BatchFormat = None,
        callbacks: Sequence[SearchCallback | pl.Callback | Callable[[], pl.Callback]] = (),
        run_dir: str | Path | None = None,
        **trainer_kwargs: Any,  # noqa: ANN401 (Lightning's own)
    ) -> None:
        if not isinstance(callbacks, list | tuple):
            raise ConfigurationError(f"callbacks must be a list, got {callbacks!r}")
        chosen = algorithm_of(algorithm)
        self.settings = SearchSettings(
            objectives=tuple(_objectives(objectives, metric, mode)),
            limits=Limits.parse(limits),
            space=space or chosen.space,
            max_generations=15 if max_generations is None and max_time is None else max_generations,
            max_seconds=None if max_time is None else parse_time(max_time),
            proposals=chosen.proposals if proposals is None else proposals,
            accepted=accepted,
            training=parse_training(schedule, epochs, initial_epochs, training),
            inherit=inherit,
            sampling=chosen.sampling if sampling is None else sampling,
            polish=polish,
            population_size=population_size,
            seed=seed,
            calibration_size=calibration_size,
            threads_per_child=threads_per_child,
            max_child_seconds=None if max_child_time is None else parse_time(max_child_time, "max_child_time"),
            max_failures=max_failures,
            keep_weights=keep_weights,
            asynchronous=chosen.asynchronous if asynchronous is None else asynchronous,
            executor=make_executor(executor),
            callbacks=tuple(callback for callback in callbacks if isinstance(callback, SearchCallback)),
            run_dir=None if run_dir is None else Path(run_dir),
            trainer_arguments=trainer_kwargs,
        )
        self.module: ModuleFactory = module or LemonadeModule
        check_format(batch_format)
        self.batch_format = getattr(self.module, "batch_format", None) if batch_format is None else batch_format
        of_children = [callback for callback in callbacks if not isinstance(callback, SearchCallback)]
        self.training_callbacks = [_factory(callback) for callback in of_children]
        self.described: dict[str, Any] = {
            "module": described(self.module),
            "batch_format": described(self.batch_format),
            "training_callbacks": [described(callback) for callback in of_children],
            "versions": versions(),
        }
        """What a run records beside the settings, as JSON values; `command` may be added, and isn't compared on resuming."""
        _check_trainer_arguments(trainer_kwargs)

    def search(self, datamodule: pl.LightningDataModule | Mapping[str, pl.LightningDataModule]) -> Front:
        """Runs the search, or goes on with the one in `run_dir`.

        Args:
            datamodule: yields batches of samples (batch, *sample) and targets. Several by name are tasks: each architecture is trained for
                each of them, with weights of its own; their samples have one shape, their classes may differ.

        Returns:
            The Pareto front, with trained weights.

        Raises:
            SearchError: if no network can be evaluated.
            HistoryError: if the run directory holds a run of another configuration, or is in use, damaged, or can't be written.
            DataError: if a data module yields something else.
            ObjectiveError: if an objective names a task that there isn't.
        """
        return self._run(datamodule, None)

    def polish(self, datamodule: pl.LightningDataModule | Mapping[str, pl.LightningDataModule], *, max_time: str) -> Front:
        """Trains the front of the run in `run_dir` on, and adds what is better to the run.

        Again and again those members are trained for `Training.polish_epochs` that promise the largest gain in hypervolume for their time.
        The budget of the search stays what it was. Source: ours.

        Args:
            datamodule: as in `search`.
            max_time: for how long, as `"DD:HH:MM:SS"`; the trainings in progress are finished.

        Raises:
            ConfigurationError: if `run_dir` holds no run, or its children inherit nothing.
            LemonadeError: what `search` raises.
        """
        if self.settings.run_dir is None or not (self.settings.run_dir / DATABASE).exists():
            raise ConfigurationError(f"polish needs a run, and run_dir is {self.settings.run_dir}: give the directory of a search")
        if not self.settings.inherit:
            raise ConfigurationError("inherit=False: nothing is trained on, so nothing can be polished")
        return self._run(datamodule, parse_time(max_time))

    def _run(self, datamodule: pl.LightningDataModule | Mapping[str, pl.LightningDataModule], polish_seconds: float | None) -> Front:
        """Searches, or polishes for some seconds."""
        settings, recipe = self._checked(datamodule)
        threads = torch.get_num_threads()
        with remembered(signal.SIGINT, KeyboardInterrupt):
            ranks = settings.executor.prepare(recipe)  # which may be in use by another search, and stays so
            try:
                with _told_to_end(ranks):
                    return load(self._search(ranks, settings, recipe, polish_seconds))
            finally:
                try:
                    ranks.close()
                finally:
                    settings.executor.close()
                    torch.set_num_threads(threads)

    def plan(self, datamodule: pl.LightningDataModule | Mapping[str, pl.LightningDataModule]) -> Plan:
        """Tells what `search` would run where, how long it takes and how much memory: a dry run, measured in a few training steps.

        Nothing is written, apart from what the data module's `prepare_data` does; no other process is started, and global generators stay
        as they are. What isn't here, GPUs or a cluster, is told in the plan's notes. Where a launcher starts several processes, call it
        in one.

        Args:
            datamodule: as in `search`.

        Raises:
            LemonadeError: what `search` raises before it trains, and where a starting network can't be trained.
        """
        settings, recipe = self._checked(datamodule)
        threads = torch.get_num_threads()
        try:
            with (
                remembered(signal.SIGINT, KeyboardInterrupt),
                _told_to_end(),
                _set_up(settings, recipe, lambda action, *, per_node: action()) as (evaluator, _),
            ):
                return make_plan(settings, evaluator)
        finally:
            torch.set_num_threads(threads)

    def _checked(self, datamodule: pl.LightningDataModule | Mapping[str, pl.LightningDataModule]) -> tuple[SearchSettings, Recipe]:
        """Returns the settings and the recipe of a search with a data module."""
        modules = dict(datamodule) if isinstance(datamodule, Mapping) else {"": datamodule}
        for task, one in modules.items():
            _check_datamodule(one)
            if isinstance(datamodule, Mapping) and not (isinstance(task, str) and TASK_NAME.fullmatch(task)):
                raise ConfigurationError(f"a task can't be called {task!r}: use letters, digits, '-', '_' and '.'")
        if not modules:
            raise DataError("search needs a data module, got an empty mapping")
        settings = replace(self.settings, objectives=tuple(for_tasks(self.settings.objectives, list(modules))))
        settings = _with_recorded_threads(settings)
        recipe = Recipe(
            modules=modules,
            batch_format=self.batch_format,
            objectives=settings.objectives,
            training=settings.training,
            factory=self.module,
            seed=settings.seed,
            calibration_size=settings.calibration_size,
            trainer_arguments=settings.trainer_arguments,
            callbacks=self.training_callbacks,
            max_child_seconds=settings.max_child_seconds,
        )
        return settings, recipe

    def _search(self, ranks: Ranks, settings: SearchSettings, recipe: Recipe, polish_seconds: float | None) -> Path:
        """Runs the search on this rank; returns the run directory."""
        with _set_up(settings, recipe, ranks.prepare) as (evaluator, first):
            if ranks.rank:
                return ranks.follow(evaluator)
            of_tasks = {
                task: {"data": first[task], "outputs": data.outputs, "class_names": data.class_names, "checksums": data.checksums}
                for task, data in evaluator.tasks.items()
            }
            return self._lead(ranks, settings, evaluator, self.described | {"tasks": of_tasks}, polish_seconds)

    def _lead(
        self, ranks: Ranks, settings: SearchSettings, evaluator: Evaluator, described: Mapping[str, Any], polish_seconds: float | None
    ) -> Path:
        """Runs the search on rank 0, and tells the others how it ended; returns the run directory."""
        try:
            settings.executor.open(ranks, evaluator)
            run = Run(
                settings,
                settings.executor,
                evaluator.tasks,
                described,
                beginning=partial(beginning, settings, evaluator),
                polish_seconds=polish_seconds,
            )
            run.go()
        except BaseException as error:
            ranks.dismiss(Stop(None, f"{type(error).__name__}: {error}"))
            raise
        ranks.dismiss(Stop(run.history.run_dir, ""))
        return run.history.run_dir


@contextmanager
def _told_to_end(ranks: Ranks | None = None) -> Iterator[None]:
    """Lets SIGTERM end what is run wherever it is, with the exit code of a process that it ends.

    Lightning heeds one that comes while it trains, whatever the program does with it, and loses one that comes while it validates. Where a
    launcher sends it because another process of the search has died, that is told.
    """
    try:
        with remembered(signal.SIGTERM, SIGTERMException):
            yield
    except SIGTERMException as error:
        if ranks is not None:
            ranks.raise_if_lost(error)
        error.code = error.code or 128 + signal.SIGTERM
        raise


@contextmanager
def _set_up(settings: SearchSettings, recipe: Recipe, prepare: Prepare) -> Iterator[tuple[Evaluator, dict[str, Any]]]:
    """Sets the data and torch's threads up; yields an evaluator, and what the data modules were before, by task."""
    modules = recipe.modules
    first = {task: _first_described(datamodule) for task, datamodule in modules.items()}
    try:
        evaluator = recipe.evaluator(prepare)
        try:
            small = max(batch[0].numel() for batch in evaluator.calibration.values()) <= ONE_THREAD
            torch.set_num_threads(settings.threads_per_child or (1 if small else settings.executor.threads or torch.get_num_threads()))
            yield evaluator, first
        finally:
            evaluator.close()
    finally:
        for task, datamodule in modules.items():
            with suppress(AttributeError):  # an object without a dictionary
                setattr(datamodule, _DESCRIPTIONS, (first[task], described(datamodule)))


def _objectives(objectives: Sequence[str | Objective] | str | None, metric: str | None, mode: Literal["min", "max"]) -> list[Objective]:
    """Returns the objectives that are asked for, the metric among them."""
    if metric is None:
        if mode != "min":
            raise ConfigurationError(f"mode={mode!r} says how a metric is to be read: give metric, too")
        return resolve(("error", "params", "macs") if objectives is None else objectives)
    own = Metric(metric, mode)
    if objectives is None:
        return resolve([own, "params", "macs"])
    others = objectives.split(",") if isinstance(objectives, str) else list(objectives)
    return resolve([own if given == metric else given for given in ([] if metric in others else [metric]) + others])


def _first_described(datamodule: object) -> Any:  # noqa: ANN401 (a JSON value)
    """Returns what a data module is, as it was before a search changed it, if nobody else has changed it since."""
    before, after = getattr(datamodule, _DESCRIPTIONS, (None, None))
    now = described(datamodule)
    return before if before is not None and now == after else now


def _with_recorded_threads(settings: SearchSettings) -> SearchSettings:
    """Returns settings with the threads that a run was begun with, where none are given: they decide it bit for bit."""
    if settings.threads_per_child is not None or settings.run_dir is None or not (settings.run_dir / DATABASE).exists():
        return settings
    try:
        recorded = History.open(settings.run_dir).config.get("threads_per_child")
    except HistoryError:  # told when the search is resumed
        return settings
    return replace(settings, threads_per_child=recorded) if isinstance(recorded, int) and recorded > 0 else settings


def _check_datamodule(datamodule: object) -> None:
    if isinstance(datamodule, type) or not all(
        callable(getattr(datamodule, name, None)) for name in ("setup", "train_dataloader", "val_dataloader")
    ):
        shown = f"the class {datamodule.__name__}: make one" if isinstance(datamodule, type) else type(datamodule).__name__
        raise DataError(f"search needs a LightningDataModule, got {shown}")


def _factory(callback: pl.Callback | Callable[[], pl.Callback]) -> Callable[[], pl.Callback]:
    """Returns what makes a Lightning callback for each child.

    Raises:
        ConfigurationError: if it is neither a callback nor makes one.
    """
    for refused, why in REFUSED_CALLBACKS.items():
        if isinstance(callback, refused) or (isinstance(callback, type) and issubclass(callback, refused)):
            raise ConfigurationError(f"callbacks: {refused.__name__} can't be used in a search: {why}")
    if isinstance(callback, pl.Callback):
        return lambda: copy.deepcopy(callback)
    search_class = isinstance(callback, type) and issubclass(callback, SearchCallback)
    if search_class or not callable(callback):
        raise ConfigurationError(
            f"callbacks: {callback!r} is neither a SearchCallback, nor a Lightning callback, nor makes one of the latter"
        )
    return callback


def _check_trainer_arguments(arguments: Mapping[str, Any]) -> None:
    known = inspect.signature(pl.Trainer).parameters
    for name, value in arguments.items():
        if name in RESERVED:
            raise ConfigurationError(f"{name} of pytorch_lightning.Trainer can't be given to a search: {RESERVED[name]}")
        if name not in known:
            meant = difflib.get_close_matches(name, [*known, *inspect.signature(LemonadeTrainer).parameters], 1)
            hint = f"did you mean {meant[0]}?" if meant else "see the documentation of both"
            raise ConfigurationError(f"neither LemonadeTrainer nor pytorch_lightning.Trainer has an argument {name}: {hint}")
        if name == "precision" and str(value) in OTHER_WEIGHTS:
            raise ConfigurationError(f"precision={value!r}: a search keeps weights in float32; give {OTHER_WEIGHTS[str(value)]}")
        if name == "strategy" and not isinstance(value, str):
            raise ConfigurationError("strategy must be a text, for instance 'ddp', since a new trainer is made for each child")
