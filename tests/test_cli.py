"""The command line. Tests of arguments have a stand-in for the trainer; `show` reads real histories, and the last test searches."""

import json
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_lemonade import cli
from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.errors import HistoryError
from lightning_lemonade.executors import Executor, RayExecutor, make_executor
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import Widen
from lightning_lemonade.objectives import resolve
from lightning_lemonade.records import GenerationRecord, ObjectiveRecord
from lightning_lemonade.search import Child, Failure, Measurement, Outcome, TaskResult
from lightning_lemonade.search.candidate import Expected
from lightning_lemonade.spaces import ConvNetSpace

OBJECTIVES = [ObjectiveRecord("error", "error", "share", "trained"), ObjectiveRecord("params", "params", "parameters", "spec")]


def recorded(run_dir: Path) -> SearchInfo:
    """A run of two generations: a starting network, a child of it, and a child that failed."""
    config, bounds = {"max_generations": 1}, {"error": (0.0, 0.9), "params": (100.0, 1e4)}
    history = History.create(run_dir, config=config, objectives=OBJECTIVES, bounds=bounds)
    spec = ConvNetSpace().initial((1, 8, 8), 10)[0]
    mutation = Widen(Widen.sites(spec)[0][0])
    history.accept([Child(spec, 0, None, (), {"params": 1000.0}, id=0)])
    history.record(outcome(0, 0.25, 1000.0, None), {"": {"w": torch.zeros(1)}})
    history.record_generation(GenerationRecord(0, 0.5, (0,), 1, 1, 1, 0, 1, {"fit": 1.5, "other": 0.5}))
    expected = Expected({"error": Measurement(0.25, 0.0625)}, 0.8)
    history.accept(
        [
            Child(spec, 1, 0, (mutation,), {"params": 2000.0}, id=1, expected=expected),
            Child(spec, 1, 0, (mutation,), {"params": 3000.0}, id=2),
        ]
    )
    history.record(outcome(1, 0.125, 2000.0, 0.375), {"": {"w": torch.zeros(1)}})
    history.record(Outcome(2, failure=Failure("exception", "no luck")), {})
    history.record_generation(GenerationRecord(1, 0.75, (0, 1), 4, 2, 1, 1, 2, {"fit": 2.0, "propose": 0.25}))
    history.record_test_errors({1: {"": 0.1875}})
    history.finish("finished", "")
    history.close()
    return SearchInfo(run_dir, OBJECTIVES, config, bounds, 1, history)


def outcome(id_: int, error: float, params: float, start_error: float | None) -> Outcome:
    values = {"error": Measurement(error), "params": Measurement(params)}
    return Outcome(id_, values, tasks={"": TaskResult(start_error, {"val_error": error}, 1, 10)}, seconds={"fit": 1.0})


class FakeTrainer:
    calls: list[tuple[dict[str, Any], Any]]
    raises: BaseException | None

    def __init__(
        self,
        *,
        objectives: Sequence[str] | str = ("error", "params", "macs"),
        limits: Mapping[str, Any] | None = None,
        space: object = None,
        max_generations: int | None = None,
        max_time: str | None = None,
        schedule: Literal["default", "paper"] = "default",
        inherit: bool = True,
        epochs: int | None = None,
        executor: Literal["inline", "ray"] | Executor = "inline",
        module: object = None,
        callbacks: object = None,
        logger: object = None,
        run_dir: str | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        self.callbacks: Any = callbacks
        self.described: dict[str, Any] = {}
        self.arguments = {
            "objectives": objectives,
            "limits": limits,
            "max_generations": max_generations,
            "max_time": max_time,
            "inherit": inherit,
            **trainer_kwargs,
        }
        self.executor = make_executor(executor)

    def plan(self, datamodule: object) -> str:
        type(self).calls.append((self.arguments | {"executor": self.executor}, datamodule))
        return "the plan"

    def search(self, datamodule: object) -> None:
        type(self).calls.append((self.arguments, datamodule))
        if self.raises is not None:
            raise self.raises
        info = recorded(Path("runs/here"))
        for callback in self.callbacks:
            callback.on_search_end(info)


class FakeWandb(SearchCallback):
    def __init__(self, mode: str) -> None:
        self.mode = mode


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[dict[str, Any], Any]]:
    monkeypatch.chdir(tmp_path)
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
    assert [objective.key for objective in resolve(arguments.pop("objectives"))] == ["error", "params"]
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
    ("args", "address"),
    [
        (["--executor", "ray"], None),
        (["--executor", "RayExecutor"], None),
        (["--executor", "RayExecutor", "--executor.address", "auto"], "auto"),
        (["--executor", "lightning_lemonade.RayExecutor", "--executor.address=host:1"], "host:1"),
        (["--executor.class_path", "RayExecutor", "--executor.init_args.address", "auto"], "auto"),
        (["--executor", "{class_path: RayExecutor, init_args: {address: auto}}"], "auto"),
        ("executor: ray", None),
        ("executor: RayExecutor", None),
        ("executor: {class_path: RayExecutor}", None),
        ("executor: {class_path: lightning_lemonade.RayExecutor, init_args: {address: auto, gpus_per_child: 0.5}}", "auto"),
    ],
)
def test_an_executor_by_name_class_or_mapping(calls: list[Any], args: list[str] | str, address: str | None, tmp_path: Path) -> None:
    if isinstance(args, str):
        (tmp_path / "config.yaml").write_text(args)
        args = ["--config", "config.yaml"]
    assert cli.main(["search", "--dry_run", *args]) == 0
    executor = calls[0][0]["executor"]
    assert isinstance(executor, RayExecutor)
    assert executor.address == address


def test_a_dry_run_prints_a_plan_and_watches_nothing(calls: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("dry_run: true\nmax_generations: 3\nwandb: online")
    assert cli.main(["search", "--config", "config.yaml", "--accelerator", "cpu"]) == 0
    assert capsys.readouterr().out == "the plan\n"
    assert (calls[0][0]["max_generations"], calls[0][0]["accelerator"]) == (3, "cpu")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["search", "--no_such_flag", "1"], "unknown arguments: --no_such_flag 1; see --help"),
        (["search", "--objectives", "error", "params"], "params; a list is one argument, for instance --objectives"),
        (["search", "--max_epochs", "3"], "use --epochs"),
        (["search", "--default_root_dir=x"], "use --run_dir"),
        (["search", "--logger", "true"], "use --wandb"),
        (["search", "--barebones", "true"], "the reason"),
        (["search", "--epochs", "x"], "epochs can't be 'x': give an integer\n"),
        (["search", "--inherit", "perhaps"], "inherit can't be 'perhaps': give true or false\n"),
        (["search", "--schedule", "fast"], "schedule can't be 'fast': give one of default, paper\n"),
        (["search", "--precision", "3"], "precision can't be '3': give one of 64, 32, 16, transformer-engine, "),
        (["search", "--executor", "bad"], "executor can't be 'bad': give inline, ray or a class"),
        (["search", "--executor", "datetime.date"], "executor can't be 'datetime.date': give inline, ray or a class"),
        (["search", "--executor", "{address: auto}"], "give inline, ray or a class"),
        (["search", "--executor.address", "auto"], "executor.address is an argument of an executor that isn't named"),
        (["search", "--executor", "RayExecutor", "--executor.workers", "x"], "executor.workers can't be 'x': give an integer\n"),
        (["search", "--executor", "{class_path: RayExecutor, init_args: {workers: x}}"], "can't be 'x': give an integer\n"),
        (["search", "--executor", "RayExecutor", "--executor.workers", "0"], "executor can't be used: workers of RayExecutor must be"),
        (["search", "--executor", "RayExecutor", "--executor.foo", "0"], "executor.foo is unknown: see lightning-lemonade search"),
        (["search", "--limits", "3"], "limits can't be '3': give a mapping, for instance '{params: 2e6}'\n"),
        (["search", "--epochs"], "expected one argument"),
        (["search", "--wandb", "perhaps"], "perhaps"),
        (["search", "--data.seed", "3", "--tasks", "{a: DigitsDataModule}"], "give one of both"),
        (["show", "no/such/run"], "no/such/run"),
        (["show", "."], "run directory"),
        (["show"], "run"),
        (["show", "x", "--what"], "--what"),
        (["dance"], "dance"),
        ([], "command"),
    ],
)
@pytest.mark.usefixtures("calls")
def test_errors_are_one_line(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (lightning_exit(), 130), (SIGTERMException(), 143), (HistoryError("in\nuse"), 2)]
)
def test_exit_codes(calls: list[Any], error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    FakeTrainer.raises = error
    assert cli.main(["search"]) == code
    assert calls
    assert capsys.readouterr().err == {2: "error: in use\n", 143: "error: stopped by SIGTERM\n"}.get(code, "")


def test_show_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = recorded(tmp_path / "run").history.candidate(1)
    assert cli.main(["show", str(tmp_path / "run"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    own = {"status", "stop_reason", "disk"}
    assert set(shown) == {"objectives", "front", "hypervolume", "bounds", "candidates", "seconds", "total_epochs", "predictions"} | own
    assert (shown["status"], shown["stop_reason"]) == ("finished", "")
    assert shown["disk"]["total"] > shown["disk"]["weights"] > 0
    assert shown["objectives"][1] == {"name": "params", "unit": "parameters", "stage": "spec"}
    first, second = shown["front"]
    assert (first["id"], first["parent"], first["start_error"], first["test_error"], first["mutations"]) == (0, None, None, None, [])
    assert second.pop("mutations") == json.loads(json.dumps([dict(m) for m in record.mutations])) != []
    assert second == {
        "id": 1,
        "parent": 0,
        "generation": 1,
        "objectives": {"error": 0.125, "params": 2000.0},
        "start_error": 0.375,
        "test_error": 0.1875,
        "epochs": 1,
        "cumulative_epochs": 2,
        "hash": record.hash,
        "tasks": {"": {"start_error": 0.375, "test_error": 0.1875, "metrics": {"val_error": 0.125}}},
    }
    assert shown["hypervolume"] == [0.5, 0.75]
    assert shown["bounds"] == {"error": [0.0, 0.9], "params": [100.0, 10000.0]}
    assert shown["candidates"] == {"proposed": 5, "evaluated": 2, "failed": 1}
    assert shown["seconds"] == {"propose": 0.25, "inherit": 0.0, "fit": 3.5, "validate": 0.0, "record": 0.0, "other": 0.5}
    assert shown["total_epochs"] == 2
    assert shown["predictions"] == {"children": 1, "errors": {"error": 0.125}, "seconds": pytest.approx(0.25)}


def test_show_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path / "run")
    assert cli.main(["show", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    told = "predictions for 1 children: error off by 0.125 on average, seconds by 25% in the middle"
    assert all(text in out for text in ("2,000", "0.1875", "hypervolume: 0.75", told, str(tmp_path / "run")))


def test_show_imports_no_lightning(tmp_path: Path) -> None:
    recorded(tmp_path)
    code = (
        "import sys; from lightning_lemonade.cli import main; sys.exit(main(['show', sys.argv[1]]) or 'pytorch_lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tiny_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--max_generations", "1", "--proposals", "4", "--accepted", "2", "--epochs", "1", "--initial_epochs", "1"]
    run = str(tmp_path / "run")
    assert cli.main(["search", *small, "--run_dir", run, "--accelerator", "cpu"]) == 0
    assert run in capsys.readouterr().out
    assert cli.main(["show", run, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["hypervolume"]) == 2
    assert summary["front"]


def test_a_run_is_polished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--max_generations", "1", "--proposals", "4", "--accepted", "2", "--epochs", "1", "--initial_epochs", "1"]
    run = str(tmp_path / "run")
    assert cli.main(["search", *small, "--run_dir", run, "--accelerator", "cpu"]) == 0
    assert cli.main(["polish", run, "--max_time", "00:00:00:01", "--accelerator=cpu"]) == 0
    assert cli.main(["show", run, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["hypervolume"]) > 2


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["polish"], "polish.run must be given"),
        (["polish", "--max_time", "00:00:00:01"], "polish.run must be given"),
        (["polish", "run"], "polish needs --max_time"),
        (["polish", "run", "--max_time=soon"], "run is not there"),
    ],
)
def test_what_cannot_be_polished_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], text: str) -> None:
    assert cli.main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error


def test_a_configuration_file_of_two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text("""
objectives: [error/first, error/second, params]
max_generations: 1
proposals: 4
accepted: 1
accelerator: cpu
run_dir: run
training: {epochs: 1, initial_epochs: 1, label_smoothing: 0.1}
tasks:
  first: {class_path: DigitsDataModule, init_args: {batch_size: 128}}
  second: {class_path: DigitsDataModule, init_args: {seed: 1}}
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["search", "--config", "two.yaml"]) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("error/first", "error/second", "test error/second"))
    history = History.open(tmp_path / "run")
    assert history.tasks == ("first", "second")
    assert history.config["training"]["label_smoothing"] == 0.1
