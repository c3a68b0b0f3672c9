import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_lemonade.search import ContributionSurvival, Member, NonDominatedSurvival, hypervolume
from lightning_lemonade.spaces import strided_net

KEYS = ("error", "params", "latency")
BOUNDS = {"error": (0.0, 1.0), "params": (1e2, 1e6), "latency": (1.0, 1e3)}
SPEC = strided_net((1, 8, 8), 10, 2)


def members(values):
    return [Member(i, SPEC, dict(zip(KEYS, row, strict=True))) for i, row in enumerate(values)]


def volume(population):
    return hypervolume(np.array([[m.values[key] for key in KEYS] for m in population]), KEYS, BOUNDS)


points = st.tuples(st.floats(0, 1), st.floats(1e2, 1e6), st.floats(1, 1e3))


@given(st.lists(points, min_size=1, max_size=12), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_the_one_that_goes_costs_least_hypervolume(values, size):
    front = NonDominatedSurvival().select(members(values), KEYS)
    kept = ContributionSurvival(size, BOUNDS).select(members(values), KEYS)
    assert len(kept) == min(size, len(front))
    assert [m.id for m in kept] == sorted({m.id for m in kept} & {m.id for m in front})
    for bound in range(len(front) - 1, size - 1, -1):  # one step after the other
        before = ContributionSurvival(bound + 1, BOUNDS).select(front, KEYS)
        after = ContributionSurvival(bound, BOUNDS).select(front, KEYS)
        assert volume(after) == pytest.approx(max(volume([m for m in before if m is not gone]) for gone in before), abs=1e-9)


def test_a_near_duplicate_goes_first():
    values = [(0.1, 1e5, 100), (0.2, 1e4, 50), (0.2001, 0.999e4, 50), (0.4, 1e3, 10)]
    kept = ContributionSurvival(3, BOUNDS).select(members(values), KEYS)
    assert {0, 3} < {m.id for m in kept}
