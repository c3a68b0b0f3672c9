"""From what a search hands over to the rows of its tables, and from the rows to records."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from lightning_lemonade.configuration import BUDGET, TUNED
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.graph.ops import MAX_SIZE, shown
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
from lightning_lemonade.history.values import error_number, harmless, integer, mapping, number, printable, sequence, text
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord, TaskRecord
from lightning_lemonade.search.candidate import Child, Expected, Failure, Measurement, State, TaskResult

_COUNTS = ("proposed", "accepted", "evaluated", "failed", "total_epochs")
_HASH = re.compile(r"[0-9a-f]{32}", re.ASCII)
MOST_OBJECTIVES = MOST_TASKS = 256
"""A table of more columns takes minutes to draw."""
STAGES = ("spec", "network", "trained")


def child_row(child: Child, state: State, after: int | None) -> CandidateRow:
    """Returns the row of an accepted child; `after` is how many children the search was told of before."""
    return CandidateRow(
        id=child.id,
        parent=child.parent,
        generation=child.generation,
        state=state,
        after=after,
        planned=child.epochs,
        expected=_expected_row(child.expected),
        hash=child.spec.structural_hash,
        spec=child.spec.to_json(),
        mutations=[mutation.to_dict() for mutation in child.mutations],
        values=value_rows({key: Measurement(value) for key, value in child.values.items()}),
    )


def _expected_row(expected: Expected) -> dict[str, Any]:
    """Returns what was expected of a child, as JSON values; empty if nothing was."""
    if expected == Expected():
        return {}
    values = {key: [float(value.value), None if value.spread is None else float(value.spread)] for key, value in expected.values.items()}
    numbers = {"seconds": expected.seconds, "worst_start": expected.worst_start}
    return {"values": values, **{name: None if given is None else float(given) for name, given in numbers.items()}}


def expected_of(row: object, keys: Sequence[str]) -> Expected:
    """Returns what a row says that was expected of a child.

    Raises:
        ValueError: if it holds something else than a search writes.
    """
    found = mapping(row or {})
    values = mapping(found.get("values", {}))
    if not set(values) <= set(keys):
        raise ValueError(f"values were expected of {shown(sorted(map(str, values)))}, which are no objectives")
    seconds, worst = (None if (given := found.get(name)) is None else number(given) for name in ("seconds", "worst_start"))
    predicted = {}
    for key, pair in values.items():
        value, spread = sequence(pair)
        predicted[key] = Measurement(number(value), None if spread is None else number(spread))
    return Expected(predicted, seconds, worst)


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
        raise ValueError(f"candidate {row.id} has the state {shown(row.state)}")
    if (row.state == "evaluated" and (len(values) < len(keys) or len(results) < len(tasks))) or (in_front and row.state != "evaluated"):
        raise ValueError(f"candidate {row.id} is {row.state}{' and in the front' * in_front} without all its values and results")
    if row.parent is not None and not integer(row.parent) < row.id:
        raise ValueError(f"candidate {row.id} has the parent {row.parent}")
    if not isinstance(row.hash, str) or not _HASH.fullmatch(row.hash):
        raise ValueError(f"candidate {row.id} has the hash {shown(row.hash)}")
    return CandidateRecord(
        id=integer(row.id),
        parent=row.parent,
        generation=integer(row.generation),
        state=cast(State, row.state),
        failure=None if row.failure_kind is None else Failure(printable(row.failure_kind), text(row.failure_text or "")),
        spec=spec,
        hash=row.hash,
        mutations=tuple(mapping(harmless(mutation)) for mutation in sequence(row.mutations)),
        objectives={key: number(value.value) for key, value in values.items()},
        spreads={key: number(value.spread) for key, value in values.items() if value.spread is not None},
        tasks={task: _task_record(result) for task, result in results.items()},
        epochs=integer(row.epochs),
        cumulative_epochs=integer(row.cumulative_epochs),
        images=integer(row.images),
        cumulative_images=integer(row.cumulative_images),
        teacher_images=sum(integer(result.teacher_images) for result in row.results.values()),
        seconds={printable(phase.phase): number(phase.seconds) for phase in row.phases},
        in_front=in_front,
        after=None if row.after is None else integer(row.after),
        told=None if row.told is None else integer(row.told),
        planned=None if row.planned is None else integer(row.planned),
        expected=expected_of(row.expected, keys),
    )


def _task_record(row: TaskResultRow) -> TaskRecord:
    start, test = (None if error is None else number(error, infinite=True) for error in (row.start_error, row.test_error))
    return TaskRecord(start, test, {text(key): number(value, infinite=True) for key, value in mapping(row.metrics).items()})


def generation_record(row: GenerationRow) -> GenerationRecord:
    """Returns what a row says of a generation.

    Raises:
        ValueError: if it holds something else than a search writes.
    """
    return GenerationRecord(
        generation=integer(row.index),
        front=tuple(integer(member.candidate) for member in row.members),
        seconds={printable(phase.phase): number(phase.seconds) for phase in row.phases},
        hypervolume=number(row.hypervolume),
        **{name: integer(getattr(row, name)) for name in _COUNTS},
    )


def objectives_of(rows: Sequence[ObjectiveRow]) -> tuple[ObjectiveRecord, ...]:
    """Returns the objectives.

    Raises:
        ValueError: if there are too many, one is there twice, or one isn't named as an objective may be.
    """
    records = tuple(ObjectiveRecord(*map(printable, (row.key, row.name, row.unit, row.stage))) for row in rows)
    if len(records) > MOST_OBJECTIVES or len({record.key for record in records}) < len(records):
        raise ValueError(f"the {len(records)} objectives aren't at most {MOST_OBJECTIVES}, each with its own key")
    for record in records:
        if record.stage not in STAGES:
            raise ValueError(f"the objective {record.key!r} has the stage {record.stage!r}")
    return records


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
        ValueError: if there is none, or too many, or one twice.
    """
    tasks = tuple(map(printable, sequence(run.tasks)))
    if not 0 < len(tasks) <= MOST_TASKS or len(set(tasks)) < len(tasks):
        raise ValueError(f"the {len(tasks)} tasks aren't between 1 and {MOST_TASKS}, each with its own name")
    return tasks


def config_of(run: RunRow) -> dict[str, Any]:
    """Returns the search's configuration, in which what is used later has the form that a search gives it.

    Raises:
        ValueError: if the budget, the versions, or what is told of the tasks has another.
    """
    config = mapping(run.config)
    for budget in (*BUDGET, *TUNED):
        if (limit := config.get(budget)) is not None:
            number(limit)
    for version in mapping(config.get("versions", {})).values():
        printable(version)
    for facts in mapping(config.get("tasks", {})).values():
        if (outputs := mapping(facts).get("outputs")) is not None and not 0 < integer(outputs) <= MAX_SIZE:
            raise ValueError(f"a task has {shown(outputs)} outputs")
        for class_name in sequence([] if facts.get("class_names") is None else facts["class_names"]):
            text(class_name)
    return config
