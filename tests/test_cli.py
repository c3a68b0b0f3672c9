"""The command line. Trainer and history are stood in for here, except in the last test, which needs the real ones."""

import importlib.util
import json
import math
import random
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from strategies import random_spec

from lightning_lemonade import cli
from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.errors import HistoryError
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord

SPEC = random_spec(random.Random(0))
OBJECTIVES = [ObjectiveRecord("error", "error", "", "trained"), ObjectiveRecord("params", "params", "parameters", "spec")]


def candidate(id_: int, error: float, params: float, test_error: float | None) -> CandidateRecord:
    return CandidateRecord(
        id=id_,
        parent=None if id_ == 0 else 0,
        generation=min(id_, 1),
        state="evaluated",
        failure=None,
        spec=SPEC,
        hash=f"hash{id_}",
        mutations=() if id_ == 0 else ({"operator": "widen"},),
        objectives={"error": error, "params": params},
        spreads={},
        start_error=None,
        test_error=test_error,
        epochs=1,
        cumulative_epochs=1 + id_,
        images=10,
        cumulative_images=20,
        seconds={},
        in_front=True,
    )


class FakeHistory:
    def __init__(self) -> None:
        self.rows = [candidate(0, 0.25, 1000.0, 0.26), candidate(1, 0.125, 2000.0, math.nan)]

    def candidate(self, candidate_id: int) -> CandidateRecord:
        return self.rows[candidate_id]

    def candidates(self) -> list[CandidateRecord]:
        return self.rows

    def front(self) -> list[CandidateRecord]:
        return self.rows

    def generations(self) -> list[GenerationRecord]:
        return [
            GenerationRecord(0, 0.5, (0,), 1, 1, 1, 0, 1, {"fit": 1.5, "other": 0.5}),
            GenerationRecord(1, 0.75, (0, 1), 4, 2, 1, 1, 3, {"fit": 2.0, "propose": 0.25}),
        ]


def info(run: Path) -> SearchInfo:
    return SearchInfo(run, OBJECTIVES, {}, {"error": (0.0, 1.0), "params": (3.0, 4.0)}, 1, FakeHistory())


class FakeTrainer:
    calls: list[tuple[dict[str, Any], Any]]
    raises: BaseException | None

    def __init__(
        self,
        *,
        objectives: Sequence[str] = ("error", "params", "macs"),
        limits: Mapping[str, Any] | None = None,
        space: object = None,
        max_generations: int | None = None,
        max_time: str | None = None,
        schedule: Literal["default", "paper"] = "default",
        inherit: bool = True,
        epochs: int | None = None,
        module: object = None,
        callbacks: object = None,
        logger: object = None,
        run_dir: str | None = None,
        **trainer_kwargs: Any,  # noqa: ANN401  (Lightning's own)
    ) -> None:
        self.callbacks: Any = callbacks
        self.arguments = {
            "objectives": objectives,
            "limits": limits,
            "max_generations": max_generations,
            "max_time": max_time,
            "inherit": inherit,
            **trainer_kwargs,
        }

    def search(self, datamodule: object) -> None:
        type(self).calls.append((self.arguments, datamodule))
        if self.raises is not None:
            raise self.raises
        for callback in self.callbacks:
            callback.on_search_end(info(Path("runs/here")))


class FakeWandb(SearchCallback):
    def __init__(self, mode: str) -> None:
        self.mode = mode


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Any]]:
    trainer, callbacks = types.ModuleType("trainer"), types.ModuleType("callbacks")
    FakeTrainer.calls, FakeTrainer.raises = [], None
    trainer.LemonadeTrainer = FakeTrainer  # type: ignore[attr-defined]
    trainer.RESERVED = dict.fromkeys(("max_epochs", "max_time", "logger", "callbacks", "default_root_dir", "barebones"), "the reason")  # type: ignore[attr-defined]
    callbacks.SearchProgressBar = SearchCallback  # type: ignore[attr-defined]
    callbacks.WandbPopulationLogger = FakeWandb  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning_lemonade.trainer", trainer)
    monkeypatch.setitem(sys.modules, "lightning_lemonade.callbacks", callbacks)
    return FakeTrainer.calls


@pytest.mark.parametrize(
    "objectives", [["--objectives", "error,params"], ["--objectives", "[error,params]"], ["--objectives=error,params"]]
)
def test_search_passes_arguments_on(calls: list[Any], objectives: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--limits", '{"params": 2e6}', "--max_generations", "3", "--max_time", "00:00:01:00", "--accelerator", "cpu"]
    assert cli.main(["search", *objectives, *args, "--data", "DigitsDataModule", "--data.batch_size", "32", "--wandb", "offline"]) == 0
    (arguments, data), *rest = calls
    assert not rest
    assert arguments.pop("limits")["params"] == 2e6
    assert list(arguments.pop("objectives")) == ["error", "params"]
    assert arguments == {"max_generations": 3, "max_time": "00:00:01:00", "inherit": True, "accelerator": "cpu"}
    assert (type(data).__name__, data.batch_size) == ("DigitsDataModule", 32)
    out = capsys.readouterr().out
    assert all(text in out for text in ("validation error", "test error", "0.125", "hypervolume: 0.75", "fit 3.5", "runs/here"))


def test_search_reads_its_own_printed_configuration(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", "--data.batch_size", "16", "--max_generations", "5", "--print_config"]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(capsys.readouterr().out)
    assert not calls
    assert cli.main(["search", "--config", str(config)]) == 0
    assert (calls[0][0]["max_generations"], calls[0][1].batch_size) == (5, 16)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["search", "--data", "NoSuchData"], "NoSuchData"),
        (["search", "--data", "datetime.date"], "datetime.date"),
        (["search", "--no_such_flag", "1"], "no_such_flag"),
        (["search", "--max_epochs", "3"], "use --epochs"),
        (["search", "--default_root_dir=x"], "use --run_dir"),
        (["search", "--logger", "true"], "use --wandb"),
        (["search", "--barebones", "true"], "the reason"),
        (["search", "--max_generations", "many"], "max_generations"),
        (["search", "--data.batch_size", "0"], "batch_size=0"),
        (["search", "--config", "missing.yaml"], "missing.yaml"),
        (["search", "--wandb", "perhaps"], "perhaps"),
        (["show", "no/such/run"], "no/such/run"),
        (["show"], "run"),
        (["show", "x", "--what"], "--what"),
        (["dance"], "dance"),
        ([], "command"),
    ],
)
@pytest.mark.usefixtures("calls")
def test_errors_are_one_line(args: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    history = types.ModuleType("history")
    history.History = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning_lemonade.history", history)
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not captured.out


def lightning_exit() -> SystemExit:
    error = SystemExit(1)
    error.__context__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (lightning_exit(), 130), (HistoryError("in\nuse"), 2)])
def test_exit_codes(calls: list[Any], error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    FakeTrainer.raises = error
    assert cli.main(["search"]) == code
    assert calls
    assert capsys.readouterr().err == ("error: in use\n" if code == 2 else "")


def test_show_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "open_run", info)
    assert cli.main(["show", "run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"objectives", "front", "hypervolume", "bounds", "candidates", "seconds", "total_epochs"}
    assert shown["objectives"][1] == {"name": "params", "unit": "parameters", "stage": "spec"}
    assert shown["front"][1] == {
        "id": 1,
        "parent": 0,
        "generation": 1,
        "objectives": {"error": 0.125, "params": 2000.0},
        "start_error": None,
        "test_error": None,  # NaN is no JSON
        "epochs": 1,
        "cumulative_epochs": 2,
        "mutations": [{"operator": "widen"}],
        "hash": "hash1",
    }
    assert shown["hypervolume"] == [0.5, 0.75]
    assert shown["bounds"] == {"error": [0.0, 1.0], "params": [3.0, 4.0]}
    assert shown["candidates"] == {"proposed": 5, "evaluated": 2, "failed": 1}
    assert shown["seconds"] == {"propose": 0.25, "inherit": 0.0, "fit": 3.5, "validate": 0.0, "record": 0.0, "other": 0.5}
    assert shown["total_epochs"] == 3


def test_show_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "open_run", info)
    assert cli.main(["show", "run"]) == 0
    assert "2,000" in capsys.readouterr().out


def test_show_imports_no_lightning() -> None:
    code = "import sys; from lightning_lemonade.cli import main; main(['show']); sys.exit('pytorch_lightning' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.skipif(
    importlib.util.find_spec("lightning_lemonade.trainer") is None, reason="lightning_lemonade/trainer.py isn't written yet"
)
def test_a_tiny_search(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from lightning_lemonade.cli import main; sys.exit(main())"]
    small = ["--max_generations", "1", "--proposals", "4", "--accepted", "2", "--epochs", "1", "--initial_epochs", "1"]
    run = str(tmp_path / "run")
    search = [*command, "search", *small, "--run_dir", run, "--accelerator", "cpu"]
    done = subprocess.run(search, check=False, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run in done.stdout
    shown = subprocess.run([*command, "show", run, "--json"], check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    summary = json.loads(shown.stdout)
    assert len(summary["hypervolume"]) == 2
    assert summary["front"]
