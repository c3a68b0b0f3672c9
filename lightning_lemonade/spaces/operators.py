"""Which mutations a search draws, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from lightning_lemonade.errors import ConfigurationError, MutationError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import (
    KINDS,
    AddSkip,
    ConcatSkip,
    GrowKernel,
    InsertBottleneck,
    InsertConvBlock,
    InsertSeparableBlock,
    InsertSqueezeExcite,
    MergeLayers,
    Mutation,
    PruneFilters,
    RemoveLayer,
    RemoveSkip,
    ShrinkKernel,
    SplitConv,
    ToSeparable,
    Widen,
)


@dataclass(frozen=True)
class Operator:
    """A kind of mutation with the values that its arguments may take.

    Attributes:
        mutation: the class.
        choices: values by argument name; one of each is drawn.
        everywhere: whether all sites of a network change at once, instead of one that is drawn.
    """

    mutation: type[Mutation]
    choices: Mapping[str, Sequence[object]] = field(default_factory=dict)
    everywhere: bool = False

    def __post_init__(self) -> None:
        """Checks the arguments' names.

        Raises:
            ConfigurationError: if the mutation has no such argument, or there is nothing to draw from.
        """
        known = {argument.name for argument in fields(self.mutation)} - set(self.mutation.site_fields)
        for name, values in self.choices.items():
            if name not in known or not len(values):
                known_text = ", ".join(sorted(known)) or "none"
                raise ConfigurationError(
                    f"{name}={values!r} can't be drawn for {self.mutation.kind}: give values of its arguments, {known_text}"
                )

    def drawn(self, spec: GraphSpec, generator: "Generator") -> Mutation | None:
        """Returns a mutation at a site that is drawn, or at all of them; None if there is none."""
        sites = self.mutation.sites(spec)
        if not sites:
            return None
        if not self.everywhere:
            sites = [sites[_index(generator, len(sites))]]
        columns = dict(zip(self.mutation.site_fields, zip(*sites, strict=True), strict=True))
        return self.mutation(**columns, **{name: values[_index(generator, len(values))] for name, values in self.choices.items()})


_CHEAP = ("cheap",)  # in a search, hypervolume shows no difference from "best", which takes longer: docs/benchmarks.md
PAPER_OPERATORS = (
    Operator(InsertConvBlock),
    Operator(Widen, {"factor": (2.0,)}),
    Operator(AddSkip),
    Operator(ConcatSkip),
    Operator(RemoveLayer, {"mode": _CHEAP}),
    Operator(RemoveSkip, {"mode": _CHEAP}),
    Operator(PruneFilters, {"fraction": (0.5, 0.25), "mode": _CHEAP}),
    Operator(ToSeparable, {"mode": _CHEAP}),
)
"""The paper's operators (section 3); pruning removes 1/2 or 1/4 of the filters."""
EXACT_OPERATORS = tuple(operator for operator in PAPER_OPERATORS if operator.mutation.exact)
"""Those of the paper's that keep the function."""
SCALING_OPERATORS = (
    Operator(PruneFilters, {"fraction": (0.15, 0.3, 0.5, 0.65), "mode": _CHEAP}, everywhere=True),
    Operator(Widen, {"factor": (1.2, 1.4)}, everywhere=True),
)
"""Those that make all layers of a network narrower or wider at once: from an eighth to twice the parameters. Source: ours."""
ALL_OPERATORS = (
    *PAPER_OPERATORS,
    *SCALING_OPERATORS,
    Operator(InsertSeparableBlock, {"kernel_size": (3, 5)}),
    Operator(InsertBottleneck),
    Operator(InsertSqueezeExcite),
    Operator(GrowKernel),
    Operator(SplitConv),
    Operator(ShrinkKernel, {"mode": _CHEAP}),
    Operator(MergeLayers, {"mode": _CHEAP}),
)
"""The paper's operators and ours."""

Generator = np.random.Generator | torch.Generator
"""What draws can come from."""
Kind = Operator | type[Mutation] | str
"""What stands for an operator: itself, a class whose arguments keep their defaults, or such a class's name in JSON."""


def random_mutation(spec: GraphSpec, generator: Generator, kinds: Sequence[Kind] = PAPER_OPERATORS) -> tuple[Mutation, GraphSpec] | None:
    """Draws a kind uniformly, a site uniformly, and its arguments; a kind that applies nowhere gives way to another.

    Args:
        spec: the graph to change.
        generator: the source of the draws, numpy's or torch's.
        kinds: to draw from: operators, classes of mutations, or their names (`"widen"`).

    Returns:
        The mutation and the changed graph; None if no kind applies.

    Raises:
        ConfigurationError: if a kind is unknown, or `kinds` is no list.

    Examples:
        >>> from lightning_lemonade.spaces import conv_net
        >>> spec = conv_net((3, 32, 32), 10, width=8, separable=False)
        >>> mutation, child = random_mutation(spec, np.random.default_rng(0), kinds=["widen"])
        >>> print(mutation, spec.parameter_count, child.parameter_count, sep=" -> ")
        widen(n9, factor=2.0) -> 6418 -> 11410
    """
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise ConfigurationError(f"kinds must be a list, got {kinds!r}: give for instance ['widen']")
    operators = [_operator(kind) for kind in kinds]
    for i in _permutation(generator, len(operators)):
        mutation = operators[i].drawn(spec, generator)
        if mutation is None:
            continue
        try:
            return mutation, mutation.rewrite(spec)
        except MutationError:  # for instance: more channels than a spec may have
            continue
    return None


def _operator(kind: Kind) -> Operator:
    if isinstance(kind, Operator):
        return kind
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ConfigurationError(f"unknown kind of mutation {kind!r}; known: {', '.join(sorted(KINDS))}")
        return Operator(KINDS[kind])
    if isinstance(kind, type) and issubclass(kind, Mutation) and kind.kind:
        return Operator(kind)
    raise ConfigurationError(f"{kind!r} is no kind of mutation: give an Operator, a class of mutations, or its name")


def _permutation(generator: Generator, count: int) -> list[int]:
    if isinstance(generator, torch.Generator):
        return [int(i) for i in torch.randperm(count, generator=generator)]
    return [int(i) for i in generator.permutation(count)]


def _index(generator: Generator, count: int) -> int:
    if isinstance(generator, torch.Generator):
        return int(torch.randint(count, (), generator=generator))
    return int(generator.integers(count))
