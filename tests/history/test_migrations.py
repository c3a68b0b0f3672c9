"""Runs of older releases are read as they are, and brought up to date by whoever writes."""

import sqlite3
from pathlib import Path

import pytest
import torch
from runs import convnet, record_run, state_of

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.history import DATABASE, History, migrations
from lightning_lemonade.history.schema import SCHEMA_VERSION
from lightning_lemonade.history.weights import write_weights

VERSION_1 = Path(__file__).with_name("version_1.sql")


@pytest.fixture
def old(tmp_path):
    """A run as the first release recorded it: `record_run`, and two children that were accepted, of which one was running."""
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    with sqlite3.connect(run / DATABASE) as connection:
        connection.executescript(VERSION_1.read_text())
    connection.close()
    for number, (width, seed) in enumerate([(4, 0), (5, 1), (8, 2)]):
        write_weights(run / f"weights/{number:06d}-0.safetensors", {"raw": state_of(convnet(width), seed)})
    return run


def snapshot(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def version(run):
    connection = sqlite3.connect(run / DATABASE)
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return found


def test_it_is_read_and_left_as_it_is(old):
    before = snapshot(old)
    history = History.open(old)
    assert [candidate.state for candidate in history.candidates()] == ["evaluated"] * 3 + ["failed", "running", "accepted"]
    assert [history.proposed(generation) for generation in range(3)] == [8, 8, 2]
    assert [generation.front for generation in history.generations()] == [(0,), (2, 0)]
    assert torch.equal(history.weights(2)["n1.weight"], state_of(convnet(8), 2)["n1.weight"])
    assert snapshot(old) == before


def test_it_is_read_where_nothing_can_be_written(old, open_folder, nobody):
    run = old.rename(open_folder / "run")
    before = snapshot(run)
    digest = History.open(run).digest()
    with nobody(run):
        assert History.open(run).digest() == digest
        assert History.open(run).weights(0)
        with pytest.raises(HistoryError, match="can't be written"):
            History.resume(run)
    assert snapshot(run) == before


def test_it_is_brought_up_to_date_once_it_is_written(old, tmp_path):
    digest = History.open(old).digest()
    history = History.resume(old)
    assert version(old) == SCHEMA_VERSION
    assert history.digest() == digest
    assert [history.proposed(generation) for generation in range(3)] == [8, 8, 2]
    history.go_on(history.config)
    assert [candidate.state for candidate in history.candidates()][-2:] == ["accepted", "accepted"]
    history.close()
    connection, new = sqlite3.connect(old / DATABASE), record_run(tmp_path / "new")
    new.close()
    assert migrations.problem_of(connection) == ""
    connection.close()


def test_a_migration_that_is_interrupted_changes_nothing(old, monkeypatch):
    before = (old / DATABASE).read_bytes()
    steps = migrations._STEPS

    def breaks(connection):
        steps[1](connection)
        raise MemoryError

    monkeypatch.setattr(migrations, "_STEPS", {1: breaks})
    with pytest.raises(MemoryError):
        History.resume(old)
    assert version(old) == 0
    monkeypatch.setattr(migrations, "_STEPS", steps)
    assert (old / DATABASE).read_bytes() == before
    History.resume(old).close()
    assert version(old) == SCHEMA_VERSION


def test_another_schema_under_an_old_number_is_refused(old):
    connection = sqlite3.connect(old / DATABASE)
    connection.executescript("ALTER TABLE generation RENAME TO old; CREATE VIEW generation AS SELECT * FROM old")
    connection.close()
    for open_it in (History.open, History.resume):
        with pytest.raises(HistoryError, match="is damaged"):
            open_it(old)


@pytest.mark.parametrize("number", [SCHEMA_VERSION + 1, 99, -1])
def test_a_newer_schema_is_refused_by_readers_and_writers(tmp_path, number):
    record_run(tmp_path).close()
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute(f"PRAGMA user_version = {number}")
    connection.close()
    for open_it in (History.open, History.resume):
        with pytest.raises(HistoryError, match=rf"schema {number}; this release reads up to {SCHEMA_VERSION}: upgrade|{number}"):
            open_it(tmp_path)
