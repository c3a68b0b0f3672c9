"""Objectives: what a search minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from torch import nn

from lightning_lemonade.errors import ObjectiveError
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
    """An objective read from the validation metrics after training."""

    stage = "trained"

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
        return metrics["val_error"]

    def bounds(self, num_outputs: int) -> tuple[float, float]:
        """Returns 0, and the error of a guess among equally frequent classes."""
        return 0.0, 1.0 - 1.0 / max(2, num_outputs)


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
        elif isinstance(given, str) and given.strip() in BUILT_IN:
            found.append(BUILT_IN[given.strip()]())
        else:
            raise ObjectiveError(f"unknown objective {given!r}; known: {', '.join(BUILT_IN)}, or an object of a subclass of Objective")
    keys = [objective.key for objective in found]
    if len(set(keys)) != len(keys):
        raise ObjectiveError(f"an objective is given twice: {', '.join(keys)}")
    if not any(isinstance(objective, TrainedObjective) for objective in found):
        raise ObjectiveError(f"a search needs a trained objective, for instance error; got {', '.join(keys) or 'none'}")
    return found
