"""Algorithm 1 of the paper (section 4), as ask and tell. Knows no training, no files and no clock."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from operator import itemgetter
from statistics import median
from typing import Protocol

import numpy as np

from lightning_lemonade.errors import ConfigurationError, SearchError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import Mutation
from lightning_lemonade.search.candidate import Child, Expected, Member, Outcome, Outline, Proposal
from lightning_lemonade.search.cost import terms
from lightning_lemonade.search.dominance import Bounds, hypervolume
from lightning_lemonade.search.gain import GainSampling
from lightning_lemonade.search.knowledge import Knowledge
from lightning_lemonade.search.limits import Limits
from lightning_lemonade.search.sampling import FittedSampling, Sampling, draw_one
from lightning_lemonade.search.survival import Survival

SpecObjectives = Mapping[str, Callable[[GraphSpec], float]]
TRIES_PER_PROPOSAL = 20


class Space(Protocol):
    """What a search needs of a search space."""

    def mutate(self, spec: GraphSpec, rng: np.random.Generator) -> tuple[tuple[Mutation, ...], GraphSpec] | None:
        """Returns mutations and the child they make, or None if nothing applied."""


@dataclass(frozen=True)
class Asked:
    """What one call of `Search.ask` gave.

    Attributes:
        children: accepted for evaluation, with ids.
        proposed: how many legal proposals there were to choose from; one counts once, for however many lengths of training it was made.
    """

    children: tuple[Child, ...]
    proposed: int


@dataclass(frozen=True)
class Room:
    """Seconds that there are for children, where times are expected.

    Attributes:
        each: that one may take.
        together: that all may take, one after the other.
    """

    each: float = inf
    together: float = inf


NO_BOUND = Room()


class Search:
    """The state of a search: population, what is in flight, what was seen.

    Args:
        space: makes children.
        objectives: the spec objectives, which drive density and limits.
        keys: every objective's key, in order.
        limits: what a proposal must keep.
        sampling: how parents and children are chosen.
        survival: how the population is formed.
        proposals: n_pc, children proposed for each call of `ask`.
        bounds: the hypervolume's.
        epochs: that a child trains, all tasks together.
        tasks: how many.
        inherits: whether children inherit their parent's weights.
        timed: whether the choice may look at the seconds that trainings took; then no other run repeats it bit for bit.

    Attributes:
        population: the members.
        members: the population and the parents of what is in flight, by id.
        in_flight: children accepted and not told of yet, by id.
        lengths: how many times as long as usual a child may be trained. Others than once only where times are known, since otherwise a
            search is bounded by its number of children, and nothing by what they take; nor without inheritance, where all are equal.
        started: how many starting networks were accepted.
    """

    def __init__(
        self,
        *,
        space: Space,
        objectives: SpecObjectives,
        keys: Sequence[str],
        limits: Limits,
        sampling: Sampling,
        survival: Survival,
        proposals: int,
        bounds: Bounds,
        epochs: int,
        tasks: int = 1,
        inherits: bool = True,
        timed: bool = False,
    ) -> None:
        self.space, self.objectives, self.keys, self.limits = space, objectives, tuple(keys), limits
        self.sampling, self.survival, self.proposals, self.bounds = sampling, survival, proposals, bounds
        self.epochs, self.tasks, self.inherits, self.timed = epochs, tasks, inherits, timed
        self.lengths = lengths_of(sampling) if timed and inherits else (1,)
        self.population: list[Member] = []
        self.members: dict[int, Member] = {}
        self.in_flight: dict[int, Child] = {}
        self.started = 0
        self._seen: set[str] = set()
        self._next_id = 0
        self._families: list[tuple[Outline, Outline]] = []
        self._measured: list[tuple[tuple[float, float, float], float]] = []
        self._overheads: list[float] = []
        self._looks: list[float] = []
        self._trained_on: set[tuple[int, int | None]] = set()

    def start(self, specs: Iterable[GraphSpec], epochs: int | None = None) -> Asked:
        """Accepts the starting population.

        Args:
            specs: the starting networks; the caller has dropped those outside the limits.
            epochs: that each is trained for each task; None for as many as the settings say.
        """
        proposals = [Proposal(spec, 0, None, (), self._values(spec), epochs=epochs) for spec in specs]
        distinct = list({proposal.spec.structural_hash: proposal for proposal in proposals}.values())
        return Asked(tuple(self._accept(proposal) for proposal in distinct), len(distinct))

    def ask(self, rng: np.random.Generator, count: int, generation: int, *, proposals: int | None = None, room: Room = NO_BOUND) -> Asked:
        """Proposes children of the population and accepts some of them: the first half of a generation.

        Where times are known, each is proposed for every length of training that the strategy of choice asks for, and accepted for one.

        Args:
            rng: the source of every draw.
            count: n_ac, children wanted; fewer where not enough legal ones are found.
            generation: its number, from 1.
            proposals: n_pc of this call, in place of the search's; an asynchronous search asks for fewer children at a time.
            room: seconds that the children may take; where times are expected, cheaper and fewer are accepted, but at least one.

        Raises:
            SearchError: if the population is empty.
        """
        if not self.population:
            raise SearchError("the population is empty: no starting network was evaluated")
        choice = self.sampling.fit(self._knowledge())
        weights = choice.parents()
        wanted = self.proposals if proposals is None else proposals
        found: dict[str, Proposal] = {}
        for _ in range(wanted * TRIES_PER_PROPOSAL):
            if len(found) == wanted:
                break
            parent = self.population[draw_one(weights, rng)]
            child = self._propose(parent, rng, generation)
            if child is not None:
                found.setdefault(child.spec.structural_hash, child)
        legal: list[Proposal] = []
        for length in self.lengths:
            epochs = None if length == 1 else length * self.epochs // self.tasks
            legal += [replace(proposal, epochs=epochs) for proposal in found.values()]
            legal += self._continued(generation, epochs) if self.sampling.continues else []
        return self._accepted(choice, legal, count, rng, room)

    def ask_to_polish(self, rng: np.random.Generator, count: int, generation: int, epochs: int, *, room: Room = NO_BOUND) -> Asked:
        """Proposes to train members of the population on, without a change, and longer than children are: the end of a search.

        Those are accepted that promise the largest gain in hypervolume for their work, whatever the search's sampling. A member is polished
        once; what comes of it is another member, which may be polished in turn. Source: ours.

        Args:
            rng: the source of every draw.
            count: how many are wanted; fewer where not so many are left.
            generation: its number.
            epochs: that each is trained for each task.
            room: see `ask`.
        """
        legal = self._continued(generation, epochs)
        return self._accepted(GainSampling().fit(self._knowledge()), legal, count, rng, room)

    def tell(self, outcomes: Iterable[Outcome]) -> bool:
        """Takes evaluated and failed children: the second half of a generation.

        Returns:
            Whether the population changed.
        """
        before = [member.id for member in self.population]
        candidates = list(self.population)
        for outcome in outcomes:
            child = self.in_flight.pop(outcome.id)
            if outcome.failure is None:
                values = {key: outcome.values[key].value for key in self.keys}
                parent = None if child.parent is None else self.members[child.parent]
                own = sum(result.epochs for result in outcome.tasks.values())
                epochs = own + (parent.epochs if parent and self.inherits else 0)
                member = self.members[child.id] = Member(child.id, child.spec, values, epochs)
                left = not own and child.expected.worst_start is not None  # it began too badly to be trained, and is no member
                if not left:
                    candidates.append(member)
                if self.timed and own and outcome.seconds.get("fit"):
                    self._measured.append((terms(child.spec), outcome.seconds["fit"] / own))
                    if parent:
                        self._overheads.append(sum(outcome.seconds.values()) - outcome.seconds["fit"])
                if self.timed and left:
                    self._looks.append(sum(outcome.seconds.values()))
                if parent:
                    start = next(iter(outcome.tasks.values())).start_error if len(outcome.tasks) == 1 else None
                    self._families.append((parent.outline, replace(member.outline, exact=self.inherits and child.exact, start=start)))
        self.population = self.survival.select(candidates, self.keys)
        needed = {member.id for member in self.population} | {child.parent for child in self.in_flight.values()}
        self.members = {number: member for number, member in self.members.items() if number in needed}
        return before != [member.id for member in self.population]

    def adopt(self, children: Iterable[Child]) -> None:
        """Takes up children that were accepted before, when a search is resumed: in the order of their ids, then `tell` of them.

        Raises:
            SearchError: if an id isn't the next one, or a parent was never evaluated.
        """
        for child in children:
            if child.id != self._next_id or not (child.parent is None or child.parent in self.members):
                raise SearchError(f"candidate {child.id} can't follow {self._next_id - 1} with the parent {child.parent}")
            self._take(child)

    @property
    def accepted(self) -> int:
        """How many children were accepted so far, the starting networks among them: the next one's id."""
        return self._next_id

    @property
    def hypervolume(self) -> float:
        """The population's hypervolume, in [0, 1]."""
        points = np.array([[member.values[key] for key in self.keys] for member in self.population], dtype=np.float64)
        return hypervolume(points.reshape(-1, len(self.keys)), self.keys, self.bounds)

    def _propose(self, parent: Member, rng: np.random.Generator, generation: int) -> Proposal | None:
        """Returns a legal, unseen child of a parent, or None."""
        mutated = self.space.mutate(parent.spec, rng)
        if mutated is None or mutated[1].structural_hash in self._seen:
            return None
        values = self._values(mutated[1])
        if self.limits.violation(values):
            return None
        return Proposal(mutated[1], generation, parent.id, mutated[0], values)

    def _knowledge(self) -> Knowledge:
        trained = [key for key in self.keys if key not in self.objectives]
        return Knowledge(
            population=self.population,
            families=self._families,
            cheap=tuple(self.objectives),
            keys=self.keys,
            bounds=self.bounds,
            epochs=self.epochs,
            tasks=self.tasks,
            measured=self._measured,
            inherits=self.inherits,
            overhead=median(self._overheads or [0.0]),
            look=median(self._looks or self._overheads or [0.0]),
            underway=tuple(self.in_flight.values()),
            begun_as=trained[0] if self.tasks == len(trained) == 1 else None,
        )

    def _continued(self, generation: int, epochs: int | None) -> list[Proposal]:
        """Returns proposals to train each member on, as it is, once for as many epochs, and not while it is."""
        if not self.inherits:
            return []
        underway = {child.parent for child in self.in_flight.values() if not child.mutations}
        members = [m for m in self.population if (m.id, epochs) not in self._trained_on and m.id not in underway]
        values = {m.id: {key: m.values[key] for key in self.objectives} for m in members}
        return [Proposal(m.spec, generation, m.id, (), values[m.id], epochs=epochs) for m in members]

    def _accepted(self, choice: FittedSampling, legal: Sequence[Proposal], count: int, rng: np.random.Generator, room: Room) -> Asked:
        """Accepts some of several proposals, as many as there is room for; the one that takes least where there is room for none."""
        if room != NO_BOUND and legal:
            seconds = [expected.seconds or 0.0 for expected in choice.expected(legal)]
            most = max(min(room.each, room.together), min(seconds))
            fit = [proposal for proposal, spent in zip(legal, seconds, strict=True) if spent <= most]
        else:
            fit = list(legal)
        wanted = list({fit[i].kinship: i for i in reversed(choice.accept(fit, count, rng))}.values())[::-1]  # each for one length
        chosen: list[tuple[int, Expected]] = []
        left = room.together
        for i, expected in zip(wanted, choice.expected([fit[i] for i in wanted]), strict=True):
            if not chosen or (expected.seconds or 0.0) <= left:
                chosen.append((i, replace(expected, worst_start=choice.worst_start(fit[i]))))
                left -= expected.seconds or 0.0
        return Asked(
            tuple(self._accept(fit[i], expected) for i, expected in sorted(chosen, key=itemgetter(0))),
            len({proposal.kinship for proposal in legal}),
        )

    def _accept(self, proposal: Proposal, expected: Expected | None = None) -> Child:
        child = Child(**vars(proposal), id=self._next_id, expected=expected or Expected())
        self._take(child)
        return child

    def _take(self, child: Child) -> None:
        self._next_id += 1
        self.started += child.parent is None
        self._seen.add(child.spec.structural_hash)
        if child.parent is not None and not child.mutations:
            self._trained_on.add((child.parent, child.epochs))
        self.in_flight[child.id] = child

    def _values(self, spec: GraphSpec) -> dict[str, float]:
        return {key: measure(spec) for key, measure in self.objectives.items()}


def lengths_of(sampling: Sampling) -> tuple[int, ...]:
    """Returns how many times as long as usual a strategy's children may be trained.

    Raises:
        ConfigurationError: if these aren't distinct whole numbers of at least 1.
    """
    lengths = tuple(sampling.lengths)
    if not lengths or len(set(lengths)) < len(lengths) or any(type(length) is not int or length < 1 for length in lengths):
        raise ConfigurationError(f"{type(sampling).__name__}.lengths must be distinct whole numbers of at least 1, got {lengths!r}")
    return lengths
