"""Objectives: what a search minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    def of_network(self, network: nn.Module, spec: GraphSpec) -> float:
        """Returns the value of record for the built network; by default the architecture's."""
        return self.of_spec(spec)


class TrainedObjective(Objective):
    """An objective read from the validation metrics after training."""

    stage = "trained"

    @abstractmethod
    def of_metrics(self, metrics: Mapping[str, float]) -> float:
        """Returns the value from the validation metrics by name (see `LemonadeModule`)."""


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


BUILT_IN: dict[str, type[Objective]] = {cls.name: cls for cls in (Error, Params, Macs)}


def resolve(objectives: Sequence[str | Objective]) -> list[Objective]:
    """Returns objectives from names and objects.

    Raises:
        ObjectiveError: if a name is unknown, a key is given twice, or none is trained.
    """
    found: list[Objective] = []
    for given in objectives:
        if isinstance(given, Objective):
            found.append(given)
        elif given in BUILT_IN:
            found.append(BUILT_IN[given]())
        else:
            raise ObjectiveError(f"unknown objective {given!r}; known: {', '.join(BUILT_IN)}, or an object of a subclass of Objective")
    keys = [objective.key for objective in found]
    if len(set(keys)) != len(keys):
        raise ObjectiveError(f"an objective is given twice: {', '.join(keys)}")
    if not any(isinstance(objective, TrainedObjective) for objective in found):
        raise ObjectiveError(f"a search needs a trained objective, for instance error; got {', '.join(keys) or 'none'}")
    return found
