"""What must hold for every mutation of every graph, property by property. Each check raises `BrokenMorphism`. Source: ours."""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_lemonade.errors import LemonadeError
from lightning_lemonade.graph import Conv2d, GraphSpec, Linear, build
from lightning_lemonade.morphisms import Mutation, State, mutation_from_dict, network_with
from lightning_lemonade.morphisms.state import descendants
from lightning_lemonade.testing.states import (
    NOISE,
    calibrated,
    gradients,
    outputs,
    relative_difference,
    sample_batch,
    seeded_generator,
    silent_units,
    uneven_state,
)

EVAL_TOLERANCE = 1e-9
TRAIN_TOLERANCE = 1e-10
BATCH = 24
TRIES = 8
JUDGED = 3
"""A unit counts as silent if it is so for this many parents, of at most TRIES."""


class BrokenMorphism(AssertionError):  # noqa: N818 (a finding, not an error of the kit)
    """A property doesn't hold.

    Attributes:
        property: its name.
        mutation: the mutation.
        spec: the graph that it was applied to.
    """

    def __init__(self, name: str, detail: str, mutation: Mutation, spec: GraphSpec) -> None:
        self.property, self.mutation, self.spec = name, mutation, spec
        super().__init__(
            f"{type(mutation).__name__} breaks the property '{name}': {detail}\n"
            f"mutation: {json.dumps(_plain(mutation))}\nspec: {spec.to_json()}"
        )


def _plain(mutation: Mutation) -> object:
    try:
        data = mutation.to_dict()
        json.dumps(data)
    except (TypeError, ValueError):
        return repr(mutation)
    return data


def check_data(mutation: Mutation, spec: GraphSpec) -> None:
    """`json`, `hash` and `text`: a mutation is plain data that survives JSON, hashes, and reads."""
    try:
        again = mutation_from_dict(json.loads(json.dumps(mutation.to_dict())))
        same = again == mutation and hash(again) == hash(mutation)
    except (LemonadeError, TypeError, ValueError) as error:
        raise BrokenMorphism("json", f"it doesn't survive JSON: {error}", mutation, spec) from error
    if not same:
        raise BrokenMorphism("json", f"it comes back from JSON as {again!r}", mutation, spec)
    if not str(mutation).startswith(mutation.kind):
        raise BrokenMorphism("text", f"str() should begin with its kind, got {str(mutation)!r}", mutation, spec)


def check_rewrite(mutation: Mutation, spec: GraphSpec) -> GraphSpec:
    """`pure`, `valid`, `changes`, `shapes` and `ids`: the graph's half. Returns the child."""
    before = spec.to_json()
    states = _global_states()
    try:
        child = mutation.rewrite(spec)
        again = mutation.rewrite(spec)
    except LemonadeError as error:
        raise BrokenMorphism("applies", f"it was given one of its own sites, and raised: {error}", mutation, spec) from error
    if spec.to_json() != before:
        raise BrokenMorphism("pure", "rewrite changed the parent's graph in place", mutation, spec)
    if again != child:
        raise BrokenMorphism("pure", "rewriting the same graph twice gives two different graphs", mutation, spec)
    if _global_states() != states:
        raise BrokenMorphism("pure", "rewrite draws from a global generator", mutation, spec)
    try:
        round_trip = GraphSpec.from_json(child.to_json())
        build(child)
    except (LemonadeError, RuntimeError, ValueError) as error:
        raise BrokenMorphism("valid", f"the child is no network: {error}", mutation, spec) from error
    if round_trip != child:
        raise BrokenMorphism("valid", "the child comes back from JSON as another graph", mutation, spec)
    if child.structural_hash == spec.structural_hash:
        raise BrokenMorphism("changes", "the child has the architecture of its parent", mutation, spec)
    if (child.input_shape, child.output_shape) != (spec.input_shape, spec.output_shape):
        raise BrokenMorphism("shapes", "the child has another input or output shape", mutation, spec)
    _check_ids(mutation, spec, child)
    return child


def _check_ids(mutation: Mutation, spec: GraphSpec, child: GraphSpec) -> None:
    """An id stands for the same node in parent and child, and what lies above the change keeps its id."""
    for node in child.nodes:
        if node.id in spec and type(node.op) is not type(spec[node.id].op):
            names = spec[node.id].op.name, node.op.name
            raise BrokenMorphism("ids", f"{node.id} was a {names[0]}, and is a {names[1]}: new nodes need fresh ids", mutation, spec)
    old, new = _cones(spec), _cones(child)
    spare = Counter(cone for node_id, cone in new.items() if node_id not in spec)
    for node_id, cone in old.items():
        if node_id not in child and spare[cone] > 0:
            raise BrokenMorphism("ids", f"{node_id}, which nothing changed, has another id in the child", mutation, spec)
    if mutation.exact and (gone := [node_id for node_id in spec.by_id if node_id not in child]):
        raise BrokenMorphism("ids", f"an exact mutation keeps every node; gone: {', '.join(gone)}", mutation, spec)


def _cones(spec: GraphSpec) -> dict[str, str]:
    """Returns a text for each node that stands for it and all that it depends on."""
    cones: dict[str, str] = {}
    for node in spec.nodes:
        text = repr((node.op.name, node.op.arguments(), [cones[source] for source in node.inputs]))
        cones[node.id] = blake2b(text.encode(), digest_size=16).hexdigest()
    return cones


def check_transfer(mutation: Mutation, spec: GraphSpec, state: State, child: GraphSpec, x: Tensor, seed: int) -> State:
    """`parent`, `randomness`, `weights` and `untouched`: the weights' half. Returns the child's weights."""
    before = {name: tensor.clone() for name, tensor in state.items()}
    batch = x.clone()
    states = _global_states()
    try:
        weights = mutation.transfer(spec, state, child, x, seeded_generator(seed))
    except (LemonadeError, RuntimeError, ValueError, KeyError, IndexError) as error:
        raise BrokenMorphism("weights", f"transfer raised {type(error).__name__}: {error}", mutation, spec) from error
    if state.keys() != before.keys() or any(not state[name].equal(tensor) for name, tensor in before.items()):
        changed = [name for name in before if name not in state or not state[name].equal(before[name])]
        raise BrokenMorphism("parent", f"transfer changed the parent's own weights: {', '.join(changed) or 'new names'}", mutation, spec)
    if not x.equal(batch):
        raise BrokenMorphism("parent", "transfer changed the calibration batch, which all children of a search share", mutation, spec)
    if _global_states() != states:
        raise BrokenMorphism("randomness", "transfer draws from a global generator instead of the one that it is given", mutation, spec)
    _check_weights(mutation, spec, child, weights)
    for name in _untouched(mutation, spec, child, state):
        if not weights[name].equal(state[name]):
            raise BrokenMorphism("untouched", f"{name} isn't the parent's, bit for bit, although nothing changed there", mutation, spec)
    return weights


def _global_states() -> tuple[object, ...]:
    """Returns the states of python's, numpy's and torch's global generators, comparable by ==."""
    return repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().tolist()


def _check_weights(mutation: Mutation, spec: GraphSpec, child: GraphSpec, weights: State) -> None:
    with torch.device("meta"):
        expected = build(child).double().state_dict()
    if weights.keys() != expected.keys():
        names = ", ".join(sorted(weights.keys() ^ expected.keys()))
        raise BrokenMorphism("weights", f"missing or superfluous tensors: {names}", mutation, spec)
    for name, tensor in weights.items():
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype):
            wanted = f"{tuple(expected[name].shape)} {expected[name].dtype}"
            raise BrokenMorphism("weights", f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {wanted}", mutation, spec)
        if not tensor.isfinite().all():
            raise BrokenMorphism("weights", f"{name} isn't finite", mutation, spec)


def _untouched(mutation: Mutation, spec: GraphSpec, child: GraphSpec, state: Mapping[str, Tensor]) -> list[str]:
    """Returns the tensors that a mutation leaves alone: of nodes with the parent's op and input shapes; of an approximation, above it."""
    touched = {node.id for node in child.nodes if node.id not in spec or node.op != spec[node.id].op}
    touched |= {i for i in child.by_id if i in spec and child.input_shapes(i) != spec.input_shapes(i)}
    if not mutation.exact:
        touched |= {i for i in child.by_id if i in spec and child[i].inputs != spec[i].inputs}
        touched = descendants(child, touched)
    return [name for name in state if (node_id := name.partition(".")[0]) in child and node_id not in touched]


def check_function(mutation: Mutation, spec: GraphSpec, state: State, child: GraphSpec, weights: State, x: Tensor) -> tuple[float, float]:
    """`exact`: the child computes what its parent computes, in eval mode, and in train mode on the calibration batch.

    Args:
        mutation: an exact one.
        spec: the parent, without dropout.
        state: its weights.
        child: the child.
        weights: its weights.
        x: the calibration batch.

    Returns:
        The largest relative differences in eval and in train mode.
    """
    other = torch.cat([sample_batch(spec, 11), 3 * sample_batch(spec, 12)])
    found = []
    for train, inputs, tolerance in ((False, other, EVAL_TOLERANCE), (True, x, TRAIN_TOLERANCE)):
        difference = relative_difference(outputs(spec, state, inputs, train=train), outputs(child, weights, inputs, train=train))
        if not difference <= tolerance:
            mode = "in train mode on the calibration batch" if train else "in eval mode"
            detail = f"the output differs by {difference:.1e} relative {mode}; at most {tolerance:.0e} is allowed"
            raise BrokenMorphism("exact", detail, mutation, spec)
        found.append(difference)
    return found[0], found[1]


def check_training(mutation: Mutation, spec: GraphSpec, state: State, weights: State, x: Tensor, seed: int) -> None:
    """`trains`: `apply` gives a network whose every weight can be trained, and a training step of it leaves the parent alone.

    Also `randomness`: with the same seed, `apply` gives the same weights as `transfer` gave.
    """
    parent = network_with(spec, state).train()
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    child = mutation.apply(parent, x, seeded_generator(seed))
    different = [name for name, tensor in child.state_dict().items() if not tensor.equal(weights[name])]
    if different:
        raise BrokenMorphism("randomness", f"the same seed gives other weights: {', '.join(different)}", mutation, spec)
    if not list(child.parameters()):
        return
    out: Any = child(x)
    out.square().mean().backward()
    missing = [name for name, parameter in child.named_parameters() if parameter.grad is None or not parameter.grad.isfinite().all()]
    if missing:
        raise BrokenMorphism("trains", f"no finite gradient for {', '.join(missing)}", mutation, spec)
    with torch.no_grad():
        for tensor in child.state_dict().values():
            tensor.add_(1)
    if any(not tensor.equal(before[name]) for name, tensor in parent.state_dict().items()):
        raise BrokenMorphism("parent", "training the child changed the parent: they share tensors", mutation, spec)


def check_precision(mutation: Mutation, spec: GraphSpec, state: State, x: Tensor, seed: int) -> None:
    """`precision`: the child of a network in float32 is one, too."""
    parent = network_with(spec, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()})
    child = mutation.apply(parent.eval(), x.float(), seeded_generator(seed))
    odd = [name for name, tensor in child.state_dict().items() if tensor.is_floating_point() and tensor.dtype != torch.float32]
    if odd:
        raise BrokenMorphism("precision", f"of a parent in float32 the child's {', '.join(odd)} aren't", mutation, spec)


def check_learning(mutations: Sequence[Mutation], spec: GraphSpec, seed: int) -> bool:
    """`learns`: after k mutations, every new unit has a gradient by backward pass k + 1.

    Units are the filters and the input channels of every tensor that is new or has grown. Not counted are those that get no gradient with
    random weights, either (a bias before a batch norm, or what only ever sees padding), a linear layer's weights of what is always zero,
    gates without any effect on the data (of an activation that only sees values that it leaves as they are), and parents that have silent
    units themselves. In a tiny network a unit may fall silent by chance; so it is only a failure if units of one tensor are silent for
    several parents.

    Args:
        mutations: made one after the other.
        spec: the first parent, without dropout.
        seed: of the parents' weights, the data and the new weights.

    Returns:
        Whether that could be judged.
    """
    specs = [spec]
    for mutation in mutations:
        specs.append(mutation.rewrite(specs[-1]))
    silent: list[dict[str, str]] = []
    for number in range(seed, seed + TRIES):
        found = _silent_after(mutations, specs, number)
        if found is not None:
            silent.append(found)
        if found == {}:
            return True
        if len(silent) == JUDGED:
            break
    if len(silent) < JUDGED:
        return False
    always = set.intersection(*map(set, silent))
    if always:
        units = "; ".join(f"{name}: {silent[-1][name]}" for name in sorted(always))
        raise BrokenMorphism("learns", f"no gradient by backward pass {len(mutations) + 1} for {units}", mutations[-1], spec)
    return True


def _silent_after(mutations: Sequence[Mutation], specs: Sequence[GraphSpec], seed: int) -> dict[str, str] | None:
    """Returns the silent units of new tensors as tensor -> text, or None if the parent has silent units itself."""
    x = sample_batch(specs[0], seed + 1, BATCH)
    x = x * torch.linspace(0.5, 4.0, BATCH, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))  # a ReLU6 is a ReLU to small values
    state = calibrated(specs[0], uneven_state(specs[0], seed), x)
    if set(silent_units(gradients(specs[0], state, x), NOISE)) - _structural(specs[0], x):
        return None
    weights = state
    for mutation, before, after in zip(mutations, specs, specs[1:], strict=False):
        weights = mutation.transfer(before, weights, after, x, seeded_generator(seed))
    found = gradients(specs[-1], weights, x, len(mutations) + 1)
    grown = {name for name, gradient in found.items() if name not in state or state[name].numel() < gradient.numel()}
    silent = [unit for unit in silent_units(found) if unit[0] in grown]
    if silent:
        structural = _structural(specs[-1], x) | _always_zero(specs[-1], weights, x)
        silent = [unit for unit in silent if unit not in structural and not _is_idle_gate(specs[-1], weights, unit[0], x)]
    texts: dict[str, list[str]] = {}
    for name, kind, index in silent:
        texts.setdefault(name, []).append(f"{kind} {index}")
    return {name: ", ".join(units[:8]) for name, units in texts.items()}


def _is_idle_gate(spec: GraphSpec, weights: State, name: str, x: Tensor) -> bool:
    """Returns whether a tensor is a single number that could as well be zero."""
    if weights[name].ndim:
        return False
    without = weights | {name: torch.zeros_like(weights[name])}
    return relative_difference(outputs(spec, weights, x, train=True), outputs(spec, without, x, train=True)) < NOISE


def _always_zero(spec: GraphSpec, weights: State, x: Tensor) -> set[tuple[str, str, int]]:
    """Returns the columns of linear layers whose input is zero for every sample.

    They are positions before a Flatten at which a ReLU is off, as it may be by chance where a filter only sees padding. A filter that is
    silent everywhere is found as a row.
    """
    network, found = network_with(spec, weights).train(), set[tuple[str, str, int]]()

    def look(name: str) -> Any:  # noqa: ANN401 (torch's type of a hook)
        def hook(module: object, inputs: tuple[Tensor], output: object) -> None:
            zero = (inputs[0] == 0).all(0).nonzero().flatten().tolist()
            found.update((f"{name}.weight", "column", int(column)) for column in zero)

        return hook

    for node in spec.nodes:
        if isinstance(node.op, Linear):
            network.get_submodule(node.id).register_forward_hook(look(node.id))
    with torch.no_grad():
        network(x)
    return found


def _structural(spec: GraphSpec, x: Tensor) -> set[tuple[str, str, int]]:
    """Returns the units that get no gradient with any of three sets of random weights: all drawn, or with the biases of layers at zero."""
    layers = {node.id for node in spec.nodes if isinstance(node.op, Conv2d | Linear)}
    found: set[tuple[str, str, int]] = set()
    for biased in (True, False):
        sets = []
        for seed in (101, 102, 103):
            state = uneven_state(spec, seed)
            biases = [name for name in state if name.partition(".")[0] in layers and name.endswith(".bias") and not biased]
            state |= {name: torch.zeros_like(state[name]) for name in biases}
            sets.append(set(silent_units(gradients(spec, state, x), NOISE)))
        found |= set.intersection(*sets)
    return found
