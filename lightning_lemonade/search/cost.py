"""What training costs: from the architecture alone, and by a model of what was measured so far. Source: ours."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from lightning_lemonade.graph import GraphSpec

Array = NDArray[np.float64]

MACS_PER_VALUE = 60
MACS_PER_STEP = 500_000
_PRIOR = np.array([1.0, MACS_PER_VALUE, MACS_PER_STEP])
TRUST = 1.0
"""How many measurements the proportions of `work` count as."""


def terms(spec: GraphSpec) -> tuple[float, float, float]:
    """Returns what the cost of training on one sample is made of: multiply-adds, values that nodes write, and one for the step itself."""
    return float(spec.macs), float(sum(prod(spec.shapes[node.id]) for node in spec.nodes if node.inputs)), 1.0


def work(spec: GraphSpec) -> float:
    """Returns what training on one sample costs, in multiply-adds of its forward pass.

    Beside the multiply-adds it counts each value that a node writes, since memory bounds batch norms and activations, and a sample's share
    of what a step costs for any network. Both weights were fitted to times of training steps on one core of a CPU, most of which it meets
    within 16 % (docs/tuning.md). It is computed rather than timed, so that a search can be repeated bit for bit.
    """
    return float(_PRIOR @ np.array(terms(spec)))


class CostModel:
    """Predicts the seconds of an epoch from multiply-adds, values and a constant: non-negative least squares of relative errors.

    It begins with the proportions of `work`, and moves away from them as much as measurements ask for: on a GPU small networks take equally
    long, whatever they compute.

    Args:
        measured: (terms, seconds of an epoch) of networks that were trained.
    """

    def __init__(self, measured: Sequence[tuple[tuple[float, float, float], float]]) -> None:
        from sklearn.linear_model import LinearRegression  # noqa: PLC0415 (as in density.py)

        parts = np.array([found for found, _ in measured], dtype=np.float64).reshape(-1, 3) * _PRIOR
        seconds = np.array([spent for _, spent in measured], dtype=np.float64)
        scale = float(np.median(seconds / parts.sum(1))) if len(measured) else 1.0
        rows = np.vstack([scale * parts / seconds[:, None], np.sqrt(TRUST) * np.eye(3)])
        wanted = np.concatenate([np.ones(len(measured)), np.full(3, np.sqrt(TRUST))])
        self._weights = scale * LinearRegression(fit_intercept=False, positive=True).fit(rows, wanted).coef_ * _PRIOR

    def predict(self, specs: Sequence[GraphSpec]) -> Array:
        """Returns seconds of an epoch, or multiply-adds of a sample where nothing was measured: (n,)."""
        return np.asarray(np.array([terms(spec) for spec in specs], dtype=np.float64).reshape(-1, 3) @ self._weights)
