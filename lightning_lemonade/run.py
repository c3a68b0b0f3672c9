"""One search in progress: Algorithm 1 around evaluations, the history and the events."""

import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from datetime import datetime
from math import ceil, inf
from pathlib import Path
from typing import Any

from numpy.random import Generator

from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.configuration import BUDGET, POLISHED, changed_versions, differences
from lightning_lemonade.errors import ConfigurationError, HistoryError, SearchError
from lightning_lemonade.evaluation import TaskData, timed
from lightning_lemonade.executors import Executor
from lightning_lemonade.flight import Flight, Window, spent_by_phase
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import DATABASE, History
from lightning_lemonade.records import CandidateRecord, ObjectiveRecord
from lightning_lemonade.resume import Progress, polishings_of, restore, with_polishing
from lightning_lemonade.search import (
    SAMPLING,
    Asked,
    Child,
    ContributionSurvival,
    NonDominatedSurvival,
    Outcome,
    Room,
    Search,
    derived_rng,
)
from lightning_lemonade.settings import SearchSettings
from lightning_lemonade.starts import hypervolume_bounds, starting_networks, warn_of_bounds

EMPTY_GENERATIONS = 3
SHOWN_DIFFERENCES = 6
LOW_DISK, LEAST_DISK = 10 * 2**30, 256 * 2**20
"""Free bytes below which it is looked whether a disk has room for some generations, and below which it is low in any case."""
GENERATIONS_AHEAD = 10


class Run:
    """One search in progress, on rank 0: a new one, or an interrupted or finished one of the same configuration that goes on.

    Args:
        settings: of the search.
        executor: evaluates the children; open.
        tasks: the data by task name.
        described: what a run records beside the settings, as JSON values.
        beginning: tells which starting networks are trained, and for how many epochs; by default all, and as many as the settings say.
        polish_seconds: for how long the front of a run that is there already is polished, whatever the settings' budget; None for a search.

    Raises:
        SearchError: if no starting network meets the limits.
        HistoryError: if the run directory holds a run of another configuration, or is in use, damaged, or can't be written.
        DataError: if the data module yields something else than it must.
    """

    def __init__(
        self,
        settings: SearchSettings,
        executor: Executor,
        tasks: Mapping[str, TaskData],
        described: Mapping[str, Any],
        *,
        beginning: Callable[[Sequence[GraphSpec]], tuple[list[GraphSpec], int]] | None = None,
        polish_seconds: float | None = None,
    ) -> None:
        self.settings, self.executor, self.tasks, self.polish_seconds = settings, executor, tasks, polish_seconds
        self._beginning = beginning
        self.starts, dropped, limits, measures = starting_networks(settings, self.tasks)
        outputs = {task: data.outputs for task, data in self.tasks.items()}
        for reason in dropped:
            warnings.warn(f"a starting network is dropped: {reason}", stacklevel=2)
        bounds = hypervolume_bounds(settings.objectives, self.starts, limits, outputs)
        self.search = Search(
            space=settings.space,
            objectives=measures,
            keys=[o.key for o in settings.objectives],
            limits=limits,
            sampling=SAMPLING[settings.sampling](),
            survival=ContributionSurvival(size, bounds) if (size := settings.population_size) else NonDominatedSurvival(),
            proposals=settings.proposals,
            bounds=bounds,
            epochs=settings.training.epochs * len(self.tasks),
            tasks=len(self.tasks),
            inherits=settings.inherit,
            timed=settings.max_seconds is not None or polish_seconds is not None,
        )
        config = settings.to_dict() | {"starts": [spec.structural_hash for spec in self.starts]} | dict(described)
        self.progress = Progress()
        directory = settings.run_dir or new_directory()
        self.resumed = (directory / DATABASE).exists()
        self.history = self._resumed(directory, config) if self.resumed else self._created(directory, config)
        objectives = list(self.history.objectives)
        self.info = SearchInfo(directory, objectives, self.history.config, bounds, settings.max_generations, self.history)
        self.flight = Flight(
            executor,
            self.history,
            self.search,
            tasks=list(self.tasks),
            inherit=settings.inherit,
            max_failures=settings.max_failures,
            emit=self._emit_candidate,
        )
        self._began = time.monotonic()
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
            if self.polish_seconds is not None:  # the search's budget stays as it was
                config = {**config, **{name: history.config.get(name) for name in (*BUDGET, "polish")}}
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
            self.progress = restore(self.search, history, asynchronous=self.settings.asynchronous)
            polishes = self.polish_seconds is not None
            if polishes:
                self.progress.empty = 0  # why the search ended doesn't end this
            polished = with_polishing(polishings_of(history.config), self.progress, self.search.accepted, polishes=polishes)
            kept = {"command": history.config["command"]} if "command" in history.config else {}
            history.go_on({**kept, **config, **({POLISHED: [astuple(one) for one in polished]} if polished else {})})
        except BaseException:
            history.close()
            raise
        return history

    def go(self) -> None:
        """Runs all generations that are left, measures the front on the test split, and closes the history."""
        finished = False
        try:
            self._emit("on_search_resume" if self.resumed else "on_search_start")
            self.history.finish("finished", self._asynchronously() if self.settings.asynchronous else self._generations())
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
        while not (reason := self._reason_to_stop()):
            self._generation(self.progress.generations)
        return reason

    def _reason_to_stop(self) -> str:
        """Returns why no other generation begins, or an empty text.

        Raises:
            SearchError: if there is nothing to breed from.
        """
        progress, settings = self.progress, self.settings
        if not progress.generations:
            return ""
        self._check_population()
        if self.polish_seconds is not None:
            return "everything is polished" if progress.empty else self._out_of_time() if progress.begun is None else ""
        if settings.max_generations is not None and progress.generations - progress.polished > settings.max_generations:
            return "max_generations is reached"
        if progress.empty == EMPTY_GENERATIONS:
            return f"{EMPTY_GENERATIONS} generations found no new child within the limits"
        return self._out_of_time() if progress.begun is None else ""

    def _out_of_time(self) -> str:
        """Returns that the time is spent, or an empty text."""
        return "" if self._seconds_left > 0 else "max_time is spent"

    @property
    def _seconds_left(self) -> float:
        """Seconds until the time is spent; endless where it has no limit."""
        here = time.monotonic() - self._began
        if self.polish_seconds is not None:
            return self.polish_seconds - here
        return inf if self.settings.max_seconds is None else self.settings.max_seconds - self.progress.seconds - here

    def _check_population(self) -> None:
        """Raises a SearchError if there is nothing to breed from."""
        if not self.search.population:
            failed = [c.failure.text for c in self.history.candidates() if c.failure]
            raise SearchError(f"no starting network could be evaluated; the first failed with: {failed[0]}")

    def _generation(self, number: int) -> None:
        """Runs one generation of Algorithm 1: propose and accept, evaluate and record, select."""
        window = self._window(number)
        self._announce(window)
        with timed(window.seconds, "propose"):
            asked = self._ask(number)
        window.proposed, window.outcomes = asked.proposed, self._evaluate(asked, window)
        self.search.tell(window.outcomes)
        self._finish(window)

    def _ask(self, number: int) -> Asked:
        """Returns a generation's children: those of an interrupted one, or new ones. The draws of a generation don't depend on others."""
        if self.progress.begun is not None:
            return self.progress.begun
        if number == 0:
            return self._start()
        rng, count = derived_rng(self.settings.seed, "ask", number), self.settings.accepted
        return self._bred(rng, count, number, number - self.progress.polished)

    def _bred(self, rng: Generator, count: int, number: int, place: int, *, proposals: int | None = None) -> Asked:
        """Returns members to polish, where it is time for that, and children where there are fewer of these.

        Args:
            rng: of the draws.
            count: how many are wanted.
            number: of the generation that they are recorded in.
            place: in the search's budget: which of its generations they would be, one after the other.
            proposals: that they are chosen from; None for as many as the settings say.
        """
        left = max(0.0, self._seconds_left)
        longest = self.settings.max_child_seconds
        room = Room(left if longest is None else min(left, longest), left * max(1, min(self.executor.slots, count)))
        if not self._polishes(place):
            return self.search.ask(rng, count, number, proposals=proposals, room=room)
        polished = self.search.ask_to_polish(rng, count, number, self.settings.training.polish_epochs, room=room)
        if polished.proposed >= count or self.polish_seconds is not None:
            return polished
        taken = sum(child.expected.seconds or 0.0 for child in polished.children)
        room = replace(room, together=max(0.0, room.together - taken))
        bred = self.search.ask(rng, count - len(polished.children), number, proposals=proposals, room=room)
        return Asked(polished.children + bred.children, polished.proposed + bred.proposed)

    def _start(self) -> Asked:
        """Returns the starting networks, accepted."""
        usual = self.settings.training.initial_epochs
        specs, epochs = (self.starts, usual) if self._beginning is None else self._beginning(self.starts)
        return self.search.start(specs, None if epochs == usual else epochs)

    def _polishes(self, place: int) -> bool:
        """Returns whether a generation of the search belongs to the last part of the budget, in which the front is trained on."""
        settings, share = self.settings, self.settings.polish
        if self.polish_seconds is not None or not share:
            return self.polish_seconds is not None
        if (place - 1) * settings.accepted >= self._bred_at_most:
            return True
        return settings.max_seconds is not None and self._seconds_left <= share * settings.max_seconds

    def _evaluate(self, asked: Asked, window: Window) -> list[Outcome]:
        """Evaluates children, as many at a time as the executor can, and records each as it comes. Those that were evaluated stay so."""
        outcomes = {outcome.id: outcome for outcome in self.progress.outcomes}
        waiting = deque(child for child in asked.children if child.id not in outcomes)
        begun = [waiting.popleft() for _ in range(min(len(waiting), self.flight.free))]
        if new := self.progress.begun is None:
            self.flight.accept([*begun, *waiting], asked.proposed, window, starts=begun)
        else:
            self.flight.announce([*begun, *waiting])
        for child in begun:
            self.flight.start(child, window, recorded=new)
        while self.flight.underway or waiting:
            while waiting and self.flight.free:
                self.flight.start(waiting.popleft(), window)
            if (outcome := self.flight.next(window, waiting)) is not None:
                outcomes[outcome.id] = outcome
        return [outcomes[child.id] for child in asked.children]

    def _asynchronously(self) -> str:
        """Runs Algorithm 1 without generations: it is told of each child as it comes, and proposes as soon as one can be evaluated.

        What is recorded as a generation are as many children, one after the other, as a generation has. The first ones, after the starting
        networks have begun, are bred from those of these that are done. Source: ours.

        Returns:
            Why it ended.
        """
        window = self._window(self.progress.generations)
        waiting, reason = self._left_over(window), ""
        while True:
            if len(window.outcomes) >= (self.settings.accepted if window.number else self.search.started):
                self._finish(window)
                window = self._window(self.progress.generations)
            if not (self.flight.underway and self.executor.ready):
                reason = self._fill(window, waiting)
            if not self.flight.underway:
                break
            self._announce(window)
            if (outcome := self.flight.next(window, waiting, told=self.progress.told + 1)) is None:
                continue
            self.progress.told += 1
            self.search.tell([outcome])
            window.outcomes.append(outcome)
        if window.outcomes:
            self._finish(window)
        self._check_population()
        return reason

    def _left_over(self, window: Window) -> deque[Child]:
        """Returns the children that an interrupted asynchronous search had accepted, or the starting networks, for its first generation."""
        if self.search.accepted and self.progress.begun is not None:
            asked, window.outcomes = self.progress.begun, list(self.progress.outcomes)
            if asked.children:
                self._announce(window)
            self.flight.announce(asked.children)
        else:
            asked = self._start()
            self._announce(window)
            self.flight.accept(asked.children, asked.proposed, window, after=0)
        window.proposed = asked.proposed
        return deque(asked.children)

    def _fill(self, window: Window, waiting: deque[Child]) -> str:
        """Begins as many evaluations as there is room for; returns why there are no new children any more, or an empty text."""
        while waiting and self.flight.free:
            self.flight.start(waiting.popleft(), window)
        settings = self.settings
        bounded = settings.max_generations is not None and self.polish_seconds is None
        left = self._most_children - self.search.accepted if bounded else inf
        if left <= 0:
            return "max_generations is reached"
        if reason := self._out_of_time():
            return reason
        count = int(min(self.flight.free, left))
        if not count or not self.search.population:
            return ""
        with timed(window.seconds, "propose"):
            asked = self._ask_for(count, window)
        window.proposed += asked.proposed
        if asked.children:
            self._announce(window)
        self.flight.accept(asked.children, asked.proposed, window, starts=asked.children, after=self.progress.told)
        for child in asked.children:
            self.flight.start(child, window, recorded=True)
        nothing = "no new child within the limits was found" if self.polish_seconds is None else "everything is polished"
        return "" if asked.children else nothing

    def _ask_for(self, count: int, window: Window) -> Asked:
        """Returns children for an asynchronous search, chosen from as many proposals for each as in a generation."""
        settings, search = self.settings, self.search
        done = search.accepted - search.started - self.progress.polished_children
        if 0 < (left := self._bred_at_most - done) < count:  # those after them are polished
            count = int(left)
        proposals = ceil(count * settings.proposals / settings.accepted)
        asked = Asked((), 0)
        for attempt in range(EMPTY_GENERATIONS):
            rng = derived_rng(settings.seed, "ask", search.accepted, attempt)
            asked = self._bred(rng, count, max(1, window.number), 1 + done // settings.accepted, proposals=proposals)
            if asked.children or self.flight.underway:
                break
        return asked

    @property
    def _bred_at_most(self) -> float:
        """How many children there are before the front is trained on, where generations bound the search; else endlessly many."""
        settings = self.settings
        if settings.max_generations is None or not settings.polish:
            return inf
        return round((1 - settings.polish) * settings.max_generations) * settings.accepted

    @property
    def _most_children(self) -> int:
        """How many children an asynchronous search may accept, the starting networks among them."""
        bred = (self.settings.max_generations or 0) * self.settings.accepted
        return self.search.started + self.progress.polished_children + bred

    def _window(self, number: int) -> Window:
        """Begins a generation."""
        self._watch_disk()
        spent = spent_by_phase(self.progress.outcomes)
        return Window(number, earlier={phase: seconds / self.executor.slots for phase, seconds in spent.items()})

    def _announce(self, window: Window) -> None:
        """Tells the callbacks of a generation, once; an asynchronous search knows that there is another when something happens in it."""
        if not window.announced:
            window.announced = True
            self._emit("on_generation_start", window.number)

    def _finish(self, window: Window) -> None:
        """Ends a generation: records it and the population, and tells the callbacks."""
        self._announce(window)
        record = window.record(self.search, self.progress.epochs)
        self.history.record_generation(record)
        if window.number == 0 and record.front and not record.hypervolume:
            warn_of_bounds(self.search.bounds, [member.values for member in self.search.population])
        changed = record.front != self.progress.front
        self.progress.count(record)
        if changed and self._is_heard("on_front_changed"):
            self._emit("on_front_changed", self.history.front())
        self._emit("on_generation_end", record)

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

    def _test(self) -> None:
        """Measures the front on the test split, where there is one; who was measured before an interruption isn't again.

        Raises:
            SearchError: if that fails; the search itself is complete.
        """
        records = [self.history.candidate(member.id) for member in self.search.population]
        left = [record for record in records if any(task.test_error is None for task in record.tasks.values())]
        try:
            self.flight.test(left)
        except Exception as error:
            raise SearchError(
                f"the search is complete, but its front could not be measured on the test split ({type(error).__name__}: {error}); "
                f"load({str(self.history.run_dir)!r}) gives the front"
            ) from error

    def _emit_candidate(self, event: str, read: Callable[[], CandidateRecord]) -> None:
        """Tells the callbacks of a candidate, which is read only if one listens."""
        if self._is_heard(event):
            self._emit(event, read())

    def _is_heard(self, event: str) -> bool:
        """Returns whether a callback does something at an event, for which candidates are read: a large front takes long."""
        return any(
            getattr(getattr(callback, event), "__func__", None) is not getattr(SearchCallback, event)
            for callback in self.settings.callbacks
        )

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
