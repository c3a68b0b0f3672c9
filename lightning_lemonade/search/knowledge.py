"""What a strategy of choice may know."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_lemonade.search.candidate import Child, Member, Outline, Proposal
from lightning_lemonade.search.dominance import Bounds


@dataclass(frozen=True)
class Knowledge:
    """What a strategy of choice may know.

    Attributes:
        population: the members.
        families: (parent, child) of every child that was evaluated.
        cheap: keys of the spec objectives.
        keys: of all objectives.
        bounds: the hypervolume's.
        epochs: that a child will train, all tasks together.
        tasks: how many.
        measured: (terms of its cost, seconds of an epoch) of everything that was trained; empty where times may decide nothing.
        inherits: whether children inherit their parent's weights.
        overhead: seconds that a child takes beside its training.
        look: seconds for a child that is left as it began.
        underway: children accepted whose values aren't known yet.
        begun_as: key of the trained objective that children are measured in before they are trained; None where there are several.
    """

    population: Sequence[Member]
    families: Sequence[tuple[Outline, Outline]]
    cheap: Sequence[str]
    keys: Sequence[str]
    bounds: Bounds
    epochs: int
    tasks: int = 1
    measured: Sequence[tuple[tuple[float, float, float], float]] = ()
    inherits: bool = True
    overhead: float = 0.0
    look: float = 0.0
    underway: Sequence[Child] = ()
    begun_as: str | None = None

    def is_exact(self, proposal: Proposal) -> bool:
        """Returns whether a proposal begins as what its parent computes."""
        return self.inherits and proposal.exact

    def epochs_of(self, proposal: Proposal) -> int:
        """Returns how many epochs a proposal will be trained, all tasks together."""
        return self.epochs if proposal.epochs is None else proposal.epochs * self.tasks
