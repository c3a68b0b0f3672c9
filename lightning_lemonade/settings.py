"""Settings of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_lemonade.callback import SearchCallback
from lightning_lemonade.configuration import described
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.executors import Executor
from lightning_lemonade.module import PAPER_TRAINING, Training
from lightning_lemonade.objectives import Objective, SpecObjective
from lightning_lemonade.search import SAMPLING, Limits
from lightning_lemonade.spaces import PAPER_OPERATORS, SCALING_OPERATORS, ConvNetSpace, Operator

KEEP_WEIGHTS = ("front", "all")
"""Whose weights a run keeps: the front's (and those that children still inherit from), or every candidate's."""


@dataclass(frozen=True)
class Algorithm:
    """How a search chooses, by name: see `ALGORITHMS`.

    Attributes:
        sampling: how parents and children are chosen.
        starts: the starting networks of `ConvNetSpace`.
        operators: its operators.
        proposals: children proposed each generation.
        asynchronous: whether children are proposed one by one.
    """

    sampling: str
    starts: Literal["paper", "strided", "spanning"]
    operators: Sequence[Operator]
    proposals: int
    asynchronous: bool

    @property
    def space(self) -> ConvNetSpace:
        """Where a search goes by default."""
        return ConvNetSpace(starts=self.starts, operators=self.operators)


ALGORITHMS = {
    "paper": Algorithm("density", "paper", PAPER_OPERATORS, proposals=32, asynchronous=False),
    "gain": Algorithm("gain", "spanning", (*PAPER_OPERATORS, *SCALING_OPERATORS), proposals=256, asynchronous=True),
}
"""What `LemonadeTrainer(algorithm=...)` stands for: Algorithm 1 as it is, and what was best where it was measured (docs/tuning.md)."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search is asked to do; the arguments of `LemonadeTrainer`, parsed and checked.

    Attributes:
        objectives: all are minimised.
        limits: on spec objectives.
        space: where to search.
        max_generations: when to stop, or None.
        max_seconds: when to stop, or None.
        proposals: children proposed each generation.
        accepted: children trained each generation.
        training: of each candidate.
        inherit: whether children inherit their parent's weights.
        sampling: `"density"`, `"gain"` or `"uniform"`.
        polish: share of the budget, at its end, in which the front is trained on.
        population_size: the most members of the population, or None.
        seed: of every draw.
        calibration_size: training samples for the transfer of weights.
        threads_per_child: torch's threads, or None.
        max_child_seconds: longest evaluation of a child, or None.
        max_failures: children that may fail in a row.
        keep_weights: `"front"` or `"all"`.
        asynchronous: whether children are proposed as soon as one can be evaluated.
        executor: where children are evaluated.
        callbacks: of the search.
        run_dir: where everything is kept; None for a new folder.
        trainer_arguments: of `pytorch_lightning.Trainer`.

    Raises:
        ConfigurationError: if one can't be used.
    """

    objectives: tuple[Objective, ...]
    limits: Limits
    space: ConvNetSpace
    max_generations: int | None
    max_seconds: float | None
    proposals: int
    accepted: int
    training: Training
    inherit: bool
    sampling: str
    polish: float
    population_size: int | None
    seed: int
    calibration_size: int
    threads_per_child: int | None
    max_child_seconds: float | None
    max_failures: int
    keep_weights: str
    asynchronous: bool
    executor: Executor
    callbacks: tuple[SearchCallback, ...]
    run_dir: Path | None
    trainer_arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Checks all of them."""
        self._check_numbers()
        if self.accepted > self.proposals:
            raise ConfigurationError(f"accepted={self.accepted} of proposals={self.proposals}: propose at least as many as are accepted")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigurationError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        for name in ("inherit", "asynchronous"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.sampling not in SAMPLING:
            raise ConfigurationError(f"sampling must be one of {', '.join(SAMPLING)}, got {self.sampling!r}")
        if isinstance(self.polish, bool) or not isinstance(self.polish, int | float) or not 0 <= self.polish < 1:
            raise ConfigurationError(f"polish must be a share of the budget, of at least 0 and below 1, got {self.polish!r}")
        if self.keep_weights not in KEEP_WEIGHTS:
            raise ConfigurationError(f"keep_weights must be one of {', '.join(KEEP_WEIGHTS)}, got {self.keep_weights!r}")
        if self.max_child_seconds is not None and not self.max_child_seconds > 0:
            raise ConfigurationError("max_child_time must be longer than nothing, got 00:00:00:00")
        keys = {objective.key for objective in self.objectives if isinstance(objective, SpecObjective)}
        unknown = set(self.limits.ranges) - keys
        if unknown:
            raise ConfigurationError(
                f"limits on {', '.join(sorted(unknown))}: limits go with spec objectives, here {', '.join(sorted(keys))}"
            )

    def _check_numbers(self) -> None:
        numbers = {
            "max_generations": self.max_generations,
            "proposals": self.proposals,
            "accepted": self.accepted,
            "calibration_size": self.calibration_size,
            "epochs": self.training.epochs,
            "initial_epochs": self.training.initial_epochs,
            "polish_epochs": self.training.polish_epochs,
            "threads_per_child": self.threads_per_child,
            "max_failures": self.max_failures,
            "population_size": self.population_size,
        }
        for name, value in numbers.items():
            least = 2 if name == "calibration_size" else 1
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Returns what a run records of them, as JSON values."""
        return {
            "objectives": [objective.key for objective in self.objectives],
            "objective_arguments": [described(objective) for objective in self.objectives],
            "space": described(self.space),
            "limits": {key: [low, high if high != float("inf") else None] for key, (low, high) in self.limits.ranges.items()},
            "max_generations": self.max_generations,
            "max_seconds": self.max_seconds,
            "proposals": self.proposals,
            "accepted": self.accepted,
            "training": asdict(self.training),
            "inherit": self.inherit,
            "sampling": self.sampling,
            "polish": self.polish,
            "population_size": self.population_size,
            "seed": self.seed,
            "calibration_size": self.calibration_size,
            "threads_per_child": torch.get_num_threads(),  # what is used, whether it was given or not
            "max_child_seconds": self.max_child_seconds,
            "max_failures": self.max_failures,
            "keep_weights": self.keep_weights,
            "asynchronous": self.asynchronous,
            "executor": described(self.executor),
            "trainer": {name: described(value) for name, value in self.trainer_arguments.items()},
        }


def algorithm_of(name: str) -> Algorithm:
    """Returns an algorithm by its name."""
    if name not in ALGORITHMS:
        raise ConfigurationError(f"algorithm must be paper or gain, got {name!r}")
    return ALGORITHMS[name]


def parse_training(schedule: str, epochs: int | None, initial_epochs: int | None, training: Training | None = None) -> Training:
    """Returns the settings of training of a schedule by name, with other numbers of epochs if given."""
    presets = {"default": Training(), "paper": PAPER_TRAINING}
    if schedule not in presets:
        raise ConfigurationError(f"schedule must be default or paper, got {schedule!r}")
    if training is not None and schedule != "default":
        raise ConfigurationError(f"schedule={schedule} and training are both given: give one of them")
    if training is not None and not isinstance(training, Training):
        raise ConfigurationError(f"training must be Training(...), got {training!r}")
    chosen = training or presets[schedule]
    return replace(
        chosen,
        epochs=chosen.epochs if epochs is None else epochs,
        initial_epochs=chosen.initial_epochs if initial_epochs is None else initial_epochs,
    )


def parse_time(given: str, name: str = "max_time") -> float:
    """Returns the seconds of a time given as `"DD:HH:MM:SS"`.

    Args:
        given: the time.
        name: the argument's, for errors.
    """
    try:
        days, hours, minutes, seconds = (int(part) for part in given.split(":"))
        if min(days, hours, minutes, seconds) < 0:
            raise ValueError
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    except (ValueError, AttributeError, OverflowError):
        raise ConfigurationError(f"{name} must be DD:HH:MM:SS, for instance 00:08:00:00 for eight hours, got {given!r}") from None
