import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from morphisms.helpers import batch, concat_net, generator, plain_net, tied_net, uneven_state
from strategies import node_outputs, specs
from torch import Tensor

from lightning_lemonade.errors import MutationError
from lightning_lemonade.graph import BatchNorm2d, GraphSpec, Input
from lightning_lemonade.morphisms import RemoveLayer, network_with
from lightning_lemonade.morphisms.passes import Pass, shared


def state_of(spec: GraphSpec) -> dict[str, Tensor]:
    return uneven_state(spec)


def input_of(spec: GraphSpec, x: Tensor) -> dict[str, Tensor]:
    return {node.id: x for node in spec.nodes if isinstance(node.op, Input)}


@given(spec=specs(max_steps=10), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_nodes_lead_to_any_others(spec: GraphSpec, data: st.DataObject) -> None:
    state, x = state_of(spec), batch(spec, size=3)
    expected = node_outputs(network_with(spec, state).eval(), x)
    cut = data.draw(st.integers(0, len(spec.nodes) - 1))
    ids = list(spec.by_id)
    known = {i: expected[i] for i in ids[: cut + 1]}
    wanted = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    found = Pass(spec, state).run_from(known, wanted)
    assert set(found) == set(wanted)
    for i in wanted:
        torch.testing.assert_close(found[i], expected[i])


def test_only_what_lies_between_runs() -> None:
    spec = plain_net()
    network, ran = Pass(spec, state_of(spec)), []
    for node_id, module in network.submodules.items():
        module.register_forward_hook(lambda *_, node_id=node_id: ran.append(node_id))
    ids = list(spec.by_id)
    network.run_from({ids[2]: node_outputs(network_with(spec, state_of(spec)).eval(), batch(spec))[ids[2]]}, [ids[4]])
    assert ran == ids[3:5]


def test_samples_that_are_left_out_go_no_further_than_the_last_look() -> None:
    spec = tied_net()
    state, x = state_of(spec), batch(spec, size=8)
    expected = node_outputs(network_with(spec, state).eval(), x)
    seen: dict[str, Tensor] = {}
    held = torch.tensor([1, 5])
    looked = next(i for i, node in spec.by_id.items() if isinstance(node.op, BatchNorm2d))
    found = Pass(spec, state).run_from(
        input_of(spec, x), [looked, spec.output.id], after={looked: lambda _, value: seen.update({looked: value})}, narrow=held
    )
    torch.testing.assert_close(seen[looked], expected[looked])
    assert found[looked] is seen[looked]
    torch.testing.assert_close(found[spec.output.id], expected[spec.output.id][held])


def test_what_is_called_after_a_node_may_replace_its_output() -> None:
    spec = plain_net()
    state, x = state_of(spec), batch(spec)
    layer = next(i for i, node in spec.by_id.items() if isinstance(node.op, BatchNorm2d))
    found = Pass(spec, state).run_from(input_of(spec, x), [layer], after={layer: lambda read, value: read + value})
    expected = node_outputs(network_with(spec, state).eval(), x)
    torch.testing.assert_close(found[layer], expected[spec[layer].inputs[0]] + expected[layer])


def test_measuring_writes_into_no_tensor_that_was_given() -> None:
    spec = concat_net()
    state, x = state_of(spec), batch(spec, size=16)
    before = {name: tensor.clone() for name, tensor in state.items()}
    norms = [node.id for node in spec.nodes if isinstance(node.op, BatchNorm2d)]
    network = Pass(spec, state).measuring()
    network.run_from(input_of(spec, x), [spec.output.id])
    assert all(torch.equal(state[name], before[name]) for name in state)
    first = norms[0]
    read = node_outputs(network_with(spec, state).eval(), x)[spec[first].inputs[0]]
    dims = [d for d in range(read.ndim) if d != 1]
    torch.testing.assert_close(network.statistics([first])[f"{first}.running_mean"], read.mean(dims))
    assert not torch.equal(network.statistics(norms)[f"{norms[-1]}.running_var"], state[f"{norms[-1]}.running_var"])


def test_a_child_leaves_its_parent_where_it_reads_something_else() -> None:
    parent = tied_net()
    mutation = RemoveLayer.at(RemoveLayer.sites(parent)[0])
    child = mutation.rewrite(parent)
    weights = mutation.transfer(parent, state_of(parent), child, batch(parent, size=16), generator())
    x = batch(parent, size=4)
    old, new = (node_outputs(network_with(spec, state).eval(), x) for spec, state in ((parent, state_of(parent)), (child, weights)))
    border = shared(parent, child)
    assert border
    assert all(torch.equal(old[i], new[i]) for i in border)
    continued = Pass(child, weights).run_from({i: old[i] for i in border}, [child.output.id])
    torch.testing.assert_close(continued[child.output.id], new[child.output.id])
    assert shared(parent, parent) == []


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(MutationError, match="belong"):
        Pass(plain_net(), state_of(tied_net()))


def test_parameters_stay_as_they_lie_in_memory() -> None:
    spec = plain_net()
    network = network_with(spec, state_of(spec))
    strides = {name: tensor.stride() for name, tensor in network.state_dict().items()}
    Pass(spec, network.state_dict(keep_vars=True))
    assert {name: tensor.stride() for name, tensor in network.state_dict().items()} == strides


def test_what_is_to_be_called_must_run() -> None:
    spec = plain_net()
    with pytest.raises(ValueError, match="n99 don't run between n0 and n13"):
        Pass(spec, state_of(spec)).run_from(input_of(spec, batch(spec)), ["n13"], after={"n99": lambda read, value: None})
