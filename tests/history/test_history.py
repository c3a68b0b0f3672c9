"""History: what is recorded comes back, and damage is named."""

import math
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import BOUNDS, CONFIG, OBJECTIVES, child, convnet, create, generation, outcome, record_run, state_of
from sqlalchemy import Engine, event
from strategies import specs

from lightning_lemonade.callback import HistoryReader
from lightning_lemonade.errors import HistoryError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import History, values
from lightning_lemonade.search import Failure, Measurement, Outcome, TaskResult
from lightning_lemonade.search.candidate import Expected


def test_a_run_comes_back_as_it_was_recorded(tmp_path: Path) -> None:
    record_run(tmp_path / "run").finish("finished", "max_generations=1 reached")
    history: HistoryReader = History.open(tmp_path / "run")
    assert isinstance(history, History)
    assert (history.config, history.objectives, history.bounds, history.tasks) == (CONFIG, OBJECTIVES, BOUNDS, ("",))
    assert (history.status, history.stop_reason) == ("finished", "max_generations=1 reached")
    assert [c.id for c in history.candidates()] == [0, 1, 2, 3]
    best = history.candidate(2)
    assert best == history.candidates()[2]
    assert best.spec == convnet(8)
    assert best.hash == convnet(8).structural_hash
    assert best.mutations == ({"kind": "widen", "node": "n1", "factor": 2.0, "init": "he"},)
    assert best.objectives == {"error": 0.25, "params": float(convnet(8).parameter_count), "latency": 2.1}
    assert list(best.objectives) == [o.key for o in OBJECTIVES]
    assert best.spreads == {"latency": 0.02}
    assert (best.parent, best.generation, best.state, best.failure, best.in_front) == (0, 1, "evaluated", None, True)
    assert (best.start_error, best.test_error) == (0.5, 0.3)
    assert (best.epochs, best.cumulative_epochs, best.images, best.cumulative_images) == (5, 8, 500, 800)
    assert best.seconds == {"fit": 2.5, "validate": 0.1}
    assert history.generations() == [generation(0, (0,), 0.3), generation(1, (2, 0), 0.4, failed=1)]
    assert [c.id for c in history.front()] == [0, 2]
    assert not history.candidate(1).in_front
    expected = state_of(convnet(8), 2)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in history.weights(2).items())


@pytest.mark.parametrize(
    "expected",
    [
        Expected(),
        Expected({"error": Measurement(0.25, 0.0625)}, 0.8, 0.375),
        Expected({"error": Measurement(0.25)}),
        Expected(worst_start=0.375),  # of a strategy that predicts nothing
        Expected(seconds=0.8),
    ],
)
def test_what_was_expected_of_a_child_comes_back(tmp_path: Path, expected: Expected) -> None:
    history = create(tmp_path)
    history.accept([replace(child(0, convnet()), expected=expected)])
    assert history.candidate(0).expected == expected


def test_a_failed_child_keeps_its_spec_objectives_and_its_cost(tmp_path: Path) -> None:
    failed = record_run(tmp_path).candidate(3)
    assert (failed.state, failed.failure) == ("failed", Failure("exception", "out of memory"))
    assert failed.objectives == {"params": float(convnet(6).parameter_count)}
    assert (failed.epochs, failed.cumulative_epochs, failed.images, failed.cumulative_images) == (1, 4, 100, 400)
    assert failed.seconds == {"inherit": 0.25, "fit": 1.25}


@pytest.mark.parametrize(
    ("start_error", "cumulative"),
    [(None, 2), (0.5, 5), (0.0, 5), (math.nan, 5)],
    ids=["from scratch", "inherited", "perfect", "not a number"],
)
@pytest.mark.parametrize("failure", [None, Failure("exception", "out of memory")])
def test_a_parents_cost_counts_where_its_weights_were_inherited(
    tmp_path: Path, start_error: float | None, cumulative: int, failure: Failure | None
) -> None:
    history = create(tmp_path)
    history.accept([child(0, convnet())])
    history.record(outcome(0, 0.5, convnet()), {"": state_of(convnet(), 0)})
    history.accept([child(1, convnet(8), 0, 1)])
    assert history.candidate(1).cumulative_epochs == 0
    given = outcome(1, 0.5, convnet(8), 2, start_error)
    history.record(replace(given, failure=failure, values={} if failure else given.values), {"": state_of(convnet(8), 0)})
    record = history.candidate(given.id)
    assert (record.epochs, record.cumulative_epochs) == (2, cumulative)
    assert (record.images, record.cumulative_images) == (200, 100 * cumulative)


def test_a_child_that_failed_before_its_training_cost_nothing_but_time(tmp_path: Path) -> None:
    history = record_run(tmp_path)
    history.accept([child(4, convnet(7), 2, 2)])
    history.record(Outcome(4, failure=Failure("exception", "no memory"), seconds={"inherit": 0.5}), {})
    record = history.candidate(4)
    assert (record.epochs, record.images, record.cumulative_epochs, record.cumulative_images) == (0, 0, 0, 0)
    assert (record.start_error, record.seconds) == (None, {"inherit": 0.5})


def test_states_go_from_accepted_to_running_to_evaluated(tmp_path: Path) -> None:
    history = create(tmp_path)
    history.accept([child(0, convnet())])
    assert (history.candidate(0).state, history.candidate(0).start_error) == ("accepted", None)
    history.start(0)
    history.start(0)  # a retry
    assert history.candidate(0).state == "running"
    assert history.front() == []
    history.record(outcome(0, 0.5, convnet()), {"": state_of(convnet(), 0)})
    record = history.candidate(0)
    assert record.state == "evaluated"
    assert record == history.candidate(0)
    for again in (lambda: history.start(0), lambda: history.record(outcome(0, 0.5, convnet()), {"": state_of(convnet(), 0)})):
        with pytest.raises(HistoryError, match="evaluated already"):
            again()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    architectures=st.lists(specs(6), min_size=1, max_size=4),
    floats=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    text=st.text(),
)
def test_any_specs_values_and_texts_come_back(tmp_path: Path, architectures: list[GraphSpec], floats: list[float], text: str) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    history = create(tmp_path / "run")
    history.accept([child(i, spec) for i, spec in enumerate(architectures)])
    measured = {o.key: Measurement(value, abs(value)) for o, value in zip(OBJECTIVES, floats, strict=True)}
    history.record(Outcome(0, measured, None, {"": TaskResult(floats[0], {text: floats[1]}, 1, 1)}), {"": state_of(convnet(), 0)})
    for i in range(1, len(architectures)):
        history.record(Outcome(i, failure=Failure("exception", text)), {})
    history.finish("failed", text)
    back = History.open(tmp_path / "run")
    assert [c.spec for c in back.candidates()] == architectures
    assert back.candidate(0).objectives == {key: m.value for key, m in measured.items()}
    assert back.candidate(0).spreads == {key: m.spread for key, m in measured.items()}
    assert back.candidate(0).start_error == floats[0]
    assert back.stop_reason == values.text(text.encode(errors="replace").decode())
    assert back.digest() == history.digest()


def test_several_tasks_have_their_own_weights_and_the_first_ones_errors_count(tmp_path: Path) -> None:
    history = create(tmp_path, ("fine/grained", "../coarse"))
    history.accept([child(0, convnet())])
    first, second = state_of(convnet(), 0), state_of(convnet(), 1)
    results = {"../coarse": TaskResult(0.9, {}, 2, 20), "fine/grained": TaskResult(0.8, {}, 3, 30)}
    history.record(replace(outcome(0, 0.5, convnet()), tasks=results), {"fine/grained": first, "../coarse": second})
    record = history.candidate(0)
    assert (record.start_error, record.epochs, record.images) == (0.8, 5, 50)
    history.record_test_errors({0: {"../coarse": 0.7, "fine/grained": 0.6}})
    assert history.candidate(0).test_error == 0.6
    assert torch.equal(history.weights(0, "../coarse")["n1.weight"], second["n1.weight"])
    assert torch.equal(history.weights(0, "fine/grained")["n1.weight"], first["n1.weight"])
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["000000-0.safetensors", "000000-1.safetensors"]
    with pytest.raises(HistoryError, match=r"no task .other.; its tasks are: .fine/grained., "):
        history.weights(0, "other")


def test_numbers_of_numpy_are_stored_as_numbers(tmp_path: Path) -> None:
    history = create(tmp_path)
    spec = convnet()
    history.accept([replace(child(0, spec), values={"params": np.int64(7)})])
    assert history.candidate(0).objectives == {"params": 7.0}
    given = outcome(0, 0.5, spec)
    history.record(replace(given, values={**given.values, "error": Measurement(np.float32(0.5))}), {"": state_of(spec, 0)})
    assert history.candidate(0).objectives["error"] == 0.5


def test_a_start_error_that_is_no_number_isnt_taken_for_none(tmp_path: Path) -> None:
    history = create(tmp_path)
    history.accept([child(0, convnet())])
    history.record(outcome(0, 0.5, convnet(), start_error=math.nan), {"": state_of(convnet(), 0)})
    assert history.candidate(0).start_error == math.inf


def test_incomplete_outcomes_are_refused_and_leave_the_child_as_it_was(tmp_path: Path) -> None:
    history = create(tmp_path)
    spec = convnet()
    history.accept([child(0, spec)])
    good, weights = outcome(0, 0.5, spec), {"": state_of(spec, 0)}
    without = {key: value for key, value in good.values.items() if key != "latency"}
    cases = [
        (replace(good, values=without), weights, "lacks the value 'latency'"),
        (replace(good, values={**good.values, "speed": Measurement(1.0)}), weights, "unknown value 'speed'"),
        (replace(good, values={**good.values, "error": Measurement(math.nan)}), weights, "error is nan"),
        (replace(good, tasks={}), weights, "lacks the result for the task ''"),
        (good, {}, "lacks the weights for the task ''"),
        (replace(good, id=5), weights, "no candidate 5: it has 1"),
    ]
    before = history.digest()
    for given_outcome, given_weights, message in cases:
        with pytest.raises(HistoryError, match=message):
            history.record(given_outcome, given_weights)
    assert history.digest() == before


def test_other_impossible_records_are_refused(tmp_path: Path) -> None:
    history = record_run(tmp_path)
    before = history.digest()
    attempts = {
        "no candidate 9": lambda: history.record_generation(generation(2, (9,), 0.1)),
        "UNIQUE": lambda: history.record_generation(generation(1, (0,), 0.1)),
        "no candidate 8": lambda: history.accept([child(4, convnet()), child(5, convnet(), 8, 2)]),
        "can't be written": lambda: history.accept([child(2, convnet())]),
        "value of 'speed'": lambda: history.accept([replace(child(4, convnet()), values={"speed": 1.0})]),
        "no result for the task ''": lambda: (history.accept([child(4, convnet())]), history.record_test_errors({4: {"": 0.1}})),
    }
    for message, attempt in list(attempts.items())[:-1]:
        with pytest.raises(HistoryError, match=message):
            attempt()
    assert history.digest() == before
    with pytest.raises(HistoryError, match="no result for the task ''"):
        attempts["no result for the task ''"]()
    with pytest.raises(HistoryError, match="no weights"):
        history.weights(3)


def test_candidates_takes_as_many_queries_for_many_as_for_few(tmp_path: Path) -> None:
    history = create(tmp_path)
    statements: list[str] = []
    event.listen(Engine, "before_cursor_execute", lambda connection, cursor, statement, *rest: statements.append(statement))
    counts = []
    for start in (0, 50):
        history.accept([child(i, convnet()) for i in range(start, start + 50)])
        statements.clear()
        assert len(history.candidates()) == start + 50
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 7


class TestDigest:
    def test_equal_histories_have_equal_digests(self, tmp_path: Path) -> None:
        a, b = record_run(tmp_path / "a"), record_run(tmp_path / "somewhere" / "b")
        a.finish("finished", "time")
        assert a.digest() == b.digest() == History.open(tmp_path / "a").digest()

    def test_times_dont_count(self, tmp_path: Path) -> None:
        a, b = create(tmp_path / "a"), create(tmp_path / "b")
        for history, seconds in ((a, 1.0), (b, 2.0)):
            history.accept([child(0, convnet())])
            history.record(replace(outcome(0, 0.5, convnet()), seconds={"fit": seconds}), {"": state_of(convnet(), 0)})
            history.record_generation(replace(generation(0, (0,), 0.1), seconds={"fit": seconds}))
        assert a.digest() == b.digest()

    def test_everything_else_does(self, tmp_path: Path) -> None:
        base = record_run(tmp_path / "base")
        digests = [
            base.digest(),
            record_run(tmp_path / "value", error=math.nextafter(0.25, 1)).digest(),
            record_run(tmp_path / "weights", seed=9).digest(),
        ]
        base.record_test_errors({0: {"": 0.4}})
        digests.append(base.digest())
        base.record_generation(generation(2, (0, 2), 0.4))
        digests.append(base.digest())
        base.accept([child(4, convnet())])
        digests.append(base.digest())
        base.start(4)
        digests.append(base.digest())
        assert len(set(digests)) == len(digests)


class TestDirectories:
    def test_a_run_isnt_overwritten(self, tmp_path: Path) -> None:
        digest = record_run(tmp_path).digest()
        with pytest.raises(HistoryError, match="holds a run already: give another"):
            create(tmp_path)
        assert History.open(tmp_path).digest() == digest

    def test_what_a_killed_creation_left_doesnt_matter(self, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        (tmp_path / ".history.sqlite.tmp").write_bytes(b"half")
        assert create(tmp_path).candidates() == []

    def test_creation_names_what_is_wrong(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(HistoryError, match="no run can be started"):
            create(tmp_path / "file")
        with pytest.raises(HistoryError, match="JSON values"):
            History.create(tmp_path / "a", config={"x": object()}, objectives=OBJECTIVES, bounds=BOUNDS)
        with pytest.raises(HistoryError, match="at least one"):
            create(tmp_path / "b", ("a", "a"))

    def test_names_with_odd_characters(self, tmp_path: Path) -> None:
        record_run(tmp_path / "a?mode=ro#50% ü '\"")
        assert len(History.open(tmp_path / "a?mode=ro#50% ü '\"").candidates()) == 4

    def test_reading_writes_nothing(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        record_run(run).close()
        before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.rglob("*") if p.is_file()}
        for path in (*run.rglob("*"), run):
            path.chmod(0o555 if path.is_dir() else 0o444)
        history = History.open(run)
        assert len(history.candidates()) == 4
        assert history.weights(0)
        for write in (
            lambda: history.start(0),
            lambda: history.finish("x", "y"),
            lambda: history.record_generation(generation(5, (), 0.0)),
        ):
            with pytest.raises(HistoryError, match="for reading only"):
                write()
        assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.rglob("*") if p.is_file()}
        for path in (run, *run.rglob("*")):
            path.chmod(0o755)

    def test_a_closed_history_doesnt_write(self, tmp_path: Path) -> None:
        history = record_run(tmp_path)
        history.close()
        with pytest.raises(HistoryError, match="for reading only"):
            history.finish("finished", "")

    def test_a_reader_sees_what_a_writer_commits(self, tmp_path: Path) -> None:
        writer = create(tmp_path)
        reader = History.open(tmp_path)
        writer.accept([child(0, convnet())])
        assert [c.id for c in reader.candidates()] == [0]


class TestDamage:
    def test_directories_that_are_no_runs(self, tmp_path: Path) -> None:
        with pytest.raises(HistoryError, match="is not there"):
            History.open(tmp_path / "missing")
        with pytest.raises(HistoryError, match="isn't a run directory"):
            History.open(tmp_path)
        (tmp_path / "file").write_text("x")
        with pytest.raises(HistoryError, match="a file, no directory"):
            History.open(tmp_path / "file")

    @pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"just a text\n" * 1000])
    def test_files_that_are_no_databases(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "history.sqlite").write_bytes(content)
        with pytest.raises(HistoryError, match=r"history\.sqlite"):
            History.open(tmp_path)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
    def test_a_truncated_database(self, tmp_path: Path, share: float) -> None:
        record_run(tmp_path).close()
        content = (tmp_path / "history.sqlite").read_bytes()
        (tmp_path / "history.sqlite").write_bytes(content[: int(share * len(content))])
        with pytest.raises(HistoryError, match=r"restore|Restore|another program"):
            History.open(tmp_path).candidates()

    def test_a_foreign_database(self, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "history.sqlite")
        connection.execute("CREATE TABLE run (schema_version INTEGER)")
        connection.commit()
        connection.close()
        with pytest.raises(HistoryError, match="another program"):
            History.open(tmp_path)

    def test_a_newer_schema(self, tmp_path: Path) -> None:
        self._change(tmp_path, "PRAGMA user_version = 99")
        with pytest.raises(HistoryError, match="schema 99; this release reads up to 4: upgrade"):
            History.open(tmp_path)

    @pytest.mark.parametrize(
        "statement",
        [
            "DROP TABLE value",
            "DELETE FROM run",
            "UPDATE run SET bounds = 'no json'",
            "UPDATE run SET tasks = '[]'",
            "UPDATE run SET tasks = '3'",
            "UPDATE candidate SET spec = '{}'",
            "UPDATE candidate SET mutations = 'no json'",
        ],
    )
    def test_tables_that_were_tampered_with(self, tmp_path: Path, statement: str) -> None:
        self._change(tmp_path, statement)
        with pytest.raises(HistoryError, match=r"(?i)restore it from a copy"):
            History.open(tmp_path).candidates()

    def test_a_file_name_from_the_database_leads_nowhere_else(self, tmp_path: Path) -> None:
        self._change(tmp_path, "UPDATE task_result SET weights = '../../etc/passwd'")
        with pytest.raises(HistoryError, match="damaged"):
            History.open(tmp_path).weights(0)

    def test_weights_that_are_gone_or_exchanged(self, tmp_path: Path) -> None:
        history = record_run(tmp_path)
        shutil.copy(history.run_dir / "weights/000000-0.safetensors", history.run_dir / "weights/000002-0.safetensors")
        with pytest.raises(HistoryError, match="damaged"):
            history.weights(2)
        (history.run_dir / "weights/000000-0.safetensors").unlink()
        with pytest.raises(HistoryError, match="can't be read"):
            history.weights(0)

    @staticmethod
    def _change(run_dir: Path, statement: str) -> None:
        record_run(run_dir).close()
        connection = sqlite3.connect(run_dir / "history.sqlite")
        connection.execute(statement)
        connection.commit()
        connection.close()


KILLED = """
import os, sys
from pathlib import Path
from runs import *
history = create(Path(sys.argv[1]))
history.accept([child(0, convnet()), child(1, convnet(5))])
history.record(outcome(0, 0.5, convnet()), {"": state_of(convnet(), 0)})
from sqlalchemy import event
from sqlalchemy.orm import Session
# changed pages go to the file before the commit
event.listen(Session, "before_flush", lambda session, *rest: session.connection().exec_driver_sql("PRAGMA cache_size = 1"))
event.listen(Session, "after_flush", lambda *rest: os.kill(os.getpid(), 9))
history.record(outcome(1, 0.4, convnet(5)), {"": state_of(convnet(5), 0)})
"""


def process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False, capture_output=True, text=True)


def test_a_kill_before_the_commit_leaves_the_child_unevaluated(open_folder: Path, nobody: Any, files: Any) -> None:
    run = open_folder / "run"
    assert process(KILLED, run).returncode == -9
    assert (run / "weights/000001-0.safetensors").exists()
    assert (run / "history.sqlite-journal").stat().st_size > 0
    before = files(run)
    History.open(run).candidates()  # imports what it needs
    with nobody(run):
        history = History.open(run)
        assert [c.state for c in history.candidates()] == ["evaluated", "accepted"]
        assert history.weights(0)
        with pytest.raises(HistoryError, match="can't be written"):
            History.resume(run)
    assert files(run) == before
    with pytest.warns(UserWarning, match="is taken over from process"):
        writer = History.resume(run)
    assert not (run / "history.sqlite-journal").exists()
    assert writer.digest() == history.digest() == History.open(run).digest()
    writer.go_on(writer.config)
    assert not (run / "weights/000001-0.safetensors").exists()
    writer.record(outcome(1, 0.4, convnet(5)), {"": state_of(convnet(5), 0)})
    assert writer.candidate(1).state == "evaluated"
    writer.close()


FULL = """
import resource
from pathlib import Path
from runs import *
from lightning_lemonade.errors import HistoryError
run = Path(sys.argv[1])

def limited(size, action):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))  # Python ignores SIGXFSZ
    try:
        action()
    except HistoryError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

history = create(run)
history.accept([child(0, convnet()), child(1, convnet(5))])
history.record(outcome(0, 0.5, convnet()), {"": state_of(convnet(), 0)})
digest, weights = history.digest(), {"": state_of(convnet(5), 0)}
error = limited(1000, lambda: history.record(outcome(1, 0.4, convnet(5)), weights))
assert "weights/000001-0.safetensors can't be written" in error and "Free some space" in error, error
assert [path.name for path in (run / "weights").iterdir()] == ["000000-0.safetensors"]
size = (run / "history.sqlite").stat().st_size
error = limited(size, lambda: history.accept([child(i, convnet(7)) for i in range(2, 60)]))
assert "history.sqlite can't be written" in error, error
error = limited(0, lambda: history.start(1))
assert "can't be written" in error, error
assert history.digest() == digest
history.record(outcome(1, 0.4, convnet(5)), weights)  # there is space again
history.close()
"""


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path: Path) -> None:
    done = process(FULL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "000000-0.safetensors",
        "000001-0.safetensors",
        "history.sqlite",
        "search.lock",
        "weights",
    ]
    history = History.resume(tmp_path)
    history.go_on(history.config)
    assert [c.state for c in history.candidates()] == ["evaluated", "evaluated"]
    history.close()


class TestSweeping:
    """What a killed search left goes; what a user put there stays."""

    LEFT = (f".history.sqlite.{'0a' * 16}.tmp", f".history.sqlite.{'0a' * 16}.tmp-journal", "weights/.000002-0.safetensors.tmp")
    ORPHANS = ("weights/000009-0.safetensors", "weights/000002-1.safetensors", "weights/1234567-0.safetensors")
    OWN = ("notes.txt", ".history.sqlite.tmp", "weights/best.safetensors", "weights/1-0.safetensors", "weights/000009-0.safetensors.bak")

    def fill(self, run: Path) -> None:
        (run / "weights").mkdir(parents=True, exist_ok=True)
        for name in (*self.LEFT, *self.ORPHANS, *self.OWN):
            (run / name).write_text("x")

    def test_when_a_search_goes_on(self, run: Path, files: Any) -> None:
        self.fill(run)
        before = set(files(run))
        history = History.resume(run)
        assert set(files(run)) == before
        history.go_on(history.config)
        assert before - set(files(run)) == {run / name for name in (*self.LEFT, *self.ORPHANS)}
        assert all(history.weights(i) for i in (0, 1, 2))
        history.close()

    def test_when_another_one_begins(self, tmp_path: Path, files: Any) -> None:
        self.fill(tmp_path)
        create(tmp_path).close()
        assert {tmp_path / name for name in (*self.ORPHANS, *self.OWN)} < set(files(tmp_path))
        assert not any((tmp_path / name).exists() for name in self.LEFT)

    def test_not_behind_a_link(self, run: Path, tmp_path: Path, files: Any) -> None:
        (run / "weights").rename(tmp_path / "elsewhere")
        (run / "weights").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/000009-0.safetensors").write_text("x")
        before = files(tmp_path / "elsewhere")
        assert History.open(run).weights(2)  # to read there is harmless
        history = History.resume(run)
        with pytest.raises(HistoryError, match="is a link: a search deletes files there"):
            history.go_on(history.config)
        history.close()
        (run / "history.sqlite").unlink()
        with pytest.raises(HistoryError, match="is a link"):
            create(run)
        assert files(tmp_path / "elsewhere") == before


class TestKeepingWeights:
    @pytest.fixture
    def history(self, tmp_path: Path) -> History:
        history = History.create(tmp_path, config={"keep_weights": "front"}, objectives=OBJECTIVES, bounds=BOUNDS)
        history.accept([child(i, convnet(4 + i)) for i in range(3)])
        for i in range(3):
            history.record(outcome(i, 0.5 - i / 10, convnet(4 + i)), {"": state_of(convnet(4 + i), i)})
        return history

    def kept(self, history: History) -> list[str]:
        return sorted(path.name[:6] for path in (history.run_dir / "weights").iterdir())

    def test_those_of_candidates_that_left_the_front_go_and_the_numbers_stay(self, history: History) -> None:
        before = history.candidates()
        history.record_generation(generation(0, (1, 2), 0.3))
        assert self.kept(history) == ["000001", "000002"]
        assert [replace(c, in_front=False) for c in history.candidates()] == before
        with pytest.raises(HistoryError, match=r"deleted when it left the front; a search with keep_weights='all' keeps them"):
            history.weights(0)
        assert history.weights(1)
        history.record_generation(generation(1, (2,), 0.3))
        assert self.kept(history) == ["000002"]
        history.close()
        with pytest.raises(HistoryError, match="deleted when it left the front"):
            History.open(history.run_dir).weights(1)

    def test_the_digest_is_that_of_a_search_that_keeps_all(self, history: History, tmp_path: Path) -> None:
        other = History.create(tmp_path / "all", config={"keep_weights": "all"}, objectives=OBJECTIVES, bounds=BOUNDS)
        other.accept([child(i, convnet(4 + i)) for i in range(3)])
        for i in range(3):
            other.record(outcome(i, 0.5 - i / 10, convnet(4 + i)), {"": state_of(convnet(4 + i), i)})
        for one in (history, other):
            one.record_generation(generation(0, (2,), 0.3))
        assert self.kept(other) == ["000000", "000001", "000002"]
        assert self.kept(history) == ["000002"]
        assert history.digest() == other.digest()

    @pytest.mark.parametrize("state", ["accepted", "running", "failed"])
    def test_those_of_the_parent_of_an_unfinished_child_stay(self, history: History, state: str) -> None:
        history.accept([child(3, convnet(9), 0, 1)])
        if state != "accepted":
            history.start(3)
        if state == "failed":
            history.record(Outcome(3, failure=Failure("exception", "no luck")), {})
        history.record_generation(generation(0, (2,), 0.3))
        assert self.kept(history) == (["000002"] if state == "failed" else ["000000", "000002"])
        if state != "failed":
            history.record(outcome(3, 0.1, convnet(9)), {"": state_of(convnet(9), 3)})
            history.record_generation(generation(1, (2, 3), 0.3))
            assert self.kept(history) == ["000002", "000003"]

    def test_what_a_kill_left_of_them_is_swept(self, history: History) -> None:
        stray = history.run_dir / "weights/000000-0.safetensors"
        content = stray.read_bytes()
        history.record_generation(generation(0, (1, 2), 0.3))
        history.close()
        stray.write_bytes(content)  # killed between the commit and the deletion
        history = History.resume(history.run_dir)
        history.go_on(history.config)
        assert self.kept(history) == ["000001", "000002"]
        history.close()
