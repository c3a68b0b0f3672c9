"""The W&B logger: what an offline run holds is what the history holds; W&B's failures stay W&B's."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from memory_history import SmallSearch
from wandb_files import read_config, read_exit_code, read_history, read_summary, read_tables, run_dirs

from lightning_lemonade.callbacks import WandbPopulationLogger
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.records import CandidateRecord


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")


def offline(name: str | None = None, log_tables_every: int = 10) -> WandbPopulationLogger:
    return WandbPopulationLogger(name=name, mode="offline", tags=["digits"], log_tables_every=log_tables_every)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("lightning_lemonade")]


def expected_row(candidate: CandidateRecord) -> dict[str, Any]:
    failure = candidate.failure
    same = ("id", "parent", "generation", "state", "start_error", "test_error", "epochs", "cumulative_epochs", "hash", "in_front")
    return {name: getattr(candidate, name) for name in same} | {
        "mutations": "widen(node=n1, factor=2)" if candidate.parent is not None else "",
        "failure": f"{failure.kind}: {failure.text}" if failure else None,
        "error": candidate.objectives.get("error"),
        "params": candidate.objectives.get("params"),
    }


def test_the_run_equals_the_history(tmp_path: Path) -> None:
    search = SmallSearch(tmp_path / "search-1")
    search.run(offline())
    (run_dir,) = run_dirs(tmp_path)
    assert run_dir.parent == tmp_path / "search-1" / "wandb"

    rows = [row for row in read_history(run_dir) if "hypervolume" in row]
    assert len(rows) == 2
    for row, record in zip(rows, search.history.generations(), strict=True):
        members = [search.history.candidate(i).objectives for i in record.front]
        names = ("generation", "hypervolume", "proposed", "accepted", "evaluated", "failed", "total_epochs")
        assert row == {name: getattr(record, name) for name in names} | {
            "seconds": 34.0,
            "front_size": len(record.front),
            "best/error": min(values["error"] for values in members),
            "best/params": min(values["params"] for values in members),
        }

    tables = read_tables(run_dir)
    assert tables["population"] == [expected_row(candidate) for candidate in search.history.candidates()]
    assert tables["front"] == tables["pareto_table"] == [expected_row(candidate) for candidate in search.history.front()]
    assert [row["test_error"] for row in tables["front"]] == pytest.approx([0.31, 0.024])

    summary = read_summary(run_dir)
    last = {"hypervolume": 0.8125, "front_size": 2, "best/error": 0.014, "best/params": search.history.candidate(0).objectives["params"]}
    assert {key: summary[key] for key in last} == last
    assert summary["test_error"] == pytest.approx(0.024)
    assert read_config(run_dir) == search.info.config
    assert read_exit_code(run_dir) == 0


@pytest.mark.parametrize(("every", "times"), [(1, 3), (2, 2), (100, 2)])
def test_tables_are_throttled(tmp_path: Path, every: int, times: int) -> None:
    SmallSearch(tmp_path).run(offline(log_tables_every=every))
    (run_dir,) = run_dirs(tmp_path)
    assert sum("population" in row for row in read_history(run_dir)) == times


def test_two_loggers_are_two_runs_beside_the_users_own(tmp_path: Path) -> None:
    own = wandb.init(project="own", mode="offline", dir=tmp_path / "own")
    searches = [SmallSearch(tmp_path / name) for name in ("a", "b")]
    loggers = [offline(), offline(name="b's run")]
    for search, logger in zip(searches, loggers, strict=True):
        logger.on_search_start(search.info)
    for search, logger in zip(searches, loggers, strict=True):
        search.first_generation(logger)
    searches[1].second_generation(loggers[1])
    for search, logger in zip(searches, loggers, strict=True):
        search.end(logger)
    assert wandb.run is own
    own.log({"mine": 1})
    own.finish()

    (own_dir,), (a,), (b,) = (run_dirs(tmp_path / name) for name in ("own", "a", "b"))
    assert read_history(own_dir) == [{"mine": 1}]
    assert [row["hypervolume"] for row in read_history(a) if "hypervolume" in row] == [0.4375]
    assert [row["hypervolume"] for row in read_history(b) if "hypervolume" in row] == [0.4375, 0.8125]
    assert "WANDB_MODE" not in os.environ


def test_a_resumed_search_repeats_the_earlier_generations(tmp_path: Path) -> None:
    search, interrupted, resumed = SmallSearch(tmp_path), offline(), offline()
    interrupted.on_search_start(search.info)
    search.first_generation(interrupted)
    interrupted.on_search_exception(search.info, KeyboardInterrupt())
    resumed.on_search_resume(search.info)
    search.second_generation(resumed)
    search.end(resumed)

    first, second = run_dirs(tmp_path)
    assert (read_exit_code(first), read_exit_code(second)) == (1, 0)
    assert [row["generation"] for row in read_history(second) if "hypervolume" in row] == [0, 1]


def test_disabled_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SmallSearch(tmp_path / "run").run(WandbPopulationLogger(mode="disabled"))
    assert list((tmp_path / "run").iterdir()) == []
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"project": "not/a/project", "mode": "offline"}, "Invalid project name"),
        ({"mode": "online"}, "No API key"),
    ],
)
def test_a_run_that_cannot_start_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], reason: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    SmallSearch(tmp_path / "run").run(WandbPopulationLogger(**arguments))
    (record,) = warnings_of(caplog)
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()
    assert run_dirs(tmp_path) == []


DYING = """
import os, signal, sys
from pathlib import Path
from memory_history import SmallSearch
from lightning_lemonade.callbacks import WandbPopulationLogger

search, logger = SmallSearch(Path(sys.argv[1])), WandbPopulationLogger()
logger.on_search_start(search.info)
search.first_generation(logger)
print("ready", flush=True)
input()
search.second_generation(logger)
search.end(logger)
print("done", flush=True)
os._exit(0)  # W&B's own exit hooks need the dead service
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds the service's process in /proc")
def test_a_service_that_dies_during_the_search_is_one_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DYING, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "WANDB_MODE": "offline"}
    environment.pop("WANDB_SERVICE", None)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        for service in children(process.pid):
            os.kill(service, signal.SIGKILL)
        out, err = process.communicate("\n", timeout=60)
    assert "done" in out, err
    assert err.count("Weights & Biases failed") == 1, err
    assert len(run_dirs(tmp_path)) == 1  # offline, as the environment said


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_errors_of_the_history_are_no_failures_of_wandb(tmp_path: Path) -> None:
    search, logger = SmallSearch(tmp_path), offline()
    logger.on_search_start(search.info)
    search.first_generation(logger)
    del search.history.by_id[0]
    with pytest.raises(KeyError):
        logger.on_generation_end(search.info, search.history.finished[0])
    logger.on_search_exception(search.info, KeyError())


@pytest.mark.parametrize("arguments", [{"mode": "ofline"}, {"log_tables_every": 0}])
def test_senseless_arguments_are_named(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ConfigurationError, match=name):
        WandbPopulationLogger(**arguments)
