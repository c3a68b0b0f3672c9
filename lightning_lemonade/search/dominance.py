"""Pareto dominance and hypervolume. All objectives are minimised."""

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from lightning_lemonade.errors import ObjectiveError

Points = NDArray[np.float64]
Bounds = Mapping[str, tuple[float, float]]


def non_dominated(points: Points) -> NDArray[np.bool_]:
    """Returns which points no other point dominates (paper, section 2); of equal points the first one counts.

    Args:
        points: (n, objectives); n may be 0.

    Returns:
        (n,) booleans.

    Raises:
        ObjectiveError: if a value is not a finite number.
    """
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    if not np.isfinite(points).all():
        raise ObjectiveError("an objective's value is not a finite number: it can't be compared")
    return np.asarray(moocore.is_nondominated(points, keep_weakly=False), dtype=bool)


def normalised(points: Points, keys: Sequence[str], bounds: Bounds) -> Points:
    """Scales objectives into [0, 1] for the hypervolume: as they are where the bounds begin at 0 or less, else by logarithms. Source: ours.

    Args:
        points: (n, objectives).
        keys: the objectives' keys.
        bounds: (low, high) by key, in the objective's unit.

    Returns:
        (n, objectives), clipped to [0, 1]; 1 is the reference point.

    Raises:
        ObjectiveError: if a value isn't finite, or bounds leave no room between them.
    """
    scaled = np.empty_like(points, dtype=np.float64)
    for column, key in enumerate(keys):
        low, high = bounds[key]
        if not low < high or not np.isfinite(points[:, column]).all():
            raise ObjectiveError(
                f"objective {key} can't enter the hypervolume: its bounds are {low} and {high}, its values {points[:, column]}"
            )
        values = points[:, column]
        if low > 0:
            low, high, values = np.log10(low), np.log10(high), np.log10(np.maximum(values, 1e-12))
        scaled[:, column] = (values - low) / (high - low)
    return np.clip(scaled, 0.0, 1.0)


def hypervolume(points: Points, keys: Sequence[str], bounds: Bounds) -> float:
    """Returns the dominated share of the box that the bounds span, in [0, 1].

    Args:
        points: (n, objectives); n may be 0.
        keys: the objectives' keys.
        bounds: see `normalised`.
    """
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(normalised(points, keys, bounds), ref=np.ones(len(keys))))
