"""The random graphs hold what is easy to get wrong."""

import random

from hypothesis import given, settings
from strategies import specs

from lightning_lemonade.graph import Add, Concat, Conv2d, GraphSpec, Mix, Mul
from lightning_lemonade.testing import random_spec


def test_the_same_seed_gives_the_same_graph() -> None:
    assert random_spec(random.Random(7), steps=10) == random_spec(random.Random(7), steps=10)
    assert random_spec(random.Random(7), steps=10) != random_spec(random.Random(8), steps=10)


def test_branches_residuals_nested_concats_gates_and_grouped_convolutions_occur() -> None:
    graphs = [random_spec(random.Random(seed), steps=12) for seed in range(60)]

    def share(holds: object) -> float:
        assert callable(holds)
        return sum(any(holds(spec, node) for node in spec.nodes) for spec in graphs) / len(graphs)

    def depthwise(spec: GraphSpec, node: object) -> bool:
        return isinstance(node.op, Conv2d) and node.op.is_depthwise(spec.input_shapes(node.id)[0][0])  # type: ignore[attr-defined]

    assert share(lambda spec, node: len(spec.consumers[node.id]) > 1) > 0.5
    assert share(lambda spec, node: isinstance(node.op, Add)) > 0.2
    assert share(lambda spec, node: isinstance(node.op, Mix)) > 0.1
    assert share(lambda spec, node: isinstance(node.op, Concat) and any(isinstance(spec[i].op, Concat) for i in node.inputs)) > 0.05
    assert share(lambda spec, node: isinstance(node.op, Mul) and len({spec.shapes[i] for i in node.inputs}) == 2) > 0.1
    assert share(depthwise) > 0.2
    assert share(lambda spec, node: isinstance(node.op, Conv2d) and node.op.groups > 1 and not depthwise(spec, node)) > 0.05


@settings(max_examples=20, deadline=None)
@given(specs())
def test_the_strategy_is_of_valid_specs(spec: GraphSpec) -> None:
    assert GraphSpec.from_json(spec.to_json()) == spec
