"""Front, Candidate and load()."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import BOUNDS, OBJECTIVES, child, convnet, create, generation, outcome, record_run, state_of
from safetensors.torch import load_file

from lightning_lemonade.errors import HistoryError, LemonadeError
from lightning_lemonade.front import Front, load
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import network_with
from lightning_lemonade.records import ObjectiveRecord


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record_run(tmp_path / "run").close()
    return tmp_path / "run"


@pytest.fixture
def front(run: Path) -> Front:
    return load(str(run))


def test_a_front_is_its_candidates_by_size(front: Front, run: Path) -> None:
    assert (len(front), front.ids, [c.id for c in front]) == (2, [0, 2], [0, 2])
    assert (front.run_dir, tuple(front.objectives), front.bounds, front.hypervolume) == (run, OBJECTIVES, BOUNDS, 0.4)
    assert [g.generation for g in front.history] == [0, 1]
    assert front[2] is front[2]
    best = front[2]
    assert (best.id, best.parent, best.generation, best.spec, best.hash) == (2, 0, 1, convnet(8), convnet(8).structural_hash)
    assert (best.start_error, best.test_error, best.epochs, best.cumulative_epochs) == (0.5, 0.3, 5, 8)
    assert best.objectives["error"] == 0.25
    assert best.mutations[0]["kind"] == "widen"
    assert "error=0.25" in repr(best)


@pytest.mark.parametrize("bad", [1, 3, "x", []])
def test_other_ids_are_an_error_that_lists_the_ids(front: Front, bad: int) -> None:
    with pytest.raises(LemonadeError, match="its ids are 0, 2"):
        front[bad]


def test_order_without_a_spec_objective_is_by_id(tmp_path: Path) -> None:
    objectives = [ObjectiveRecord("error/b", "error", "share", "trained")]
    history = History.create(tmp_path, config={}, objectives=objectives, bounds={"error/b": (0, 1)})
    front = Front(history)
    assert (len(front), front.ids, front.hypervolume, len(front.to_pandas())) == (0, [], 0.0, 0)
    assert "0 candidates" in repr(front)
    with pytest.raises(LemonadeError, match="none: it is empty"):
        front[0]
    with pytest.raises(LemonadeError, match="empty"):
        front.best("error/b")


def test_the_table_has_a_row_for_each_candidate(front: Front) -> None:
    frame = front.to_pandas()
    columns = [
        "id",
        "parent",
        "generation",
        "error",
        "params",
        "latency",
        "start_error",
        "test_error",
        "epochs",
        "cumulative_epochs",
        "hash",
    ]
    assert list(frame.columns) == columns
    assert list(frame["id"]) == [0, 2]
    assert frame["parent"].isna().tolist() == [True, False]
    assert frame["test_error"].isna().tolist() == [True, False]
    assert frame["params"].tolist() == [float(convnet().parameter_count), float(convnet(8).parameter_count)]
    shown = str(front)
    assert len(shown.splitlines()) == 4
    assert "cumulative_epochs" in shown
    assert "0.25" in shown


def test_best_minimises_within_bounds(front: Front) -> None:
    small = front[0].objectives["params"]
    assert front.best("error").id == 2
    assert front.best("error", params=small).id == 0
    assert front.best("error", limits={"latency": 1.0}).id == 0
    assert front.best("params", error=0.3).id == 2
    with pytest.raises(LemonadeError, match=r"no candidate of the front has params <= 10; the smallest values are: params \d+"):
        front.best("error", params=10)
    for wrong in (lambda: front.best("eror"), lambda: front.best("error", parms=3), lambda: front.best("error", limits={"a/b": 1})):
        with pytest.raises(LemonadeError, match=r"unknown objective.*error, params, latency"):
            wrong()


def test_the_network_holds_the_recorded_weights(front: Front) -> None:
    network = front[2].network
    x = torch.randn(5, 3, 8, 8)
    assert network is front[2].network
    assert not network.training
    assert torch.equal(network(x), network_with(convnet(8), state_of(convnet(8), 2)).eval()(x))
    network(x).sum().backward()  # can be trained on
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_module_holds_them_too_and_no_draw_is_lost(front: Front) -> None:
    before = torch.get_rng_state()
    module = front[2].module
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(module.network.eval()(x), front[2].network(x))


def test_weights_that_are_damaged_or_anothers_are_an_error(run: Path) -> None:
    path = run / "weights/000002-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    front = load(run)  # the table needs no weights
    with pytest.raises(HistoryError, match="damaged"):
        _ = front[2].network
    odd = create(run.parent / "odd")
    odd.accept([child(0, convnet())])
    odd.record(outcome(0, 0.5, convnet()), {"": state_of(convnet(5), 0)})
    odd.record_generation(generation(0, (0,), 0.1))
    with pytest.raises(HistoryError, match="don't fit its spec"):
        _ = Front(odd)[0].network


def test_what_is_no_run_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="isn't a run directory"):
        load(tmp_path)


def test_a_read_only_directory_loads(run: Path) -> None:
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert load(run)[2].network(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    for path in (run, *run.rglob("*")):
        path.chmod(0o755)


class TestExport:
    def test_onnx_computes_the_same_for_another_batch_size(self, front: Front, tmp_path: Path) -> None:
        runtime = pytest.importorskip("onnxruntime")
        front[2].network.train()  # what the caller does to the network isn't exported
        path = front[2].export(tmp_path / "new" / "net.onnx")
        assert [p.name for p in path.parent.iterdir()] == ["net.onnx"]
        session = runtime.InferenceSession(path)
        for batch in (1, 7):
            x = torch.randn(batch, 3, 8, 8)
            (result,) = session.run(None, {"input": x.numpy()})
            np.testing.assert_allclose(result, front[2].network.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)

    def test_pt2_computes_the_same_for_another_batch_size(self, front: Front, tmp_path: Path) -> None:
        path = front[0].export(tmp_path / "net.pt2")
        program = torch.export.load(path).module()
        for batch in (1, 7):
            x = torch.randn(batch, 3, 8, 8)
            torch.testing.assert_close(program(x), front[0].network(x))

    def test_a_folder_makes_the_network_again(self, front: Front, tmp_path: Path) -> None:
        path = front[2].export(str(tmp_path / "net"))
        assert path == tmp_path / "net"
        assert front[2].export(path) == path  # again
        spec = GraphSpec.from_json((path / "spec.json").read_text())
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(network_with(spec, load_file(path / "weights.safetensors")).eval()(x), front[2].network(x))
        facts = json.loads((path / "candidate.json").read_text())
        assert (facts["id"], facts["objectives"]["error"], facts["units"]["params"], facts["cumulative_epochs"]) == (
            2,
            0.25,
            "parameters",
            8,
        )
        assert sorted(p.name for p in path.iterdir()) == ["candidate.json", "spec.json", "weights.safetensors"]

    def test_the_format_wins_over_the_suffix(self, front: Front, tmp_path: Path) -> None:
        assert front[0].export(tmp_path / "net.v1", "folder").is_dir()

    def test_what_cant_be_exported_is_named(self, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(LemonadeError, match=r"unknown format '\.pth'.*onnx, pt2, folder"):
            front[0].export(tmp_path / "net.pth")
        (tmp_path / "file").write_text("")
        with pytest.raises(LemonadeError, match="Give a path that can be written"):
            front[0].export(tmp_path / "file")
        with pytest.raises(LemonadeError, match="Give a path that can be written"):
            front[0].export(tmp_path / "file" / "net.pt2")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
        with pytest.raises(LemonadeError, match=r"onnxscript: pip install 'lightning-lemonade\[export\]'"):
            front[0].export(tmp_path / "net.onnx")

    def test_a_network_beyond_onnx_is_named(self, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnxscript")

        def refuse(*_: object, **__: object) -> None:
            raise torch.onnx.errors.OnnxExporterError("no such operator")

        monkeypatch.setattr(torch.onnx, "export", refuse)
        with pytest.raises(LemonadeError, match="ONNX can't express this network: no such operator"):
            front[0].export(tmp_path / "net.onnx")
        assert front[0].export(tmp_path / "net.pt2").exists()
