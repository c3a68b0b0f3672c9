import numpy as np

from lightning_lemonade.search import CheapDensity, DensitySampling, Knowledge, Member, UniformSampling
from lightning_lemonade.search.sampling import draw_one, without_replacement
from lightning_lemonade.spaces import strided_net

CROWD = np.array([[1e4, 1e6]] * 1 + [[1e4 * f, 1e6 * f] for f in (0.9, 0.95, 1.05, 1.1, 1.15)] + [[1e6, 1e8]])
SPEC = strided_net((1, 8, 8), 10, 4)  # the strategies look at the values alone
KNOWN = Knowledge(
    [Member(i, SPEC, {"error": 0.5, "params": params, "macs": macs}) for i, (params, macs) in enumerate(CROWD)],
    [],
    ("params", "macs"),
    ("error", "params", "macs"),
    {},
    3,
)


def test_rare_members_have_the_lowest_density():
    density = CheapDensity(CROWD).log_density(CROWD)
    assert density.argmin() == len(CROWD) - 1


def test_the_floor_is_the_density_of_the_rarest_member():
    density = CheapDensity(CROWD)
    far = density.log_density(np.array([[1e12, 1e15]]))
    assert far[0] == density.log_density(CROWD).min()


def test_fewer_than_three_distinct_members_are_uniform():
    assert (CheapDensity(np.array([[1.0], [2.0], [2.0]])).log_density(np.array([[1.0], [9.0]])) == 0).all()


def test_a_constant_objective_is_no_obstacle():
    points = np.column_stack([np.full(6, 5.0), 10.0 ** np.arange(6)])
    assert np.isfinite(CheapDensity(points).log_density(points)).all()


def test_parents_are_drawn_with_probability_inverse_to_their_density():
    weights = DensitySampling().fit(KNOWN).parents()
    rng = np.random.default_rng(0)
    counts = np.bincount([draw_one(weights, rng) for _ in range(20_000)], minlength=len(CROWD))
    expected = np.exp(weights - weights.max())
    np.testing.assert_allclose(counts / 20_000, expected / expected.sum(), atol=0.015)


def test_children_are_distinct_and_as_many_as_there_are():
    rng = np.random.default_rng(0)
    assert sorted(without_replacement(np.zeros(5), 9, rng)) == [0, 1, 2, 3, 4]
    assert len(set(without_replacement(np.zeros(50), 9, rng))) == 9


def test_uniform_weights_are_equal():
    assert (UniformSampling().fit(KNOWN).parents() == 0).all()


def test_children_are_accepted_with_probability_inverse_to_their_density():
    choice, rng = DensitySampling().fit(KNOWN), np.random.default_rng(0)
    counts = np.bincount([choice.accept(KNOWN.population, 1, rng)[0] for _ in range(5_000)], minlength=len(CROWD))
    expected = np.exp(choice.parents() - choice.parents().max())
    np.testing.assert_allclose(counts / 5_000, expected / expected.sum(), atol=0.03)
    assert sorted(UniformSampling().fit(KNOWN).accept(KNOWN.population, 9, rng)) == list(range(len(CROWD)))
