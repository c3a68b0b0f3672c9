"""Where an interrupted search stands, rebuilt from its history."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from lightning_lemonade.errors import HistoryError, LemonadeError
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import mutation_from_dict
from lightning_lemonade.records import CandidateRecord, GenerationRecord
from lightning_lemonade.search import Asked, Child, Measurement, Outcome, Search, TaskResult

FINISHED = ("evaluated", "failed")


@dataclass
class Progress:
    """How far a search is.

    Attributes:
        generations: finished ones, that of the starting networks among them: the number of the next.
        empty: generations without a child, at the end.
        epochs: trained in finished generations.
        front: the population after the last of them.
        seconds: that earlier processes worked on finished generations.
        begun: the children of the generation that was interrupted, if it had any. Of an asynchronous search: those that it wasn't told of,
            and the proposals that were made since the last finished generation.
        outcomes: of those that were finished since the last finished generation.
        told: how many children an asynchronous search was told of.
    """

    generations: int = 0
    empty: int = 0
    epochs: int = 0
    front: tuple[int, ...] = ()
    seconds: float = 0.0
    begun: Asked | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    told: int = 0

    def count(self, record: GenerationRecord) -> None:
        """Counts a finished generation."""
        self.generations = record.generation + 1
        self.empty = 0 if record.accepted else self.empty + 1
        self.epochs, self.front = record.total_epochs, record.front
        self.begun, self.outcomes = None, []


def restore(search: Search, history: History, *, asynchronous: bool = False) -> Progress:
    """Tells a new search everything that was recorded of it, in the recorded order, so that it goes on as if it had never stopped.

    Args:
        search: as at its start, with the same settings.
        history: the record.
        asynchronous: whether it is told of each child as it comes.

    Raises:
        HistoryError: if the record contradicts itself, or a mutation is of a kind that isn't imported.
    """
    try:
        return _restore_asynchronous(search, history) if asynchronous else _restore_synchronous(search, history)
    except LemonadeError as error:
        raise HistoryError(f"{history.run_dir} can't be resumed: {error}") from error


def _restore_synchronous(search: Search, history: History) -> Progress:
    progress = Progress()
    records = {number: list(group) for number, group in groupby(history.candidates(), lambda record: record.generation)}
    for generation in history.generations():
        _replay(search, records.pop(progress.generations, []), generation, progress.generations)
        progress.count(generation)
        progress.seconds += sum(generation.seconds.values())
    begun = records.pop(progress.generations, [])
    if records:
        raise HistoryError(f"candidates of generation {min(records)} follow generation {progress.generations - 1}")
    if begun:
        children = tuple(map(child_of, begun))
        search.adopt(children)
        progress.begun = Asked(children, history.proposed(progress.generations))
        progress.outcomes = [outcome_of(record) for record in begun if record.state in FINISHED]
    return progress


def _restore_asynchronous(search: Search, history: History) -> Progress:
    """Repeats accepting and telling, one child after the other, as they came about."""
    progress, records, generations = Progress(), history.candidates(), deque(history.generations())
    finished = deque(sorted((record for record in records if record.state in FINISHED), key=lambda record: record.told or 0))
    if [record.told for record in finished] != list(range(1, len(finished) + 1)) or any(record.after is None for record in records):
        raise HistoryError("it isn't recorded in which order the search was told of its children")

    def tell() -> None:
        if not finished:
            raise HistoryError("a child was accepted after more children than are recorded as told")
        progress.outcomes.append(outcome_of(finished.popleft()))
        search.tell(progress.outcomes[-1:])
        progress.told += 1
        if generations and len(progress.outcomes) == generations[0].accepted:
            generation = generations.popleft()
            _check_population(search, generation, progress.generations)
            progress.count(generation)
            progress.seconds += sum(generation.seconds.values())

    for record in records:
        while progress.told < (record.after or 0):
            tell()
        search.adopt([child_of(record)])
    while finished:
        tell()
    if generations:
        raise HistoryError(f"generation {generations[0].generation} is recorded without its children")
    proposed = sum(history.proposed(number) for number in {record.generation for record in records})
    before = sum(generation.proposed for generation in history.generations())
    progress.begun = Asked(tuple(child_of(record) for record in records if record.state not in FINISHED), proposed - before)
    return progress


def _replay(search: Search, records: Iterable[CandidateRecord], generation: GenerationRecord, number: int) -> None:
    records = list(records)
    if generation.generation != number or any(record.state not in FINISHED for record in records):
        raise HistoryError(f"generation {number} is recorded without its end")
    search.adopt(map(child_of, records))
    search.tell(map(outcome_of, records))
    _check_population(search, generation, number)


def _check_population(search: Search, generation: GenerationRecord, number: int) -> None:
    found = tuple(member.id for member in search.population)
    if generation.generation != number or found != generation.front:
        raise HistoryError(
            f"the candidates up to generation {number} give the population {list(found)}, but {list(generation.front)} is recorded: "
            f"it is damaged, or another release made it"
        )


def child_of(record: CandidateRecord) -> Child:
    """Returns a recorded candidate as the search accepted it."""
    mutations = tuple(mutation_from_dict(mutation) for mutation in record.mutations)
    return Child(
        record.spec,
        record.generation,
        record.parent,
        mutations,
        record.objectives,
        record.id,
        epochs=record.planned,
        expected=record.expected,
    )


def outcome_of(record: CandidateRecord) -> Outcome:
    """Returns what the evaluation of a recorded candidate gave a search: its cost stands as that of one task."""
    values = {key: Measurement(value, record.spreads.get(key)) for key, value in record.objectives.items()}
    cost = {"": TaskResult(None, {}, record.epochs, record.images)}
    return Outcome(record.id, {} if record.failure else values, record.failure, cost, record.seconds)
