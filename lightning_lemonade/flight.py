"""Children underway: accepted, evaluated somewhere, recorded. What a synchronous and an asynchronous search have in common."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_lemonade.errors import SearchError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, TestRequest, timed
from lightning_lemonade.executors import Executor, Result
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import State
from lightning_lemonade.records import PHASES, CandidateRecord, GenerationRecord
from lightning_lemonade.search import Child, Outcome, Search


@dataclass
class Window:
    """A generation in the making: what came of its children, and where its time went.

    Attributes:
        number: the generation's.
        proposed: legal proposals made.
        outcomes: of children that were finished in it.
        seconds: of this process by phase, without the waiting for evaluations.
        waited: seconds for which this process waited for evaluations.
        waited_for: what came of these.
        earlier: seconds by phase that earlier processes spent on it.
        announced: whether the callbacks have heard of it.
    """

    number: int
    proposed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    waited_for: list[Outcome] = field(default_factory=list)
    earlier: Mapping[str, float] = field(default_factory=dict)
    announced: bool = False
    _began: float = field(default_factory=time.perf_counter)

    def by_phase(self) -> dict[str, float]:
        """Returns where the time went: the waiting is divided as the time of those evaluations is that were waited for.

        So the phases add up to the time on the clock, however many children were evaluated at once.
        """
        spent = spent_by_phase(self.waited_for)
        share = self.waited / total if (total := sum(spent.values())) else 0.0
        seconds = dict.fromkeys(PHASES, 0.0)
        for phase, taken in [*self.seconds.items(), *((phase, share * taken) for phase, taken in spent.items())]:
            seconds[phase] += taken
        seconds["other"] += max(0.0, time.perf_counter() - self._began - sum(seconds.values()))
        for phase, taken in self.earlier.items():
            seconds[phase] += taken
        return seconds

    def record(self, search: Search, epochs: int) -> GenerationRecord:
        """Returns the record of the generation, which ends now.

        Args:
            search: which was told of the outcomes.
            epochs: trained before this generation.
        """
        failed = sum(outcome.failure is not None for outcome in self.outcomes)
        return GenerationRecord(
            generation=self.number,
            hypervolume=search.hypervolume,
            front=tuple(member.id for member in search.population),
            proposed=self.proposed,
            accepted=len(self.outcomes),
            evaluated=len(self.outcomes) - failed,
            failed=failed,
            total_epochs=epochs + sum(result.epochs for outcome in self.outcomes for result in outcome.tasks.values()),
            seconds=self.by_phase(),
        )


def spent_by_phase(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Returns the seconds of several evaluations by phase."""
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for phase, spent in outcome.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    return seconds


class Flight:
    """Brings children through an executor and records them.

    Args:
        executor: evaluates them; open.
        history: records them.
        search: accepted them.
        tasks: names of the tasks.
        inherit: whether children inherit their parent's weights.
        max_failures: children that may fail in a row.
        emit: tells the callbacks of an event of a candidate; called with the event's name and what reads the candidate.
    """

    def __init__(
        self,
        executor: Executor,
        history: History,
        search: Search,
        *,
        tasks: Sequence[str],
        inherit: bool,
        max_failures: int,
        emit: Callable[[str, Callable[[], CandidateRecord]], None],
    ) -> None:
        self._executor, self._history, self._search = executor, history, search
        self._tasks, self._inherit, self._max_failures, self._emit = tuple(tasks), inherit, max_failures, emit
        self._underway: set[int] = set()
        self._failed = 0

    @property
    def underway(self) -> int:
        """How many children are being evaluated."""
        return len(self._underway)

    @property
    def free(self) -> int:
        """How many more could be."""
        return max(0, self._executor.slots - len(self._underway))

    def accept(
        self, children: Sequence[Child], proposed: int, window: Window, *, starts: Sequence[Child] = (), after: int | None = None
    ) -> None:
        """Records accepted children, see `History.accept`, and tells the callbacks."""
        if children:
            with timed(window.seconds, "record"):
                self._history.accept(children, proposed, starts=[child.id for child in starts], after=after)
        self.announce(children)

    def announce(self, children: Sequence[Child]) -> None:
        """Tells the callbacks of children that are recorded as accepted."""
        for child in children:
            self._tell("on_candidate_accepted", child.id)

    def start(self, child: Child, window: Window, *, recorded: bool = False) -> None:
        """Begins a child's evaluation.

        Args:
            child: accepted.
            window: the generation that it counts to.
            recorded: whether the history knows that it begins.
        """
        if not recorded:
            with timed(window.seconds, "record"):
                self._history.start(child.id)
        self._tell("on_candidate_start", child.id)
        self._underway.add(child.id)
        self._executor.submit(self._request(child))

    def next(self, window: Window, waiting: deque[Child], *, told: int | None = None) -> Outcome | None:
        """Waits for a child and records it; begins the first of those waiting in its place.

        Args:
            window: the generation that it counts to.
            waiting: accepted children that aren't begun.
            told: see `History.record`.

        Returns:
            What came of it; None if more or fewer children can be evaluated now.

        Raises:
            SearchError: if too many failed in a row.
        """
        began = time.perf_counter()
        evaluation = self._executor.next()
        window.waited += time.perf_counter() - began
        if not isinstance(evaluation, Evaluation):
            return None
        outcome = evaluation.outcome
        window.waited_for.append(outcome)
        self._underway.remove(outcome.id)
        following = waiting.popleft() if waiting and self.free else None
        with timed(window.seconds, "record"):
            self._history.record(outcome, evaluation.weights, starts=None if following is None else following.id, told=told)
        self._tell("on_candidate_failed" if outcome.failure else "on_candidate_end", outcome.id)
        self._count_failures(outcome)
        if following is not None:
            self.start(following, window, recorded=True)
        return outcome

    def test(self, candidates: Sequence[CandidateRecord]) -> None:
        """Measures candidates on the test split, and records that."""
        waiting, underway = deque(candidates), 0
        while waiting or underway:
            while waiting and underway < self._executor.slots:
                record = waiting.popleft()
                self._executor.submit(TestRequest(record.spec, self._weights(record.id), record.id))
                underway += 1
            tested: Result | None = self._executor.next()
            if tested is not None and not isinstance(tested, Evaluation):
                underway -= 1
                if tested.errors:
                    self._history.record_test_errors({tested.id: tested.errors})

    def _count_failures(self, outcome: Outcome) -> None:
        """Ends a search whose children all fail.

        Raises:
            SearchError: if too many failed in a row; those of earlier processes, whose cause may be mended, don't count.
        """
        self._failed = 0 if outcome.failure is None else self._failed + 1
        if outcome.failure is not None and self._failed >= self._max_failures:
            raise SearchError(
                f"{self._failed} children failed in a row, the last one with {outcome.failure.kind}: {outcome.failure.text}. Mend that, "
                f"and give the same command again to go on"
            )

    def _request(self, child: Child) -> EvaluationRequest:
        if child.parent is None or not self._inherit:
            return EvaluationRequest(child, None, {})
        return EvaluationRequest(child, self._search.members[child.parent].spec, self._weights(child.parent))

    def _weights(self, candidate: int) -> dict[str, State]:
        """Returns a candidate's weights by task."""
        return {task: self._history.weights(candidate, task) for task in self._tasks}

    def _tell(self, event: str, candidate: int) -> None:
        self._emit(event, lambda: self._history.candidate(candidate))
