"""SearchCallback: the events of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord, PredictionRecord

if TYPE_CHECKING:
    from torch import fx

    from lightning_lemonade.module import LemonadeModule


class HistoryReader(Protocol):
    """What a callback may ask of the history."""

    def candidate(self, candidate_id: int) -> CandidateRecord:
        """Returns one candidate."""

    def candidates(self) -> list[CandidateRecord]:
        """Returns all candidates by id."""

    def front(self) -> list[CandidateRecord]:
        """Returns the population, by id."""

    def generations(self) -> list[GenerationRecord]:
        """Returns the finished generations in order."""

    def predictions(self) -> PredictionRecord | None:
        """Returns how far off the strategy's expectations were; None if it has none."""


@dataclass(frozen=True)
class Inheritance:
    """What a child has of its parent.

    Attributes:
        parent: the parent's network with its trained weights, in eval mode, on the CPU.
        exact: whether the child computes the parent's function before it trains.
        joints: ids of the nodes at which the child meets its parent again: the same layer, with the same output shape, reading something
            that changed.
    """

    parent: "fx.GraphModule"
    exact: bool
    joints: Sequence[str]


@runtime_checkable
class Heir(Protocol):
    """A Lightning callback that wants to know a child's parent; a search tells it before the child's fit.

    Attributes:
        teacher_images: images that it passed through the parent during the fit, on all ranks; they are accounted to the child.
    """

    teacher_images: int

    def on_inherit(self, module: "LemonadeModule", inheritance: Inheritance) -> None:
        """The child holds its inherited weights and is about to be trained. Not called for networks that inherit nothing."""


@dataclass(frozen=True)
class SearchInfo:
    """What every event is given of the search it belongs to.

    Attributes:
        run_dir: the run directory.
        objectives: the objectives, in order.
        config: the search's configuration, as JSON values.
        bounds: the hypervolume's bounds (low, high) by objective key.
        max_generations: the budget, if it is bounded so.
        history: everything recorded so far.
    """

    run_dir: Path
    objectives: Sequence[ObjectiveRecord]
    config: Mapping[str, Any]
    bounds: Mapping[str, tuple[float, float]]
    max_generations: int | None
    history: HistoryReader


class SearchCallback:
    """Base class: override the events of interest. Events run on rank 0 alone; one that raises stops the search with its name."""

    def on_search_start(self, search: SearchInfo) -> None:
        """A new search begins."""

    def on_search_resume(self, search: SearchInfo) -> None:
        """An interrupted search goes on."""

    def on_search_end(self, search: SearchInfo) -> None:
        """The search is over; the front's test errors are measured."""

    def on_search_exception(self, search: SearchInfo, exception: BaseException) -> None:
        """The search stops because of an exception, which is raised afterwards."""

    def on_generation_start(self, search: SearchInfo, generation: int) -> None:
        """A generation begins (0: the starting networks)."""

    def on_generation_end(self, search: SearchInfo, record: GenerationRecord) -> None:
        """A generation is recorded."""

    def on_candidate_accepted(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """A child was accepted for evaluation."""

    def on_candidate_start(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """A child's evaluation begins."""

    def on_candidate_end(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """A child was evaluated and recorded."""

    def on_candidate_failed(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """A child failed and was recorded."""

    def on_front_changed(self, search: SearchInfo, front: Sequence[CandidateRecord]) -> None:
        """The population changed at the end of a generation."""
