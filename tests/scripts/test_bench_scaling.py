import csv
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import programs
import pytest

pytest.importorskip("ray")
SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_scaling.py"


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("bench_scaling", SCRIPT)
    module = module_from_spec(spec)
    sys.modules["bench_scaling"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_scaling"]


def test_a_short_form_measures_both_modes(tmp_path):
    short = ["slots", "--slots", "6", "--scale", "0.03", "--turns", "4", "--generations", "2"]
    done = programs.run_script("bench_scaling.py", *short, "--csv", tmp_path / "out.csv", "--plot", tmp_path / "out.svg")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open() as file:
        waiting_for_none, waiting = csv.DictReader(file)
    assert [waiting_for_none["mode"], waiting["mode"]] == ["asynchronous", "synchronous"]
    for row in (waiting_for_none, waiting):
        assert 0.05 < float(row["utilisation"]) < 1
        assert 0 < float(row["controller_wall"]) < 1
        assert float(row["proposals_per_s"]) > 2 * float(row["children_per_s"]) > 0
    assert int(waiting["children"]) == 6  # one whole generation
    assert 28 - 2 * 6 < int(waiting_for_none["children"]) <= 28 - 6  # all but those that filled the slots
    assert float(waiting["utilisation"]) <= float(waiting["ideal"]) < float(waiting_for_none["ideal"]) == 1
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")
    assert len(done.stdout.splitlines()) == 3


def test_generations_that_wait_for_their_slowest_child_are_worse_the_more_slots_there_are(script):
    ideals = [script.ideal(slots, 20, seed=0) for slots in (1, 8, 64)]
    assert ideals[0] == 1
    assert ideals[0] > ideals[1] > ideals[2] > 0.1


def test_times_are_log_normal_and_decided_by_seed_and_child(script):
    times = sorted(script.draw(0, child) for child in range(2000))
    assert times[1000] == pytest.approx(script.MEDIAN, rel=0.1)
    assert sum(times) / 2000 == pytest.approx(27.5, rel=0.1)
    assert script.draw(0, 7) == script.draw(0, 7) != script.draw(1, 7)


def test_weights_are_as_many_as_a_network_has_parameters(script):
    from lightning_lemonade.graph import build
    from lightning_lemonade.spaces import conv_net

    spec = conv_net((1, 8, 8), 10, 6, separable=True)
    state = script.state_of(spec, 3)
    trained = [tensor for name, tensor in state.items() if "running" not in name]
    assert sum(tensor.numel() for tensor in trained) == spec.parameter_count
    assert sum(t.numel() for t in state.values()) == sum(t.numel() for k, t in build(spec).state_dict().items() if "tracked" not in k)
