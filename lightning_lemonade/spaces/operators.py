"""Which mutations a search draws, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import (
    AddSkip,
    ConcatSkip,
    InsertConvBlock,
    Mutation,
    PruneFilters,
    RemoveLayer,
    RemoveSkip,
    ToSeparable,
    Widen,
)


@dataclass(frozen=True)
class Operator:
    """A kind of mutation with the values that its arguments may take.

    Attributes:
        mutation: the class.
        choices: values by argument name; one of each is drawn.
    """

    mutation: type[Mutation]
    choices: Mapping[str, Sequence[object]] = field(default_factory=dict)


PAPER_OPERATORS = (
    Operator(InsertConvBlock),
    Operator(Widen, {"factor": (2.0,)}),
    Operator(AddSkip),
    Operator(ConcatSkip),
    Operator(RemoveLayer),
    Operator(RemoveSkip),
    Operator(PruneFilters, {"fraction": (0.5, 0.25)}),
    Operator(ToSeparable),
)
"""The paper's operators (section 3); pruning removes 1/2 or 1/4 of the filters."""
EXACT_OPERATORS = tuple(operator for operator in PAPER_OPERATORS if operator.mutation.exact)
"""Those that keep the function."""


def random_mutation(
    spec: GraphSpec,
    rng: np.random.Generator,
    operators: Sequence[Operator] = PAPER_OPERATORS,
) -> tuple[Mutation, GraphSpec] | None:
    """Draws an operator uniformly, a site uniformly, and its arguments; an operator that applies nowhere gives way to another.

    Args:
        spec: the graph to change.
        rng: the source of the draws.
        operators: to draw from.

    Returns:
        The mutation and the changed graph; None if no operator applies.
    """
    for i in rng.permutation(len(operators)):
        operator = operators[i]
        sites = operator.mutation.sites(spec)
        if not sites:
            continue
        site = sites[int(rng.integers(len(sites)))]
        arguments = {name: values[int(rng.integers(len(values)))] for name, values in operator.choices.items()}
        mutation = operator.mutation.at(site, **arguments)
        try:
            return mutation, mutation.rewrite(spec)
        except MutationError:  # for instance: more channels than a spec may have
            continue
    return None
