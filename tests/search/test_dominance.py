from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_lemonade.errors import ObjectiveError
from lightning_lemonade.search import hypervolume, non_dominated

KEYS = ("error", "params")
BOUNDS = {"error": (0.0, 0.9), "params": (1e2, 1e6)}


@given(arrays(np.float64, st.tuples(st.integers(0, 20), st.just(3)), elements=st.integers(0, 4).map(float)))
def test_non_dominated_equals_the_definition(points):
    expected = []
    for i, point in enumerate(points):
        better = any((other <= point).all() and (other < point).any() for other in points)
        double = any((other == point).all() for other in points[:i])
        expected.append(not better and not double)
    assert non_dominated(points).tolist() == expected


def test_a_value_that_is_no_number_is_an_error():
    with pytest.raises(ObjectiveError, match="finite"):
        non_dominated(np.array([[1.0, np.nan]]))


def test_hypervolume_of_known_fronts():
    assert hypervolume(np.empty((0, 2)), KEYS, BOUNDS) == 0.0
    assert hypervolume(np.array([[0.0, 1e2]]), KEYS, BOUNDS) == pytest.approx(1.0)
    assert hypervolume(np.array([[0.45, 1e4]]), KEYS, BOUNDS) == pytest.approx(0.25)
    assert hypervolume(np.array([[0.0, 1e4], [0.45, 1e2]]), KEYS, BOUNDS) == pytest.approx(0.75)


@given(arrays(np.float64, (8, 2), elements=st.floats(0.01, 0.8)))
def test_hypervolume_never_falls_when_a_point_joins(points):
    points[:, 1] = 10 ** (2 + 4 * points[:, 1])
    volumes = [hypervolume(points[: n + 1], KEYS, BOUNDS) for n in range(len(points))]
    assert all(b >= a - 1e-12 for a, b in pairwise(volumes))
