"""What a run directory says of a search, as plain data: what callbacks, tables and reports read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.search.candidate import Expected, Failure, State

PHASES = ("propose", "inherit", "fit", "validate", "record", "other")
"""What the time of a generation is divided into."""


@dataclass(frozen=True)
class ObjectiveRecord:
    """An objective of a search.

    Attributes:
        key: `name` or `name/task`.
        name: for instance `params`.
        unit: for instance `parameters`.
        stage: `spec`, `network` or `trained`.
    """

    key: str
    name: str
    unit: str
    stage: str


@dataclass(frozen=True)
class TaskRecord:
    """What one task's training gave a candidate.

    Attributes:
        start_error: the task's first trained objective on the validation split before training; None where nothing was inherited.
        test_error: the same on the test split; None until measured.
        metrics: metrics of validation after training, by the names under which the module logs them.
    """

    start_error: float | None
    test_error: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate as the history knows it.

    Attributes:
        id: counts up over the search.
        parent: id of the parent; None for starting networks.
        generation: 0 for starting networks.
        state: `accepted`, `running`, `evaluated` or `failed`.
        failure: why it failed, if it did.
        spec: its architecture.
        hash: its structural hash.
        mutations: the mutations as JSON values, in order.
        objectives: value by objective key; only the spec objectives until it is evaluated.
        spreads: standard deviation by objective key, where measured repeatedly.
        tasks: what training gave, by task (`""` where there is one task).
        epochs: epochs of its own training; 0 for a child that began too badly to be trained (see `expected`), whose values are those it
            began with.
        cumulative_epochs: the same with those of the ancestors whose training it inherited; 0 until it is recorded.
        images: training images seen in its own training.
        cumulative_images: the same with those of these ancestors.
        teacher_images: images passed through its parent to distil from it.
        seconds: time by phase, in seconds.
        in_front: whether it is in the population now.
        after: how many children an asynchronous search was told of before it accepted this one; None in a synchronous one.
        told: how many it was told of with this one; None in a synchronous search, and until it is told.
        planned: epochs that it is to be trained for each task; None for as many as the settings say.
        expected: what it was chosen for.
    """

    id: int
    parent: int | None
    generation: int
    state: State
    failure: Failure | None
    spec: GraphSpec
    hash: str
    mutations: tuple[Mapping[str, Any], ...]
    objectives: Mapping[str, float]
    spreads: Mapping[str, float]
    tasks: Mapping[str, TaskRecord]
    epochs: int
    cumulative_epochs: int
    images: int
    cumulative_images: int
    teacher_images: int
    seconds: Mapping[str, float]
    in_front: bool
    after: int | None = None
    told: int | None = None
    planned: int | None = None
    expected: Expected = field(default_factory=Expected)

    @property
    def start_error(self) -> float | None:
        """The first task's (see `TaskRecord`)."""
        return next((task.start_error for task in self.tasks.values()), None)

    @property
    def test_error(self) -> float | None:
        """The first task's (see `TaskRecord`)."""
        return next((task.test_error for task in self.tasks.values()), None)


@dataclass(frozen=True)
class GenerationRecord:
    """A finished generation.

    Attributes:
        generation: 0 for the starting networks.
        hypervolume: of the population, in [0, 1].
        front: ids of the population's members.
        proposed: legal proposals made.
        accepted: children accepted.
        evaluated: children evaluated.
        failed: children failed.
        total_epochs: epochs trained so far in the search.
        seconds: time of this generation by phase: `propose`, `inherit`, `fit`, `validate`, `record`, `other`.
    """

    generation: int
    hypervolume: float
    front: tuple[int, ...]
    proposed: int
    accepted: int
    evaluated: int
    failed: int
    total_epochs: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class PredictionRecord:
    """How far off was what was expected of the children that were evaluated.

    Attributes:
        children: how many something was expected of.
        errors: mean distance between measured and expected value by objective key, in the objective's unit.
        seconds: median distance between measured and expected seconds, relative to the latter; None where none were expected.
    """

    children: int
    errors: Mapping[str, float]
    seconds: float | None
