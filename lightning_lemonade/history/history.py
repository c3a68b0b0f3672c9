"""History: everything recorded of one search, in its run directory."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from lightning_lemonade.errors import HistoryError, LemonadeError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history.database import DATABASE, cause, check_database, engine
from lightning_lemonade.history.schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    Base,
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
from lightning_lemonade.history.weights import FOLDER, fsync_directory, read_weights, weights_name, write_weights
from lightning_lemonade.morphisms import State
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord
from lightning_lemonade.search.candidate import Child, Failure, Outcome, TaskResult
from lightning_lemonade.search.candidate import State as CandidateState

UNFINISHED = ("accepted", "running")
_Row = TypeVar("_Row", bound=Base)


class History:
    """The record of one search. Made by `History.create` (for its one writer) or `History.open` (for reading).

    The journal is SQLite's rollback journal, not WAL: a run directory that is read-only can be read, network file systems too, and the one
    commit per child is too seldom for WAL to matter.

    Attributes:
        run_dir: the run directory.
        config: the search's configuration, as JSON values.
        objectives: in order.
        bounds: the hypervolume's (low, high) by objective key.
        tasks: the tasks' names; `("",)` where there is one task.
    """

    def __init__(self, run_dir: Path, *, writable: bool) -> None:
        self.run_dir = run_dir
        self._writable = writable
        self._engine = engine(run_dir / DATABASE, writable=writable)
        self._specs: dict[int, GraphSpec] = {}
        with self._reading() as session:
            check_database(session, run_dir)
            run = session.scalars(select(RunRow)).one()
            rows = session.scalars(select(ObjectiveRow).order_by(ObjectiveRow.position))
            self.config: Mapping[str, Any] = run.config
            self.objectives = tuple(ObjectiveRecord(row.key, row.name, row.unit, row.stage) for row in rows)
            self.bounds: Mapping[str, tuple[float, float]] = {key: (float(low), float(high)) for key, (low, high) in run.bounds.items()}
            self.tasks = tuple(str(task) for task in run.tasks)

    @classmethod
    def create(
        cls,
        run_dir: Path,
        *,
        config: Mapping[str, Any],
        objectives: Sequence[ObjectiveRecord],
        bounds: Mapping[str, tuple[float, float]],
        tasks: Sequence[str] = ("",),
    ) -> Self:
        """Starts the record of a new search.

        Args:
            run_dir: the run directory; made where it doesn't exist.
            config: the search's configuration, as JSON values.
            objectives: in order.
            bounds: the hypervolume's (low, high) by objective key.
            tasks: the tasks' names, the main one first.

        Raises:
            HistoryError: if the directory holds a run already or can't be written, or the configuration isn't made of JSON values.
        """
        run_dir = Path(run_dir)
        path, beside = run_dir / DATABASE, run_dir / f".{DATABASE}.tmp"
        if path.exists():
            raise HistoryError(f"{run_dir} holds a run already: resume it (lightning-lemonade resume {run_dir}) or give another one")
        if not tasks or len(set(tasks)) != len(tasks):
            raise HistoryError(f"the tasks {list(tasks)} can't be recorded: give at least one, each with its own name")
        run = {
            "id": 1,
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(),
            "config": _json_values(config),
            "bounds": {key: [float(low), float(high)] for key, (low, high) in bounds.items()},
            "tasks": list(tasks),
            "status": "running",
            "stop_reason": "",
        }
        try:
            (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            database = engine(beside, writable=True, create=True)
            with database.begin() as connection:
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                Base.metadata.create_all(connection)
                connection.execute(insert(RunRow), [run])
                rows = [{"position": i, "key": o.key, "name": o.name, "unit": o.unit, "stage": o.stage} for i, o in enumerate(objectives)]
                if rows:
                    connection.execute(insert(ObjectiveRow), rows)
            database.dispose()
            beside.replace(path)
            fsync_directory(run_dir)
        except (OSError, SQLAlchemyError) as error:
            raise HistoryError(f"no run can be started in {run_dir}: {cause(error)}. Give a directory that can be written") from error
        return cls(run_dir, writable=True)

    @classmethod
    def open(cls, run_dir: Path) -> Self:
        """Opens a recorded search for reading; imports no class that the run names, and works in a read-only directory.

        Raises:
            HistoryError: if it isn't a run directory, its database is foreign or damaged, or a newer release made it.
        """
        run_dir = Path(run_dir)
        advice = f"Give the directory that a search made: it holds a file {DATABASE}"
        if not run_dir.is_dir():
            raise HistoryError(f"{run_dir} is {'a file, no directory' if run_dir.exists() else 'not there'}. {advice}")
        if not (run_dir / DATABASE).is_file():
            raise HistoryError(f"{run_dir} isn't a run directory. {advice}")
        return cls(run_dir, writable=False)

    @property
    def status(self) -> str:
        """`running`, or what `finish` was given."""
        with self._reading() as session:
            return session.scalars(select(RunRow.status)).one()

    @property
    def stop_reason(self) -> str:
        """Why the search ended; empty while it runs."""
        with self._reading() as session:
            return session.scalars(select(RunRow.stop_reason)).one()

    # ---- writing

    def accept(self, children: Sequence[Child]) -> None:
        """Records children as accepted, with their spec objectives, in one commit.

        Raises:
            HistoryError: if a parent or an objective is unknown, an id is taken, or a value isn't finite.
        """
        with self._writing() as session:
            for child in children:
                parent = None if child.parent is None else self._row(session, child.parent)
                row = {
                    "id": child.id,
                    "parent": child.parent,
                    "generation": child.generation,
                    "state": "accepted",
                    "hash": child.spec.structural_hash,
                    "spec": child.spec.to_json(),
                    "mutations": [mutation.to_dict() for mutation in child.mutations],
                    "cumulative_epochs": parent.cumulative_epochs if parent else 0,
                    "cumulative_images": parent.cumulative_images if parent else 0,
                }
                session.execute(insert(CandidateRow), [row])
                self._put_values(session, child.id, {key: (value, None) for key, value in child.values.items()})

    def start(self, candidate_id: int) -> None:
        """Records that a child's evaluation begins, or begins again.

        Raises:
            HistoryError: if there is no such child, or it is evaluated or failed already.
        """
        with self._writing() as session:
            self._unfinished(session, candidate_id).state = "running"

    def record(self, outcome: Outcome, weights: Mapping[str, State]) -> CandidateRecord:
        """Records what an evaluation gave: first the weights, durably, then everything else in one commit.

        Args:
            outcome: values or a failure. A failed child keeps its spec objectives only; what its training cost is recorded all the same.
            weights: the trained state dict by task; ignored for a failed child.

        Returns:
            The child as recorded.

        Raises:
            HistoryError: if the child is unknown or finished already, an evaluated one lacks an objective, a task or its weights, a value
                isn't finite, or the disk refuses.
        """
        failure = outcome.failure
        files: dict[str, tuple[str, str]] = {}
        with self._writing() as session:
            row = self._unfinished(session, outcome.id)
            if failure is None:
                self._check_complete(outcome, weights)
                files = {task: self._write_weights(outcome.id, task, state) for task, state in weights.items()}
                values = {key: (measured.value, measured.spread) for key, measured in outcome.values.items()}
                self._put_values(session, outcome.id, values)
            else:
                row.failure_kind, row.failure_text = _text(failure.kind), _text(failure.text)
            row.state = "evaluated" if failure is None else "failed"
            row.epochs = sum(result.epochs for result in outcome.tasks.values())
            row.images = sum(result.images for result in outcome.tasks.values())
            parent = None if row.parent is None else self._row(session, row.parent)
            row.cumulative_epochs = row.epochs + (parent.cumulative_epochs if parent else 0)
            row.cumulative_images = row.images + (parent.cumulative_images if parent else 0)
            _insert(session, TaskResultRow, [_task_row(outcome.id, task, result, files) for task, result in outcome.tasks.items()])
            _insert(session, PhaseRow, [{"candidate": outcome.id, "phase": p, "seconds": float(s)} for p, s in outcome.seconds.items()])
        return self.candidate(outcome.id)

    def record_generation(self, record: GenerationRecord) -> None:
        """Records a finished generation and the population after it.

        Raises:
            HistoryError: if it is recorded already, or a member of the front is unknown.
        """
        number = record.generation
        fields = ("hypervolume", "proposed", "accepted", "evaluated", "failed", "total_epochs")
        with self._writing() as session:
            for member in record.front:
                self._row(session, member)
            _insert(session, GenerationRow, [{"index": number} | {name: getattr(record, name) for name in fields}])
            seconds = record.seconds.items()
            _insert(session, GenerationPhaseRow, [{"generation": number, "phase": p, "seconds": float(s)} for p, s in seconds])
            members = [{"generation": number, "candidate": member, "position": i} for i, member in enumerate(record.front)]
            _insert(session, FrontMemberRow, members)

    def record_test_errors(self, errors: Mapping[int, Mapping[str, float]]) -> None:
        """Records errors on the test split.

        Args:
            errors: error by task, by candidate id.

        Raises:
            HistoryError: if a candidate has no result for a task.
        """
        with self._writing() as session:
            for candidate_id, by_task in errors.items():
                for task, error in by_task.items():
                    self._result(session, candidate_id, task).test_error = _error(error)

    def finish(self, status: str, reason: str) -> None:
        """Records that the search is over, and why."""
        with self._writing() as session:
            session.execute(update(RunRow).values(status=_text(status), stop_reason=_text(reason)))

    def close(self) -> None:
        """Ends writing; reading goes on working."""
        self._writable = False
        self._engine.dispose()

    # ---- reading

    def candidate(self, candidate_id: int) -> CandidateRecord:
        """Returns one candidate.

        Raises:
            HistoryError: if there is none of this id.
        """
        with self._reading() as session:
            self._row(session, candidate_id)
            return self._records(session, [candidate_id])[0]

    def candidates(self) -> list[CandidateRecord]:
        """Returns all candidates by id, with a handful of queries."""
        with self._reading() as session:
            return self._records(session, None)

    def front(self) -> list[CandidateRecord]:
        """Returns the population after the last recorded generation, by id."""
        with self._reading() as session:
            return self._records(session, sorted(_front_ids(session)))

    def generations(self) -> list[GenerationRecord]:
        """Returns the finished generations in order."""
        with self._reading() as session:
            seconds: dict[int, dict[str, float]] = defaultdict(dict)
            for phase in session.scalars(select(GenerationPhaseRow)):
                seconds[phase.generation][phase.phase] = phase.seconds
            members: dict[int, list[int]] = defaultdict(list)
            for member in session.scalars(select(FrontMemberRow).order_by(FrontMemberRow.position)):
                members[member.generation].append(member.candidate)
            return [
                GenerationRecord(
                    generation=row.index,
                    hypervolume=row.hypervolume,
                    front=tuple(members[row.index]),
                    proposed=row.proposed,
                    accepted=row.accepted,
                    evaluated=row.evaluated,
                    failed=row.failed,
                    total_epochs=row.total_epochs,
                    seconds=seconds[row.index],
                )
                for row in session.scalars(select(GenerationRow).order_by(GenerationRow.index))
            ]

    def weights(self, candidate_id: int, task: str = "", which: str = "raw") -> State:
        """Returns a candidate's trained weights.

        Args:
            candidate_id: the candidate's id.
            task: the task's name.
            which: the set's name in the file.

        Raises:
            HistoryError: if there are none, or the file is missing or damaged.
        """
        with self._reading() as session:
            row = self._result(session, candidate_id, task)
            name, checksum = row.weights, row.sha256
        if name is None or checksum is None:
            raise HistoryError(f"candidate {candidate_id} has no weights: only an evaluated one has")
        if name != weights_name(candidate_id, self.tasks.index(task)):
            raise HistoryError(f"{self.run_dir} names the weights of candidate {candidate_id} {name!r}, which isn't theirs: it is damaged")
        return read_weights(self.run_dir / name, checksum, which)

    def digest(self) -> str:
        """Returns a SHA-256 over everything that the seed decides: no times, paths, configuration or texts of failures.

        Two searches of one seed that are promised to be equal give equal digests.
        """
        with self._reading() as session:
            columns = [column for column in CandidateRow.__table__.columns if column.name != "failure_text"]
            rows = [list(row) for row in session.execute(select(*columns).order_by(CandidateRow.id))]
            values = [
                [row.candidate, row.objective, repr(row.value), repr(row.spread)]
                for row in session.scalars(select(ValueRow).order_by(ValueRow.candidate, ValueRow.objective))
            ]
            results = [
                [row.candidate, row.task, repr(row.start_error), repr(row.test_error), row.metrics, row.epochs, row.images, row.sha256]
                for row in session.scalars(select(TaskResultRow).order_by(TaskResultRow.candidate, TaskResultRow.task))
            ]
        generations = [
            [g.generation, repr(g.hypervolume), g.front, g.proposed, g.accepted, g.evaluated, g.failed, g.total_epochs]
            for g in self.generations()
        ]
        objectives = [[o.key, o.name, o.unit, o.stage] for o in self.objectives]
        everything = [objectives, self.bounds, self.tasks, rows, values, results, generations]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    # ---- helpers

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        """A transaction that sees one state of the database; what is wrong with it becomes a HistoryError."""
        path = self.run_dir / DATABASE
        try:
            with Session(self._engine) as session:
                yield session
        except HistoryError:
            raise
        except (SQLAlchemyError, LemonadeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise HistoryError(f"{path} can't be read: {cause(error)}. It is damaged or no history: restore it from a copy") from error

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that is committed at its end, or undone if anything fails."""
        if not self._writable:
            raise HistoryError(f"{self.run_dir} is open for reading only: only the search that runs in it may write")
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise HistoryError(f"{self.run_dir / DATABASE} can't be written: {cause(error)}") from error

    def _row(self, session: Session, candidate_id: int) -> CandidateRow:
        row = session.get(CandidateRow, candidate_id)
        if row is None:
            count = session.scalars(select(func.count()).select_from(CandidateRow)).one()
            raise HistoryError(f"{self.run_dir} has no candidate {candidate_id}: it has {count}, whose ids count up from 0")
        return row

    def _unfinished(self, session: Session, candidate_id: int) -> CandidateRow:
        row = self._row(session, candidate_id)
        if row.state not in UNFINISHED:
            raise HistoryError(f"candidate {candidate_id} of {self.run_dir} is recorded as {row.state} already: record a child once")
        return row

    def _result(self, session: Session, candidate_id: int, task: str) -> TaskResultRow:
        row = self._row(session, candidate_id)
        if task not in self.tasks:
            raise HistoryError(f"{self.run_dir} has no task {task!r}; its tasks are: {', '.join(map(repr, self.tasks))}")
        result = session.get(TaskResultRow, (candidate_id, task))
        if result is None:
            raise HistoryError(f"candidate {candidate_id} of {self.run_dir} has no result for the task {task!r}: it is {row.state}")
        return result

    def _put_values(self, session: Session, candidate_id: int, values: Mapping[str, tuple[float, float | None]]) -> None:
        """Replaces a candidate's values."""
        known = {objective.key for objective in self.objectives}
        for key, (value, _) in values.items():
            if key not in known:
                raise HistoryError(f"candidate {candidate_id} has a value of {key!r}; the objectives are: {', '.join(sorted(known))}")
            if not math.isfinite(value):
                raise HistoryError(f"candidate {candidate_id}: {key} is {value}. Record it as failed: such a value can't be compared")
        session.execute(delete(ValueRow).where(ValueRow.candidate == candidate_id))
        rows = [
            {"candidate": candidate_id, "objective": key, "value": float(value), "spread": None if spread is None else float(spread)}
            for key, (value, spread) in values.items()
        ]
        _insert(session, ValueRow, rows)

    def _check_complete(self, outcome: Outcome, weights: Mapping[str, State]) -> None:
        checks = (
            ("value", [objective.key for objective in self.objectives], outcome.values),
            ("result for the task", self.tasks, outcome.tasks),
            ("weights for the task", self.tasks, weights),
        )
        for what, names, given in checks:
            for odd in sorted(set(names) ^ set(given)):
                problem = f"lacks the {what}" if odd in names else f"has an unknown {what}"
                raise HistoryError(f"candidate {outcome.id} {problem} {odd!r}: an evaluated child has one for each, and no others")

    def _write_weights(self, candidate_id: int, task: str, state: State) -> tuple[str, str]:
        name = weights_name(candidate_id, self.tasks.index(task))
        return name, write_weights(self.run_dir / name, {"raw": state})

    def _spec(self, row: CandidateRow) -> GraphSpec:
        spec = self._specs.get(row.id)
        if spec is None:
            spec = self._specs[row.id] = GraphSpec.from_json(row.spec)
        return spec

    def _records(self, session: Session, ids: Sequence[int] | None) -> list[CandidateRecord]:
        """Reads candidates by id; all of them for None."""

        def rows(model: type[_Row], column: InstrumentedAttribute[int]) -> Iterator[_Row]:
            query = select(model).order_by(column)
            return iter(session.scalars(query if ids is None else query.where(column.in_(ids))))

        values: dict[int, dict[str, float]] = defaultdict(dict)
        spreads: dict[int, dict[str, float]] = defaultdict(dict)
        for value in rows(ValueRow, ValueRow.candidate):
            values[value.candidate][value.objective] = value.value
            if value.spread is not None:
                spreads[value.candidate][value.objective] = value.spread
        seconds: dict[int, dict[str, float]] = defaultdict(dict)
        for phase in rows(PhaseRow, PhaseRow.candidate):
            seconds[phase.candidate][phase.phase] = phase.seconds
        results = {row.candidate: row for row in rows(TaskResultRow, TaskResultRow.candidate) if row.task == self.tasks[0]}
        order = [objective.key for objective in self.objectives]
        front = set(_front_ids(session))
        return [
            CandidateRecord(
                id=row.id,
                parent=row.parent,
                generation=row.generation,
                state=cast(CandidateState, row.state),
                failure=None if row.failure_kind is None else Failure(row.failure_kind, row.failure_text or ""),
                spec=self._spec(row),
                hash=row.hash,
                mutations=tuple(row.mutations),
                objectives={key: values[row.id][key] for key in order if key in values[row.id]},
                spreads={key: spreads[row.id][key] for key in order if key in spreads[row.id]},
                start_error=results[row.id].start_error if row.id in results else None,
                test_error=results[row.id].test_error if row.id in results else None,
                epochs=row.epochs,
                cumulative_epochs=row.cumulative_epochs,
                images=row.images,
                cumulative_images=row.cumulative_images,
                seconds=seconds[row.id],
                in_front=row.id in front,
            )
            for row in rows(CandidateRow, CandidateRow.id)
        ]


def _insert(session: Session, model: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    if rows:  # without rows SQLAlchemy would insert one of defaults
        session.execute(insert(model), rows)


def _front_ids(session: Session) -> list[int]:
    """Returns the ids of the last recorded population, in its order."""
    last = select(func.max(GenerationRow.index)).scalar_subquery()
    query = select(FrontMemberRow.candidate).where(FrontMemberRow.generation == last).order_by(FrontMemberRow.position)
    return list(session.scalars(query))


def _task_row(candidate_id: int, task: str, result: TaskResult, files: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    name, checksum = files.get(task, (None, None))
    return {
        "candidate": candidate_id,
        "task": task,
        "start_error": None if result.start_error is None else _error(result.start_error),
        "metrics": {key: float(value) for key, value in result.metrics.items()},
        "epochs": result.epochs,
        "images": result.images,
        "weights": name,
        "sha256": checksum,
    }


def _error(value: float) -> float:
    """Returns an error as SQLite can hold it: infinity for not-a-number, which SQLite would turn into "none measured"."""
    return math.inf if math.isnan(value) else float(value)


def _text(value: str) -> str:
    """Returns a text that can be written as UTF-8 (paths in error messages may hold half surrogate pairs)."""
    return value.encode(errors="replace").decode()


def _json_values(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(json.dumps(dict(config))))
    except (TypeError, ValueError) as error:
        raise HistoryError(f"the configuration isn't made of JSON values: {error}. Give texts, numbers, lists and mappings") from error
