"""Reader: what can be asked of a run directory."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any, Self

from sqlalchemy import ColumnElement, Engine, Select, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, selectinload

from lightning_lemonade.errors import HistoryError, LemonadeError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.graph.ops import shown
from lightning_lemonade.history.database import DATABASE, cause, check_database, reading_engine
from lightning_lemonade.history.rows import bounds_of, candidate_record, config_of, expected_of, generation_record, objectives_of, tasks_of
from lightning_lemonade.history.schema import (
    AskedRow,
    CandidateRow,
    FrontMemberRow,
    GenerationRow,
    ObjectiveRow,
    PhaseRow,
    RunRow,
    TaskResultRow,
    ValueRow,
)
from lightning_lemonade.history.values import integer, number, printable, text
from lightning_lemonade.history.weights import FOLDER, most_bytes, read_weights, weights_name
from lightning_lemonade.morphisms import State
from lightning_lemonade.records import CandidateRecord, GenerationRecord, PredictionRecord

LONGEST_PATH = 4096
REMEMBERED = 256
"""Graph specs that are kept once they are read: more than most fronts have members, whose weights are read for each child."""
_DAMAGE = (
    OSError,
    SQLAlchemyError,
    sqlite3.Error,
    LemonadeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What reading a file raises that isn't what a search wrote."""


class Reader:
    """Reads the record of one search; imports no class that the run names, and works in a read-only directory.

    Attributes:
        run_dir: the run directory.
        config: the search's configuration, as JSON values.
        objectives: in order.
        bounds: the hypervolume's (low, high) by objective key.
        tasks: the tasks' names; `("",)` where there is one task.
    """

    def __init__(self, run_dir: Path, engine: Engine) -> None:
        self.run_dir = run_dir
        self._engine = engine
        self._specs: dict[int, GraphSpec] = {}
        with self._reading() as session:
            check_database(session, run_dir)
            run = session.scalars(select(RunRow)).one()
            rows = session.scalars(select(ObjectiveRow).order_by(ObjectiveRow.position))
            self.objectives = objectives_of(list(rows))
            self.config: Mapping[str, Any] = config_of(run)
            self.bounds: Mapping[str, tuple[float, float]] = bounds_of(run, self.objectives)
            self.tasks = tasks_of(run)

    @classmethod
    def open(cls, run_dir: Path) -> Self:
        """Opens a recorded search for reading.

        Raises:
            HistoryError: if it isn't a run directory, its database is foreign or damaged, or a newer release made it.
        """
        run_dir = Path(run_dir)
        advice = f"Give the directory that a search made: it holds a file {DATABASE}"
        try:
            if not run_dir.is_dir():
                raise HistoryError(f"{run_dir} is {'a file, no directory' if run_dir.exists() else 'not there'}. {advice}")
            if not (run_dir / DATABASE).is_file():
                raise HistoryError(f"{run_dir} isn't a run directory. {advice}")
        except (OSError, ValueError) as error:  # no permission to look, or a path that can't be one
            raise HistoryError(f"{text(str(run_dir))[:LONGEST_PATH]} can't be read: {cause(error)}. {advice}") from error
        return cls(run_dir, reading_engine(run_dir / DATABASE))

    @property
    def status(self) -> str:
        """`running`, or what the search ended with: `finished`, `stopped`."""
        with self._reading() as session:
            return printable(session.scalars(select(RunRow.status)).one())

    @property
    def stop_reason(self) -> str:
        """Why the search ended; empty while it runs."""
        with self._reading() as session:
            return text(session.scalars(select(RunRow.stop_reason)).one())

    def candidate(self, candidate_id: int) -> CandidateRecord:
        """Returns one candidate.

        Raises:
            HistoryError: if there is none of this id.
        """
        with self._reading() as session:
            self._row(session, candidate_id)
            return self._records(session, CandidateRow.id == candidate_id)[0]

    def candidates(self) -> list[CandidateRecord]:
        """Returns all candidates by id, with a handful of queries."""
        with self._reading() as session:
            return self._records(session)

    def front(self) -> list[CandidateRecord]:
        """Returns the population after the last recorded generation, by id."""
        with self._reading() as session:
            return self._records(session, CandidateRow.id.in_(_front()))

    def generations(self) -> list[GenerationRecord]:
        """Returns the finished generations in order."""
        with self._reading() as session:
            query = select(GenerationRow).order_by(GenerationRow.index).options(selectinload("*"))
            return [generation_record(row) for row in session.scalars(query)]

    def predictions(self) -> PredictionRecord | None:
        """Returns how far off the strategy's expectations were; None if it has none. Reads no specs: it is quick on a long search too."""
        with self._reading() as session:
            keys = [objective.key for objective in self.objectives]
            rows = session.execute(select(CandidateRow.id, CandidateRow.expected).where(CandidateRow.state == "evaluated"))
            trained = set(session.scalars(select(TaskResultRow.candidate).where(TaskResultRow.epochs > 0)))
            expected = {id_: found for id_, row in rows if id_ in trained and (found := expected_of(row, keys)).values}
            if not expected:
                return None
            spent: dict[int, float] = {}
            for phase in session.scalars(select(PhaseRow)):
                spent[phase.candidate] = spent.get(phase.candidate, 0.0) + number(phase.seconds)
            distances: dict[str, list[float]] = {}
            for row in session.scalars(select(ValueRow)):
                if row.candidate in expected and (told := expected[row.candidate].values.get(row.objective)) is not None:
                    distances.setdefault(row.objective, []).append(abs(number(row.value) - told.value))
            ratios = [spent[id_] / found.seconds for id_, found in expected.items() if found.seconds and id_ in spent]
        seconds = median(abs(ratio - 1) for ratio in ratios) if ratios else None
        return PredictionRecord(len(expected), {key: fmean(found) for key, found in distances.items()}, seconds)

    def proposed(self, generation: int) -> int:
        """Returns how many proposals the children of a generation were chosen from, also while it runs.

        Raises:
            HistoryError: if the generation has no children yet.
        """
        with self._reading() as session:
            row = session.get(AskedRow, generation)
            if row is None:
                raise HistoryError(f"{self.run_dir} has no children of generation {generation}")
            return integer(row.proposed)

    def disk_use(self) -> dict[str, int]:
        """Returns the bytes that the run directory takes: `weights`, and `total` with everything else that lies there."""
        sizes = {"weights": 0, "total": 0}
        for folder, _, names in os.walk(self.run_dir):
            for name in names:
                try:
                    size = os.lstat(os.path.join(folder, name)).st_size
                except OSError:  # deleted at this moment by the search
                    continue
                sizes["total"] += size
                sizes["weights"] += size if Path(folder) == self.run_dir / FOLDER else 0
        return sizes

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
            candidate = self._row(session, candidate_id)
            spec = self._spec(candidate)
            if candidate.hash != spec.structural_hash:  # not asked of every record, since it takes as long as to read its spec
                raise ValueError(f"candidate {candidate_id} has the hash of another architecture")
        if name is None and checksum is not None:
            raise HistoryError(
                f"the weights of candidate {candidate_id} were deleted when it left the front; a search with keep_weights='all' keeps them"
            )
        if name is None or checksum is None:
            raise HistoryError(f"candidate {candidate_id} has no weights: only an evaluated one has")
        if name != weights_name(candidate_id, self.tasks.index(task)):
            raise HistoryError(f"{self.run_dir} names the weights of candidate {candidate_id} {name!r}, which isn't theirs: it is damaged")
        return read_weights(self.run_dir / name, checksum, which, most_bytes(spec))

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
                [
                    row.candidate,
                    row.task,
                    repr(row.start_error),
                    repr(row.test_error),
                    row.metrics,
                    row.epochs,
                    row.images,
                    row.teacher_images,
                    row.sha256,
                ]
                for row in session.scalars(select(TaskResultRow).order_by(TaskResultRow.candidate, TaskResultRow.task))
            ]
            generations = [
                [g.generation, repr(g.hypervolume), g.front, g.proposed, g.accepted, g.evaluated, g.failed, g.total_epochs]
                for g in self.generations()
            ]
            objectives = [[o.key, o.name, o.unit, o.stage] for o in self.objectives]
            everything = [objectives, self.bounds, self.tasks, rows, values, results, generations]
            return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        """A transaction that sees one state of the database; what is wrong with it becomes a HistoryError."""
        path = self.run_dir / DATABASE
        try:
            with Session(self._engine) as session:
                yield session
        except HistoryError:
            raise
        except _DAMAGE as error:
            raise HistoryError(f"{path} can't be read: {cause(error)}. It is damaged or no history: restore it from a copy") from error

    def _row(self, session: Session, candidate_id: int) -> CandidateRow:
        row = session.get(CandidateRow, candidate_id)
        if row is None:
            count = session.scalars(select(func.count()).select_from(CandidateRow)).one()
            raise HistoryError(f"{self.run_dir} has no candidate {candidate_id}: it has {count}, whose ids count up from 0")
        return row

    def _result(self, session: Session, candidate_id: int, task: str) -> TaskResultRow:
        row = self._row(session, candidate_id)
        if task not in self.tasks:
            raise HistoryError(f"{self.run_dir} has no task {task!r}; its tasks are: {', '.join(map(repr, self.tasks))}")
        if task not in row.results:
            raise HistoryError(f"candidate {candidate_id} of {self.run_dir} has no result for the task {task!r}: it is {shown(row.state)}")
        return row.results[task]

    def _records(self, session: Session, only: ColumnElement[bool] | None = None) -> list[CandidateRecord]:
        """Reads candidates by id; all of them for None."""
        query = select(CandidateRow).order_by(CandidateRow.id).options(selectinload("*"))  # a query for each kind of part, not each row
        rows = session.scalars(query if only is None else query.where(only))
        front, keys = {int(number) for number in session.scalars(_front())}, [objective.key for objective in self.objectives]
        return [candidate_record(row, self._spec(row), keys=keys, tasks=self.tasks, in_front=row.id in front) for row in rows]

    def _spec(self, row: CandidateRow) -> GraphSpec:
        if row.id not in self._specs:
            if len(self._specs) == REMEMBERED:
                self._specs.clear()
            self._specs[row.id] = GraphSpec.from_json(row.spec)
        return self._specs[row.id]


def _front() -> Select[Any]:
    """Returns the query for the ids of the last recorded population."""
    last = select(func.max(GenerationRow.index)).scalar_subquery()
    return select(FrontMemberRow.candidate).where(FrontMemberRow.generation == last)
