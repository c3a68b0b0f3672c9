"""Strategies of choice: which members become parents, and which proposals are accepted."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_lemonade.search.candidate import Expected, Member, Proposal
from lightning_lemonade.search.density import CheapDensity
from lightning_lemonade.search.knowledge import Knowledge

Array = NDArray[np.float64]


class Sampling(Protocol):
    """How parents and children are chosen.

    Attributes:
        continues: whether training a member on, without a change, is among the proposals.
        lengths: how many times as long as usual a child may be trained; each proposal is made with each of them.
    """

    continues: bool
    lengths: tuple[int, ...]

    def fit(self, knowledge: Knowledge) -> "FittedSampling":
        """Returns the choice for what is known now."""


class FittedSampling(Protocol):
    """A choice fitted to what is known."""

    def parents(self) -> Array:
        """Returns unnormalised log weights of the population's members: (n,)."""

    def accept(self, proposals: Sequence[Proposal], count: int, rng: np.random.Generator) -> list[int]:
        """Returns which proposals are accepted: `count` of them, or all if there are fewer."""

    def expected(self, proposals: Sequence[Proposal]) -> list[Expected]:
        """Returns what proposals are expected to give."""

    def worst_start(self, proposal: Proposal) -> float | None:
        """Returns the value before training beyond which a proposal isn't worth being trained; None where it always is."""


class DensitySampling:
    """The paper's choice: weights 1 / density of the cheap objectives, for parents and children alike (Algorithm 1)."""

    continues = False
    lengths: tuple[int, ...] = (1,)

    def fit(self, knowledge: Knowledge) -> FittedSampling:
        """See `Sampling.fit`."""
        return _InverseDensity(knowledge)


class _InverseDensity:
    def __init__(self, knowledge: Knowledge) -> None:
        self.known = knowledge
        self.density = CheapDensity(self._cheap(knowledge.population))

    def parents(self) -> Array:
        return -self.density.log_density(self._cheap(self.known.population))

    def accept(self, proposals: Sequence[Proposal], count: int, rng: np.random.Generator) -> list[int]:
        return without_replacement(-self.density.log_density(self._cheap(proposals)), count, rng)

    def expected(self, proposals: Sequence[Proposal]) -> list[Expected]:
        return [Expected()] * len(proposals)

    def worst_start(self, proposal: Proposal) -> float | None:
        return None

    def _cheap(self, candidates: Sequence[Member | Proposal]) -> Array:
        rows = [[candidate.values[key] for key in self.known.cheap] for candidate in candidates]
        return np.array(rows, dtype=np.float64).reshape(len(candidates), len(self.known.cheap))


class UniformSampling:
    """Equal weights for all: the baseline."""

    continues = False
    lengths: tuple[int, ...] = (1,)

    def fit(self, knowledge: Knowledge) -> FittedSampling:
        """See `Sampling.fit`."""
        return _Uniform(len(knowledge.population))


class _Uniform:
    def __init__(self, members: int) -> None:
        self.members = members

    def parents(self) -> Array:
        return np.zeros(self.members)

    def accept(self, proposals: Sequence[Proposal], count: int, rng: np.random.Generator) -> list[int]:
        return without_replacement(np.zeros(len(proposals)), count, rng)

    def expected(self, proposals: Sequence[Proposal]) -> list[Expected]:
        return [Expected()] * len(proposals)

    def worst_start(self, proposal: Proposal) -> float | None:
        return None


def draw_one(log_weights: Array, rng: np.random.Generator) -> int:
    """Draws an index with probability proportional to exp(log_weights)."""
    return int(without_replacement(log_weights, 1, rng)[0])


def without_replacement(log_weights: Array, count: int, rng: np.random.Generator) -> list[int]:
    """Draws distinct indices, one after the other with probability proportional to exp(log_weights), by Gumbel top-k.

    Args:
        log_weights: (n,).
        count: how many; all of them if n is smaller.
        rng: the source of the draw.
    """
    keys = log_weights + rng.gumbel(size=len(log_weights))
    return [int(i) for i in np.argsort(-keys, kind="stable")[:count]]
