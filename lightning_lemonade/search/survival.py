"""Strategies of survival: which candidates form the next population."""

from collections.abc import Sequence
from typing import Protocol

import moocore
import numpy as np

from lightning_lemonade.search.candidate import Member
from lightning_lemonade.search.dominance import Bounds, Points, non_dominated, normalised


class Survival(Protocol):
    """Chooses the next population."""

    def select(self, candidates: Sequence[Member], keys: Sequence[str]) -> list[Member]:
        """Returns those that survive, in the order given."""


class NonDominatedSurvival:
    """The paper's rule: the population is the set of non-dominated candidates, without a bound (Algorithm 1)."""

    def select(self, candidates: Sequence[Member], keys: Sequence[str]) -> list[Member]:
        """See `Survival.select`. Of candidates with equal values the earlier one stays."""
        keep = non_dominated(_points(candidates, keys))
        return [member for member, kept in zip(candidates, keep, strict=True) if kept]


class ContributionSurvival:
    """Non-dominated candidates, but no more than a number: one after the other goes that adds least hypervolume to the others.

    The rule of SMS-EMOA (Beume, Naujoks and Emmerich, 2007) on the first rank alone. With many objectives half of all children aren't
    dominated, most of them near-duplicates.

    Args:
        size: of the population, at most.
        bounds: the hypervolume's.
    """

    def __init__(self, size: int, bounds: Bounds) -> None:
        self.size, self.bounds = size, bounds

    def select(self, candidates: Sequence[Member], keys: Sequence[str]) -> list[Member]:
        """See `Survival.select`. Of candidates that add equally little, nothing outside the bounds, the latest one goes."""
        kept = NonDominatedSurvival().select(candidates, keys)
        points = normalised(_points(kept, keys), keys, self.bounds)
        while len(kept) > self.size:
            added = moocore.hv_contributions(points, ref=np.ones(len(keys)))
            least = int(np.flatnonzero(added == added.min())[-1])
            points = np.delete(points, least, axis=0)
            del kept[least]
        return kept


def _points(candidates: Sequence[Member], keys: Sequence[str]) -> Points:
    points = np.array([[member.values[key] for key in keys] for member in candidates], dtype=np.float64)
    return points.reshape(-1, len(keys))
