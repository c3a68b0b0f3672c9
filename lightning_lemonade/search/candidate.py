"""What a search knows of a candidate, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import Mutation

State = Literal["accepted", "running", "evaluated", "failed"]


@dataclass(frozen=True)
class Measurement:
    """A measured or predicted value.

    Attributes:
        value: in the objective's unit.
        spread: standard deviation over repeated measurements, or of the prediction; None where measured once.
    """

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class Expected:
    """What a strategy of choice expected of a child when it was accepted.

    Attributes:
        values: of trained objectives by key.
        seconds: that its evaluation takes; None where times aren't looked at.
        worst_start: of its first trained objective, before training: beyond that it isn't worth being trained. None where it always is.
    """

    values: Mapping[str, Measurement] = field(default_factory=dict)
    seconds: float | None = None
    worst_start: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A candidate that has only spec objectives.

    Attributes:
        spec: its architecture.
        generation: 0 for starting networks.
        parent: id of the parent; None for starting networks.
        mutations: what was done to the parent, in order.
        values: the spec objectives' values by key.
        epochs: that it is to be trained for each task; None for as many as the settings say.
    """

    spec: GraphSpec
    generation: int
    parent: int | None
    mutations: tuple[Mutation, ...]
    values: Mapping[str, float]
    epochs: int | None = field(default=None, kw_only=True)

    @property
    def exact(self) -> bool:
        """Whether it computes what its parent does, before any training."""
        return all(mutation.exact for mutation in self.mutations)

    @property
    def kinship(self) -> tuple[int | None, str]:
        """Parent and architecture, which proposals have in common that differ in the length of their training alone."""
        return self.parent, self.spec.structural_hash


@dataclass(frozen=True)
class Child(Proposal):
    """A proposal that was accepted for evaluation.

    Attributes:
        id: counts up over the search, from 0.
        expected: what the strategy of choice expected of it.
    """

    id: int = -1
    expected: Expected = field(default_factory=Expected, kw_only=True)


@dataclass(frozen=True)
class Failure:
    """Why a child has no values.

    Attributes:
        kind: see `evaluation.FailureKind`.
        text: one line for a person.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class TaskResult:
    """What one task's training gave.

    Attributes:
        start_error: validation error with the inherited weights, before training; None for a network that inherits nothing.
        metrics: validation metrics after training.
        epochs: epochs trained.
        images: training images seen.
        teacher_images: images passed through the parent to distil from it.
    """

    start_error: float | None
    metrics: Mapping[str, float]
    epochs: int
    images: int
    teacher_images: int = 0


@dataclass(frozen=True)
class Outcome:
    """What evaluating a child gave: values, or a failure; never both.

    Attributes:
        id: the child's.
        values: every objective's value by key; empty if it failed.
        failure: None if it was evaluated.
        tasks: results by task name (`""` where there is one task).
        seconds: time by phase (`inherit`, `fit`, `validate`).
    """

    id: int
    values: Mapping[str, Measurement] = field(default_factory=dict)
    failure: Failure | None = None
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outline:
    """What is remembered of a candidate when its architecture is not needed any more.

    Attributes:
        parameter_count: of its architecture.
        macs: of its architecture.
        values: every objective's value by key.
        epochs: see `Member`.
        exact: whether it began as what its parent computes.
        start: its first trained objective before its training; None where that isn't known, or there are several tasks.
    """

    parameter_count: int
    macs: int
    values: Mapping[str, float]
    epochs: int
    exact: bool = False
    start: float | None = None


@dataclass(frozen=True)
class Member:
    """A member of the population.

    Attributes:
        id: the candidate's.
        spec: its architecture.
        values: every objective's value by key.
        epochs: trained by it and the ancestors that it inherits from, all tasks together.
    """

    id: int
    spec: GraphSpec
    values: Mapping[str, float]
    epochs: int = 0

    @property
    def outline(self) -> Outline:
        """What is remembered of it."""
        return Outline(self.spec.parameter_count, self.spec.macs, self.values, self.epochs)
