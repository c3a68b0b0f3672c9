"""The density of the population over its cheap objectives (paper, section 4)."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.neighbors import KernelDensity

Array = NDArray[np.float64]


class CheapDensity:
    """A Gaussian kernel estimate over log-transformed, standardised cheap objectives.

    On raw parameter counts the estimate collapses onto the large networks, so it is made over logarithms (ours).
    The density is floored by that of the population's rarest member, and is uniform where fewer than three distinct
    members, or no cheap objective, are given.

    Args:
        population: (n, cheap objectives), all positive.
    """

    def __init__(self, population: Array) -> None:
        self._kde: KernelDensity | None = None
        logs = _logs(population)
        distinct = np.unique(logs, axis=0)
        if population.shape[1] == 0 or len(distinct) < 3:
            return
        self._mean, spread = logs.mean(0), logs.std(0)
        self._scale = np.where(spread > 1e-9, spread, 1.0)
        count, dims = logs.shape
        bandwidth = count ** (-1.0 / (dims + 4))  # Scott's rule on standardised data
        from sklearn import neighbors  # noqa: PLC0415 (seconds, which a process that never proposes saves)

        self._kde = neighbors.KernelDensity(bandwidth=bandwidth).fit((logs - self._mean) / self._scale)
        self._floor = self._score(logs).min()

    def log_density(self, points: Array) -> Array:
        """Returns the floored log density of points (m, cheap objectives): (m,); zeros where it is uniform."""
        if self._kde is None or len(points) == 0:
            return np.zeros(len(points))
        return np.asarray(np.maximum(self._score(_logs(points)), self._floor))

    def _score(self, logs: Array) -> Array:
        if self._kde is None:
            return np.zeros(len(logs))
        return np.asarray(self._kde.score_samples((logs - self._mean) / self._scale), dtype=np.float64)


def _logs(points: Array) -> Array:
    return np.log(np.maximum(points, 1e-12))
