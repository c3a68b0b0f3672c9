"""What must hold for every mutation of every graph."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from morphisms.helpers import NETS, batch, calibrated, difference, everywhere, generator, outputs, uneven_state
from strategies import random_spec, specs

from lightning_lemonade.graph import Dropout, GraphSpec, build
from lightning_lemonade.morphisms import KINDS, InsertConvBlock, Mutation, State, mutation_from_dict, network_with
from lightning_lemonade.morphisms.state import descendants

torch.set_num_threads(1)
SLOW = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32 - 1)


def drawn(spec: GraphSpec, rng: random.Random) -> Mutation | None:
    """A random mutation with random arguments, every kind that applies equally likely."""
    kinds = [kind for kind in KINDS.values() if kind.sites(spec)]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    choices = {"widen": {"factor": rng.choice([1.3, 2, 3])}, "prune_filters": {"fraction": rng.choice([0.25, 0.5, 0.9])}}
    return kind.at(rng.choice(kind.sites(spec)), **choices.get(kind.kind, {}))


def without_dropout(spec: GraphSpec) -> GraphSpec:
    return spec.edit(replaced={n.id: replace(n, op=Dropout(0.0)) for n in spec.nodes if isinstance(n.op, Dropout)})


def check_spec(mutation: Mutation, parent: GraphSpec, child: GraphSpec) -> None:
    assert GraphSpec.from_json(child.to_json()) == child
    assert mutation_from_dict(json.loads(json.dumps(mutation.to_dict()))) == mutation
    assert mutation.rewrite(parent) == child
    assert child.structural_hash != parent.structural_hash
    assert child.output_shape == parent.output_shape
    old = {node_id for node_id in parent.by_id if node_id in child}
    new = {node.id for node in child.nodes if node.id not in parent}
    assert not new or min(int(i[1:]) for i in new) > max(int(i[1:]) for i in parent.by_id)
    if mutation.exact:
        assert old == set(parent.by_id)
    for node_id in old:
        assert type(child[node_id].op) is type(parent[node_id].op)
        assert child[node_id].label == parent[node_id].label


def check_state(mutation: Mutation, parent: GraphSpec, state: State, child: GraphSpec, weights: State) -> None:
    expected = build(child).double().state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype), name
        assert tensor.isfinite().all(), name
    changed = {n.id for n in child.nodes if n.id not in parent or n != parent[n.id]}
    below = descendants(child, changed)  # an approximation may solve for them
    for node in parent.nodes:
        same = node.id in child and child[node.id].op == node.op and child.input_shapes(node.id) == parent.input_shapes(node.id)
        if same and (mutation.exact or node.id not in below):
            for name in (name for name in state if name.partition(".")[0] == node.id):
                assert weights[name].equal(state[name]), name


@SLOW
@given(specs(), seeds)
def test_chains_of_mutations(spec: GraphSpec, seed: int) -> None:
    rng = random.Random(seed)
    state, x = uneven_state(spec, seed), batch(spec)
    for step in range(8):
        mutation = drawn(spec, rng)
        if mutation is None or spec.parameter_count > 200_000:
            return
        child = mutation.rewrite(spec)
        check_spec(mutation, spec, child)
        before = {name: tensor.clone() for name, tensor in state.items()}
        weights = mutation.transfer(spec, state, child, x, generator(step))
        assert state.keys() == before.keys()
        assert all(state[name].equal(before[name]) for name in before)
        check_state(mutation, spec, state, child, weights)
        if mutation.exact:
            assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9, mutation
        spec, state = child, weights


@settings(SLOW, max_examples=20)
@given(specs(max_steps=14), seeds)
def test_every_site_can_be_rewritten(spec: GraphSpec, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        for kind, site in everywhere(spec):
            check_spec(kind.at(site), spec, kind.at(site).rewrite(spec))
        mutation = drawn(spec, rng)
        if mutation is None or spec.parameter_count > 200_000:
            return
        spec = mutation.rewrite(spec)


@pytest.mark.parametrize("net", NETS)
def test_every_site_of_known_nets(net: str) -> None:
    spec = NETS[net]()
    state, x = uneven_state(spec), batch(spec)
    for kind, site in everywhere(spec):
        mutation = kind.at(site)
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, x, generator())
        check_spec(mutation, spec, child)
        check_state(mutation, spec, state, child, weights)
        if mutation.exact:
            assert difference(outputs(spec, state, x), outputs(child, weights, x)) < 1e-9, mutation


@SLOW
@given(specs(), seeds)
def test_an_inserted_block_is_the_identity_in_train_mode(spec: GraphSpec, seed: int) -> None:
    spec = without_dropout(spec)
    state, x = uneven_state(spec, seed), batch(spec)
    for site in InsertConvBlock.sites(spec):
        mutation = InsertConvBlock.at(site, kernel_size=random.Random(seed).choice([1, 3, 5]))
        child = mutation.rewrite(spec)
        weights = mutation.transfer(spec, state, child, x, generator())
        assert difference(outputs(spec, state, x, train=True), outputs(child, weights, x, train=True)) < 1e-10


def test_a_new_batch_norm_has_the_statistics_of_the_calibration_batch() -> None:
    """One training batch leaves eval mode as it was, but for the unbiased variance and the parent's own statistics."""
    spec = NETS["plain"]()
    x = batch(spec, size=64)
    state = calibrated(spec, uneven_state(spec), x)
    mutation = InsertConvBlock("n3")
    child = mutation.rewrite(spec)
    weights = mutation.transfer(spec, state, child, x, generator())
    after = calibrated(child, weights, x)
    for name in (name for name in weights if name.endswith("running_mean")):
        assert torch.allclose(after[name], weights[name], atol=1e-12), name


@SLOW
@given(specs(), seeds)
def test_only_the_given_generator_is_drawn_from(spec: GraphSpec, seed: int) -> None:
    mutation = drawn(spec, random.Random(seed))
    if mutation is None:
        return
    state, x, child = uneven_state(spec, seed), batch(spec), mutation.rewrite(spec)
    network = network_with(spec, state)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first = mutation.transfer(spec, state, child, x, generator(seed))
    second = mutation.transfer(spec, state, child, x, generator(seed))
    applied = mutation.apply(network, x, generator(seed)).state_dict()
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert before[0] == after[0]
    assert before[2].equal(after[2])
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert all(first[name].equal(second[name]) and first[name].equal(applied[name]) for name in applied)


@pytest.mark.parametrize("net", NETS)
def test_training_the_child_leaves_the_parent_alone(net: str) -> None:
    spec = NETS[net]()
    x = batch(spec)
    for kind, site in everywhere(spec):
        parent = network_with(spec, uneven_state(spec))
        before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
        child = kind.at(site).apply(parent, x, generator()).train()
        child(x).square().sum().backward()
        with torch.no_grad():
            for tensor in child.state_dict().values():
                tensor.add_(1)
        assert all(tensor.equal(before[name]) for name, tensor in parent.state_dict().items())


def test_another_seed_gives_other_weights() -> None:
    spec = NETS["tied"]()
    mutation = KINDS["widen"].at(("n1",))
    child = mutation.rewrite(spec)
    a, b = (mutation.transfer(spec, uneven_state(spec), child, batch(spec), generator(seed)) for seed in (0, 1))
    assert not a["n1.weight"].equal(b["n1.weight"])


def test_the_random_specs_offer_every_kind() -> None:
    found = {kind for seed in range(40) for kind, _ in everywhere(random_spec(random.Random(seed)))}
    assert found == set(KINDS.values())
