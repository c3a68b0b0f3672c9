"""The networks that a search starts with: which there are, which are trained, and what they bound."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import inf

import numpy as np
import torch

from lightning_lemonade.errors import ConfigurationError, DataError, ObjectiveError, SearchError
from lightning_lemonade.evaluation import Evaluator, TaskData
from lightning_lemonade.evaluation.pace import Pace, measure
from lightning_lemonade.executors.places import Places, places_of
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.objectives import Objective, SpecObjective, TrainedObjective
from lightning_lemonade.search import Limits
from lightning_lemonade.search.cost import work
from lightning_lemonade.settings import SearchSettings

START_SHARE = 0.2
"""Share of the time that starting networks may take, where a time bounds a search."""
FIRST_SHARE = 1 / 3
"""Of the seconds of a spanning network, what the smallest takes at most where it is trained before that one."""
UNCHOSEN = 4
"""How many spanning networks are trained where none is chosen by what it takes."""
Seconds = Callable[[int], float]
"""Of a network's training, by epochs."""


def starting_networks(
    settings: SearchSettings, tasks: Mapping[str, TaskData]
) -> tuple[list[GraphSpec], list[str], Limits, dict[str, Callable[[GraphSpec], float]]]:
    """Returns the networks that a search starts with, why others are dropped, its limits, and its measures of an architecture by key.

    Raises:
        SearchError: if none meets the limits.
        DataError: if the tasks' samples differ in shape.
        ConfigurationError: if the space gives networks of other outputs than it is asked for.
    """
    sample_shape, outputs = common_sample_shape(tasks), max(data.outputs for data in tasks.values())
    limits = settings.limits.within(Limits.parse(settings.space.limits(sample_shape)))
    measures: dict[str, Callable[[GraphSpec], float]] = {o.key: o.checked for o in settings.objectives if isinstance(o, SpecObjective)}
    limits = Limits({key: span for key, span in limits.ranges.items() if key in measures})
    starts, dropped = legal_starts(settings.space.initial(sample_shape, outputs), measures, limits)
    for spec in starts:
        if spec.output_shape[0] != outputs:
            raise ConfigurationError(
                f"{type(settings.space).__name__}.initial gave a network of {spec.output_shape[0]} outputs instead of {outputs}: make it "
                f"with the num_outputs that it gets, or give the data module another num_outputs"
            )
    return list({spec.structural_hash: spec for spec in starts}.values()), dropped, limits, measures


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
        raise SearchError(
            f"no starting network meets the limits: {'; '.join(dropped)}. Widen the limits, or give a space of other starting networks: "
            f"ConvNetSpace(starts='strided'), for instance, has smaller ones"
        )
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


def warn_of_bounds(bounds: Mapping[str, tuple[float, float]], starts: Sequence[Mapping[str, float]]) -> None:
    """Warns of objectives whose worst value no starting network is better than: a search for hypervolume is blind there.

    Args:
        bounds: the hypervolume's, by key.
        starts: values of each starting network by key.
    """
    for key, (_, worst) in bounds.items():
        if (least := min(values[key] for values in starts)) >= worst:
            warnings.warn(
                f"no starting network is better in {key} than {worst:.4g} ({least:.4g} at best), from which on nothing is gained in the "
                f"hypervolume: train longer, or give its Metric a `worst` beyond that",
                stacklevel=2,
            )


def beginning(settings: SearchSettings, evaluator: Evaluator, specs: Sequence[GraphSpec]) -> tuple[list[GraphSpec], int]:
    """Returns the starting networks to train, and for how many epochs: fewer of both where these take too long for the time given.

    Source: ours.

    Args:
        settings: of the search.
        evaluator: with its data set up.
        specs: the starting networks.
    """
    places = None if settings.max_seconds is None else places_of(settings.executor, settings.trainer_arguments, torch.get_num_threads())
    if places is None or not are_chosen(settings, places):
        return unchosen(settings, specs), settings.training.initial_epochs

    def measured(spec: GraphSpec) -> Seconds:
        paces = [pace_of(evaluator, task, spec, places) for task in evaluator.tasks]
        return lambda epochs: sum(pace.seconds(epochs, 1) for pace in paces)

    return choose_starts(settings, specs, measured, places.slots)


def are_chosen(settings: SearchSettings, places: Places) -> bool:
    """Returns whether a search chooses among the starting networks by what they take: not where that can't be measured."""
    return settings.max_seconds is not None and places.processes == 1 and places.at_hand


def _span(settings: SearchSettings) -> bool:
    """Returns whether the starting networks span a range of sizes, so that some may be left out; a user's own space has what it has."""
    return getattr(settings.space, "starts", None) == "spanning"


def unchosen(settings: SearchSettings, specs: Sequence[GraphSpec]) -> list[GraphSpec]:
    """Returns the starting networks of a search that doesn't choose among them: all, of spanning ones four from the least to the most."""
    if not _span(settings):
        return list(specs)
    ordered = sorted(specs, key=work)
    return [ordered[place] for place in sorted({round(place) for place in np.linspace(0, len(ordered) - 1, UNCHOSEN)})]


def choose_starts(
    settings: SearchSettings, specs: Sequence[GraphSpec], measured: Callable[[GraphSpec], Seconds], slots: int
) -> tuple[list[GraphSpec], int]:
    """Returns the starting networks that fit into their share of the time, and their epochs.

    Of spanning networks only the smallest, one in the middle, and those are measured that may fit by what is told from these. What was
    found not to be trainable is among the networks returned: it fails again when it is trained, and that is recorded. Where all are found
    so, it is as where none is chosen.

    Args:
        settings: of the search, which a time bounds.
        specs: the starting networks.
        measured: measures one, which takes seconds itself.
        slots: evaluations at a time.
    """
    paces, failed = dict[GraphSpec, Seconds](), set[GraphSpec]()

    def measure(spec: GraphSpec) -> bool:
        if spec in paces or spec in failed:
            return False
        try:
            paces[spec] = measured(spec)
        except SearchError:
            failed.add(spec)
        return True

    ordered = sorted(specs, key=work)
    specs, wanted = (ordered, 2) if _span(settings) else (specs, len(ordered))
    for spec in [ordered[0], ordered[len(ordered) // 2], *ordered]:
        if len(paces) < wanted:
            measure(spec)
    if not paces:
        return unchosen(settings, specs), settings.training.initial_epochs
    while True:
        known = [spec for spec in specs if spec not in failed]
        chosen, epochs = that_fit(settings, known, partial(_predicted, paces), slots)
        if not measure(max(chosen, key=work)):
            return [spec for spec in specs if spec in chosen or spec in failed], epochs


def _predicted(paces: Mapping[GraphSpec, Seconds], spec: GraphSpec, epochs: int) -> float:
    """Returns the seconds of a training, of a network not measured on lines between those that were, by their work, and on beyond."""
    if spec in paces:
        return paces[spec](epochs)
    known = sorted((work(other), seconds(epochs)) for other, seconds in paces.items())
    (least, quickest), (most, slowest) = known[0], known[-1]
    slope = max(0.0, slowest - quickest) / (most - least) if most > least else slowest / most  # small ones may hardly differ, but by luck
    inside = np.interp(work(spec), [done for done, _ in known], [spent for _, spent in known])
    return float(inside) + slope * max(0.0, work(spec) - most)


def that_fit(
    settings: SearchSettings, specs: Sequence[GraphSpec], seconds: Callable[[GraphSpec, int], float], slots: int
) -> tuple[list[GraphSpec], int]:
    """Returns the starting networks that fit into their share of the time, and their epochs, at least as many as a child has.

    Of networks that span a range of sizes these are the largest of whose time the smallest takes a third at most and with which it fits,
    and the smallest, so that there is a front soon. Where there is none, it is the largest that fits: what is smaller is shrunk from it in
    less time than it takes from scratch. Others come to these that can be trained beside them without taking longer. Where none fits, it is
    the smallest, for fewer epochs. They are in the order of their sizes.

    Args:
        settings: of the search, which a time bounds.
        specs: the starting networks.
        seconds: that the training of one takes, by epochs.
        slots: evaluations at a time.
    """
    usual, least = settings.training.initial_epochs, min(settings.training.initial_epochs, settings.training.epochs)
    room = START_SHARE * (inf if settings.max_seconds is None else settings.max_seconds)
    each = room if settings.max_child_seconds is None else min(room, settings.max_child_seconds)

    def span(chosen: Collection[GraphSpec], epochs: int) -> float:
        """Seconds of their trainings, several at a time."""
        each = [seconds(spec, epochs) for spec in chosen]
        return max(*each, sum(each) / min(slots, len(each)))

    if _span(settings):
        specs = sorted(specs, key=work)  # not by seconds, in which small networks may hardly differ
        fitting = [spec for spec in specs if seconds(spec, usual) <= each]
        after = [spec for spec in fitting if seconds(specs[0], usual) <= FIRST_SHARE * seconds(spec, usual)]
        both = [[spec, specs[0]] for spec in after if span([spec, specs[0]], usual) <= room]
        chosen = both[-1] if both else fitting[-1:] or specs[:1]
        for spec in reversed(fitting):
            if spec not in chosen and span([*chosen, spec], usual) <= span(chosen, usual):
                chosen.append(spec)
        specs = [spec for spec in specs if spec in chosen]
    return list(specs), next((epochs for epochs in range(usual, least, -1) if span(specs, epochs) <= room), least)


def pace_of(evaluator: Evaluator, task: str, spec: GraphSpec, places: Places) -> Pace:
    """Returns the measured pace of a network, as it is trained in those places.

    Raises:
        SearchError: if it can't be trained.
    """
    where = {"accelerator": places.here, "devices": places.measured_devices}
    return measure(evaluator, task, spec, where, places.processes)
