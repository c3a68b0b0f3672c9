import numpy as np
import pytest

from lightning_lemonade.search.cost import CostModel, terms, work
from lightning_lemonade.spaces import strided_net

NETS = [strided_net((1, 28, 28), 10, width) for width in (3, 5, 8, 13, 21, 34)]


def test_work_grows_with_multiply_adds_and_with_what_is_written():
    small, wide = NETS[2], NETS[3]
    assert small.macs < work(small) < work(wide)


def test_before_anything_is_measured_cost_is_work():
    assert CostModel([]).predict(NETS) == pytest.approx([work(net) for net in NETS])


def test_it_learns_the_speed_of_a_machine():
    model = CostModel([(terms(net), 3e-6 * work(net)) for net in NETS[:2]])
    assert model.predict(NETS) == pytest.approx([3e-6 * work(net) for net in NETS])


def test_it_learns_that_small_networks_take_equally_long():
    predicted = CostModel([(terms(net), 2.0) for net in NETS * 5]).predict(NETS)
    assert predicted == pytest.approx(np.full(len(NETS), 2.0), rel=0.35)
    assert predicted[-1] / predicted[0] < 2 < work(NETS[-1]) / work(NETS[0])


def test_costs_are_never_negative():
    falling = [(terms(net), 1 / work(net)) for net in NETS]
    assert (CostModel(falling).predict(NETS) >= 0).all()
