"""LemonadeTrainer: from a data module to a Pareto front."""

import copy
import difflib
import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.errors import ConfigurationError, DataError, ObjectiveError, SearchError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData, TestRequest, seeded, timed
from lightning_lemonade.evaluation.evaluator import ModuleFactory
from lightning_lemonade.front import Front, load
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import History
from lightning_lemonade.module import PAPER_TRAINING, LemonadeModule, Training
from lightning_lemonade.objectives import Objective, SpecObjective, TrainedObjective, resolve
from lightning_lemonade.ranks import Ranks, Stop, launch
from lightning_lemonade.records import GenerationRecord, ObjectiveRecord
from lightning_lemonade.search import (
    Asked,
    Child,
    DensitySampling,
    Limits,
    NonDominatedSurvival,
    Search,
    UniformSampling,
    derived_rng,
    derived_seed,
)
from lightning_lemonade.spaces import ConvNetSpace

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
    "num_sanity_val_steps": "children are validated before they are trained",
    "use_distributed_sampler": "a search sets it itself",
}
"""Arguments of `pytorch_lightning.Trainer` that a search keeps for itself, and what to use instead."""
EMPTY_GENERATIONS = 3


class LemonadeTrainer:
    """Searches for architectures by Algorithm 1 of the paper, and trains them with Lightning.

    Args:
        objectives: names or objects; all are minimised.
        limits: `{"params": 2e6}` (at most) or `{"params": (1e4, 2e6)}`.
        space: where to search; by default `ConvNetSpace()`.
        max_generations: when to stop; 15 if neither this nor `max_time` is given.
        max_time: when to stop, as `"DD:HH:MM:SS"`; the generation in progress is finished.
        proposals: children proposed each generation (n_pc).
        accepted: children trained each generation (n_ac).
        epochs: of a child.
        initial_epochs: of a starting network.
        schedule: `"default"` or `"paper"`: the paper's learning rate and epochs.
        inherit: whether children inherit their parent's weights.
        sampling: `"density"` (the paper's) or `"uniform"`.
        seed: of every draw.
        calibration_size: training samples for the transfer of weights.
        threads_per_child: torch's threads; by default left as they are.
        module: makes a module from a spec and the settings of training; a subclass of LemonadeModule will do.
        callbacks: of the search (`SearchCallback`), or of each child's training: Lightning callbacks, which are copied for every child, or
            classes and functions that make one.
        run_dir: where everything is kept; by default a new folder in `lemonade_runs`.
        trainer_kwargs: for `pytorch_lightning.Trainer`, for instance `accelerator`, `devices`, `precision`.

    Raises:
        ConfigurationError: if an argument can't be used.
        ObjectiveError: if an objective is unknown.
    """

    def __init__(
        self,
        *,
        objectives: Sequence[str | Objective] | str = ("error", "params", "macs"),
        limits: Mapping[str, Any] | None = None,
        space: ConvNetSpace | None = None,
        max_generations: int | None = None,
        max_time: str | None = None,
        proposals: int = 32,
        accepted: int = 8,
        epochs: int | None = None,
        initial_epochs: int | None = None,
        schedule: Literal["default", "paper"] = "default",
        inherit: bool = True,
        sampling: Literal["density", "uniform"] = "density",
        seed: int = 0,
        calibration_size: int = 512,
        threads_per_child: int | None = None,
        module: ModuleFactory | None = None,
        callbacks: Sequence[SearchCallback | pl.Callback | Callable[[], pl.Callback]] = (),
        run_dir: str | Path | None = None,
        **trainer_kwargs: Any,  # noqa: ANN401 (Lightning's own)
    ) -> None:
        self.objectives = resolve(objectives)
        self.limits = Limits.parse(limits)
        self.space = space or ConvNetSpace()
        self.max_generations = 15 if max_generations is None and max_time is None else max_generations
        self.max_seconds = None if max_time is None else _seconds(max_time)
        self.proposals, self.accepted = proposals, accepted
        self.training = _training(schedule, epochs, initial_epochs)
        self.inherit, self.sampling, self.seed = inherit, sampling, seed
        self.calibration_size, self.threads_per_child = calibration_size, threads_per_child
        self.module: ModuleFactory = module or LemonadeModule
        self.callbacks = [callback for callback in callbacks if isinstance(callback, SearchCallback)]
        self.training_callbacks = [_factory(callback) for callback in callbacks if not isinstance(callback, SearchCallback)]
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.trainer_kwargs = trainer_kwargs
        self._check()

    def _check(self) -> None:
        self._check_trainer_arguments()
        numbers = {
            "max_generations": self.max_generations,
            "proposals": self.proposals,
            "accepted": self.accepted,
            "calibration_size": self.calibration_size,
            "epochs": self.training.epochs,
            "initial_epochs": self.training.initial_epochs,
            "threads_per_child": self.threads_per_child,
        }
        for name, value in numbers.items():
            least = 2 if name == "calibration_size" else 1
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.accepted > self.proposals:
            raise ConfigurationError(f"accepted={self.accepted} of proposals={self.proposals}: propose at least as many as are accepted")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigurationError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        if self.sampling not in ("density", "uniform"):
            raise ConfigurationError(f"sampling must be density or uniform, got {self.sampling!r}")
        keys = {objective.key for objective in self.objectives if isinstance(objective, SpecObjective)}
        unknown = set(self.limits.ranges) - keys
        if unknown:
            raise ConfigurationError(
                f"limits on {', '.join(sorted(unknown))}: limits go with spec objectives, here {', '.join(sorted(keys))}"
            )

    def _check_trainer_arguments(self) -> None:
        known = inspect.signature(pl.Trainer).parameters
        for name, value in self.trainer_kwargs.items():
            if name in RESERVED:
                raise ConfigurationError(f"{name} of pytorch_lightning.Trainer can't be given to a search: {RESERVED[name]}")
            if name not in known:
                meant = difflib.get_close_matches(name, [*known, *inspect.signature(LemonadeTrainer).parameters], 1)
                hint = f"did you mean {meant[0]}?" if meant else "see the documentation of both"
                raise ConfigurationError(f"neither LemonadeTrainer nor pytorch_lightning.Trainer has an argument {name}: {hint}")
            if name == "strategy" and not isinstance(value, str):
                raise ConfigurationError("strategy must be a text, for instance 'ddp', since a new trainer is made for each child")

    def search(self, datamodule: pl.LightningDataModule) -> Front:
        """Runs the search.

        Args:
            datamodule: yields batches `(x, y)` of images (batch, channels, height, width) and classes (batch,).

        Returns:
            The Pareto front, with trained weights.

        Raises:
            SearchError: if no network can be evaluated.
            HistoryError: if the run directory holds a run already.
            DataError: if the data module yields something else.
        """
        if not all(callable(getattr(datamodule, name, None)) for name in ("setup", "train_dataloader", "val_dataloader")):
            raise DataError(f"search needs a LightningDataModule, got {type(datamodule).__name__}")
        ranks = launch(self.trainer_kwargs)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads_per_child or threads)
        try:
            return load(self._search(ranks, datamodule))
        finally:
            torch.set_num_threads(threads)

    def _search(self, ranks: Ranks, datamodule: pl.LightningDataModule) -> Path:
        """Runs the search on this rank; returns the run directory."""
        ranks.prepare(datamodule.prepare_data, per_node=datamodule.prepare_data_per_node)
        # a split that draws from the global generators is the same on every rank and in every run
        with seeded(derived_seed(self.seed, "data")):
            data = TaskData(datamodule)
            calibration = data.calibration(self.calibration_size, self.seed)
        evaluator = Evaluator(
            tasks={"": data},
            calibration={"": calibration},
            objectives=self.objectives,
            training=self.training,
            factory=self.module,
            seed=self.seed,
            trainer_arguments=self.trainer_kwargs,
            callbacks=self.training_callbacks,
        )
        try:
            return self._lead(ranks, evaluator, data) if ranks.rank == 0 else ranks.follow(evaluator)
        finally:
            data.close()

    def _lead(self, ranks: Ranks, evaluator: Evaluator, data: TaskData) -> Path:
        """Runs the search on rank 0, and tells the others how it ended; returns the run directory."""
        try:
            run = _Run(self, ranks, evaluator, data)
            run.go()
        except BaseException as error:
            ranks.dismiss(Stop(None, f"{type(error).__name__}: {error}"))
            raise
        ranks.dismiss(Stop(run.history.run_dir, ""))
        return run.history.run_dir


def _factory(callback: pl.Callback | Callable[[], pl.Callback]) -> Callable[[], pl.Callback]:
    """Returns what makes a Lightning callback for each child.

    Raises:
        ConfigurationError: if it is neither a callback nor makes one.
    """
    if isinstance(callback, pl.Callback):
        return lambda: copy.deepcopy(callback)
    search_class = isinstance(callback, type) and issubclass(callback, SearchCallback)
    if search_class or not callable(callback):
        raise ConfigurationError(
            f"callbacks: {callback!r} is neither a SearchCallback, nor a Lightning callback, nor makes one of the latter"
        )
    return callback


class _Run:
    """One search in progress, on rank 0."""

    def __init__(self, trainer: LemonadeTrainer, ranks: Ranks, evaluator: Evaluator, data: TaskData) -> None:
        self.trainer, self.ranks, self.evaluator, self.data = trainer, ranks, evaluator, data
        sample_shape, outputs = data.shapes()
        limits = trainer.limits.within(Limits.parse(trainer.space.limits(sample_shape)))
        measures = {o.key: o.checked for o in trainer.objectives if isinstance(o, SpecObjective)}
        limits = Limits({key: span for key, span in limits.ranges.items() if key in measures})
        self.starts, dropped = _legal(trainer.space.initial(sample_shape, outputs), measures, limits)
        for reason in dropped:
            warnings.warn(f"a starting network is dropped: {reason}", stacklevel=2)
        records = [ObjectiveRecord(o.key, o.name, o.unit, o.stage) for o in trainer.objectives]
        bounds = _bounds(trainer.objectives, self.starts, limits, outputs)
        self.search = Search(
            space=trainer.space,
            objectives=measures,
            keys=[o.key for o in trainer.objectives],
            limits=limits,
            sampling=DensitySampling() if trainer.sampling == "density" else UniformSampling(),
            survival=NonDominatedSurvival(),
            proposals=trainer.proposals,
            bounds=bounds,
        )
        directory = trainer.run_dir or _new_directory()
        config = _config(trainer, data)
        self.history = History.create(directory, config=config, objectives=records, bounds=bounds)
        self.info = SearchInfo(directory, records, config, bounds, trainer.max_generations, self.history)
        self.total_epochs = 0

    def go(self) -> None:
        """Runs all generations, measures the front on the test split, and closes the history."""
        finished = False
        try:
            self._emit("on_search_start")
            self.history.finish("finished", self._generations())
            finished = True
            self._test()
            self._emit("on_search_end")
        except BaseException as error:
            if not finished:
                self.history.finish("stopped", f"{type(error).__name__}: {error}")
            self._emit("on_search_exception", error)
            raise
        finally:
            self.history.close()

    def _generations(self) -> str:
        """Runs generation after generation; returns why it ended."""
        trainer, began, empty, number = self.trainer, time.monotonic(), 0, 0
        self._generation(0, lambda: self.search.start(self.starts))
        if not self.search.population:
            failed = [c.failure.text for c in self.history.candidates() if c.failure]
            raise SearchError(f"no starting network could be evaluated; the first failed with: {failed[0]}")
        while trainer.max_generations is None or number < trainer.max_generations:
            if trainer.max_seconds is not None and time.monotonic() - began >= trainer.max_seconds:
                return "max_time is spent"
            number += 1
            rng = derived_rng(trainer.seed, "ask", number)
            accepted = self._generation(number, lambda: self.search.ask(rng, trainer.accepted, number))  # noqa: B023 (called at once)
            empty = 0 if accepted else empty + 1
            if empty == EMPTY_GENERATIONS:
                return f"{EMPTY_GENERATIONS} generations found no new child within the limits"
        return "max_generations is reached"

    def _generation(self, number: int, ask: Callable[[], Asked]) -> int:
        """Runs one generation of Algorithm 1: propose and accept, evaluate and record, select."""
        seconds = dict.fromkeys(("propose", "inherit", "fit", "validate", "record", "other"), 0.0)
        began = time.perf_counter()
        self._emit("on_generation_start", number)
        with timed(seconds, "propose"):
            asked = ask()
        with timed(seconds, "record"):
            self.history.accept(asked.children)
        for child in asked.children:
            self._emit_candidate("on_candidate_accepted", child.id)
        outcomes = []
        with timed(seconds, "record"):
            if asked.children:
                self.history.start(asked.children[0].id)
        for child, after in zip_longest(asked.children, asked.children[1:]):
            self._emit_candidate("on_candidate_start", child.id)
            evaluation = self.ranks.evaluate(self.evaluator, self._request(child))
            with timed(seconds, "record"):
                self.history.record(evaluation.outcome, evaluation.weights, starts=after.id if after else None)
            outcomes.append(evaluation.outcome)
            self._emit_candidate("on_candidate_failed" if outcomes[-1].failure else "on_candidate_end", child.id)
        for outcome in outcomes:
            self.total_epochs += sum(result.epochs for result in outcome.tasks.values())
            for phase, spent in outcome.seconds.items():
                seconds[phase] += spent
        changed = self.search.tell(outcomes)
        failed = sum(outcome.failure is not None for outcome in outcomes)
        seconds["other"] = max(0.0, time.perf_counter() - began - sum(seconds.values()))
        front = tuple(member.id for member in self.search.population)
        record = GenerationRecord(
            generation=number,
            hypervolume=self.search.hypervolume,
            front=front,
            proposed=asked.proposed,
            accepted=len(outcomes),
            evaluated=len(outcomes) - failed,
            failed=failed,
            total_epochs=self.total_epochs,
            seconds=seconds,
        )
        self.history.record_generation(record)
        if changed:
            self._emit("on_front_changed", self.history.front())
        self._emit("on_generation_end", record)
        return len(asked.children)

    def _request(self, child: Child) -> EvaluationRequest:
        if child.parent is None or not self.trainer.inherit:
            return EvaluationRequest(child, None, {})
        parent = next(member.spec for member in self.search.population if member.id == child.parent)
        return EvaluationRequest(child, parent, {"": self.history.weights(child.parent)})

    def _test(self) -> None:
        """Measures the front's error on the test split, where there is one.

        Raises:
            SearchError: if that fails; the search itself is complete.
        """
        requests = {m.id: TestRequest(m.spec, {"": self.history.weights(m.id)}) for m in self.search.population}
        try:
            errors = {member: self.ranks.measure_test(self.evaluator, request) for member, request in requests.items()}
        except Exception as error:
            raise SearchError(
                f"the search is complete, but its front could not be measured on the test split ({type(error).__name__}: {error}); "
                f"load({str(self.history.run_dir)!r}) gives the front"
            ) from error
        self.history.record_test_errors({member: by_task for member, by_task in errors.items() if by_task})

    def _emit_candidate(self, event: str, candidate: int) -> None:
        """Tells the callbacks of a candidate, which is read only if there are any."""
        if self.trainer.callbacks:
            self._emit(event, self.history.candidate(candidate))

    def _emit(self, event: str, *arguments: object) -> None:
        """Tells the callbacks.

        Raises:
            SearchError: if one raises.
        """
        for callback in self.trainer.callbacks:
            try:
                getattr(callback, event)(self.info, *arguments)
            except Exception as error:
                text = f"{type(callback).__name__}.{event} raised {type(error).__name__}: {error}"
                if event != "on_search_exception":
                    raise SearchError(f"the search stops: {text}") from error
                warnings.warn(text, stacklevel=2)  # the exception that is being told matters more, and the other callbacks must hear it


def _legal(
    specs: Sequence[GraphSpec], measures: Mapping[str, Callable[[GraphSpec], float]], limits: Limits
) -> tuple[list[GraphSpec], list[str]]:
    """Returns the starting networks inside the limits, and why the others were dropped."""
    legal, dropped = [], []
    for spec in specs:
        violation = limits.violation({key: measure(spec) for key, measure in measures.items()})
        if violation:
            dropped.append(violation)
        else:
            legal.append(spec)
    if not legal:
        raise SearchError(f"no starting network meets the limits: {'; '.join(dropped)}. Widen the limits or give another space")
    return legal, dropped


def _bounds(objectives: Sequence[Objective], starts: Sequence[GraphSpec], limits: Limits, outputs: int) -> dict[str, tuple[float, float]]:
    """Returns the bounds of the hypervolume: a tenth to ten times the starting networks, or the limits; what is trained has its own.

    Raises:
        ObjectiveError: if an objective's own bounds leave no room between them.
    """
    bounds = {}
    for objective in objectives:
        if isinstance(objective, SpecObjective):
            values = [objective.checked(spec) for spec in starts]
            low, high = limits.ranges.get(objective.key, (0.0, float("inf")))
            low, high = max(low, min(values) / 10), min(high, max(values) * 10)
            bounds[objective.key] = (low, high if low < high else low * 10)
        elif isinstance(objective, TrainedObjective):
            low, high = bounds[objective.key] = objective.bounds(outputs)
            if not low < high:
                raise ObjectiveError(f"objective {objective.key} has the bounds {low} and {high}: give the best, then the worst value")
    return bounds


def _new_directory() -> Path:
    """Returns a directory that no other search has, named by the time."""
    name = Path("lemonade_runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for directory in (name, *(name.with_name(f"{name.name}_{number}") for number in range(2, 100))):
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(f"no run directory can be made in {directory.parent}: {error}; give run_dir") from error
        return directory
    raise ConfigurationError(f"{name} and 98 more directories beside it exist: give run_dir")


def _training(schedule: str, epochs: int | None, initial_epochs: int | None) -> Training:
    presets = {"default": Training(), "paper": PAPER_TRAINING}
    if schedule not in presets:
        raise ConfigurationError(f"schedule must be default or paper, got {schedule!r}")
    chosen = presets[schedule]
    return replace(
        chosen,
        epochs=chosen.epochs if epochs is None else epochs,
        initial_epochs=chosen.initial_epochs if initial_epochs is None else initial_epochs,
    )


def _seconds(max_time: str) -> float:
    try:
        days, hours, minutes, seconds = (int(part) for part in max_time.split(":"))
        if min(days, hours, minutes, seconds) < 0:
            raise ValueError
    except (ValueError, AttributeError):
        raise ConfigurationError(f"max_time must be DD:HH:MM:SS, for instance 00:08:00:00 for eight hours, got {max_time!r}") from None
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()


def _config(trainer: LemonadeTrainer, data: TaskData) -> dict[str, Any]:
    """Returns the configuration as JSON values."""
    return {
        "objectives": [objective.key for objective in trainer.objectives],
        "limits": {key: [low, high if high != float("inf") else None] for key, (low, high) in trainer.limits.ranges.items()},
        "max_generations": trainer.max_generations,
        "max_seconds": trainer.max_seconds,
        "proposals": trainer.proposals,
        "accepted": trainer.accepted,
        "training": asdict(trainer.training),
        "inherit": trainer.inherit,
        "sampling": trainer.sampling,
        "seed": trainer.seed,
        "calibration_size": trainer.calibration_size,
        "threads_per_child": torch.get_num_threads(),
        "data": f"{type(data.inner).__module__}.{type(data.inner).__qualname__}",
        "trainer": {name: str(value) for name, value in trainer.trainer_kwargs.items()},
    }
