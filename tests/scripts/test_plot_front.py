"""The picture of a front."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from memory_history import child, start
from runs import BOUNDS, CONFIG, create, record_run

from lightning_lemonade.history import History
from lightning_lemonade.records import CandidateRecord, ObjectiveRecord


def load() -> ModuleType:
    pytest.importorskip("matplotlib")
    path = Path(__file__).parents[2] / "scripts" / "plot_front.py"
    spec = importlib.util.spec_from_file_location("plot_front", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plot_front = load()


def placed(candidate: CandidateRecord, params: float, error: float, *, in_front: bool = True) -> CandidateRecord:
    return replace(candidate, objectives={"params": params, "error": error}, in_front=in_front)


def test_a_run_becomes_the_same_picture_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(tmp_path / "run").close()
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    assert [plot_front.main([str(tmp_path / "run"), str(picture)]) for picture in pictures] == [0, 0]
    first, second = (picture.read_bytes() for picture in pictures)
    assert first == second
    assert b"<dc:date>" not in first
    assert len(first) < 100_000
    assert ElementTree.fromstring(first).tag.endswith("svg")
    for text in (b"parameters", b"validation error (%)", b"Pareto front", b"starting network", b"from parent to child"):
        assert b"<!-- " + text + b" -->" in first
    assert capsys.readouterr() == ("", "")


def test_a_line_joins_what_is_best_by_error_and_size() -> None:
    a, b, c, d = (placed(start(i, 2, 0.0), params, error) for i, (params, error) in enumerate([(30, 0.1), (10, 0.4), (20, 0.5), (40, 0.1)]))
    best, rest = plot_front.staircase([a, b, c, d])
    assert ([m.id for m in best], [m.id for m in rest]) == ([1, 0], [2, 3])
    assert plot_front.staircase([]) == ([], [])


def test_lineage_leads_from_the_starting_networks_to_the_front() -> None:
    first = placed(start(0, 2, 0.3), 10, 0.3, in_front=False)
    second = placed(child(first, 1, 2, 0.2), 20, 0.2, in_front=False)
    third, fourth = (placed(child(second, i, 2, 0.1), 30 + i, 0.1) for i in (2, 3))
    aside = placed(child(first, 4, 2, 0.5), 50, 0.5, in_front=False)
    steps = plot_front.lineage([first, second, third, fourth, aside])
    assert sorted((above.id, below.id) for above, below in steps) == [(0, 1), (1, 2), (1, 3)]


def test_errors_are_drawn_on_the_axis_that_suits_them() -> None:
    far = [placed(start(i, 2, 0.0), 10 * (i + 1), error) for i, error in enumerate((0.5, 0.01))]
    near = [placed(start(i, 2, 0.0), 10 * (i + 1), error) for i, error in enumerate((0.5, 0.4, 0.0))]
    scales = [plot_front.draw(candidates).axes[0].get_yscale() for candidates in (far, near)]
    assert scales == ["log", "linear"]


def test_what_cant_be_drawn_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(tmp_path / "empty").close()
    error = [ObjectiveRecord("error", "error", "share", "trained")]
    History.create(tmp_path / "other", config=CONFIG, objectives=error, bounds={"error": BOUNDS["error"]}).close()
    for run, line in (("missing", "is not there"), ("empty", "it has no front"), ("other", "it has no params")):
        assert plot_front.main([str(tmp_path / run), str(tmp_path / "out.svg")]) == 2
        assert line in capsys.readouterr().err
    assert not (tmp_path / "out.svg").exists()
