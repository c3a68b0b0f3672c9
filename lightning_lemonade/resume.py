"""Where an interrupted search stands, rebuilt from its history."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from lightning_lemonade.configuration import POLISHED
from lightning_lemonade.errors import HistoryError, LemonadeError
from lightning_lemonade.history import History
from lightning_lemonade.history.values import integer
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
        polished: generations of polishings by command, which are none of the search's.
        polished_children: what was polished in them.
    """

    generations: int = 0
    empty: int = 0
    epochs: int = 0
    front: tuple[int, ...] = ()
    seconds: float = 0.0
    begun: Asked | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    told: int = 0
    polished: int = 0
    polished_children: int = 0

    def count(self, record: GenerationRecord) -> None:
        """Counts a finished generation."""
        self.empty = 0 if record.accepted else self.empty + 1
        self.pass_by(record)

    def recall(self, record: GenerationRecord, polishings: Sequence["Polishing"]) -> None:
        """Counts a generation that an earlier process finished; what took place in a polishing isn't of the search's budget."""
        if any(record.generation in polishing for polishing in polishings):
            self.pass_by(record)
        else:
            self.count(record)
            self.seconds += sum(record.seconds.values())

    def pass_by(self, record: GenerationRecord) -> None:
        """Goes on to the next generation."""
        self.generations = record.generation + 1
        self.epochs, self.front = record.total_epochs, record.front
        self.begun, self.outcomes = None, []


@dataclass(frozen=True)
class Polishing:
    """Which generations and candidates a polishing by command made: from a number on, and up to one where a search has gone on since.

    Attributes:
        generation: its first one.
        candidate: its first one.
        generations: the number of the search's next generation; None where nothing has followed.
        candidates: the id of the search's next candidate.
    """

    generation: int
    candidate: int
    generations: int | None = None
    candidates: int | None = None

    def __contains__(self, generation: int) -> bool:
        """Whether a generation is one of its."""
        return self.generation <= generation and (self.generations is None or generation < self.generations)


def polishings_of(config: Mapping[str, Any]) -> list[Polishing]:
    """Returns a run's polishings by command, as its configuration records them.

    Raises:
        HistoryError: if it records something else.
    """
    try:
        return [
            Polishing(integer(first), integer(candidate), *(None if value is None else integer(value) for value in ended))
            for first, candidate, *ended in config.get(POLISHED, [])
        ]
    except (TypeError, ValueError) as error:
        raise HistoryError(f"the run's record of its polishings is damaged: {error}") from error


def with_polishing(polishings: Sequence[Polishing], progress: Progress, accepted: int, *, polishes: bool) -> list[Polishing]:
    """Returns the polishings as they are from now on: another one has begun, or the last one has ended.

    Args:
        polishings: those recorded.
        progress: of the search; takes up how much of it is polishing.
        accepted: how many candidates there are.
        polishes: whether this is a polishing.
    """
    now = list(polishings)
    following = progress.generations + bool(progress.begun and progress.begun.children)
    if polishes and (not now or now[-1].generations is not None):
        now.append(Polishing(following, accepted))
    elif not polishes and now and now[-1].generations is None:
        now[-1] = replace(now[-1], generations=following, candidates=accepted)
    ended = [(p.generations - p.generation, (p.candidates or 0) - p.candidate) for p in now if p.generations is not None]
    progress.polished, progress.polished_children = (sum(column) for column in zip(*ended, strict=True)) if ended else (0, 0)
    return now


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
    progress, polishings = Progress(), polishings_of(history.config)
    records = {number: list(group) for number, group in groupby(history.candidates(), lambda record: record.generation)}
    for generation in history.generations():
        _replay(search, records.pop(progress.generations, []), generation, progress.generations)
        progress.recall(generation, polishings)
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
    polishings = polishings_of(history.config)
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
            progress.recall(generation, polishings)

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
    start = record.start_error if len(record.tasks) == 1 else None
    cost = {"": TaskResult(start, {}, record.epochs, record.images)}
    return Outcome(record.id, {} if record.failure else values, record.failure, cost, record.seconds)
