"""Choice by the expected gain in hypervolume for the work that it takes. Source: ours."""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.search.candidate import Expected, Measurement, Member, Outline, Proposal
from lightning_lemonade.search.cost import CostModel
from lightning_lemonade.search.dominance import hypervolume
from lightning_lemonade.search.knowledge import Knowledge
from lightning_lemonade.search.sampling import DensitySampling

Array = NDArray[np.float64]

LEAST = 0.01
"""Of what the bounds span, added before logarithms are taken: what is nearly perfect would make any change enormous."""
USUAL = log(0.1)
"""The logarithm that the parent's is compared with, so that the prior's constant is for such a one."""
PRIOR = {True: np.array([0.02, 0, -0.04, 0, -0.04, 0, -0.3]), False: np.array([0.03, -0.035, 0, -0.07, 0, 0, -0.3])}
"""Weights of the features (see `_features`) before there are families to learn from: of what begins as its parent, and of what doesn't."""
PRIOR_SPREADS = {True: 0.02, False: 0.04}
"""What is left unexplained then."""
FREEDOM = {True: np.array([1, 1, 1, 1, 1, 1, 10]), False: np.array([1, 1, 1, 1, 1, 1, 3])}
"""How far each weight may be from its prior, in units of what is left unexplained."""
STARTED = (np.array([0.02, -0.02, 0, -0.05, 0, 0, -0.3, 0.1]), np.array([1, 1, 1, 1, 1, 1, 3, 3]), 0.02)
"""The same three for an approximation whose value before its training is known; the last feature is how far that is from its parent's, the
gap, and what is left unexplained is of one that begins as its parent."""
GAP = 0.1
"""The gap, as a difference of logarithms, at which the variance of what is left unexplained is twice that."""
PRIOR_FAMILIES = 4
"""How many families the prior's spread counts as."""
TAILS = 4
"""Degrees of freedom of the distribution of what is left unexplained: the fewer, the less is told by what diverged."""
NORMAL = 0.692
"""The square of such a distribution's scale that fits normal residuals of variance one best."""
ROUNDS, CLOSE = 200, 1e-4
"""Rounds of the fit at most, and the relative change of the variance at which it ends."""
GROWN = 6
"""Epochs of a task in which a child gets half of what more parameters and multiply-adds may bring: what is new begins untrained.

Measured with children of three epochs. Where they usually have fewer, it is twice as many as these: what an epoch is worth depends on its
length, and a space in which nothing could grow would teach nothing.
"""
HALVINGS = 12
"""How often the range of a child's worst start is halved."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()  # those of an expectation
_MIDDLE = len(_NODES) // 2
_Family = tuple[Outline, Outline, int]
"""Parent, child, and epochs of the child's own training."""


class GainSampling:
    """Parents are drawn as the paper does; of the proposals those are accepted that promise the largest gain in hypervolume for their work.

    A child's value of a trained objective is predicted from its parent's and from the children trained so far (see `ChangeModel`). Children
    are accepted one after the other, each as if those before, and those underway, were trained and had the values predicted for them. To
    train a member on without a change is a proposal like any other. Where a time bounds the search, so is to train a child three times as
    long: short trainings tell what is worth it, long ones make better what was trained well already. Where nothing promises any gain, the
    paper's density chooses. Where times are measured, a child that approximates its parent is trained only if it begins well
    enough (see `_Gain.worst_start`): its gain counts for the share of all such children that was trained, and is no more than what is
    expected of it if it begins as its parent.
    """

    continues = True
    lengths: tuple[int, ...] = (1, 3)

    def fit(self, knowledge: Knowledge) -> "_Gain":
        """See `Sampling.fit`."""
        return _Gain(knowledge)


class _Gain:
    def __init__(self, knowledge: Knowledge) -> None:
        self.known = knowledge
        self.members = {member.id: member for member in knowledge.population}
        self.density = DensitySampling().fit(knowledge)
        trained = [key for key in knowledge.keys if key not in knowledge.cheap]
        self.models = {
            key: ChangeModel(
                knowledge.families,
                key,
                knowledge.bounds[key],
                inherits=knowledge.inherits,
                started=key == knowledge.begun_as,
                grown=min(GROWN * knowledge.tasks, 2 * knowledge.epochs),
            )
            for key in trained
        }
        self.screened_by = knowledge.begun_as if knowledge.measured and knowledge.inherits else None
        self.trained_share = 1.0 if self.screened_by is None else self.models[self.screened_by].trained_share
        self.costs = CostModel(knowledge.measured)

    def parents(self) -> Array:
        return self.density.parents()

    def accept(self, proposals: Sequence[Proposal], count: int, rng: np.random.Generator) -> list[int]:
        if not proposals:
            return []
        front = self._front()
        outlooks, at_best, worths = self._outlooks(proposals), self._at_best(proposals), self._worths(proposals)
        left = list(range(len(proposals)))
        chosen: list[int] = []
        gains = np.full(len(proposals), np.inf)  # at most: a larger front leaves no more to gain
        while left and len(chosen) < count:
            before, most = self._volume(front), 0.0
            for i in sorted(left, key=lambda i: -gains[i]):
                if gains[i] < most:  # and so are all that follow
                    break
                gains[i] = self._promise(front, before, outlooks[i], at_best.get(i)) * worths[i]
                most = max(most, gains[i])
            if not most > 0:
                shortest = {proposals[i].kinship: i for i in sorted(left, key=lambda i: -(proposals[i].epochs or 0))}
                left = sorted(shortest.values())
                return chosen + [left[i] for i in self.density.accept([proposals[i] for i in left], count - len(chosen), rng)]
            best = int(rng.choice([i for i in left if gains[i] == most]))
            left = [i for i in left if proposals[i].kinship != proposals[best].kinship]
            chosen.append(best)
            front = np.vstack([front, outlooks[best][_MIDDLE]])
        return chosen

    def expected(self, proposals: Sequence[Proposal]) -> list[Expected]:
        if not proposals:
            return []
        outlooks = self._outlooks(proposals, measured=True)
        middles = outlooks[:, _MIDDLE]
        spreads = (outlooks[:, _MIDDLE + 1] - outlooks[:, _MIDDLE - 1]) / (_NODES[_MIDDLE + 1] - _NODES[_MIDDLE - 1])
        places = {key: i for i, key in enumerate(self.known.keys) if key in self.models}
        values = [
            {key: Measurement(float(middle[i]), float(spread[i])) for key, i in places.items()}
            for middle, spread in zip(middles, spreads, strict=True)
        ]
        seconds = [float(cost) for cost in self._costs(proposals)] if self.known.measured else [None] * len(proposals)
        return [Expected(*each) for each in zip(values, seconds, strict=True)]

    def worst_start(self, proposal: Proposal) -> float | None:
        """Returns the value before training beyond which a child's gain for the seconds left is less than what it was chosen for.

        None where it is trained however it begins: where it begins as its parent, promises nothing (and was chosen for density), or where
        even the worst start leaves as much to hope for, since the less is known of a child the worse it begins.

        There are many proposals of nearly the same promise, and how an approximation begins tells more of how it ends than all that is
        known before: so it pays to look, which takes less time than to train, and to turn to another where it begins badly.
        """
        key = self.screened_by
        if key is None or self.known.is_exact(proposal):
            return None
        front = self._front()
        before = self._volume(front)
        [outlook], [cost], [worth] = self._outlooks([proposal]), self._costs([proposal]), self._worths([proposal])
        promised = self._promise(front, before, outlook, self._at_best([proposal])[0])
        wanted = promised * worth * max(0.0, cost - self.known.look)

        def is_worth(start: float) -> bool:
            return bool(self._gain(front, before, self._outlooks([proposal], starts=[start])[0]) >= wanted)

        low, high = self.members[proposal.parent].values[key], self.known.bounds[key][1]  # type: ignore[index]  # it has a parent
        if not wanted > 0 or is_worth(high):
            return None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if is_worth(middle) else (low, middle)
        return low

    def _front(self) -> Array:
        """Returns the population's values, and those expected of what is underway: (members, objectives)."""
        underway = [{**child.values, **{key: value.value for key, value in child.expected.values.items()}} for child in self.known.underway]
        values = [*(member.values for member in self.known.population), *(row for row in underway if set(self.known.keys) <= set(row))]
        return np.array([[row[key] for key in self.known.keys] for row in values], dtype=np.float64)

    def _costs(self, proposals: Sequence[Proposal]) -> Array:
        """Returns seconds that each takes, or what is proportional to those of its training: (proposals,)."""
        epochs = np.array([self.known.epochs_of(proposal) for proposal in proposals])
        costs = self.costs.predict([proposal.spec for proposal in proposals]) * epochs
        return np.asarray(costs + self.known.overhead if self.known.measured else costs)

    def _worths(self, proposals: Sequence[Proposal]) -> Array:
        """Returns what a gain of each, once trained, counts for: the share of its like that is trained, over seconds; (proposals,)."""
        costs, share = self._costs(proposals), np.ones(len(proposals))
        share[[not self.known.is_exact(proposal) for proposal in proposals]] = self.trained_share
        return np.asarray(share / (share * costs + (1 - share) * self.known.look))

    def _outlooks(self, proposals: Sequence[Proposal], *, starts: Sequence[float] | None = None, measured: bool = False) -> Array:
        """Returns points that each proposal may reach, or where it may be measured, at the nodes of the quadrature.

        Their shape is (proposals, nodes, objectives). Where it is known how approximations begin, `starts` are these values.
        """
        parents = [self.members[proposal.parent] for proposal in proposals]  # type: ignore[index]  # starting networks aren't chosen among
        specs, exact = [proposal.spec for proposal in proposals], [self.known.is_exact(proposal) for proposal in proposals]
        epochs = [self.known.epochs_of(proposal) for proposal in proposals]
        points = np.empty((len(proposals), len(_NODES), len(self.known.keys)))
        for column, key in enumerate(self.known.keys):
            if key in self.models:
                begun = starts if key == self.screened_by else None
                points[:, :, column] = self.models[key].predict(parents, specs, exact, epochs, _NODES, begun, measured=measured)
            else:
                points[:, :, column] = np.array([proposal.values[key] for proposal in proposals])[:, None]
        return points

    def _at_best(self, proposals: Sequence[Proposal]) -> dict[int, Array]:
        """Returns the points that each may reach that is looked at, if it begins as its parent: (nodes, objectives), by its place."""
        key = self.screened_by
        seen = [] if key is None else [i for i, proposal in enumerate(proposals) if not self.known.is_exact(proposal)]
        if not seen:
            return {}
        starts = [self.members[proposals[i].parent].values[key] for i in seen]  # type: ignore[index]  # it has a parent
        return dict(zip(seen, self._outlooks([proposals[i] for i in seen], starts=starts), strict=True))

    def _promise(self, front: Array, before: float, outlook: Array, at_best: Array | None) -> float:
        """Returns the gain expected: of an approximation no more than of one that begins as its parent, of which more is known."""
        gain = self._gain(front, before, outlook)
        return gain if at_best is None or not gain else min(gain, self._gain(front, before, at_best))

    def _gain(self, front: Array, before: float, outlook: Array) -> float:
        gained = ~(front[:, None] <= outlook).all(2).any(0)  # what is dominated adds nothing, and needs no hypervolume
        points = zip(_WEIGHTS[gained], outlook[gained], strict=True)
        return float(sum(weight * (self._volume(np.vstack([front, point])) - before) for weight, point in points))

    def _volume(self, points: Array) -> float:
        return hypervolume(points, self.known.keys, self.known.bounds)


class ChangeModel:
    """Predicts how a trained objective changes from parent to child: Bayesian linear regression over the families whose child was trained.

    What changes is the logarithm of the value's distance from the best of its bounds: to lose a third of the parameters costs a network
    with 3 % error about the same share of its error as one with 30 %, and a small child of an excellent parent may have ten times its
    error. A child is no worse than the bounds' worst, or than its parent where that is worse still: how ruined it is tells nothing. What
    began as its parent and what approximates it are learnt apart: the latter vary far more, and one spread for both would make any training
    on look promising, however often it has brought nothing. For the same reason what is left unexplained of an approximation whose start is
    known varies the more the worse that is: most of those that begin nearly as their parent end so. Source of the regression: the
    normal-inverse-gamma conjugate prior (Murphy, Machine Learning, 2012, section 7.6.3), which also serves where there are few families or
    none, with Student's residuals (see `_Regression`): a few children that were ruined would make all others look as if they might become
    far better; of the rest: ours.

    Args:
        families: (parent, child) of the children evaluated.
        key: the objective's.
        bounds: the objective's, of the hypervolume.
        inherits: whether children inherit their parent's weights, and so its epochs.
        started: whether the value of a child before its training is known (`Outline.start`).
        grown: epochs, all tasks together, in which a child gets half of what it may gain by being larger than its parent.

    Attributes:
        trained_share: how much of the approximations was trained, and not left as they began; as if `PRIOR_FAMILIES` others had been.
    """

    def __init__(
        self,
        families: Sequence[tuple[Outline, Outline]],
        key: str,
        bounds: tuple[float, float],
        *,
        inherits: bool = True,
        started: bool = False,
        grown: int = GROWN,
    ) -> None:
        self.key, self.inherits, self.grown = key, inherits, grown
        self._low, self._span = bounds[0], bounds[1] - bounds[0]
        own = [child.epochs - parent.epochs * inherits for parent, child in families]
        trained = [(*family, spent) for family, spent in zip(families, own, strict=True) if spent]
        exact, approximate = ([each for each in trained if each[1].exact == kind] for kind in (True, False))
        begun = [each for each in approximate if started and each[1].start is not None]
        gaps = np.array([self._gap(*each[:2]) for each in begun])
        self._begun = self._fitted(begun, *STARTED, gaps)
        self.trained_share = (PRIOR_FAMILIES + len(approximate)) / (PRIOR_FAMILIES + len(approximate) + len(families) - len(trained))
        self._models = {
            kind: self._fitted(known, PRIOR[kind], FREEDOM[kind], PRIOR_SPREADS[kind])
            for kind, known in ((True, exact), (False, approximate))
        }

    def predict(
        self,
        parents: Sequence[Member],
        specs: Sequence[GraphSpec],
        exact: Sequence[bool],
        epochs: Sequence[int],
        nodes: Array,
        starts: Sequence[float] | None = None,
        *,
        measured: bool = False,
    ) -> Array:
        """Returns values that each child may have: (children, nodes).

        How those that begin as their parent vary around what is expected of them is mostly the luck of a finite validation split, and
        nothing is gained by choosing for it. So as much variance is left out, for the others, too. Where nothing is inherited, it
        is the prior's, since nothing begins as its parent.

        Args:
            parents: of the children.
            specs: the children's.
            exact: whether each begins as what its parent computes.
            epochs: that each will train, all tasks together.
            nodes: how many standard deviations above what is expected.
            starts: what each is before its training, where that is known; then none may be exact.
            measured: whether to tell what is measured of it, with luck, in place of what it is.
        """
        luck = 0.0 if measured else self._models[True].variance
        outlines = [member.outline for member in parents]
        features = np.array([self._features(*each) for each in zip(outlines, specs, epochs, strict=True)])
        levels = np.array([self._level(outline.values[self.key]) for outline in outlines])[:, None] + np.zeros(len(nodes))
        if starts is not None:
            gaps = np.array([[self._level(start)] for start in starts]) - levels[:, :1]
            change, spread = self._begun.predict(np.hstack([features, gaps]), luck, _scales(gaps[:, 0]))
            levels += change[:, None] + spread[:, None] * nodes
            return self._values(levels)
        for kind in set(exact):
            rows = np.array(exact) == kind
            change, spread = self._models[kind].predict(features[rows], luck)
            levels[rows] += change[:, None] + spread[:, None] * nodes
        return self._values(levels)

    def _values(self, levels: Array) -> Array:
        return np.asarray(self._low + self._span * np.maximum(0.0, np.exp(levels) - LEAST))

    def _fitted(self, families: Sequence[_Family], prior: Array, freedom: Array, spread: float, gaps: Array | None = None) -> "_Regression":
        known = np.empty((len(families), 0)) if gaps is None else gaps[:, None]
        features = np.array([self._features(*each) for each in families]).reshape(-1, len(prior) - known.shape[1])
        changes = np.array([self._change(*each[:2]) for each in families])
        scales = np.ones(len(families)) if gaps is None else _scales(gaps)
        return _Regression(np.hstack([features, known]), changes, prior, freedom, spread, scales)

    def _change(self, parent: Outline, child: Outline) -> float:
        return self._level(min(child.values[self.key], self._worst(parent))) - self._level(parent.values[self.key])

    def _gap(self, parent: Outline, child: Outline) -> float:
        """Returns how far a child is from its parent before its training, which is known, as a logarithm."""
        start = self._worst(parent) if child.start is None else min(child.start, self._worst(parent))
        return self._level(start) - self._level(parent.values[self.key])

    def _worst(self, parent: Outline) -> float:
        return max(self._low + self._span, parent.values[self.key])

    def _level(self, value: float) -> float:
        return log(max(0.0, (value - self._low) / self._span) + LEAST)

    def _features(self, parent: Outline, child: Outline | GraphSpec, own: int) -> list[float]:
        """Returns what a change is predicted from.

        One; parameters lost, gained, multiply-adds lost, gained (as logarithms; what is gained counts as far as it is trained); the level
        of the parent; and the square of the share that its own epochs have in all that it and its ancestors had, because further training
        brings less and less. Where nothing is inherited, no training is a further one, and all are equally long (`Search.lengths`).
        """
        params = log(max(1, child.parameter_count) / max(1, parent.parameter_count))
        macs = log(max(1, child.macs) / max(1, parent.macs))
        own = max(1, own)
        share, trained = (own / (own + parent.epochs), own / (own + self.grown)) if self.inherits else (0.0, 1.0)
        sizes = [min(params, 0), trained * max(params, 0), min(macs, 0), trained * max(macs, 0)]
        return [1.0, *sizes, self._level(parent.values[self.key]) - USUAL, share**2]


def _scales(gaps: Array) -> Array:
    """Returns variances of what is left unexplained, where that of no gap is one."""
    return 1 + np.maximum(0.0, gaps) / GAP


class _Regression:
    """Linear regression whose weights and spread have a prior, and whose residuals are Student's: the further out, the less they tell.

    Source: the EM algorithm of Lange, Little and Taylor (Robust statistical modeling using the t distribution, 1989); with a prior: ours.

    Args:
        features: (n, features).
        changes: what is predicted: (n,).
        prior: weights: (features,).
        freedom: how far each may be from its prior, in units of the spread: (features,).
        spread: the prior's.
        scales: variances of the residuals, in units of the spread's: (n,).

    Attributes:
        weights: of the features.
        variance: of what is left unexplained, as normal residuals of the same scale have it: those that diverged are hardly in it.
    """

    def __init__(self, features: Array, changes: Array, prior: Array, freedom: Array, spread: float, scales: Array) -> None:
        surprises = changes - features @ prior
        counts, self.variance = 1 / scales, np.inf
        for _ in range(ROUNDS):
            before = self.variance
            weighed = features.T * counts
            self._covariance = np.linalg.inv(np.diag(freedom**-2.0) + weighed @ features)  # in units of the spread
            moved = self._covariance @ weighed @ surprises
            left = surprises - features @ moved
            squares = PRIOR_FAMILIES * NORMAL * spread**2 + counts @ (surprises * left)
            self.variance = float(squares) / (PRIOR_FAMILIES + len(surprises)) / NORMAL
            if before <= (1 + CLOSE) * self.variance:
                break
            counts = (TAILS + 1) / (TAILS * scales + left**2 / (NORMAL * self.variance))
        self.weights = prior + moved

    def predict(self, features: Array, luck: float = 0.0, scales: Array | float = 1.0) -> tuple[Array, Array]:
        """Returns expected changes and their standard deviations, without a variance that is luck: (n,), (n,)."""
        uncertain = np.einsum("ij,jk,ik->i", features, self._covariance, features)
        return features @ self.weights, np.sqrt(self.variance * uncertain + np.maximum(0.0, self.variance * scales - luck))
