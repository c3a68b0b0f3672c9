"""From what a search hands over to the rows of its tables, and from the rows to records."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.history.schema import (
    CandidateRow,
    FrontMemberRow,
    GenerationPhaseRow,
    GenerationRow,
    ObjectiveRow,
    PhaseRow,
    RunRow,
    TaskResultRow,
    ValueRow,
)
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord, TaskRecord
from lightning_lemonade.search.candidate import Child, Failure, Measurement, State, TaskResult

_COUNTS = ("proposed", "accepted", "evaluated", "failed", "total_epochs")


def child_row(child: Child) -> CandidateRow:
    """Returns the row of an accepted child."""
    return CandidateRow(
        id=child.id,
        parent=child.parent,
        generation=child.generation,
        state="accepted",
        hash=child.spec.structural_hash,
        spec=child.spec.to_json(),
        mutations=[mutation.to_dict() for mutation in child.mutations],
        values=value_rows({key: Measurement(value) for key, value in child.values.items()}),
    )


def value_rows(values: Mapping[str, Measurement]) -> dict[str, ValueRow]:
    """Returns a row for each value, by objective."""
    return {
        key: ValueRow(objective=key, value=float(measured.value), spread=None if measured.spread is None else float(measured.spread))
        for key, measured in values.items()
    }


def phase_rows(candidate: int, seconds: Mapping[str, float]) -> list[PhaseRow]:
    """Returns a row for each phase of a candidate's evaluation."""
    return [PhaseRow(candidate=candidate, phase=phase, seconds=float(spent)) for phase, spent in seconds.items()]


def result_row(candidate: int, task: str, result: TaskResult, weights: tuple[str, str] | None) -> TaskResultRow:
    """Returns the row of a candidate's result for a task; `weights` are the file's name and checksum."""
    name, checksum = weights or (None, None)
    return TaskResultRow(
        candidate=candidate,
        task=task,
        start_error=None if result.start_error is None else error_number(result.start_error),
        metrics={key: float(value) for key, value in result.metrics.items()},
        epochs=result.epochs,
        images=result.images,
        teacher_images=result.teacher_images,
        weights=name,
        sha256=checksum,
    )


def generation_row(record: GenerationRecord) -> GenerationRow:
    """Returns the row of a finished generation."""
    return GenerationRow(
        index=record.generation,
        phases=[GenerationPhaseRow(phase=phase, seconds=float(spent)) for phase, spent in record.seconds.items()],
        members=[FrontMemberRow(candidate=member, position=i) for i, member in enumerate(record.front)],
        hypervolume=float(record.hypervolume),
        **{name: getattr(record, name) for name in _COUNTS},
    )


def candidate_record(row: CandidateRow, spec: GraphSpec, *, keys: Sequence[str], tasks: Sequence[str], in_front: bool) -> CandidateRecord:
    """Returns what a row says of a candidate.

    Args:
        row: the candidate's.
        spec: the row's, read.
        keys: the objectives' keys, in order.
        tasks: the search's, in order.
        in_front: whether it is in the population now.

    Raises:
        ValueError: if it holds something else than a search writes.
    """
    values = {key: row.values[key] for key in keys if key in row.values}
    results = {task: row.results[task] for task in tasks if task in row.results}
    if row.state not in get_args(State):
        raise ValueError(f"candidate {row.id} has the state {row.state!r}")
    if row.parent is not None and not 0 <= integer(row.parent) < row.id:
        raise ValueError(f"candidate {row.id} has the parent {row.parent}")
    if row.hash != spec.structural_hash:
        raise ValueError(f"candidate {row.id} has the hash of another architecture")
    return CandidateRecord(
        id=integer(row.id),
        parent=row.parent,
        generation=integer(row.generation),
        state=cast(State, row.state),
        failure=None if row.failure_kind is None else Failure(text(row.failure_kind), text(row.failure_text or "")),
        spec=spec,
        hash=row.hash,
        mutations=tuple(mapping(mutation) for mutation in row.mutations),
        objectives={key: number(value.value) for key, value in values.items()},
        spreads={key: number(value.spread) for key, value in values.items() if value.spread is not None},
        tasks={task: _task_record(result) for task, result in results.items()},
        epochs=integer(row.epochs),
        cumulative_epochs=integer(row.cumulative_epochs),
        images=integer(row.images),
        cumulative_images=integer(row.cumulative_images),
        teacher_images=sum(integer(result.teacher_images) for result in row.results.values()),
        seconds={text(phase.phase): number(phase.seconds) for phase in row.phases},
        in_front=in_front,
    )


def _task_record(row: TaskResultRow) -> TaskRecord:
    start, test = (None if error is None else number(error, infinite=True) for error in (row.start_error, row.test_error))
    return TaskRecord(start, test, {key: number(value, infinite=True) for key, value in mapping(row.metrics).items()})


def generation_record(row: GenerationRow) -> GenerationRecord:
    """Returns what a row says of a generation.

    Raises:
        ValueError: if it holds something else than a search writes.
    """
    return GenerationRecord(
        generation=integer(row.index),
        front=tuple(integer(member.candidate) for member in row.members),
        seconds={text(phase.phase): number(phase.seconds) for phase in row.phases},
        hypervolume=number(row.hypervolume),
        **{name: integer(getattr(row, name)) for name in _COUNTS},
    )


def objective_record(row: ObjectiveRow) -> ObjectiveRecord:
    """Returns what a row says of an objective."""
    return ObjectiveRecord(text(row.key), text(row.name), text(row.unit), text(row.stage))


def bounds_of(run: RunRow, objectives: Sequence[ObjectiveRecord]) -> dict[str, tuple[float, float]]:
    """Returns the hypervolume's bounds by objective key.

    Raises:
        ValueError: unless each objective has two, the lower one first.
    """
    bounds = {key: (number(low), number(high)) for key, (low, high) in mapping(run.bounds).items()}
    if set(bounds) != {objective.key for objective in objectives} or not all(low < high for low, high in bounds.values()):
        raise ValueError("the bounds of the hypervolume aren't those of the objectives")
    return bounds


def tasks_of(run: RunRow) -> tuple[str, ...]:
    """Returns the tasks' names.

    Raises:
        ValueError: if there is none, or one twice.
    """
    tasks = tuple(text(task) for task in run.tasks) if isinstance(run.tasks, list) else ()
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError("the run names no task")
    return tasks


def integer(value: object) -> int:
    """Returns a whole number of at least 0. SQLite's columns hold whatever a stranger wrote into them."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a whole number was expected, not {shown(value)}")
    return value


def number(value: object, *, infinite: bool = False) -> float:
    """Returns a number; a finite one unless `infinite`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (infinite or math.isfinite(value)):
        raise ValueError(f"a number was expected, not {shown(value)}")
    return float(value)


def text(value: object) -> str:
    """Returns a text."""
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, not {shown(value)}")
    return value


def mapping(value: object) -> dict[str, Any]:
    """Returns a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, not {shown(value)}")
    return value


def error_number(value: float) -> float:
    """Returns an error as SQLite can hold it: infinity for not-a-number, which SQLite would turn into "none measured"."""
    return math.inf if math.isnan(value) else float(value)


def writable_text(value: str) -> str:
    """Returns a text that can be written as UTF-8 (paths in error messages may hold half surrogate pairs)."""
    return value.encode(errors="replace").decode()
