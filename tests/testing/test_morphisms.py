"""The kit passes what holds, and says clearly what doesn't."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

import pytest
import torch
from torch import Generator, Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import Activation, GraphSpec, Identity, Node
from lightning_lemonade.morphisms import KINDS, Mutation, PruneFilters, Site, State, Widen, mutation_from_dict
from lightning_lemonade.testing import BrokenMorphism, check_morphism

torch.set_num_threads(1)
OURS = list(KINDS.values())
NUMBERS = count()


@pytest.fixture(autouse=True)
def _kinds_of_these_tests_go_again() -> Iterator[None]:
    known = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(known)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.kind)
def test_ours_pass(kind: type[Mutation]) -> None:
    check_morphism(kind, examples=6)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("widen", {"factor": (1.2, 3), "init": ("scaled", "he", "duplicate")}),
        ("widen", {"width": (5, 7, 12), "init": ("he", "duplicate")}),
        ("insert_conv_block", {"kernel_size": (1, 5)}),
        ("insert_bottleneck", {"reduction": (1, 2), "kernel_size": (1, 3)}),
        ("grow_kernel", {"by": (2, 4)}),
    ],
)
def test_ours_pass_with_other_arguments(kind: str, arguments: dict[str, tuple[object, ...]]) -> None:
    check_morphism(KINDS[kind], arguments=arguments, examples=4, seed=1)


def dead_units() -> type[Mutation]:
    @dataclass(frozen=True)
    class DeadUnits(Widen):
        """New filters are zero, and so is what reads them: nothing ever learns."""

        kind = "dead_units"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            weights = super().transfer_at(parent, state, child, site, calibration, generator)
            for name in [f"{node.id}.{kind}" for node in child.nodes for kind in ("weight", "bias")]:
                if name in state and weights[name].shape[0] > state[name].shape[0]:
                    grown = torch.zeros_like(weights[name])
                    grown[tuple(slice(0, size) for size in state[name].shape)] = state[name]
                    weights[name] = grown
            return weights

    return DeadUnits


def in_place() -> type[Mutation]:
    @dataclass(frozen=True)
    class InPlace(Widen):
        kind = "in_place"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            state[f"{site[0]}.weight"].mul_(2)
            return super().transfer_at(parent, state, child, site, calibration, generator)

    return InPlace


def not_exact() -> type[Mutation]:
    @dataclass(frozen=True)
    class NotExact(PruneFilters):
        """An approximation that claims to be exact."""

        kind = "not_exact"
        exact = True

    return NotExact


def other_ids() -> type[Mutation]:
    @dataclass(frozen=True)
    class OtherIds(Widen):
        """The nodes of the child are numbered anew."""

        kind = "other_ids"

        def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
            nodes = super().rewrite_at(spec, site).nodes
            new = {node.id: f"n{5000 + i}" for i, node in enumerate(nodes)}
            return GraphSpec(tuple(replace(node, id=new[node.id], inputs=tuple(new[i] for i in node.inputs)) for node in nodes))

    return OtherIds


def reused_ids() -> type[Mutation]:
    @dataclass(frozen=True)
    class ReusedIds(Mutation):
        """The new node takes the id of the old one."""

        kind = "reused_ids"
        exact = True
        node: str | tuple[str, ...]

        @classmethod
        def sites(cls, spec: GraphSpec) -> list[Site]:
            return [(node.id,) for node in spec.nodes if node.op == Activation("relu")]

        def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
            moved = replace(spec[site[0]], id=spec.fresh_ids(1)[0])
            return spec.edit(replaced={site[0]: Node(site[0], Identity(), (moved.id,))}, added=[moved])

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            return state

    return ReusedIds


def global_generator() -> type[Mutation]:
    @dataclass(frozen=True)
    class GlobalGenerator(Widen):
        kind = "global_generator"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            drawn = Generator().manual_seed(int(torch.randint(1000, ())))
            return super().transfer_at(parent, state, child, site, calibration, drawn)

    return GlobalGenerator


def another_result_each_time() -> type[Mutation]:
    @dataclass(frozen=True)
    class AnotherResult(Widen):
        kind = "another_result"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            return super().transfer_at(parent, state, child, site, calibration, Generator().manual_seed(next(NUMBERS)))

    return AnotherResult


def another_graph_each_time() -> type[Mutation]:
    @dataclass(frozen=True)
    class AnotherGraph(Widen):
        kind = "another_graph"

        def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
            return Widen(site, factor=2 + next(NUMBERS) % 3).rewrite(spec)

    return AnotherGraph


def touches_others() -> type[Mutation]:
    @dataclass(frozen=True)
    class TouchesOthers(Widen):
        """A little more, everywhere."""

        kind = "touches_others"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            weights = super().transfer_at(parent, state, child, site, calibration, generator)
            return {name: tensor * (1 + 1e-13) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}

    return TouchesOthers


def wrong_precision() -> type[Mutation]:
    @dataclass(frozen=True)
    class WrongPrecision(Widen):
        kind = "wrong_precision"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            weights = super().transfer_at(parent, state, child, site, calibration, generator)
            return weights | {f"{site[0]}.weight": weights[f"{site[0]}.weight"].float()}

    return WrongPrecision


def too_many_sites() -> type[Mutation]:
    @dataclass(frozen=True)
    class TooManySites(Widen):
        kind = "too_many_sites"

        def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
            raise MutationError("not here")

    return TooManySites


def anywhere() -> type[Mutation]:
    @dataclass(frozen=True)
    class Anywhere(Widen):
        kind = "anywhere"

        def rewrite(self, spec: GraphSpec) -> GraphSpec:
            return Widen(Widen.sites(spec)[0]).rewrite(spec)

    return Anywhere


def no_json() -> type[Mutation]:
    @dataclass(frozen=True)
    class NoJson(Widen):
        kind = "no_json"
        colours: frozenset[str] = frozenset({"red"})

    return NoJson


def nothing_new() -> type[Mutation]:
    @dataclass(frozen=True)
    class NothingNew(Widen):
        kind = "nothing_new"

        def rewrite_at(self, spec: GraphSpec, site: Site) -> GraphSpec:
            return spec.edit(replaced={site[0]: replace(spec[site[0]], label="touched")})

    return NothingNew


@pytest.mark.parametrize(
    ("make", "name", "text"),
    [
        (dead_units, "learns", "no gradient by backward pass 2 for n"),
        (in_place, "parent", "changed the parent's own weights: n"),
        (not_exact, "exact", "relative in eval mode; at most 1e-09 is allowed"),
        (other_ids, "ids", "has another id in the child"),
        (reused_ids, "ids", "was a activation, and is a identity: new nodes need fresh ids"),
        (global_generator, "randomness", "draws from a global generator"),
        (another_result_each_time, "randomness", "the same seed gives other weights: n"),
        (another_graph_each_time, "pure", "two different graphs"),
        (touches_others, "untouched", "isn't the parent's, bit for bit"),
        (wrong_precision, "weights", "torch.float32, not"),
        (too_many_sites, "applies", "one of its own sites, and raised: not here"),
        (anywhere, "applies", "a site that isn't there"),
        (no_json, "json", "doesn't survive JSON"),
        (nothing_new, "changes", "the architecture of its parent"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_broken_is_named(make: Callable[[], type[Mutation]], name: str, text: str) -> None:
    kind = make()
    with pytest.raises(BrokenMorphism) as caught:
        check_morphism(kind, examples=10, shrink=False)
    message = str(caught.value)
    assert caught.value.property == name
    assert message.startswith(f"{kind.__name__} breaks the property '{name}': ")
    assert text in message
    assert GraphSpec.from_json(message.partition("\nspec: ")[2]) == caught.value.spec


def test_a_failure_can_be_repeated_from_its_text() -> None:
    kind = not_exact()
    with pytest.raises(BrokenMorphism) as caught:
        check_morphism(kind, examples=10, shrink=False)
    text, _, spec = str(caught.value).partition("\nspec: ")
    mutation = mutation_from_dict(json.loads(text.partition("\nmutation: ")[2]))
    assert type(mutation) is kind
    mutation.rewrite(GraphSpec.from_json(spec))


def test_shrinking_finds_a_small_graph() -> None:
    with pytest.raises(BrokenMorphism) as caught:
        check_morphism(too_many_sites(), examples=10)
    assert len(caught.value.spec) <= 8


def test_the_same_seed_gives_the_same_failure() -> None:
    texts = []
    for _ in range(2):
        with pytest.raises(BrokenMorphism) as caught:
            check_morphism(KINDS.get("in_place") or in_place(), examples=10, seed=3, shrink=False)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_a_kind_without_a_name_or_a_site() -> None:
    class Nameless(Widen):
        kind = ""

    with pytest.raises(AssertionError, match="Nameless needs a class attribute `kind`"):
        check_morphism(Nameless)

    class Nowhere(Widen):
        kind: ClassVar[str] = "nowhere"

        @classmethod
        def sites(cls, spec: GraphSpec) -> list[Site]:
            return []

    with pytest.raises(AssertionError, match="Nowhere applied to none of 5 random graphs"):
        check_morphism(Nowhere, examples=5)


def test_without_hypothesis_the_extra_is_named() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import lightning_lemonade.testing"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "ConfigurationError" in done.stderr
    assert "pip install 'lightning-lemonade[testing]'" in done.stderr


def test_a_calibration_batch_that_is_changed_is_found() -> None:
    @dataclass(frozen=True)
    class Careless(Widen):
        kind = "careless"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            weights = super().transfer_at(parent, state, child, site, calibration, generator)
            calibration.zero_()
            return weights

    with pytest.raises(BrokenMorphism, match="'parent': transfer changed the calibration batch"):
        check_morphism(Careless, examples=4)


def test_another_precision_than_the_parents_is_found() -> None:
    @dataclass(frozen=True)
    class Doubled(Widen):
        kind = "doubled"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            weights = super().transfer_at(parent, state, child, site, calibration, generator)
            return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}

    with pytest.raises(BrokenMorphism, match="'precision'"):
        check_morphism(Doubled, examples=4)


def raising(error: Exception) -> type[Mutation]:
    @dataclass(frozen=True)
    class Raising(Widen):
        kind = f"raising_{type(error).__name__.lower()}"

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            raise error

    return Raising


@pytest.mark.parametrize("error", [TypeError("own bug"), AttributeError("own bug"), ZeroDivisionError("own bug")])
def test_what_a_users_code_raises_comes_with_mutation_and_graph(error: Exception) -> None:
    with pytest.raises(BrokenMorphism, match="own bug") as caught:
        check_morphism(raising(error), examples=4)
    assert caught.value.mutation.kind == raising(error).kind


def test_several_bugs_are_told_as_one_failure() -> None:
    class Both(PruneFilters):
        kind = "both"
        exact = True

        def transfer_at(
            self, parent: GraphSpec, state: State, child: GraphSpec, site: Site, calibration: Tensor, generator: Generator
        ) -> State:
            weights = super().transfer_at(parent, state, child, site, calibration, generator)
            return weights if len(site[0]) > 2 else {name: tensor[:0] for name, tensor in weights.items()}

    with pytest.raises(BrokenMorphism):
        check_morphism(Both, examples=20)


def test_sites_that_are_no_tuples_are_told() -> None:
    @dataclass(frozen=True)
    class Plain(Widen):
        kind = "plain_sites"

        @classmethod
        def sites(cls, spec: GraphSpec) -> list[Site]:
            return [site[0] for site in Widen.sites(spec)]  # type: ignore[misc]

    with pytest.raises(AssertionError, match=r"Plain\.sites must list tuples of one node id for each of node; got 'n"):
        check_morphism(Plain, examples=4)


def test_arguments_that_no_constructor_takes_are_no_finding() -> None:
    check_morphism(KINDS["prune_filters"], arguments={"fraction": (0.5, 7.0)}, examples=4)
