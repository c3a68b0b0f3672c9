"""One search in progress: Algorithm 1 around evaluations, the history and the events."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lightning_lemonade.callback import SearchInfo
from lightning_lemonade.configuration import changed_versions, differences
from lightning_lemonade.errors import ConfigurationError, DataError, HistoryError, ObjectiveError, SearchError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData, TestRequest, timed
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import DATABASE, History
from lightning_lemonade.morphisms import State
from lightning_lemonade.objectives import Objective, SpecObjective, TrainedObjective
from lightning_lemonade.ranks import Ranks
from lightning_lemonade.records import PHASES, GenerationRecord, ObjectiveRecord
from lightning_lemonade.resume import Progress, restore
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
SHOWN_DIFFERENCES = 6
LOW_DISK, LEAST_DISK = 10 * 2**30, 256 * 2**20
"""Free bytes below which it is looked whether a disk has room for some generations, and below which it is low in any case."""
GENERATIONS_AHEAD = 10


class Run:
    """One search in progress, on rank 0: a new one, or an interrupted or finished one of the same configuration that goes on.

    Args:
        settings: of the search.
        ranks: the processes that it runs on.
        evaluator: of this rank, with the tasks.
        described: what a run records beside the settings, as JSON values.

    Raises:
        SearchError: if no starting network meets the limits.
        HistoryError: if the run directory holds a run of another configuration, or is in use, damaged, or can't be written.
        DataError: if the data module yields something else than it must.
    """

    def __init__(self, settings: SearchSettings, ranks: Ranks, evaluator: Evaluator, described: Mapping[str, Any]) -> None:
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
        config = settings.to_dict() | {"starts": [spec.structural_hash for spec in self.starts]} | dict(described)
        self.progress = Progress()
        directory = settings.run_dir or new_directory()
        self.resumed = (directory / DATABASE).exists()
        self.history = self._resumed(directory, config) if self.resumed else self._created(directory, config)
        objectives = list(self.history.objectives)
        self.info = SearchInfo(directory, objectives, self.history.config, bounds, settings.max_generations, self.history)
        self._failed = 0
        self._warned_of_disk = False

    def _created(self, run_dir: Path, config: Mapping[str, Any]) -> History:
        """Starts a new record."""
        records = [ObjectiveRecord(o.key, o.name, o.unit, o.stage) for o in self.settings.objectives]
        return History.create(run_dir, config=config, objectives=records, bounds=self.search.bounds, tasks=list(self.tasks))

    def _resumed(self, run_dir: Path, config: Mapping[str, Any]) -> History:
        """Opens the record of a search, and brings this one to where that one stopped.

        Raises:
            HistoryError: if it was another search.
        """
        history = History.resume(run_dir)
        try:
            different = differences(history.config, config)
            if not different and dict(history.bounds) != dict(self.search.bounds):
                different = ["the bounds of the hypervolume"]
            if different:
                shown = "; ".join(different[:SHOWN_DIFFERENCES])
                raise HistoryError(
                    f"{run_dir} holds a run of another configuration ({shown}): give the same one, which may have a larger budget, or "
                    f"another run_dir"
                )
            if changed := changed_versions(history.config, config):
                warnings.warn(f"{run_dir} goes on with {', '.join(changed)}: not bit for bit as it would have", stacklevel=2)
            self.progress = restore(self.search, history)
            history.go_on({"command": history.config["command"], **config} if "command" in history.config else config)
        except BaseException:
            history.close()
            raise
        return history

    def go(self) -> None:
        """Runs all generations that are left, measures the front on the test split, and closes the history."""
        finished = False
        try:
            self._emit("on_search_resume" if self.resumed else "on_search_start")
            self.history.finish("finished", self._generations())
            finished = True
            self._test()
            self._emit("on_search_end")
        except BaseException as error:
            try:
                if not finished:
                    self.history.finish("stopped", f"{type(error).__name__}: {error}".removesuffix(": "))
            except HistoryError as other:  # the first error matters more, and the callbacks must hear of it
                warnings.warn(f"the end of the search could not be recorded: {other}", stacklevel=2)
            finally:  # also where Ctrl-C is pressed again
                self._emit("on_search_exception", error)
            raise
        finally:
            self.history.close()

    def _generations(self) -> str:
        """Runs generation after generation; returns why it ended."""
        began = time.monotonic()
        while not (reason := self._reason_to_stop(time.monotonic() - began)):
            self._generation(self.progress.generations)
        return reason

    def _reason_to_stop(self, seconds: float) -> str:
        """Returns why no other generation begins, or an empty text.

        Args:
            seconds: that this process has worked.

        Raises:
            SearchError: if there is nothing to breed from.
        """
        progress, settings = self.progress, self.settings
        if not progress.generations:
            return ""
        if not self.search.population:
            failed = [c.failure.text for c in self.history.candidates() if c.failure]
            raise SearchError(f"no starting network could be evaluated; the first failed with: {failed[0]}")
        if settings.max_generations is not None and progress.generations > settings.max_generations:
            return "max_generations is reached"
        if progress.empty == EMPTY_GENERATIONS:
            return f"{EMPTY_GENERATIONS} generations found no new child within the limits"
        if settings.max_seconds is not None and progress.begun is None and progress.seconds + seconds >= settings.max_seconds:
            return "max_time is spent"
        return ""

    def _generation(self, number: int) -> None:
        """Runs one generation of Algorithm 1: propose and accept, evaluate and record, select."""
        self._watch_disk()
        seconds, began = dict.fromkeys(PHASES, 0.0), time.perf_counter()
        self._emit("on_generation_start", number)
        with timed(seconds, "propose"):
            asked = self._ask(number)
        outcomes = self._evaluate(asked, seconds)
        changed = self.search.tell(outcomes)
        seconds["other"] = max(0.0, time.perf_counter() - began - sum(seconds.values()))
        for phase, spent in _spent(self.progress.outcomes).items():
            seconds[phase] += spent
        record = self._summary(number, asked, outcomes, seconds)
        self.history.record_generation(record)
        self.progress.count(record)
        if changed:
            self._emit("on_front_changed", self.history.front())
        self._emit("on_generation_end", record)

    def _ask(self, number: int) -> Asked:
        """Returns a generation's children: those of an interrupted one, or new ones. The draws of a generation don't depend on others."""
        if self.progress.begun is not None:
            return self.progress.begun
        if number == 0:
            return self.search.start(self.starts)
        return self.search.ask(derived_rng(self.settings.seed, "ask", number), self.settings.accepted, number)

    def _evaluate(self, asked: Asked, seconds: dict[str, float]) -> list[Outcome]:
        """Evaluates children one after the other, and records each before the next begins. Those that were evaluated stay so."""
        outcomes = {outcome.id: outcome for outcome in self.progress.outcomes}
        children = [child for child in asked.children if child.id not in outcomes]
        with timed(seconds, "record"):
            if children and self.progress.begun is None:
                self.history.accept(children, asked.proposed)
        for child in children:
            self._emit_candidate("on_candidate_accepted", child.id)
        with timed(seconds, "record"):
            for first in children[:1]:
                self.history.start(first.id)
        for child, after in zip_longest(children, children[1:]):
            self._emit_candidate("on_candidate_start", child.id)
            evaluation = self.ranks.evaluate(self.evaluator, self._request(child))
            outcome = outcomes[child.id] = evaluation.outcome
            with timed(seconds, "record"):
                self.history.record(outcome, evaluation.weights, starts=after.id if after else None)
            for phase, spent in outcome.seconds.items():
                seconds[phase] += spent
            self._emit_candidate("on_candidate_failed" if outcome.failure else "on_candidate_end", child.id)
            self._count_failures(outcome)
        return [outcomes[child.id] for child in asked.children]

    def _count_failures(self, outcome: Outcome) -> None:
        """Ends a search whose children all fail.

        Raises:
            SearchError: if too many failed in a row; those of earlier processes, whose cause may be mended, don't count.
        """
        self._failed = 0 if outcome.failure is None else self._failed + 1
        if outcome.failure is not None and self._failed >= self.settings.max_failures:
            raise SearchError(
                f"{self._failed} children failed in a row, the last one with {outcome.failure.kind}: {outcome.failure.text}. Mend that, "
                f"and give the same command again to go on"
            )

    def _watch_disk(self) -> None:
        """Warns once if the disk has no room for some more generations, before a write fails."""
        free = shutil.disk_usage(self.history.run_dir).free
        if free >= LOW_DISK or self._warned_of_disk:
            return
        used = self.history.disk_use()["total"]
        average = used / max(1, self.progress.generations)
        if free < max(LEAST_DISK, GENERATIONS_AHEAD * average):
            self._warned_of_disk = True
            warnings.warn(
                f"the disk of {self.history.run_dir} has {free / 2**20:,.0f} MiB left, and the run takes {used / 2**20:,.0f} MiB: free "
                f"some space; where a write fails the search stops, and can be resumed",
                stacklevel=2,
            )

    def _summary(self, number: int, asked: Asked, outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> GenerationRecord:
        """Returns the record of a generation."""
        epochs = sum(result.epochs for outcome in outcomes for result in outcome.tasks.values())
        failed = sum(outcome.failure is not None for outcome in outcomes)
        return GenerationRecord(
            generation=number,
            hypervolume=self.search.hypervolume,
            front=tuple(member.id for member in self.search.population),
            proposed=asked.proposed,
            accepted=len(outcomes),
            evaluated=len(outcomes) - failed,
            failed=failed,
            total_epochs=self.progress.epochs + epochs,
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
        """Measures the front on the test split, where there is one; who was measured before an interruption isn't again.

        Raises:
            SearchError: if that fails; the search itself is complete.
        """
        records = [self.history.candidate(member.id) for member in self.search.population]
        left = [record for record in records if any(task.test_error is None for task in record.tasks.values())]
        try:
            for record in left:
                request = TestRequest(record.spec, self._weights(record.id))
                if errors := self.ranks.measure_test(self.evaluator, request):
                    self.history.record_test_errors({record.id: errors})
        except Exception as error:
            raise SearchError(
                f"the search is complete, but its front could not be measured on the test split ({type(error).__name__}: {error}); "
                f"load({str(self.history.run_dir)!r}) gives the front"
            ) from error

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


def _spent(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Returns the seconds of several evaluations by phase."""
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for phase, spent in outcome.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    return seconds


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
