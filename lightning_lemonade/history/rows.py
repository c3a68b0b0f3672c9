"""From what a search hands over to the rows of its tables, and from the rows to records."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history.schema import (
    CandidateRow,
    FrontMemberRow,
    GenerationPhaseRow,
    GenerationRow,
    PhaseRow,
    TaskResultRow,
    ValueRow,
)
from lightning_lemonade.records import CandidateRecord, GenerationRecord, TaskRecord
from lightning_lemonade.search.candidate import Child, Failure, Measurement, State, TaskResult

_COUNTS = ("hypervolume", "proposed", "accepted", "evaluated", "failed", "total_epochs")


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
    """
    values = {key: row.values[key] for key in keys if key in row.values}
    results = {task: row.results[task] for task in tasks if task in row.results}
    return CandidateRecord(
        id=row.id,
        parent=row.parent,
        generation=row.generation,
        state=cast(State, row.state),
        failure=None if row.failure_kind is None else Failure(row.failure_kind, row.failure_text or ""),
        spec=spec,
        hash=row.hash,
        mutations=tuple(row.mutations),
        objectives={key: value.value for key, value in values.items()},
        spreads={key: value.spread for key, value in values.items() if value.spread is not None},
        tasks={task: TaskRecord(result.start_error, result.test_error, result.metrics) for task, result in results.items()},
        epochs=row.epochs,
        cumulative_epochs=row.cumulative_epochs,
        images=row.images,
        cumulative_images=row.cumulative_images,
        teacher_images=sum(result.teacher_images for result in row.results.values()),
        seconds={phase.phase: phase.seconds for phase in row.phases},
        in_front=in_front,
    )


def generation_record(row: GenerationRow) -> GenerationRecord:
    """Returns what a row says of a generation."""
    return GenerationRecord(
        generation=row.index,
        front=tuple(member.candidate for member in row.members),
        seconds={phase.phase: phase.seconds for phase in row.phases},
        **{name: getattr(row, name) for name in _COUNTS},
    )


def error_number(value: float) -> float:
    """Returns an error as SQLite can hold it: infinity for not-a-number, which SQLite would turn into "none measured"."""
    return math.inf if math.isnan(value) else float(value)


def writable_text(value: str) -> str:
    """Returns a text that can be written as UTF-8 (paths in error messages may hold half surrogate pairs)."""
    return value.encode(errors="replace").decode()
