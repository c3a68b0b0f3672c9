import copy
import pickle

import pytest
import torch
from runs import child, convnet, outcome, state_of

from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, TestRequest

SPEC = convnet()


@pytest.fixture(scope="module")
def weights():
    state = state_of(SPEC, 0)
    state["n1.weight"] = state["n1.weight"].to(memory_format=torch.channels_last)  # as networks hold them
    return {"first": state, "second": {}}


@pytest.mark.parametrize("copied", [lambda thing: pickle.loads(pickle.dumps(thing)), copy.deepcopy])
def test_weights_arrive_as_they_were_sent(weights, copied):
    sent = [
        EvaluationRequest(child(3, convnet(8), 0, 1), SPEC, weights),
        TestRequest(SPEC, weights, 3),
        Evaluation(outcome(3, 0.25, SPEC), weights),
    ]
    for thing in sent:
        arrived = copied(thing)
        assert {**arrived.__dict__, "weights": None} == {**thing.__dict__, "weights": None}
        assert set(arrived.weights) == set(weights)
        assert set(arrived.weights["first"]) == set(weights["first"])
        for name, tensor in weights["first"].items():
            assert arrived.weights["first"][name].dtype == tensor.dtype
            assert torch.equal(arrived.weights["first"][name], tensor)
            assert arrived.weights["first"][name].data_ptr() != tensor.data_ptr()


def test_what_arrives_is_small_and_may_be_changed(weights):
    sent = pickle.dumps(Evaluation(outcome(3, 0.25, SPEC), weights))
    numbers = sum(tensor.numel() for tensor in weights["first"].values())
    assert len(sent) < 8 * numbers + 3000
    pickle.loads(sent).weights["first"]["n1.weight"].add_(1)
