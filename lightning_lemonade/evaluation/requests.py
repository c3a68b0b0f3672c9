"""What an evaluation is asked, what it gives, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import load, save

from lightning_lemonade.callback import Heir
from lightning_lemonade.evaluation.watch import Watch
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import State
from lightning_lemonade.search import Child, Outcome, TaskResult


class _Sent:
    """Something with weights that goes from process to process: pickled, each set of weights is one text of bytes.

    By themselves tensors are pickled one by one, each as a file of `torch.save`: a tenth of a millisecond for each, on either side.
    """

    weights: Mapping[str, State]

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled."""
        packed = {task: save({name: tensor.contiguous() for name, tensor in state.items()}) for task, state in self.weights.items()}
        return {**self.__dict__, "weights": packed}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Takes what was pickled."""
        self.__dict__.update(state, weights={task: load(packed) for task, packed in state["weights"].items()})


@dataclass(frozen=True)
class EvaluationRequest(_Sent):
    """A child to evaluate, with what it inherits.

    Attributes:
        child: the candidate.
        parent: the parent's architecture; None if nothing is inherited.
        weights: the parent's weights by task.
    """

    child: Child
    parent: GraphSpec | None
    weights: Mapping[str, State]


@dataclass(frozen=True)
class TestRequest(_Sent):
    """A trained candidate to measure on the test split.

    Attributes:
        spec: its architecture.
        weights: its weights by task.
        id: the candidate's.
    """

    __test__ = False  # no test class, though its name begins like one
    spec: GraphSpec
    weights: Mapping[str, State]
    id: int = -1


@dataclass(frozen=True)
class Tested:
    """What a test gave.

    Attributes:
        id: the candidate's.
        errors: by task, for tasks that have a test split.
    """

    __test__ = False
    id: int
    errors: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation(_Sent):
    """An outcome with the trained weights by task (empty if it failed)."""

    outcome: Outcome
    weights: Mapping[str, State]


@dataclass(frozen=True)
class Spent:
    """What an evaluation has cost so far: seconds by phase, and results by task. Both are filled as it goes on."""

    seconds: dict[str, float] = field(default_factory=lambda: {"inherit": 0.0, "fit": 0.0, "validate": 0.0})
    results: dict[str, TaskResult] = field(default_factory=dict)

    def add(self, task: str, start: float | None, watch: Watch, heirs: Sequence[Heir]) -> None:
        """Adds a training to what was spent on the task before, by one that ran out of memory."""
        before = self.results.get(task, TaskResult(None, {}, 0, 0))
        teacher_images = before.teacher_images + sum(heir.teacher_images for heir in heirs)
        self.results[task] = TaskResult(start, {}, before.epochs + watch.epochs, before.images + watch.images, teacher_images)
