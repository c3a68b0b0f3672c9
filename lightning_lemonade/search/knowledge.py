"""What a strategy of choice may know."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_lemonade.search.candidate import Member, Outline
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
        epochs: that a child will train.
    """

    population: Sequence[Member]
    families: Sequence[tuple[Outline, Outline]]
    cheap: Sequence[str]
    keys: Sequence[str]
    bounds: Bounds
    epochs: int
