"""The conformance kit of mutations: ours pass it, and so must a user's own."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.morphisms import KINDS, Mutation
from lightning_lemonade.morphisms.base import Site
from lightning_lemonade.testing.graphs import random_spec
from lightning_lemonade.testing.properties import (
    BATCH,
    BrokenMorphism,
    check_data,
    check_function,
    check_learning,
    check_precision,
    check_rewrite,
    check_training,
    check_transfer,
)
from lightning_lemonade.testing.states import calibrated, sample_batch, uneven_state, without_dropout
from lightning_lemonade.testing.strategies import HealthCheck, Phase, given, seeded, seeds, settings, st

TRIES = 12


def check_morphism(
    kind: type[Mutation],
    *,
    examples: int = 30,
    seed: int = 0,
    max_steps: int = 8,
    arguments: Mapping[str, Sequence[object]] | None = None,
    shrink: bool = True,
) -> None:
    """Runs a kind of mutation through the properties that every one must have, on random graphs.

    Checked are, by the names that a failure gives: `applies` (at the sites that `sites` lists, and nowhere else), `json`, `text`, `pure`,
    `valid`, `changes`, `shapes`, `ids` (kept by untouched nodes, and by every node if the change is exact), `parent` (neither its weights
    nor the calibration batch are ever changed), `randomness` (drawn from the given generator alone), `weights`, `untouched` (bit for bit
    the parent's), `exact` (if the class says so; eval mode, and train mode on the calibration batch), `trains`, `precision` (the
    parent's), `learns` (every new unit has a gradient by the second backward pass) and `runs` (nothing is raised that isn't meant).

    Args:
        kind: the class; registered under its `kind`.
        examples: how many graphs.
        seed: of all draws; the same seed gives the same graphs.
        max_steps: how large the graphs may get.
        arguments: values to draw from by argument name; the others keep their defaults. A value may be wrong at some sites.
        shrink: whether to look for a smaller example once one fails.

    Raises:
        BrokenMorphism: names the property, the mutation and the graph, both as JSON.
        AssertionError: if the kind isn't registered, or applies to none of the graphs.
    """
    _check_class(kind)
    tried = 0

    @seeded(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, max_steps), seeds())
    def check(steps: int, number: int) -> None:
        nonlocal tried
        drawn = _draw(kind, random.Random(number), steps, arguments or {})  # noqa: S311 (no secret)
        if drawn is not None:
            tried += 1
            try:
                check_one(*drawn, seed=number)
            except BrokenMorphism:
                raise
            except Exception as error:  # whatever a user's class raises: with the mutation and the graph that repeat it
                raise BrokenMorphism("runs", f"it raised {type(error).__name__}: {error}", *drawn) from error

    check()
    if not tried:
        raise AssertionError(f"{kind.__name__} applied to none of {examples} random graphs: {kind.__name__}.sites(spec) was always empty")


def _check_class(kind: type[Mutation]) -> None:
    """Raises AssertionError unless a class is what a kind of mutation must be, before any graph is looked at."""
    if KINDS.get(kind.kind) is not kind:
        raise AssertionError(f"{kind.__name__} needs a class attribute `kind`, the name under which it is registered; got {kind.kind!r}")
    if not isinstance(getattr(kind, "exact", None), bool):
        raise AssertionError(f"{kind.__name__} needs a class attribute `exact`: True if the child computes what its parent does")
    missing = [name for name in kind.site_fields if name not in {field.name for field in fields(kind)}]
    if missing:
        raise AssertionError(f"{kind.__name__} must be a frozen dataclass with the fields {', '.join(kind.site_fields)}, its `site_fields`")


def check_one(mutation: Mutation, spec: GraphSpec, seed: int = 0) -> bool:
    """Checks all properties of one mutation of one graph.

    Returns:
        Whether the property `learns` could be judged on this graph.

    Raises:
        BrokenMorphism: if one doesn't hold.
    """
    spec = without_dropout(spec)
    x = sample_batch(spec, seed + 1, BATCH)
    state = calibrated(spec, uneven_state(spec, seed), x)
    check_data(mutation, spec)
    _check_elsewhere(mutation, spec)
    child = check_rewrite(mutation, spec)
    weights = check_transfer(mutation, spec, state, child, x, seed)
    if mutation.exact:
        check_function(mutation, spec, state, child, weights, x)
    check_training(mutation, spec, state, weights, x, seed)
    check_precision(mutation, spec, state, x, seed)
    return check_learning([mutation], spec, seed)


def _draw(
    kind: type[Mutation], rng: random.Random, steps: int, arguments: Mapping[str, Sequence[object]]
) -> tuple[Mutation, GraphSpec] | None:
    """Draws a graph where the kind applies, a site and arguments; None if some tries found none."""
    for _ in range(TRIES):
        spec = random_spec(rng, steps)
        sites = _sites(kind, spec)
        if sites and spec.parameter_count:  # nothing tells the precision of a network without weights
            chosen = {name: rng.choice(list(values)) for name, values in arguments.items()}
            try:
                mutation = kind.at(rng.choice(sites), **chosen)
            except MutationError:  # wrong values, as they may be
                if not arguments:
                    raise
                continue
            if not arguments or _applies(mutation, spec):
                return mutation, spec
    return None


def _sites(kind: type[Mutation], spec: GraphSpec) -> list[Site]:
    """Returns the sites that a kind lists.

    Raises:
        AssertionError: if they aren't what they must be.
    """
    sites = kind.sites(spec)
    for site in sites:
        if not isinstance(site, tuple) or len(site) != len(kind.site_fields) or not all(isinstance(part, str) for part in site):
            fields = ", ".join(kind.site_fields)
            raise AssertionError(f"{kind.__name__}.sites must list tuples of one node id for each of {fields}; got {site!r}")
    return sites


def _applies(mutation: Mutation, spec: GraphSpec) -> bool:
    try:
        mutation.rewrite(spec)
    except MutationError:
        return False
    return True


def _check_elsewhere(mutation: Mutation, spec: GraphSpec) -> None:
    """`applies`: a site that isn't there is refused with a MutationError."""
    elsewhere = mutation.at(tuple(spec.fresh_ids(len(mutation.site_fields))), **mutation.arguments())
    try:
        elsewhere.rewrite(spec)
    except MutationError:
        return
    except Exception as error:
        raise BrokenMorphism("applies", f"a site that isn't there should raise MutationError, not {error!r}", elsewhere, spec) from error
    raise BrokenMorphism("applies", "it applies at a site that isn't there", elsewhere, spec)
