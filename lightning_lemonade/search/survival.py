"""Strategies of survival: which candidates form the next population."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lightning_lemonade.search.candidate import Member
from lightning_lemonade.search.dominance import non_dominated


class Survival(Protocol):
    """Chooses the next population."""

    def select(self, candidates: Sequence[Member], keys: Sequence[str]) -> list[Member]:
        """Returns those that survive, in the order given."""


class NonDominatedSurvival:
    """The paper's rule: the population is the set of non-dominated candidates, without a bound (Algorithm 1)."""

    def select(self, candidates: Sequence[Member], keys: Sequence[str]) -> list[Member]:
        """See `Survival.select`. Of candidates with equal values the earlier one stays."""
        points = np.array([[member.values[key] for key in keys] for member in candidates], dtype=np.float64)
        keep = non_dominated(points.reshape(len(candidates), len(keys)))
        return [member for member, kept in zip(candidates, keep, strict=True) if kept]
