"""History: everything recorded of one search, in its run directory."""

import json
import math
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.history.database import DATABASE, cause, create_database, prepare_to_write, writing_engine
from lightning_lemonade.history.lock import RunLock
from lightning_lemonade.history.reader import Reader
from lightning_lemonade.history.rows import (
    bounds_of,
    child_row,
    generation_row,
    objectives_of,
    phase_rows,
    result_row,
    tasks_of,
    value_rows,
)
from lightning_lemonade.history.schema import AskedRow, CandidateRow, ObjectiveRow, RunRow, TaskResultRow
from lightning_lemonade.history.sweep import discard, sweep
from lightning_lemonade.history.values import error_number, read_json, writable_text
from lightning_lemonade.history.weights import FOLDER, weights_name, write_weights
from lightning_lemonade.morphisms import State
from lightning_lemonade.records import GenerationRecord, ObjectiveRecord
from lightning_lemonade.search.candidate import Child, Outcome

UNFINISHED = ("accepted", "running")


class History(Reader):
    """The record of one search. Made by `History.create` or `History.resume` (for its one writer) or `History.open` (for reading).

    The journal is SQLite's rollback journal, not WAL: a run directory that is read-only can be read, network file systems too, and the one
    commit per child is too seldom for WAL to matter.
    """

    def __init__(self, run_dir: Path, engine: Engine, lock: RunLock | None = None) -> None:
        super().__init__(run_dir, engine)
        self._lock = lock

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
        if (run_dir / DATABASE).exists():
            raise HistoryError(f"{run_dir} holds a run already: give another run_dir, or remove it")
        if not tasks or len(set(tasks)) != len(tasks):
            raise HistoryError(f"the tasks {list(tasks)} can't be recorded: give at least one, each with its own name")
        run = RunRow(
            id=1,
            created=datetime.now(UTC).isoformat(),
            config=_json_values(config),
            bounds={key: [float(low), float(high)] for key, (low, high) in bounds.items()},
            tasks=list(tasks),
            status="running",
            stop_reason="",
        )
        rows = [ObjectiveRow(position=i, key=o.key, name=o.name, unit=o.unit, stage=o.stage) for i, o in enumerate(objectives)]
        try:
            bounds_of(run, objectives_of(rows))
            tasks_of(run)
        except ValueError as error:
            raise HistoryError(f"the search can't be recorded: {error}") from error
        try:
            (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
            with _locked(run_dir) as lock:
                sweep(run_dir, None)
                create_database(run_dir, [run, *rows])
                return cls(run_dir, writing_engine(run_dir / DATABASE), lock)
        except (OSError, SQLAlchemyError) as error:
            raise HistoryError(f"no run can be started in {run_dir}: {cause(error)}. Give a directory that can be written") from error

    @classmethod
    def resume(cls, run_dir: Path) -> Self:
        """Opens the record of an interrupted or finished search for writing: rolls a killed commit back, and migrates an old schema.

        Raises:
            HistoryError: if it isn't a run directory, another search writes it, it can't be written, or is damaged.
        """
        run_dir = Path(run_dir)
        if not os.path.isfile(run_dir / DATABASE):
            return cls.open(run_dir)  # which says what is wrong
        with _locked(run_dir) as lock:
            try:
                prepare_to_write(run_dir / DATABASE)
            except (sqlite3.Error, OSError, ValueError) as error:  # ValueError: the database names something in no UTF-8
                raise HistoryError(
                    f"{run_dir / DATABASE} can't be written: {cause(error)}. Free some space, or restore it from a copy"
                ) from error
            return cls(run_dir, writing_engine(run_dir / DATABASE), lock)

    def go_on(self, config: Mapping[str, Any]) -> None:
        """Records that the search goes on: children that were running wait again, and what a kill left half done is deleted.

        Args:
            config: the search's configuration from now on, as JSON values.

        Raises:
            HistoryError: if the configuration isn't made of JSON values, or the disk refuses.
        """
        values = _json_values(config)
        try:
            (self.run_dir / FOLDER).mkdir(exist_ok=True)  # which some ways of copying leave out while it is empty
        except OSError as error:
            raise HistoryError(f"{self.run_dir / FOLDER} can't be made: {error}. Mend the permissions") from error
        with self._writing() as session:
            kept = set(session.scalars(select(TaskResultRow.weights).where(TaskResultRow.weights.is_not(None))))
            sweep(self.run_dir, {str(name) for name in kept})
            session.execute(update(CandidateRow).where(CandidateRow.state == "running").values(state="accepted"))
            session.execute(update(RunRow).values(config=values, status="running", stop_reason=""))
        self.config = values

    def accept(
        self, children: Sequence[Child], proposed: int | None = None, *, starts: Collection[int] = (), after: int | None = None
    ) -> None:
        """Records children of one generation as accepted, with their spec objectives, in one commit.

        Args:
            children: of which an interrupted generation has all or none, if they are recorded together.
            proposed: how many legal proposals they were chosen from; by default no others.
            starts: ids of those among them whose evaluation begins now.
            after: how many children an asynchronous search was told of before.

        Raises:
            HistoryError: if a parent or an objective is unknown, an id is taken, or a value isn't finite.
        """
        with self._writing() as session:
            for child in children:
                if child.parent is not None:
                    self._row(session, child.parent)
                self._check_values(child.id, child.values.items())
            for child in children[:1]:
                asked = session.get(AskedRow, child.generation) or AskedRow(generation=child.generation, proposed=0)
                asked.proposed += len(children) if proposed is None else proposed
                session.add(asked)
            session.add_all([child_row(child, "running" if child.id in starts else "accepted", after) for child in children])

    def start(self, candidate_id: int) -> None:
        """Records that a child's evaluation begins, or begins again.

        Raises:
            HistoryError: if there is no such child, or it is evaluated or failed already.
        """
        with self._writing() as session:
            self._unfinished(session, candidate_id).state = "running"

    def record(self, outcome: Outcome, weights: Mapping[str, State], *, starts: int | None = None, told: int | None = None) -> None:
        """Records what an evaluation gave: first the weights, durably, then everything else in one commit.

        What the parent's training cost counts to a child's cumulative cost if the child inherited its weights, which the start error of a
        task tells: a child that inherits nothing, or failed before its start error was known, has its own cost alone.

        Args:
            outcome: values or a failure. A failed child keeps its spec objectives only; what its training cost is recorded all the same.
            weights: the trained state dict by task; ignored for a failed child.
            starts: another child whose evaluation begins now; a commit takes the disk's time, and so this saves one.
            told: how many children an asynchronous search is told of with this one.

        Raises:
            HistoryError: if the child is unknown or finished already, an evaluated one lacks an objective, a task or its weights, a value
                isn't finite, or the disk refuses.
        """
        results, failure = outcome.tasks.values(), outcome.failure
        files: dict[str, tuple[str, str]] = {}
        with self._writing() as session:
            row = self._unfinished(session, outcome.id)
            row.told = told
            if failure is None:
                self._check_complete(outcome, weights)
                self._check_values(outcome.id, ((key, measured.value) for key, measured in outcome.values.items()))
                files = {task: self._write_weights(outcome.id, task, state) for task, state in weights.items()}
                row.state, row.values = "evaluated", value_rows(outcome.values)
            else:
                row.state, row.failure_kind, row.failure_text = "failed", writable_text(failure.kind), writable_text(failure.text)
            session.add_all([result_row(row.id, task, result, files.get(task)) for task, result in outcome.tasks.items()])
            session.add_all(phase_rows(row.id, outcome.seconds))
            row.epochs, row.images = sum(result.epochs for result in results), sum(result.images for result in results)
            row.cumulative_epochs, row.cumulative_images = row.epochs, row.images
            if row.parent is not None and any(result.start_error is not None for result in results):
                parent = self._row(session, row.parent)
                row.cumulative_epochs += parent.cumulative_epochs
                row.cumulative_images += parent.cumulative_images
            if starts is not None:
                self._unfinished(session, starts).state = "running"

    def record_generation(self, record: GenerationRecord) -> None:
        """Records a finished generation and the population after it; then deletes the weights that `keep_weights` doesn't keep.

        Raises:
            HistoryError: if it is recorded already, or a member of the front is unknown.
        """
        with self._writing() as session:
            for member in record.front:
                self._row(session, member)
            session.add(generation_row(record))
            left = self._left(session, record.front) if self.config.get("keep_weights") == "front" else []
            names = [row.weights for row in left if row.weights is not None]
            for row in left:
                row.weights = None
        discard(self.run_dir, names)

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
                    self._result(session, candidate_id, task).test_error = error_number(error)

    def finish(self, status: str, reason: str) -> None:
        """Records that the search is over, and why."""
        with self._writing() as session:
            session.execute(update(RunRow).values(status=writable_text(status), stop_reason=writable_text(reason)))

    def close(self) -> None:
        """Ends writing; reading goes on working."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that is committed at its end, or undone if anything fails."""
        if self._lock is None:
            raise HistoryError(f"{self.run_dir} is open for reading only: only the search that runs in it may write")
        self._lock.renew()
        try:
            with Session(self._engine, autoflush=False) as session, session.begin():  # no query here reads what was just changed
                yield session
        except SQLAlchemyError as error:
            raise HistoryError(f"{self.run_dir / DATABASE} can't be written: {cause(error)}") from error

    def _left(self, session: Session, front: Collection[int]) -> list[TaskResultRow]:
        """Returns the results, with weights, of candidates outside the front from which no unfinished child inherits."""
        parents = select(CandidateRow.parent).where(CandidateRow.state.in_(UNFINISHED), CandidateRow.parent.is_not(None))
        rows = select(TaskResultRow).where(TaskResultRow.weights.is_not(None), TaskResultRow.candidate.not_in(parents))
        return [row for row in session.scalars(rows) if row.candidate not in front]

    def _unfinished(self, session: Session, candidate_id: int) -> CandidateRow:
        row = self._row(session, candidate_id)
        if row.state not in UNFINISHED:
            raise HistoryError(f"candidate {candidate_id} of {self.run_dir} is recorded as {row.state} already: record a child once")
        return row

    def _check_values(self, candidate_id: int, values: Iterable[tuple[str, float]]) -> None:
        known = {objective.key for objective in self.objectives}
        for key, value in values:
            if key not in known:
                raise HistoryError(f"candidate {candidate_id} has a value of {key!r}; the objectives are: {', '.join(sorted(known))}")
            if not math.isfinite(value):
                raise HistoryError(f"candidate {candidate_id}: {key} is {value}. Record it as failed: such a value can't be compared")

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


@contextmanager
def _locked(run_dir: Path) -> Iterator[RunLock]:
    """Holds a run directory's lock on beyond this, unless something fails."""
    lock = RunLock(run_dir)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _json_values(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], read_json(json.dumps(dict(config))))
    except (TypeError, ValueError, RecursionError) as error:
        raise HistoryError(f"the configuration isn't made of JSON values: {error}. Give texts, numbers, lists and mappings") from error
