"""One search in progress: Algorithm 1 around evaluations, the history and the events."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lightning_lemonade.callback import SearchInfo
from lightning_lemonade.errors import ConfigurationError, DataError, HistoryError, ObjectiveError, SearchError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData, TestRequest, timed
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import State
from lightning_lemonade.objectives import Objective, SpecObjective, TrainedObjective
from lightning_lemonade.ranks import Ranks
from lightning_lemonade.records import PHASES, GenerationRecord, ObjectiveRecord
from lightning_lemonade.search import (
    SAMPLING,
    Asked,
    Child,
    Limits,
    NonDominatedSurvival,
    Outcome,
    Search,
    derived_rng,
)
from lightning_lemonade.settings import SearchSettings

EMPTY_GENERATIONS = 3


class Run:
    """One search in progress, on rank 0.

    Args:
        settings: of the search.
        ranks: the processes that it runs on.
        evaluator: of this rank, with the tasks.

    Raises:
        SearchError: if no starting network meets the limits.
        HistoryError: if the run directory holds a run already.
        DataError: if the data module yields something else than it must.
    """

    def __init__(self, settings: SearchSettings, ranks: Ranks, evaluator: Evaluator) -> None:
        self.settings, self.ranks, self.evaluator, self.tasks = settings, ranks, evaluator, evaluator.tasks
        sample_shape, outputs = common_sample_shape(self.tasks), {task: data.outputs for task, data in self.tasks.items()}
        limits = settings.limits.within(Limits.parse(settings.space.limits(sample_shape)))
        measures = {o.key: o.checked for o in settings.objectives if isinstance(o, SpecObjective)}
        limits = Limits({key: span for key, span in limits.ranges.items() if key in measures})
        self.starts, dropped = legal_starts(settings.space.initial(sample_shape, max(outputs.values())), measures, limits)
        for spec in self.starts:
            if spec.output_shape[0] != max(outputs.values()):
                raise ConfigurationError(
                    f"{type(settings.space).__name__}.initial gave a network of {spec.output_shape[0]} outputs instead of "
                    f"{max(outputs.values())}: make it with the num_outputs that it gets, or give the data module another num_outputs"
                )
        for reason in dropped:
            warnings.warn(f"a starting network is dropped: {reason}", stacklevel=2)
        records = [ObjectiveRecord(o.key, o.name, o.unit, o.stage) for o in settings.objectives]
        bounds = hypervolume_bounds(settings.objectives, self.starts, limits, outputs)
        self.search = Search(
            space=settings.space,
            objectives=measures,
            keys=[o.key for o in settings.objectives],
            limits=limits,
            sampling=SAMPLING[settings.sampling](),
            survival=NonDominatedSurvival(),
            proposals=settings.proposals,
            bounds=bounds,
            epochs=settings.training.epochs * len(self.tasks),
            inherits=settings.inherit,
        )
        directory = settings.run_dir or new_directory()
        config = settings.to_dict() | {"tasks": {task: described(data) for task, data in self.tasks.items()}}
        self.history = History.create(directory, config=config, objectives=records, bounds=bounds, tasks=list(self.tasks))
        self.info = SearchInfo(directory, records, config, bounds, settings.max_generations, self.history)
        self.total_epochs = 0

    def go(self) -> None:
        """Runs all generations, measures the front on the test split, and closes the history."""
        finished = False
        try:
            self._emit("on_search_start")
            self.history.finish("finished", self._generations())
            finished = True
            self._test()
            self._emit("on_search_end")
        except BaseException as error:
            try:
                if not finished:
                    self.history.finish("stopped", f"{type(error).__name__}: {error}")
            except HistoryError as other:  # the first error matters more, and the callbacks must hear of it
                warnings.warn(f"the end of the search could not be recorded: {other}", stacklevel=2)
            self._emit("on_search_exception", error)
            raise
        finally:
            self.history.close()

    def _generations(self) -> str:
        """Runs generation after generation; returns why it ended."""
        settings, began, empty, number = self.settings, time.monotonic(), 0, 0
        self._generation(0, lambda: self.search.start(self.starts))
        if not self.search.population:
            failed = [c.failure.text for c in self.history.candidates() if c.failure]
            raise SearchError(f"no starting network could be evaluated; the first failed with: {failed[0]}")
        while settings.max_generations is None or number < settings.max_generations:
            if settings.max_seconds is not None and time.monotonic() - began >= settings.max_seconds:
                return "max_time is spent"
            number += 1
            rng = derived_rng(settings.seed, "ask", number)
            accepted = self._generation(number, lambda: self.search.ask(rng, settings.accepted, number))  # noqa: B023 (called at once)
            empty = 0 if accepted else empty + 1
            if empty == EMPTY_GENERATIONS:
                return f"{EMPTY_GENERATIONS} generations found no new child within the limits"
        return "max_generations is reached"

    def _generation(self, number: int, ask: Callable[[], Asked]) -> int:
        """Runs one generation of Algorithm 1: propose and accept, evaluate and record, select; returns how many children there were."""
        seconds, began = dict.fromkeys(PHASES, 0.0), time.perf_counter()
        self._emit("on_generation_start", number)
        with timed(seconds, "propose"):
            asked = ask()
        outcomes = self._evaluate(asked.children, seconds)
        changed = self.search.tell(outcomes)
        seconds["other"] = max(0.0, time.perf_counter() - began - sum(seconds.values()))
        record = self._summary(number, asked, outcomes, seconds)
        self.history.record_generation(record)
        if changed:
            self._emit("on_front_changed", self.history.front())
        self._emit("on_generation_end", record)
        return len(outcomes)

    def _evaluate(self, children: Sequence[Child], seconds: dict[str, float]) -> list[Outcome]:
        """Evaluates children one after the other, and records each before the next begins."""
        outcomes: list[Outcome] = []
        with timed(seconds, "record"):
            self.history.accept(children)
        for child in children:
            self._emit_candidate("on_candidate_accepted", child.id)
        with timed(seconds, "record"):
            for first in children[:1]:
                self.history.start(first.id)
        for child, after in zip_longest(children, children[1:]):
            self._emit_candidate("on_candidate_start", child.id)
            evaluation = self.ranks.evaluate(self.evaluator, self._request(child))
            outcome = evaluation.outcome
            with timed(seconds, "record"):
                self.history.record(outcome, evaluation.weights, starts=after.id if after else None)
            for phase, spent in outcome.seconds.items():
                seconds[phase] += spent
            outcomes.append(outcome)
            self._emit_candidate("on_candidate_failed" if outcome.failure else "on_candidate_end", child.id)
        return outcomes

    def _summary(self, number: int, asked: Asked, outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> GenerationRecord:
        """Returns the record of a generation, and counts its epochs."""
        self.total_epochs += sum(result.epochs for outcome in outcomes for result in outcome.tasks.values())
        failed = sum(outcome.failure is not None for outcome in outcomes)
        return GenerationRecord(
            generation=number,
            hypervolume=self.search.hypervolume,
            front=tuple(member.id for member in self.search.population),
            proposed=asked.proposed,
            accepted=len(outcomes),
            evaluated=len(outcomes) - failed,
            failed=failed,
            total_epochs=self.total_epochs,
            seconds=seconds,
        )

    def _request(self, child: Child) -> EvaluationRequest:
        if child.parent is None or not self.settings.inherit:
            return EvaluationRequest(child, None, {})
        parent = self.search.members[child.parent].spec
        return EvaluationRequest(child, parent, self._weights(child.parent))

    def _weights(self, candidate: int) -> dict[str, State]:
        """Returns a candidate's weights by task."""
        return {task: self.history.weights(candidate, task) for task in self.tasks}

    def _test(self) -> None:
        """Measures the front on the test split, where there is one.

        Raises:
            SearchError: if that fails; the search itself is complete.
        """
        requests = {m.id: TestRequest(m.spec, self._weights(m.id)) for m in self.search.population}
        try:
            errors = {member: self.ranks.measure_test(self.evaluator, request) for member, request in requests.items()}
        except Exception as error:
            raise SearchError(
                f"the search is complete, but its front could not be measured on the test split ({type(error).__name__}: {error}); "
                f"load({str(self.history.run_dir)!r}) gives the front"
            ) from error
        self.history.record_test_errors({member: by_task for member, by_task in errors.items() if by_task})

    def _emit_candidate(self, event: str, candidate: int) -> None:
        """Tells the callbacks of a candidate, which is read only if there are any."""
        if self.settings.callbacks:
            self._emit(event, self.history.candidate(candidate))

    def _emit(self, event: str, *arguments: object) -> None:
        """Tells the callbacks.

        Raises:
            SearchError: if one raises.
        """
        for callback in self.settings.callbacks:
            try:
                getattr(callback, event)(self.info, *arguments)
            except Exception as error:
                text = f"{type(callback).__name__}.{event} raised {type(error).__name__}: {error}"
                if event != "on_search_exception":
                    raise SearchError(f"the search stops: {text}") from error
                warnings.warn(text, stacklevel=2)  # the exception that is being told matters more, and the other callbacks must hear it


def legal_starts(
    specs: Sequence[GraphSpec], measures: Mapping[str, Callable[[GraphSpec], float]], limits: Limits
) -> tuple[list[GraphSpec], list[str]]:
    """Returns the starting networks inside the limits, and why the others were dropped."""
    legal, dropped = [], []
    for spec in specs:
        violation = limits.violation({key: measure(spec) for key, measure in measures.items()})
        if violation:
            dropped.append(violation)
        else:
            legal.append(spec)
    if not legal:
        raise SearchError(f"no starting network meets the limits: {'; '.join(dropped)}. Widen the limits or give another space")
    return legal, dropped


def common_sample_shape(tasks: Mapping[str, TaskData]) -> tuple[int, ...]:
    """Returns the shape of every task's samples.

    Raises:
        DataError: if they differ.
    """
    shapes = {task: data.sample_shape for task, data in tasks.items()}
    if len(set(shapes.values())) != 1:
        shown = ", ".join(f"{task}: {'x'.join(map(str, shape))}" for task, shape in shapes.items())
        raise DataError(
            f"the tasks' samples differ in shape ({shown}), but they share one architecture: resize the images, or search apart"
        )
    return next(iter(shapes.values()))


def described(data: TaskData) -> dict[str, Any]:
    """Returns what a run records of a task, as JSON values."""
    return {
        "data": f"{type(data.inner).__module__}.{type(data.inner).__qualname__}",
        "outputs": data.outputs,
        "class_names": data.class_names,
    }


def hypervolume_bounds(
    objectives: Sequence[Objective], starts: Sequence[GraphSpec], limits: Limits, outputs: Mapping[str, int]
) -> dict[str, tuple[float, float]]:
    """Returns the bounds of the hypervolume: a tenth to ten times the starting networks, or the limits; what is trained has its own.

    Raises:
        ObjectiveError: if an objective's own bounds leave no room between them.
    """
    bounds = {}
    for objective in objectives:
        if isinstance(objective, SpecObjective):
            values = [objective.checked(spec) for spec in starts]
            low, high = limits.ranges.get(objective.key, (0.0, float("inf")))
            low, high = max(low, min(values) / 10), min(high, max(values) * 10)
            bounds[objective.key] = (low, high if low < high else low * 10)
        elif isinstance(objective, TrainedObjective):
            low, high = bounds[objective.key] = objective.bounds(outputs[objective.task])
            if not low < high:
                raise ObjectiveError(f"objective {objective.key} has the bounds {low} and {high}: give the best, then the worst value")
    return bounds


def new_directory() -> Path:
    """Returns a directory that no other search has, named by the time."""
    name = Path("lemonade_runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for directory in (name, *(name.with_name(f"{name.name}_{number}") for number in range(2, 100))):
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(f"no run directory can be made in {directory.parent}: {error}; give run_dir") from error
        return directory
    raise ConfigurationError(f"{name} and 98 more directories beside it exist: give run_dir")
