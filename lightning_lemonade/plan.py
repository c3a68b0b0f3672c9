"""Plan: what a search would run where, how long it takes and how much memory, before it is begun."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace
from math import ceil
from textwrap import fill

import torch

from lightning_lemonade.errors import SearchError
from lightning_lemonade.evaluation import Evaluator
from lightning_lemonade.evaluation.pace import Pace
from lightning_lemonade.executors.places import Places, places_of
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import DATABASE
from lightning_lemonade.search import SAMPLING
from lightning_lemonade.search.cost import work
from lightning_lemonade.settings import SearchSettings
from lightning_lemonade.starts import Seconds, are_chosen, choose_starts, hypervolume_bounds, pace_of, starting_networks, unchosen

WIDTH = 120
"""Characters of a line of a plan's text."""


@dataclass(frozen=True)
class PlannedNetwork:
    """A starting network.

    Attributes:
        params: parameters.
        macs: multiply-adds of a forward pass of one sample.
        seconds: of its training from scratch, with validation.
        child_seconds: of a child's training of the same size.
    """

    params: int
    macs: int
    seconds: float
    child_seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search would do; `str(plan)` tells it in lines of text.

    Attributes:
        places: where children are evaluated.
        starts: the starting networks.
        accepted: children in each generation.
        max_generations: the budget, or None.
        max_seconds: the budget, or None.
        asynchronous: whether children are proposed as soon as one can be evaluated.
        paces: what training the largest of `starts` takes, by task.
        memory: bytes that its training takes on each device, at most over the tasks.
        memory_is: what these are.
        device_memory: bytes that a device has, where it is here; else None.
        child_seconds: of a child, on average over the starting networks' sizes.
        generations: after the starting networks.
        children: starting networks and children in all.
        seconds: of the whole search.
        device_hours: of all devices that are held so long; hours of cores where children are trained on CPUs.
        notes: what couldn't be seen from here, what wasn't measured, and what could be mended.
    """

    places: Places
    starts: tuple[PlannedNetwork, ...]
    accepted: int
    max_generations: int | None
    max_seconds: float | None
    asynchronous: bool
    paces: Mapping[str, Pace]
    memory: int
    memory_is: str
    device_memory: int | None
    child_seconds: float
    generations: int
    children: int
    seconds: float
    device_hours: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Returns it in lines for a person."""
        parts = {
            "where": [self.places.by, self.places.has],
            "data": [self._of_data(task, pace) for task, pace in self.paces.items()],
            "starts": [f"{start.params:,} parameters, {start.macs:,} multiply-adds: about {_time(start.seconds)}" for start in self.starts],
            "memory": [self._of_memory()],
            "time": [f"{_time(self.step)} for a training step of the largest; about {_time(self.child_seconds)} for a child"],
            "budget": self._of_budget(),
            "notes": self.notes,
        }
        lines = [(name * (not number), text) for name, texts in parts.items() for number, text in enumerate(texts)]
        indented = [fill(text, WIDTH, initial_indent=f"{name:8}", subsequent_indent=" " * 8) for name, text in lines]
        return "\n".join(["dry run: nothing is trained to the end, and nothing is written", *indented])

    @property
    def step(self) -> float:
        """Seconds of a training step of the largest starting network, over all tasks."""
        return sum(pace.step for pace in self.paces.values())

    def _of_data(self, task: str, pace: Pace) -> str:
        of = f" on each of {self.places.processes} devices" if self.places.processes > 1 else ""
        steps = f"{_number(pace.batches, 'training step')} an epoch, of {pace.samples} samples{of}"
        return f"{task and f'{task}: '}{steps}; {_number(pace.held_out, 'batch')} of validation"

    def _of_memory(self) -> str:
        of = f" of {_bytes(self.device_memory)}" if self.device_memory else ""
        return f"{_bytes(self.memory)}{of} on each device for the largest of these: {self.memory_is}"

    def _of_budget(self) -> list[str]:
        generations = "" if self.max_generations is None else f"{self.max_generations} generations"
        limit = "" if self.max_seconds is None else _time(self.max_seconds)
        budget = " or ".join(filter(None, (generations, limit))) + ", whichever comes first" * bool(generations and limit)
        counts = f"{_number(self.generations, 'generation')} of {self.accepted} children, {_number(self.children, 'network')} in all"
        pace = "" if self.places.at_hand else " at the pace of this machine's CPU"
        hours = f"about {_time(self.seconds)}, {_figure(self.device_hours)} {self.places.unit}-hours{pace}"
        return [budget, f"about {counts}" + ", proposed one by one" * self.asynchronous, hours]


def make_plan(settings: SearchSettings, evaluator: Evaluator) -> Plan:
    """Measures and counts; see `LemonadeTrainer.plan`.

    Args:
        settings: of the search.
        evaluator: with its data set up; torch's threads are a child's.
    """
    specs, dropped, limits, _ = starting_networks(settings, evaluator.tasks)
    for reason in dropped:
        warnings.warn(f"a starting network is dropped: {reason}", stacklevel=3)
    hypervolume_bounds(settings.objectives, specs, limits, {task: data.outputs for task, data in evaluator.tasks.items()})
    places = places_of(settings.executor, settings.trainer_arguments, torch.get_num_threads())
    begun, initial, paces = _begun(settings, evaluator, specs, places)

    def seconds(spec: GraphSpec, epochs: int, validations: int) -> float:
        return sum(pace.seconds(epochs, validations, places.processes) for pace in paces[spec].values())

    training = settings.training
    starts = tuple(
        PlannedNetwork(spec.parameter_count, spec.macs, seconds(spec, initial, 1), seconds(spec, training.epochs, 2)) for spec in begun
    )
    largest = paces[max(begun, key=work)]
    child = sum(start.child_seconds for start in starts) / len(starts)
    polished = sum(seconds(spec, training.polish_epochs, 2) for spec in begun) / len(begun)
    generations, total = _course(settings, [start.seconds for start in starts], (child, polished), places.slots)
    plan = Plan(
        places=places,
        starts=starts,
        accepted=settings.accepted,
        max_generations=settings.max_generations,
        max_seconds=settings.max_seconds,
        asynchronous=settings.asynchronous,
        paces=largest,
        memory=max(pace.memory + (pace.gradients if places.processes > 1 else 0) for pace in largest.values()),
        memory_is=_memory_is(places),
        device_memory=_device_memory(places),
        child_seconds=child,
        generations=generations,
        children=len(starts) + generations * settings.accepted,
        seconds=total,
        device_hours=total / 3600 * places.slots * places.devices,
        notes=(),
    )
    return replace(plan, notes=tuple(_notes(plan, settings, evaluator)))


def _begun(
    settings: SearchSettings, evaluator: Evaluator, specs: Sequence[GraphSpec], places: Places
) -> tuple[list[GraphSpec], int, dict[GraphSpec, dict[str, Pace]]]:
    """Returns the starting networks that the search begins with, their epochs, and paces by network and task.

    Raises:
        SearchError: if one that was measured can't be trained.
    """
    paces: dict[GraphSpec, dict[str, Pace]] = {}
    errors: list[SearchError] = []

    def measured(spec: GraphSpec) -> Seconds:
        try:
            paces[spec] = {task: pace_of(evaluator, task, spec, places) for task in evaluator.tasks}
        except SearchError as error:
            errors.append(error)
            raise
        return lambda epochs: sum(pace.seconds(epochs, 1) for pace in paces[spec].values())

    begun, initial = unchosen(settings, specs), settings.training.initial_epochs
    if are_chosen(settings, places):
        begun, initial = choose_starts(settings, specs, measured, places.slots)
    if errors:  # which a search would record, and go on
        raise errors[0]
    for spec in sorted(begun, key=work, reverse=True):  # where the largest can't be trained, that is told at once
        if spec not in paces:
            measured(spec)
    return begun, initial, paces


def _course(settings: SearchSettings, starts: Sequence[float], children: tuple[float, float], slots: int) -> tuple[int, float]:
    """Returns how many generations a search has after its starting networks, and the seconds that it takes.

    Args:
        settings: of the search.
        starts: seconds of each starting network.
        children: seconds of a child, and of a member that is trained on at the end.
        slots: evaluations at a time.
    """
    ends = [0.0] * slots
    heapify(ends)
    for seconds in starts:
        heapreplace(ends, ends[0] + seconds)
    first = max(ends)
    rounds = settings.accepted / slots if settings.asynchronous else ceil(settings.accepted / slots)
    bred, polished = (rounds * seconds for seconds in children)
    courses = []
    if settings.max_generations is not None:
        early = round((1 - settings.polish) * settings.max_generations)
        courses.append((settings.max_generations, first + early * bred + (settings.max_generations - early) * polished))
    if settings.max_seconds is not None:  # the generation in progress is finished
        early = max(0, ceil(((1 - settings.polish) * settings.max_seconds - first) / bred))
        late = max(0, ceil((settings.max_seconds - first - early * bred) / polished)) if settings.polish else 0
        courses.append((early + late, first + early * bred + late * polished))
    return min(courses)


def _device_memory(places: Places) -> int | None:
    if places.here != "cuda":
        return None
    measured = places.measured_devices
    return int(torch.cuda.get_device_properties(measured[0] if isinstance(measured, list) else 0).total_memory)


def _memory_is(places: Places) -> str:
    parts = "what torch allocates at most" if places.here == "cuda" else "weights, gradients, the optimiser's state, what backward needs"
    return parts + (", and gradients once more for their exchange" if places.processes > 1 else "")


def _notes(plan: Plan, settings: SearchSettings, evaluator: Evaluator) -> list[str]:
    """Returns what there is to say besides."""
    places, notes = plan.places, []
    if not places.at_hand:
        notes.append(
            f"accelerator {places.accelerator} isn't on this machine: measured on its CPU, on which training takes far longer. Give the "
            f"same command on a machine that has one, for times and {places.unit}-hours that hold"
        )
    notes += places.notes
    if evaluator.callbacks:
        notes.append("your callbacks of children's trainings weren't there")
    if places.processes > 1:
        notes.append("measured on one device: what the exchange of gradients takes isn't counted")
    if str(settings.trainer_arguments.get("strategy", "")).startswith(("fsdp", "deepspeed")):
        notes.append("the memory is that of DDP, which keeps everything on each device")
    if places.unit != "core" and places.devices < 1:
        notes.append(f"{int(1 / places.devices)} children share each GPU: memory counts for each of them, and each takes longer than alone")
    idle = places.slots - plan.accepted
    if not plan.asynchronous and idle > 0:
        notes.append(f"accepted={plan.accepted} leaves room for {idle} more children at a time: raise it, or give asynchronous=true")
    slowest = max(start.seconds for start in plan.starts)
    if settings.max_child_seconds is not None and slowest > settings.max_child_seconds and places.at_hand:
        notes.append(f"max_child_time ends a training after {_time(settings.max_child_seconds)}, and one takes about {_time(slowest)}")
    longest = max(SAMPLING[settings.sampling].lengths)
    if settings.max_seconds is not None and settings.inherit and longest > 1:
        notes.append(f"children may be trained {longest} times as long where that promises more: then there are fewer than planned")
    if settings.run_dir is not None and os.path.exists(settings.run_dir / DATABASE):
        notes.append(f"{settings.run_dir} holds a run already, with which a search goes on: this plans all of it, from the start")
    return [*notes, "children may grow: limits bound their memory and time. Inheriting and recording aren't counted, nor the test split"]


def _number(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _time(seconds: float) -> str:
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 1.5 * size or (unit == "s" and seconds >= size):
            return f"{_figure(seconds / size)} {unit}"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _bytes(count: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.0f} KiB"
