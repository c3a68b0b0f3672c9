"""A small search in memory, for callbacks: hand-built networks, their lineage, two generations."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.graph import Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Node, Output
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord, TaskRecord
from lightning_lemonade.search.candidate import Failure

OBJECTIVES = (
    ObjectiveRecord("error", "error", "fraction", "trained"),
    ObjectiveRecord("params", "params", "parameters", "spec"),
)


@dataclass
class MemoryHistory:
    """A `HistoryReader` without files."""

    by_id: dict[int, CandidateRecord]
    finished: list[GenerationRecord]

    def candidate(self, candidate_id: int) -> CandidateRecord:
        return self.by_id[candidate_id]

    def candidates(self) -> list[CandidateRecord]:
        return [self.by_id[i] for i in sorted(self.by_id)]

    def front(self) -> list[CandidateRecord]:
        return [candidate for candidate in self.candidates() if candidate.in_front]

    def generations(self) -> list[GenerationRecord]:
        return list(self.finished)

    def predictions(self) -> None:
        return None


def network(channels: int) -> GraphSpec:
    ops = [Input((1, 8, 8)), Conv2d(channels, (3, 3), padding=(1, 1)), GlobalPool2d(), Linear(10), Output()]
    return GraphSpec(tuple(Node(f"n{i}", op, (f"n{i - 1}",) if i else ()) for i, op in enumerate(ops)))


def start(candidate_id: int, channels: int, error: float) -> CandidateRecord:
    """An evaluated starting network, in the front."""
    spec = network(channels)
    return CandidateRecord(
        id=candidate_id,
        parent=None,
        generation=0,
        state="evaluated",
        failure=None,
        spec=spec,
        hash=spec.structural_hash,
        mutations=(),
        objectives={"error": error, "params": float(spec.parameter_count)},
        spreads={},
        tasks={"": TaskRecord(None, None, {"val_error": error})},
        epochs=2,
        cumulative_epochs=2,
        images=2000,
        cumulative_images=2000,
        teacher_images=0,
        seconds={"fit": 1.5},
        in_front=True,
    )


def child(parent: CandidateRecord, candidate_id: int, channels: int, error: float, generation: int = 1) -> CandidateRecord:
    """An evaluated child of `parent`, in the front."""
    return replace(
        start(candidate_id, channels, error),
        parent=parent.id,
        generation=generation,
        mutations=({"kind": "widen", "node": "n1", "factor": 2},),
        tasks={"": TaskRecord(parent.objectives["error"], None, {"val_error": error})},
        cumulative_epochs=parent.cumulative_epochs + 2,
        cumulative_images=parent.cumulative_images + 2000,
        teacher_images=0,
    )


def failed(candidate: CandidateRecord, text: str = "loss [nan]") -> CandidateRecord:
    values = {"params": candidate.objectives["params"]}
    return replace(candidate, state="failed", failure=Failure("not_a_number", text), objectives=values, in_front=False)


def generation(number: int, front: Iterable[int], hypervolume: float, **counts: int) -> GenerationRecord:
    counts = {"proposed": 0, "accepted": 0, "evaluated": 0, "failed": 0, "total_epochs": 0} | counts
    return GenerationRecord(generation=number, hypervolume=hypervolume, front=tuple(front), seconds={"fit": 30.0, "other": 4.0}, **counts)


class SmallSearch:
    """Two starting networks; then two children of the first, of which one fails and the other drives out network 1."""

    def __init__(self, run_dir: Path, max_generations: int | None = 1) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        first, second = start(0, 2, error=0.30), start(1, 8, error=0.25)
        self.starting = (first, second)
        self.children = (child(first, 2, 4, error=0.014), failed(child(first, 3, 3, error=0.0)))
        self.history = MemoryHistory({}, [])
        self.info = SearchInfo(
            run_dir=run_dir,
            objectives=OBJECTIVES,
            config={"seed": 3, "limits": {"params": 2e6}},
            bounds={"error": (0.0, 1.0), "params": (1.0, 6.0)},
            max_generations=max_generations,
            history=self.history,
        )

    def run(self, callback: SearchCallback) -> None:
        """A whole search."""
        callback.on_search_start(self.info)
        self.first_generation(callback)
        self.second_generation(callback)
        self.end(callback)

    def first_generation(self, callback: SearchCallback) -> None:
        counts = {"proposed": 2, "accepted": 2, "evaluated": 2, "total_epochs": 4}
        self._generation(callback, self.starting, generation(0, (0, 1), 0.4375, **counts))

    def second_generation(self, callback: SearchCallback) -> None:
        self.history.by_id[1] = replace(self.history.by_id[1], in_front=False)
        counts = {"proposed": 7, "accepted": 2, "evaluated": 1, "failed": 1, "total_epochs": 6}
        self._generation(callback, self.children, generation(1, (0, 2), 0.8125, **counts))

    def end(self, callback: SearchCallback) -> None:
        """The test errors are measured, and the search is over."""
        for member in self.history.front():
            self.history.by_id[member.id] = replace(
                member, tasks={"": replace(member.tasks[""], test_error=member.objectives["error"] + 0.01)}
            )
        callback.on_search_end(self.info)

    def _generation(self, callback: SearchCallback, candidates: Iterable[CandidateRecord], record: GenerationRecord) -> None:
        callback.on_generation_start(self.info, record.generation)
        for candidate in candidates:
            callback.on_candidate_accepted(self.info, candidate)
        for candidate in candidates:
            callback.on_candidate_start(self.info, candidate)
            self.history.by_id[candidate.id] = candidate
            (callback.on_candidate_failed if candidate.failure else callback.on_candidate_end)(self.info, candidate)
        self.history.finished.append(record)
        callback.on_generation_end(self.info, record)
        callback.on_front_changed(self.info, self.history.front())
