"""Strategies of choice: which members become parents, and which proposals are accepted."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_lemonade.search.density import CheapDensity

Array = NDArray[np.float64]


class Sampling(Protocol):
    """How rare things are: the chooser's weights are inverse to it."""

    def fit(self, population: Array) -> "FittedSampling":
        """Returns the choice for a population (n, cheap objectives)."""


class FittedSampling(Protocol):
    """A choice fitted to a population."""

    def log_weights(self, points: Array) -> Array:
        """Returns unnormalised log weights of points (m, cheap objectives): (m,)."""


class DensitySampling:
    """The paper's choice: weights 1 / density of the cheap objectives, for parents and children alike (Algorithm 1)."""

    def fit(self, population: Array) -> FittedSampling:
        """See `Sampling.fit`."""
        return _InverseDensity(CheapDensity(population))


class _InverseDensity:
    def __init__(self, density: CheapDensity) -> None:
        self.density = density

    def log_weights(self, points: Array) -> Array:
        return -self.density.log_density(points)


class UniformSampling:
    """Equal weights for all: the baseline."""

    def fit(self, population: Array) -> FittedSampling:
        """See `Sampling.fit`."""
        return self

    def log_weights(self, points: Array) -> Array:
        """Returns zeros: (m,)."""
        return np.zeros(len(points))


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
