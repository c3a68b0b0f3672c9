"""Where an interrupted search stands, rebuilt from its history."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from lightning_lemonade.errors import HistoryError, LemonadeError
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import mutation_from_dict
from lightning_lemonade.records import CandidateRecord, GenerationRecord
from lightning_lemonade.search import Asked, Child, Measurement, Outcome, Search, TaskResult


@dataclass
class Progress:
    """How far a search is.

    Attributes:
        generations: finished ones, that of the starting networks among them: the number of the next.
        empty: generations without a child, at the end.
        epochs: trained in finished generations.
        seconds: that earlier processes worked on what is recorded.
        begun: the children of the generation that was interrupted, if it had any.
        outcomes: of those that were finished.
    """

    generations: int = 0
    empty: int = 0
    epochs: int = 0
    seconds: float = 0.0
    begun: Asked | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, record: GenerationRecord) -> None:
        """Counts a finished generation."""
        self.generations = record.generation + 1
        self.empty = 0 if record.accepted else self.empty + 1
        self.epochs = record.total_epochs
        self.begun, self.outcomes = None, []


def restore(search: Search, history: History) -> Progress:
    """Tells a new search everything that was recorded of it, in the recorded order, so that it goes on as if it had never stopped.

    Args:
        search: as at its start, with the same settings.
        history: the record.

    Raises:
        HistoryError: if the record contradicts itself, or a mutation is of a kind that isn't imported.
    """
    progress = Progress()
    records = {number: list(group) for number, group in groupby(history.candidates(), lambda record: record.generation)}
    try:
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
            progress.outcomes = [outcome_of(record) for record in begun if record.state in ("evaluated", "failed")]
            progress.seconds += sum(sum(outcome.seconds.values()) for outcome in progress.outcomes)
    except LemonadeError as error:
        raise HistoryError(f"{history.run_dir} can't be resumed: {error}") from error
    return progress


def _replay(search: Search, records: Iterable[CandidateRecord], generation: GenerationRecord, number: int) -> None:
    records = list(records)
    if generation.generation != number or any(record.state not in ("evaluated", "failed") for record in records):
        raise HistoryError(f"generation {number} is recorded without its end")
    search.adopt(map(child_of, records))
    search.tell(map(outcome_of, records))
    found = tuple(member.id for member in search.population)
    if found != generation.front:
        raise HistoryError(
            f"the candidates up to generation {number} give the population {list(found)}, but {list(generation.front)} is recorded: "
            f"it is damaged, or another release made it"
        )


def child_of(record: CandidateRecord) -> Child:
    """Returns a recorded candidate as the search accepted it."""
    mutations = tuple(mutation_from_dict(mutation) for mutation in record.mutations)
    return Child(record.spec, record.generation, record.parent, mutations, record.objectives, record.id)


def outcome_of(record: CandidateRecord) -> Outcome:
    """Returns what the evaluation of a recorded candidate gave a search: its cost stands as that of one task."""
    values = {key: Measurement(value, record.spreads.get(key)) for key, value in record.objectives.items()}
    cost = {"": TaskResult(None, {}, record.epochs, record.images)}
    return Outcome(record.id, {} if record.failure else values, record.failure, cost, record.seconds)
