"""Choice by the expected gain in hypervolume for the work that it takes. Source: ours."""

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.search.candidate import Expected, Measurement, Member, Outline, Proposal
from lightning_lemonade.search.cost import CostModel
from lightning_lemonade.search.dominance import hypervolume
from lightning_lemonade.search.knowledge import Knowledge
from lightning_lemonade.search.sampling import DensitySampling

if TYPE_CHECKING:
    from sklearn.linear_model import BayesianRidge

Array = NDArray[np.float64]

FEWEST_FAMILIES = 16
"""Before there are so many of a kind, no features are looked at."""
LEAST_SCALE = 0.01
LARGEST_CHANGE = 0.3
"""What is worse than that has lost, however bad it is."""
PRIOR, PRIOR_OF_SHRINKING = 0.05, 0.1
"""The change of what approximates its parent before there are families to learn from, and more of it for each e-fold of parameters lost."""
PRIOR_OF_TRAINING = 0.1
"""The most that training on is expected to bring."""
PRIOR_SPREADS = {True: 0.03, False: 0.1}
"""Of what began as its parent, and of what approximates it."""
PRIOR_FAMILIES = 4
"""How many families the prior counts as."""
SCALES = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.05])
"""What the features vary by. Where they are scaled by what they have varied by so far, a new size is far beyond all that was seen."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()  # those of an expectation


class GainSampling:
    """Parents are drawn as the paper does; of the proposals those are accepted that promise the largest gain in hypervolume for their work.

    A child's value of a trained objective is predicted from its parent's and from all families so far (see `ChangeModel`). Several
    children are accepted one after the other, each as if those before had the values predicted for them. To train a member on without a
    change is a proposal like any other.
    """

    continues = True

    def fit(self, knowledge: Knowledge) -> "_Gain":
        """See `Sampling.fit`."""
        return _Gain(knowledge)


class _Gain:
    def __init__(self, knowledge: Knowledge) -> None:
        self.known = knowledge
        self.members = {member.id: member for member in knowledge.population}
        trained = [key for key in knowledge.keys if key not in knowledge.cheap]
        self.models = {key: ChangeModel(knowledge.families, key, knowledge.bounds[key]) for key in trained}
        self.costs = CostModel(knowledge.measured)

    def parents(self) -> Array:
        return DensitySampling().fit(self.known).parents()

    def accept(self, proposals: Sequence[Proposal], count: int, rng: np.random.Generator) -> list[int]:
        if not proposals:
            return []
        front = np.array([[member.values[key] for key in self.known.keys] for member in self.known.population], dtype=np.float64)
        outlooks = self._outlooks(proposals)
        costs = self._costs(proposals)
        left = list(range(len(proposals)))
        chosen: list[int] = []
        while left and len(chosen) < count:
            before = self._volume(front)
            gains = np.array([self._gain(front, before, outlooks[i]) / costs[i] for i in left])
            best = left.pop(int(rng.choice(np.flatnonzero(gains == np.max(gains)))))
            chosen.append(best)
            front = np.vstack([front, outlooks[best][len(_NODES) // 2]])
        return chosen

    def expected(self, proposal: Proposal) -> Expected:
        outlook = self._outlooks([proposal])[0]
        middle, first = outlook[len(_NODES) // 2], outlook[0]
        places = {key: i for i, key in enumerate(self.known.keys) if key in self.models}
        values = {key: Measurement(float(middle[i]), float((middle[i] - first[i]) / -_NODES[0])) for key, i in places.items()}
        return Expected(values, float(self._costs([proposal])[0]) if self.known.measured else None)

    def _costs(self, proposals: Sequence[Proposal]) -> Array:
        """Returns seconds of training, or what is proportional to them: (proposals,)."""
        epochs = np.array([self.known.epochs_of(proposal) for proposal in proposals])
        return np.asarray(self.costs.predict([proposal.spec for proposal in proposals]) * epochs)

    def _outlooks(self, proposals: Sequence[Proposal]) -> Array:
        """Returns points that each proposal may reach, at the nodes of the quadrature: (proposals, nodes, objectives)."""
        parents = [self.members[proposal.parent] for proposal in proposals]  # type: ignore[index]  # starting networks aren't chosen among
        specs, exact = [proposal.spec for proposal in proposals], [self.known.is_exact(proposal) for proposal in proposals]
        epochs = [self.known.epochs_of(proposal) for proposal in proposals]
        points = np.empty((len(proposals), len(_NODES), len(self.known.keys)))
        for column, key in enumerate(self.known.keys):
            if key in self.models:
                mean, spread = self.models[key].predict(parents, specs, exact, epochs)
                points[:, :, column] = mean[:, None] + spread[:, None] * _NODES
            else:
                points[:, :, column] = np.array([proposal.values[key] for proposal in proposals])[:, None]
        return points

    def _gain(self, front: Array, before: float, outlook: Array) -> float:
        gained = ~(front[:, None] <= outlook).all(2).any(0)  # what is dominated adds nothing, and needs no hypervolume
        points = zip(_WEIGHTS[gained], outlook[gained], strict=True)
        return float(sum(weight * (self._volume(np.vstack([front, point])) - before) for weight, point in points))

    def _volume(self, points: Array) -> float:
        return hypervolume(points, self.known.keys, self.known.bounds)


class ChangeModel:
    """Predicts how a trained objective changes from parent to child: Bayesian ridge regression over all families so far.

    What began as its parent and what approximates it are learnt apart: the latter vary far more, and one spread for both would make any
    training on look promising, however often it has brought nothing. The change is relative to the parent's value, or to a hundredth of
    what the bounds span where that is more: what is nearly perfect would make any change enormous. What it is predicted from: how
    parameters and multiply-adds change (with sign and without), the child's size, how long it, and it with its ancestors, will have been
    trained, and the square of their ratio, as what a further training brings falls.

    Args:
        families: (parent, child) of the children evaluated.
        key: the objective's.
        bounds: the objective's, of the hypervolume.
    """

    def __init__(self, families: Sequence[tuple[Outline, Outline]], key: str, bounds: tuple[float, float]) -> None:
        self.key = key
        self._least = LEAST_SCALE * (bounds[1] - bounds[0])
        self._models: dict[bool, BayesianRidge] = {}
        self._beliefs: dict[bool, tuple[float, float]] = {}
        for exact in (True, False):
            known = [family for family in families if family[1].exact == exact]
            features = np.array([_features(parent, child, child.epochs) for parent, child in known]).reshape(-1, len(SCALES))
            changes = np.array([(child.values[key] - parent.values[key]) / self._scale(parent) for parent, child in known])
            surprises = np.minimum(changes, LARGEST_CHANGE) - _prior(features, exact)
            if len(known) < FEWEST_FAMILIES:
                self._beliefs[exact] = _believed(surprises, PRIOR_SPREADS[exact])
            else:
                self._models[exact] = _regression(features, surprises)

    def predict(
        self, parents: Sequence[Member], specs: Sequence[GraphSpec], exact: Sequence[bool], epochs: Sequence[int]
    ) -> tuple[Array, Array]:
        """Returns means and spreads (standard deviations) of the children's values: (n,), (n,).

        Args:
            parents: of the children.
            specs: the children's.
            exact: whether each begins as what its parent computes.
            epochs: that each will train, all tasks together.
        """
        old, scale = np.array([m.values[self.key] for m in parents]), np.array([self._scale(m) for m in parents])
        features = np.array([_features(m.outline, spec, m.epochs + more) for m, spec, more in zip(parents, specs, epochs, strict=True)])
        changes, spreads = np.empty(len(old)), np.empty(len(old))
        for kind in set(exact):
            rows = np.array(exact) == kind
            if kind in self._models:
                surprise, spreads[rows] = self._models[kind].predict(features[rows] / SCALES, return_std=True)
            else:
                surprise, spreads[rows] = self._beliefs[kind]
            changes[rows] = _prior(features[rows], kind) + surprise
        return old + changes * scale, spreads * scale

    def _scale(self, member: Member | Outline) -> float:
        return max(abs(member.values[self.key]), self._least)


def _features(parent: Outline, child: Outline | GraphSpec, epochs: int) -> list[float]:
    params = log(max(1, child.parameter_count) / max(1, parent.parameter_count))
    macs = log(max(1, child.macs) / max(1, parent.macs))
    own = max(1, epochs - parent.epochs if epochs > parent.epochs else epochs)
    return [params, abs(params), macs, abs(macs), log(own), log(max(1, child.parameter_count)), (own / max(1, epochs)) ** 2]


def _believed(surprises: Array, spread: float) -> tuple[float, float]:
    """Returns mean and spread of surprises, of which those of the prior are some."""
    mean = surprises.sum() / (len(surprises) + PRIOR_FAMILIES)
    squares = ((surprises - mean) ** 2).sum() + PRIOR_FAMILIES * (mean**2 + spread**2)
    return float(mean), float(np.sqrt(squares / (len(surprises) + PRIOR_FAMILIES)))


def _regression(features: Array, surprises: Array) -> "BayesianRidge":
    from sklearn.linear_model import BayesianRidge  # noqa: PLC0415 (as in density.py)

    return BayesianRidge().fit(features / SCALES, surprises)


def _prior(features: Array, exact: bool) -> Array:
    """Returns the changes that are expected before there are families to learn from: (n,)."""
    if exact:
        return -np.minimum(features[:, -1], PRIOR_OF_TRAINING)
    return PRIOR + PRIOR_OF_SHRINKING * np.maximum(0.0, -features[:, 0])
