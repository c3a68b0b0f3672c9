"""Objectives: what a search minimises."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import ClassVar, Literal, Self

from torch import nn

from lightning_lemonade.errors import ConfigurationError, ObjectiveError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.objectives.counting import count_macs

Stage = Literal["spec", "trained"]


class Objective(ABC):
    """Something to minimise. Subclass `SpecObjective` or `TrainedObjective`.

    Attributes:
        name: its key.
        unit: of its values.
        stage: `spec`: computed from the architecture, known before anything is built; `trained`: needs the training.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    stage: ClassVar[Stage]

    @property
    def key(self) -> str:
        """The name under which values are stored."""
        return self.name


class SpecObjective(Objective):
    """An objective of the architecture alone; its values are positive and drive density and limits."""

    stage = "spec"

    @abstractmethod
    def of_spec(self, spec: GraphSpec) -> float:
        """Returns the value for an architecture: positive."""

    def checked(self, spec: GraphSpec) -> float:
        """Returns the value for an architecture.

        Raises:
            ObjectiveError: if it isn't a positive, finite number.
        """
        value = float(self.of_spec(spec))
        if not 0 < value < inf:
            raise ObjectiveError(f"objective {self.key} is {value} for a network: give positive numbers, for instance by adding one")
        return value

    def of_network(self, network: nn.Module, spec: GraphSpec) -> float:
        """Returns the value of record for the built network; by default the architecture's."""
        return self.of_spec(spec)


class TrainedObjective(Objective):
    """An objective read from the validation metrics after training.

    Attributes:
        task: the task whose metrics are read; empty where there is one task.
    """

    stage = "trained"
    task: str = ""

    @property
    def key(self) -> str:
        """The name under which values are stored: `name`, or `name/task`."""
        return f"{self.name}/{self.task}" if self.task else self.name

    def of_task(self, task: str) -> Self:
        """Returns the same objective of a task."""
        other = copy.copy(self)
        object.__setattr__(other, "task", task)  # ours and users' may be frozen
        return other

    @abstractmethod
    def of_metrics(self, metrics: Mapping[str, float]) -> float:
        """Returns the value from the validation metrics by name (see `LemonadeModule`)."""

    @abstractmethod
    def bounds(self, num_outputs: int) -> tuple[float, float]:
        """Returns the best and the worst value that count in the hypervolume, for a network of so many outputs (classes).

        Where the best is 0 or less, the hypervolume takes values as they are; otherwise their logarithms.
        """


@dataclass(frozen=True)
class Params(SpecObjective):
    """The number of trainable parameters."""

    name = "params"
    unit = "parameters"

    def of_spec(self, spec: GraphSpec) -> float:
        """See `SpecObjective.of_spec`."""
        return float(spec.parameter_count)


@dataclass(frozen=True)
class Macs(SpecObjective):
    """Multiply-adds for one sample: fvcore's count for the record, the graph's own (equal) one for proposals."""

    name = "macs"
    unit = "multiply-adds"

    def of_spec(self, spec: GraphSpec) -> float:
        """See `SpecObjective.of_spec`."""
        return float(spec.macs)

    def of_network(self, network: nn.Module, spec: GraphSpec) -> float:
        """See `SpecObjective.of_network`."""
        return float(count_macs(network, spec.input_shape))


@dataclass(frozen=True)
class Error(TrainedObjective):
    """The share of validation samples that are classified wrongly, in [0, 1]."""

    name = "error"
    unit = "share"

    def of_metrics(self, metrics: Mapping[str, float]) -> float:
        """See `TrainedObjective.of_metrics`."""
        return logged(metrics, "val_error")

    def bounds(self, num_outputs: int) -> tuple[float, float]:
        """Returns 0, and the error of a guess among equally frequent classes."""
        return 0.0, 1.0 - 1.0 / max(2, num_outputs)


class Metric(TrainedObjective):
    """A metric of validation that the module logs. Source: ours.

    What is minimised is the metric itself, or, where more is better, how much it lacks to its best value; then the key says so:
    `1-val_f1`.

    Args:
        name: under which the module logs it, for instance `val_f1`.
        mode: `"min"` or `"max"`: whether less or more is better.
        best: the value that can't be beaten; by default 0 for `"min"` and 1 for `"max"`.
        worst: the value from which on nothing is gained in the hypervolume, for instance that of a guess; by default 1 and 0.

    Raises:
        ObjectiveError: if the mode is unknown, or `worst` isn't worse than `best`.
    """

    unit = "metric"

    def __init__(self, name: str, mode: Literal["min", "max"] = "min", *, best: float | None = None, worst: float | None = None) -> None:
        if mode not in ("min", "max"):
            raise ObjectiveError(f"the mode of {name} must be min or max, got {mode!r}")
        more = mode == "max"
        self.metric, self.more = name, more
        self.best, self.worst = float(more) if best is None else float(best), float(not more) if worst is None else float(worst)
        if not isfinite(self.best - self.worst) or not (self.worst < self.best if more else self.best < self.worst):
            raise ObjectiveError(
                f"{name} with mode={mode} has best={self.best:g} and worst={self.worst:g}: give a worst that is worse than best"
            )
        self.name = f"{self.best:g}-{name}" if more else name  # type: ignore[misc]

    def of_metrics(self, metrics: Mapping[str, float]) -> float:
        """See `TrainedObjective.of_metrics`.

        Raises:
            ConfigurationError: if the module doesn't log it.
        """
        value = logged(metrics, self.metric)
        return self.best - value if self.more else value

    def bounds(self, num_outputs: int) -> tuple[float, float]:
        """See `TrainedObjective.bounds`."""
        return (0.0, self.best - self.worst) if self.more else (self.best, self.worst)

    def __repr__(self) -> str:
        """Returns its name and bounds."""
        return f"Metric({self.key}: best {self.best:g}, worst {self.worst:g})"


def logged(metrics: Mapping[str, float], name: str) -> float:
    """Returns a metric of validation by name.

    Raises:
        ConfigurationError: if the module doesn't log it.
    """
    if name not in metrics:
        shown = ", ".join(metrics) or "nothing"
        raise ConfigurationError(f"the module logs no {name} in validation, but {shown}: log it, or give metric=NAME for another objective")
    return metrics[name]


BUILT_IN: dict[str, type[Objective]] = {cls.name: cls for cls in (Error, Params, Macs)}


def resolve(objectives: Sequence[str | Objective] | str) -> list[Objective]:
    """Returns objectives from names and objects; one text may hold several names, with commas.

    Raises:
        ObjectiveError: if a name is unknown, a key is given twice, or none is trained.
    """
    found: list[Objective] = []
    for given in objectives.split(",") if isinstance(objectives, str) else objectives:
        if isinstance(given, Objective):
            found.append(given)
        else:
            found.append(_by_name(given))
    _check_distinct(found)
    keys = [objective.key for objective in found]
    if not any(isinstance(objective, TrainedObjective) for objective in found):
        raise ObjectiveError(f"a search needs a trained objective, for instance error; got {', '.join(keys) or 'none'}")
    return found


def _by_name(given: object) -> Objective:
    """Returns the objective of a name, or `name/task`."""
    name, _, task = given.strip().partition("/") if isinstance(given, str) else ("", "", "")
    objective = BUILT_IN[name]() if name in BUILT_IN else None
    if objective is None or (task and not isinstance(objective, TrainedObjective)):
        raise ObjectiveError(
            f"unknown objective {given!r}; known: {', '.join(BUILT_IN)}, error/TASK, or an object of a subclass of Objective, "
            f'for instance Metric("val_f1", mode="max")'
        )
    return objective.of_task(task) if task and isinstance(objective, TrainedObjective) else objective


def for_tasks(objectives: Sequence[Objective], tasks: Sequence[str]) -> list[Objective]:
    """Returns objectives of a search's tasks: a trained one that names no task is one of each where there are several.

    Args:
        objectives: as the user gave them.
        tasks: names of the tasks; an empty one where there is one task without a name.

    Raises:
        ObjectiveError: if an objective names another task, or is given twice.
    """
    found: list[Objective] = []
    for objective in objectives:
        if not isinstance(objective, TrainedObjective):
            found.append(objective)
        elif not objective.task:
            found += [objective.of_task(task) for task in tasks]
        elif objective.task in tasks:
            found.append(objective)
        else:
            known = (
                f"the tasks are {', '.join(tasks)}" if any(tasks) else "there is one data module; give several by name: {name: datamodule}"
            )
            raise ObjectiveError(f"objective {objective.key} is of the task {objective.task!r}, but {known}")
    _check_distinct(found)
    return found


def _check_distinct(objectives: Sequence[Objective]) -> None:
    keys = [objective.key for objective in objectives]
    if len(set(keys)) != len(keys):
        raise ObjectiveError(f"an objective is given twice: {', '.join(keys)}")
