"""A run directory from a stranger is safe to open: it is refused with a LemonadeError, or read and harmless; nothing else happens."""

import hashlib
import json
import math
import os
import pickle
import sqlite3
import struct
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from runs import BOUNDS, OBJECTIVES, child, convnet, create, generation, outcome, record_run, state_of
from safetensors.torch import save
from strategies import chain

from lightning_lemonade import cli, load
from lightning_lemonade.errors import HistoryError, LemonadeError, SpecError
from lightning_lemonade.graph import (
    Activation,
    Add,
    Concat,
    Conv2d,
    GlobalPool2d,
    GraphSpec,
    Input,
    Linear,
    Node,
    Output,
    Upsample2d,
    with_outputs,
)
from lightning_lemonade.history import History
from lightning_lemonade.history.database import LARGEST
from lightning_lemonade.records import ObjectiveRecord
from lightning_lemonade.search import Measurement

WEIGHTS = "weights/000002-0.safetensors"
ENDLESS = "WITH RECURSIVE t(x) AS (VALUES (1) UNION ALL SELECT x FROM t)"


def read_all(run_dir):
    """Asks a run directory for everything; builds its networks."""
    history = History.open(run_dir)
    history.candidates()
    history.digest()
    front = load(run_dir)
    str(front)
    return [candidate.network for candidate in front]


def refused(run_dir, match="", within=20.0):
    """Checks that a run directory is refused in good time, by `load` and by a search that would go on with it."""
    found = []

    def read():
        for ask in (lambda: read_all(run_dir), lambda: History.resume(run_dir).close()):
            try:
                ask()
            except BaseException as error:
                found.append(error)

    began = time.monotonic()
    thread = threading.Thread(target=read, daemon=True)  # a pipe would block it for ever
    thread.start()
    thread.join(within)
    assert not thread.is_alive(), f"it took more than {within} s"
    assert time.monotonic() - began < within
    assert found
    assert isinstance(found[0], LemonadeError), repr(found[0])
    assert all(isinstance(error, LemonadeError) for error in found)
    assert match in str(found[0]), str(found[0])


def shown(run_dir, capsys, *flags):
    """What `lightning-lemonade show` prints."""
    code = cli.main(["show", str(run_dir), *flags])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def replace_spec(change, run_dir, spec):
    """Puts another architecture in the place of candidate 2's."""
    text = spec if isinstance(spec, str) else spec.to_json()
    change(run_dir, "UPDATE candidate SET spec = ? WHERE id = 2", text)


def replace_weights(change, run_dir, content):
    """Puts other weights in the place of candidate 2's, with their checksum."""
    (run_dir / WEIGHTS).write_bytes(content)
    change(run_dir, "UPDATE task_result SET sha256 = ? WHERE candidate = 2", hashlib.sha256(content).hexdigest())


class TestCode:
    def test_in_ids_of_nodes(self, run, change, tmp_path, capsys):
        code = f"n1;open({str(tmp_path / 'canary')!r},'w')"
        for old in ("n0", "n1"):
            replace_spec(change, run, convnet(8).to_json().replace(f'"{old}"', json.dumps(code)))
            refused(run, "an id is the letter n and digits")
        assert cli.main(["show", str(run)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "canary").exists()

    def test_as_paths_of_classes(self, run, change, tmp_path, monkeypatch, capsys):
        (tmp_path / "evil_canary.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Data: pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        path = "evil_canary.Data"
        command = {"data": {"class_path": path, "init_args": {"_target_": path}}}
        config = {"module": path, "space": {"class": path}, "callbacks": [path], "command": command, "versions": {path: "1"}}
        config["tasks"] = {"": {"data": {"class": path}, "outputs": 10, "class_names": [path] * 10}}
        change(run, "UPDATE run SET config = ?", json.dumps(config))
        change(run, "UPDATE candidate SET mutations = ?, failure_kind = ?", json.dumps([{"kind": path, "class_path": path}]), path)
        change(run, f"UPDATE objective SET unit = '{path}'")
        assert len(read_all(run)) == 2
        shown(run, capsys)
        assert path in shown(run, capsys, "--json")
        assert "evil_canary" not in sys.modules
        assert not (tmp_path / "canary").exists()
        assert cli.main(["resume", str(run)]) == 2
        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize("kind", ["pickle", "torch.save", "pickle in a zip"])
    def test_in_pickled_weights(self, run, change, tmp_path, kind):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "canary"), "w")

        path = tmp_path / "pickled"
        if kind == "pickle":
            path.write_bytes(pickle.dumps({"raw/n1.weight": Evil()}))
        elif kind == "torch.save":
            torch.save({"raw/n1.weight": Evil()}, path)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
        replace_weights(change, run, path.read_bytes())
        with pytest.raises(HistoryError, match="no safetensors file"):
            _ = load(run)[2].network
        assert not (tmp_path / "canary").exists()


class TestPaths:
    @pytest.mark.parametrize("name", ["../../victim", "/{victim}", "weights/../../victim", "weights/000000-0.safetensors"])
    def test_of_weights_lead_nowhere_else(self, run, change, tmp_path, name):
        victim = tmp_path / "victim"
        victim.write_bytes((run / WEIGHTS).read_bytes())
        change(run, "UPDATE task_result SET weights = ? WHERE candidate = 2", name.format(victim=victim))
        with pytest.raises(HistoryError, match="isn't theirs"):
            _ = load(run)[2].network

    def test_of_weights_that_are_to_be_deleted_lead_nowhere_else(self, run, change, tmp_path):
        victims = [tmp_path / "victim", run / "notes.txt", run / "weights/notes.safetensors"]
        for victim in victims:
            victim.write_text("alive")
        names = ["../victim", "notes.txt", "weights/notes.safetensors", "weights/../../victim", str(victims[0])]
        for number, name in enumerate(names):
            change(run, f"INSERT INTO task_result VALUES (1, 't{number}', 0, 0, '{{}}', 0, 0, 0, ?, 'x')", name)
        history = History.resume(run)
        history.go_on({"keep_weights": "front"})
        history.record_generation(generation(2, (0, 2), 0.5))
        history.close()
        assert [victim.read_text() for victim in victims] == ["alive"] * 3
        assert not (run / "weights/000001-0.safetensors").exists()  # which did leave the front

    def test_behind_links_are_not_written(self, run, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("alive")
        for name in (".000004-0.safetensors.tmp", "000004-0.safetensors"):
            (run / "weights" / name).symlink_to(victim)
        history = History.resume(run)
        history.accept([child(4, convnet(), 2, 2)])
        history.record(outcome(4, 0.1, convnet()), {"": state_of(convnet(), 0)})
        assert history.weights(4)
        history.close()
        assert victim.read_text() == "alive"
        assert not (run / "weights/000004-0.safetensors").is_symlink()

    def test_of_a_history_that_is_a_link_are_read_but_not_written(self, run, tmp_path, files):
        other = tmp_path / "other"
        (other / "weights").mkdir(parents=True)
        (other / "history.sqlite").symlink_to(run / "history.sqlite")
        before = files(run)
        assert [c.id for c in History.open(other).candidates()] == [0, 1, 2, 3]
        with pytest.raises(HistoryError, match="is a link, maybe to the history of another run"):
            History.resume(other)
        assert files(run) == before

    def test_of_run_directories_that_cant_be_ones_are_refused(self, tmp_path):
        for path in ("a\0b", "x" * 5000, str(tmp_path / ("y" * 300)), ""):
            with pytest.raises(LemonadeError):
                load(path)


class TestOddFiles:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    @pytest.mark.parametrize("name", ["history.sqlite", "history.sqlite-journal", "history.sqlite-wal", "history.sqlite-shm", WEIGHTS])
    @pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe", "link to zeros", "link to itself"])
    def test_in_place_of_a_file_are_refused(self, run, tmp_path, name, kind):
        path = run / name
        path.unlink(missing_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "link to zeros":
            path.symlink_to("/dev/zero")
        elif kind == "link to itself":
            path.symlink_to(path.name)
        else:
            os.mkfifo(path if kind == "pipe" else tmp_path / "pipe")
            if kind == "link to a pipe":
                path.symlink_to(tmp_path / "pipe")
        refused(run)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    @pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
    def test_in_place_of_the_lock_are_refused_to_a_writer_alone(self, run, tmp_path, capsys, kind):
        path, victim = run / "search.lock", tmp_path / "victim"
        victim.write_text("alive")
        path.unlink()
        {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "link": lambda: path.symlink_to(victim)}[kind]()
        assert len(read_all(run)) == 2
        shown(run, capsys)
        with pytest.raises(HistoryError, match=r"search\.lock"):
            History.resume(run)
        assert victim.read_text() == "alive"

    def test_of_enormous_size_are_refused_unread(self, run):
        for name in ("history.sqlite-journal", "history.sqlite", WEIGHTS):
            before = (run / name).read_bytes() if (run / name).exists() else None
            with (run / name).open("ab") as file:
                file.truncate(2 * LARGEST if name == WEIGHTS else 1 << 42)  # a file of holes takes no room
            if name == WEIGHTS:
                with pytest.raises(HistoryError, match="are more than their network can have"):
                    History.open(run).weights(2)
            else:
                refused(run, "which no search makes")
            (run / name).write_bytes(before) if before is not None else (run / name).unlink()
        assert len(read_all(run)) == 2

    def test_of_another_kind_of_journal_are_refused_and_nothing_is_left(self, run, change, files):
        change(run, "PRAGMA journal_mode = WAL")
        before = files(run)
        refused(run, "changed by another program")
        assert {path.name for path in files(run)} == {path.name for path in before}
        assert files(run)[run / "history.sqlite"] == before[run / "history.sqlite"]


def super_journal(name):
    """The end of a journal of a commit that spans several databases; SQLite deletes the file that it names."""
    content = str(name).encode()
    return (
        struct.pack(">I", (1 << 30) // 4096 + 1)
        + content
        + struct.pack(">II", len(content), sum(content))
        + bytes.fromhex("d9d505f920a163d7")
    )


def killed_in_a_commit(run_dir, end=b""):
    """Makes a run directory as it is where a writer was killed in a commit."""
    connection = sqlite3.connect(run_dir / "history.sqlite", isolation_level=None)
    connection.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE candidate SET spec = spec || ' '; UPDATE run SET status = 'half'")
    half, journal = ((run_dir / name).read_bytes() for name in ("history.sqlite", "history.sqlite-journal"))
    connection.close()
    (run_dir / "history.sqlite").write_bytes(half)
    (run_dir / "history.sqlite-journal").write_bytes(journal + end)


class TestJournals:
    @pytest.mark.parametrize("linked", [False, True])
    def test_that_name_another_file_dont_delete_it(self, run, tmp_path, linked):
        victim = tmp_path / "victim"
        victim.write_text("alive")
        killed_in_a_commit(run, super_journal(victim))
        if linked:
            for name in ("history.sqlite", "history.sqlite-journal"):
                (run / name).rename(run / f"real-{name.removeprefix('history.')}")
            (run / "history.sqlite").symlink_to("real-sqlite")
        refused(run, "names another file" if not linked else "")
        assert victim.read_text() == "alive"
        (run / "search.lock").unlink()
        plain = sqlite3.connect(run / "history.sqlite")  # the attack is a real one
        plain.execute("SELECT * FROM run").fetchall()
        plain.close()
        assert not victim.exists()

    def test_of_a_killed_writer_are_rolled_back_by_readers_in_memory_and_by_the_next_writer_on_disk(self, open_folder, nobody, files):
        run = open_folder / "run"
        record_run(run).close()
        digest = History.open(run).digest()
        killed_in_a_commit(run)
        assert (run / "history.sqlite-journal").stat().st_size > 512
        before = files(run)
        History.open(run).digest()  # imports what it needs
        with nobody(run):
            history = History.open(run)
            assert (history.status, history.digest(), len(history.candidates())) == ("running", digest, 4)
            assert len(load(run)) == 2
            assert history.weights(2)
        assert files(run) == before
        writer = History.resume(run)
        assert not (run / "history.sqlite-journal").exists()
        assert writer.digest() == digest
        writer.finish("finished", "")
        writer.close()
        assert History.open(run).status == "finished"

    def test_that_make_the_database_enormous_are_refused(self, run):
        killed_in_a_commit(run)
        journal = run / "history.sqlite-journal"
        content = journal.read_bytes()
        journal.write_bytes(content[:16] + struct.pack(">I", 2**28) + content[20:])  # pages that there were
        with pytest.raises(HistoryError):
            History.open(run)


STRANGE = {
    "a view in place of a table": f"ALTER TABLE value RENAME TO old; CREATE VIEW value AS {ENDLESS} SELECT x AS candidate FROM t",
    "a view beside": f"CREATE VIEW more AS {ENDLESS} SELECT * FROM t",
    "a trigger": f"CREATE TRIGGER more AFTER UPDATE ON run BEGIN INSERT INTO asked {ENDLESS} SELECT x, x FROM t; END",
    "a virtual table": "CREATE VIRTUAL TABLE more USING fts5(x)",
    "a virtual table in place of a table": "DROP TABLE asked; CREATE VIRTUAL TABLE asked USING fts5(generation, proposed)",
    "a generated column": "ALTER TABLE run ADD COLUMN more GENERATED ALWAYS AS (printf('%.*c', 900000000, 'x')) VIRTUAL",
    "an index on an expression": "CREATE INDEX more ON candidate (hex(zeroblob(id)))",
    "a check": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'PRIMARY KEY (id)', 'PRIMARY KEY (id), "
    "CHECK (hex(zeroblob(900000000)) > 0)') WHERE name = 'candidate'",
    "a default": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'proposed INTEGER', 'proposed INTEGER DEFAULT "
    "(hex(zeroblob(900000000)))') WHERE name = 'asked'",
    "a column more": "ALTER TABLE run ADD COLUMN more",
    "two tables in one place": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 2",
    "a schema that quotes a terminal": "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE run (\x1b[2J' "
    "WHERE name = 'run'",
}


class TestDatabases:
    @pytest.mark.parametrize("case", STRANGE)
    def test_with_something_else_than_our_tables_are_refused(self, run, change, case):
        change(run, STRANGE[case])
        refused(run)
        with pytest.raises(HistoryError) as caught:
            History.open(run)
        assert "\x1b" not in str(caught.value)

    def test_whose_list_of_tables_has_no_end_are_refused(self, run):
        endless_schema(run / "history.sqlite")
        plain = sqlite3.connect(run / "history.sqlite")  # the attack is a real one
        plain.set_progress_handler(lambda: 1, 2_000_000)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            plain.execute("SELECT * FROM run")
        plain.close()
        refused(run)

    def test_that_are_cut_short_or_foreign_are_refused_to_a_writer_too(self, run):
        whole = (run / "history.sqlite").read_bytes()
        for content in (whole[: len(whole) // 2], whole[:100], b"", b"SQLite format 3\0", os.urandom(5000)):
            (run / "history.sqlite").write_bytes(content)
            with pytest.raises(HistoryError, match=r"history\.sqlite"):
                History.resume(run)
        (run / "history.sqlite").unlink()
        foreign = sqlite3.connect(run / "history.sqlite")
        foreign.executescript("CREATE TABLE bookmarks (url)")
        foreign.close()
        before = (run / "history.sqlite").read_bytes()
        with pytest.raises(HistoryError, match="of another program"):
            History.resume(run)
        assert (run / "history.sqlite").read_bytes() == before
        (run / "history.sqlite").write_bytes(whole)
        History.resume(run).close()

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE front_member SET candidate = 3 WHERE candidate = 2",
            "DELETE FROM value WHERE candidate = 2 AND objective = 'params'",
            "DELETE FROM task_result WHERE candidate = 2",
            "UPDATE candidate SET parent = 2 WHERE id = 2",
            "UPDATE candidate SET parent = -1 WHERE id = 2",
            "UPDATE candidate SET state = 'done'",
            "UPDATE candidate SET hash = '\x1b[2J'",
            "UPDATE candidate SET epochs = -1",
            "UPDATE candidate SET id = -3 WHERE id = 3",
            "UPDATE candidate SET failure_kind = x'00'",
            "UPDATE candidate SET mutations = '{}'",
            "UPDATE value SET value = 'small'",
            "UPDATE value SET value = 9e999",
            "UPDATE task_result SET start_error = x'00ff'",
            "UPDATE task_result SET metrics = '[]'",
            "UPDATE generation SET hypervolume = 'x'",
            "UPDATE run SET status = x'ff'",
            "UPDATE run SET status = CAST(x'ff' AS TEXT)",
            "UPDATE run SET bounds = '{\"error\": 3}'",
            "UPDATE objective SET stage = 'later'",
            "INSERT INTO run SELECT 2, created, config, bounds, tasks, status, stop_reason FROM run",
        ],
    )
    def test_that_contradict_themselves_are_refused(self, run, change, statement):
        change(run, statement)
        with pytest.raises(HistoryError, match=r"restore it from a copy"):
            (History.open(run).status, read_all(run))

    @pytest.mark.parametrize(
        "config",
        [
            {"tasks": 3},
            {"tasks": {"": 3}},
            {"tasks": {"": {"outputs": "ten"}}},
            {"tasks": {"": {"outputs": -1}}},
            {"tasks": {"": {"outputs": 10**400}}},
            {"tasks": {"": {"outputs": 10**9}}},
            {"tasks": {"": {"outputs": True}}},
            {"tasks": {"": {"class_names": "ab"}}},
            {"tasks": {"": {"class_names": False}}},
            {"tasks": {"": {"class_names": [1, 2]}}},
            {"versions": ["1"]},
            {"max_seconds": "x"},
        ],
    )
    def test_whose_configuration_has_another_form_are_refused(self, run, change, config):
        change(run, "UPDATE run SET config = ?", json.dumps(config))
        refused(run)

    def test_whose_outputs_a_network_cant_have_are_refused(self, run, change):
        replace_spec(change, run, chain(Input((3, 8, 8)), GlobalPool2d(), Output()))
        change(run, "UPDATE run SET config = ?", json.dumps({"tasks": {"": {"outputs": 7}}}))
        front = load(run)
        with pytest.raises(HistoryError, match="has no 7 outputs for its task"):
            _ = front[2].spec

    def test_of_more_members_than_sqlite_takes_in_one_query_are_read(self, run, change):
        many = "WITH RECURSIVE t(x) AS (VALUES (10) UNION ALL SELECT x + 1 FROM t WHERE x < 300000)"
        change(run, f"{many} INSERT INTO front_member SELECT 1, x, x FROM t")
        history = History.open(run)
        assert [record.id for record in history.front()] == [0, 2]
        assert [record.id for record in history.candidates() if record.in_front] == [0, 2]


class TestJson:
    @pytest.mark.parametrize("depth", [70, 900, 100_000])
    def test_that_is_deep_is_refused(self, run, change, depth):
        deep = "[" * depth + "]" * depth
        for column, text in {
            "run.config": f'{{"a": {deep}}}',
            "candidate.mutations": f'[{{"kind": {deep}}}]',
            "candidate.spec": deep,
        }.items():
            table, name = column.split(".")
            before = sqlite3.connect(run / "history.sqlite").execute(f"SELECT {name} FROM {table} WHERE id = 1").fetchone()[0]
            change(run, f"UPDATE {table} SET {name} = ? WHERE id = 1", text)
            refused(run)
            change(run, f"UPDATE {table} SET {name} = ? WHERE id = 1", before)
        assert len(read_all(run)) == 2

    def test_of_odd_numbers_is_refused_or_read_and_shown(self, run, change, capsys):
        change(run, "UPDATE run SET config = ?", '{"max_seconds": Infinity}')
        refused(run)
        change(run, "UPDATE run SET config = ?", '{"seed": NaN, "seed": -Infinity, "more": 1e999}')
        change(run, "UPDATE candidate SET mutations = ? WHERE id = 2", '[{"kind": "x", "factor": NaN, "by": ' + "9" * 4000 + "}]")
        change(run, "UPDATE task_result SET metrics = ? WHERE candidate = 2", '{"a": Infinity, "a": NaN}')
        (mutation,) = next(row for row in json.loads(shown(run, capsys, "--json"))["front"] if row["id"] == 2)["mutations"]
        assert mutation == {"kind": "x", "factor": None, "by": int("9" * 4000)}
        for number in ("9" * 5000, "1e999999999", "-" + "9" * 5000):
            change(run, "UPDATE task_result SET metrics = ? WHERE candidate = 2", f'{{"a": {number}}}')
            if "e" in number:
                assert load(run)[2].metrics == {"a": math.inf}
            else:
                refused(run)

    def test_of_enormous_length_is_refused(self, run, change):
        change(run, "UPDATE run SET config = ?", json.dumps({"a": [0] * 2_000_000}))
        refused(run, "JSON of at most")
        change(run, "UPDATE run SET config = '{}', stop_reason = zeroblob(40000000)")
        with pytest.raises(HistoryError):
            History.open(run)

    def test_with_a_key_twice_has_its_last_value(self, run, change):
        text = convnet(8).to_json().replace('"out_channels": 8', '"out_channels": 99, "out_channels": 8')
        replace_spec(change, run, text)
        assert load(run)[2].spec == convnet(8)
        assert load(run)[2].network


class TestCounts:
    def test_of_nodes_channels_edges_and_elements_are_bounded(self, run, change):
        node = '{"id": "n%d", "op": "identity", "inputs": ["n%d"]}'
        many = convnet(8).to_json()[:-2] + "".join(", " + node % (i, i - 1) for i in range(10, 5000)) + "]}"
        wide = convnet(8).to_json().replace('"out_channels": 8', f'"out_channels": {2**21}')
        brackets = '{"format": "lemonade-graph", "version": 1, "nodes": [' + "[]," * 1_200_000 + "[]]}"
        for text in (many, wide, brackets):
            replace_spec(change, run, text)
            refused(run)
        doubling = [Node("n0", Input((1 << 20,))), *(Node(f"n{i}", Concat(), (f"n{i - 1}",) * 2) for i in range(1, 40))]
        growing = [Node("n0", Input((1, 2, 2))), *(Node(f"n{i}", Upsample2d((2, 2)), (f"n{i - 1}",)) for i in range(1, 40))]
        dense = [Node("n0", Input((4,))), *(Node(f"n{i}", Add(), tuple(f"n{j % i}" for j in range(300))) for i in range(1, 300))]
        for nodes, problem in ((doubling, "too large"), (growing, "too large"), (dense, "inputs, all together")):
            with pytest.raises(SpecError, match=problem):
                GraphSpec((*nodes, Node("n999", Output(), (nodes[-1].id,))))

    def test_of_objectives_and_tasks_are_bounded(self, run, change, tmp_path):
        names = [f"o{i}" for i in range(300)]
        objectives = [ObjectiveRecord(name, name, "", "spec") for name in names]
        with pytest.raises(HistoryError, match="aren't at most 256"):
            History.create(tmp_path / "new", config={}, objectives=objectives, bounds=dict.fromkeys(names, (0.0, 1.0)))
        with pytest.raises(HistoryError, match="aren't between 1 and 256"):
            create(tmp_path / "new", tuple(names))
        change(run, "UPDATE run SET tasks = ?", json.dumps(names))
        refused(run, "aren't between 1 and 256")
        change(run, "WITH RECURSIVE t(x) AS (VALUES (9) UNION ALL SELECT x + 1 FROM t WHERE x < 9999) "
               "INSERT INTO objective SELECT x, 'k' || x, 'k', '', 'spec' FROM t")  # fmt: skip
        refused(run, "aren't at most 256")

    def test_of_ways_through_a_graph_take_no_time(self):
        nodes = [Node("n0", Input((4,))), Node("n1", Linear(3), ("n0",))]
        nodes += [Node(f"n{i}", Add(), (f"n{i - 1}", f"n{i - 1}")) for i in range(2, 2000)]
        spec = GraphSpec((*nodes, Node("n9999", Output(), ("n1999",))))
        assert with_outputs(spec, 5).output_shape == (5,)
        with pytest.raises(SpecError, match="can't be given that width"):
            with_outputs(spec, 0)

    def test_of_nodes_that_are_alike_take_no_time(self, run, change):
        rng = np.random.default_rng(0)
        pairs = np.concatenate([rng.permutation(1000).reshape(-1, 2) for _ in range(3)])  # each of a thousand equal branches in three sums
        nodes = [Node("n0", Input((3, 8, 8))), *(Node(f"n{i + 1}", Activation("relu"), ("n0",)) for i in range(1000))]
        nodes += [Node(f"n{2000 + i}", Add(), (f"n{a + 1}", f"n{b + 1}")) for i, (a, b) in enumerate(pairs)]
        nodes.append(Node("n5000", Add(), tuple(f"n{2000 + i}" for i in range(len(pairs)))))
        spec = GraphSpec((*nodes, Node("n5001", Output(), ("n5000",))))
        replace_spec(change, run, spec)
        assert len(load(run)) == 2  # which doesn't ask for its hash
        refused(run, "too much alike")

    def test_of_parameters_take_no_memory(self, run, change):
        giant = chain(
            Input((3, 8, 8)),
            Conv2d(2**20, (9, 9), padding=(4, 4)),
            Conv2d(2**20, (99, 99)[:1] * 2, padding=(49, 49)),
            GlobalPool2d(),
            Output(),
        )
        replace_spec(change, run, giant)
        change(run, "UPDATE candidate SET hash = ? WHERE id = 2", giant.structural_hash)
        with pytest.raises(HistoryError, match="don't fit its spec"):
            _ = load(run)[2].network


class TestTexts:
    ODD = "\x1b[31mred\x1b[0m\x07\x9b2J\u202e\r"

    @pytest.mark.parametrize(
        "column", ["objective.key", "objective.name", "objective.unit", "run.tasks", "run.status", "candidate.failure_kind"]
    )
    def test_that_a_terminal_obeys_are_no_names(self, run, change, column, capsys):
        table, name = column.split(".")
        where = "position = 1" if table == "objective" else "id >= 0"
        change(run, f"UPDATE {table} SET {name} = ? WHERE {where}", json.dumps([self.ODD]) if name == "tasks" else self.ODD)
        assert cli.main(["show", str(run)]) == 2
        captured = capsys.readouterr()
        assert captured.err.replace("\n", "").isprintable()
        assert not captured.out

    def test_that_a_terminal_obeys_are_harmless_elsewhere(self, run, change, capsys):
        names = [self.ODD, "<script>alert(1)</script>", *"abcdefgh"]
        change(
            run,
            "UPDATE run SET status = 'stopped', stop_reason = ?, config = ?",
            self.ODD,
            json.dumps({"tasks": {"": {"outputs": 10, "class_names": names}}}),
        )
        change(run, "UPDATE candidate SET failure_text = ? WHERE id = 3", f"first\nsecond {self.ODD}")
        change(run, "UPDATE candidate SET mutations = ?", json.dumps([{"kind": self.ODD, self.ODD: [self.ODD, "\ud800"]}]))
        change(run, "UPDATE task_result SET metrics = ?", json.dumps({self.ODD: 0.5}))
        history, out = History.open(run), shown(run, capsys) + shown(run, capsys, "--json")
        failure = history.candidate(3).failure
        texts = [
            history.stop_reason,
            failure.text.replace("\n", ""),
            *load(run)[2].class_names,
            *load(run)[2].metrics,
            out.replace("\n", ""),
        ]
        texts += [text for mutation in history.candidate(2).mutations for text in (*mutation, mutation["kind"])]
        assert all(text.isprintable() for text in texts)
        assert load(run)[2].class_names[1] == names[1]
        assert failure.text.startswith("first\nsecond ")

    def test_of_markup_are_shown_as_they_are(self, run, change, capsys):
        for key, unit in (("[red]x[/red]", "[/]"), ("[/]", "[link=file:///etc/passwd]x"), ("<b>&lt;", "")):
            bounds = {"error": [0.0, 0.9], key: [10.0, 1e6], "latency": [0.01, 10.0]}
            change(run, "UPDATE objective SET key = ?, name = ?, unit = ? WHERE position = 1", key, key, unit)
            change(run, "UPDATE value SET objective = ? WHERE objective NOT IN ('error', 'latency')", key)
            change(run, "UPDATE run SET bounds = ?", json.dumps(bounds))
            assert key in shown(run, capsys)
            assert key in json.loads(shown(run, capsys, "--json"))["front"][0]["objectives"]
            assert key in load(run).to_pandas().columns

    def test_of_columns_that_there_are_already_are_no_trouble(self, tmp_path):
        names = ["parent", "hash", "test_error"]
        objectives = [*OBJECTIVES, *(ObjectiveRecord(name, name, "", "spec") for name in names)]
        history = History.create(tmp_path, config={}, objectives=objectives, bounds=BOUNDS | dict.fromkeys(names, (0.0, 1.0)))
        history.accept([child(0, convnet())])
        given = outcome(0, 0.5, convnet())
        values = {**given.values, **{name: Measurement(0.5) for name in names}}
        history.record(type(given)(0, values, None, given.tasks), {"": state_of(convnet(), 0)})
        history.record_generation(generation(0, (0,), 0.1))
        assert len(load(tmp_path).to_pandas().columns) == 14


class TestWeights:
    @pytest.mark.parametrize(
        "header",
        [
            struct.pack("<Q", 2**64 - 1),
            struct.pack("<Q", 100_000_000) + b"{}",
            struct.pack("<Q", 20_000) + b"[" * 20_000,
            struct.pack("<Q", 2) + b"{}" + b"\0" * 9,
            struct.pack("<Q", 0),
            b"",
        ],
        ids=["endless", "huge", "deep", "bytes behind", "empty", "nothing"],
    )
    def test_with_a_header_that_lies_are_refused(self, run, change, header):
        replace_weights(change, run, header)
        with pytest.raises(HistoryError, match=r"weights .* (are no safetensors file|hold no set)|don't fit its spec"):
            _ = load(run)[2].network

    @pytest.mark.parametrize(
        "entry",
        [
            {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]},
            {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
            {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
            {"dtype": "F32", "shape": [0] * 10_000, "data_offsets": [0, 0]},
            {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
            {"dtype": "C64", "shape": [0], "data_offsets": [0, 0]},
            {"dtype": "F32", "shape": [0], "data_offsets": [7, 3]},
            {},
        ],
    )
    def test_of_impossible_tensors_are_refused(self, run, change, entry):
        text = json.dumps({"raw/n1.weight": entry}).encode()
        replace_weights(change, run, struct.pack("<Q", len(text)) + text)
        with pytest.raises(HistoryError):
            _ = load(run)[2].network

    def test_of_more_tensors_than_a_network_has_are_refused_unread(self, run, change):
        entries = {f"raw/n{i}.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}
        text = json.dumps(entries).encode()
        replace_weights(change, run, struct.pack("<Q", len(text)) + text)
        with pytest.raises(HistoryError, match="more than their network can have"):
            _ = load(run)[2].network

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
    def test_of_another_type_are_refused(self, run, change, dtype):
        replace_weights(change, run, save({f"raw/{name}": tensor.to(dtype) for name, tensor in state_of(convnet(8), 2).items()}))
        with pytest.raises(HistoryError, match=r"which no weights are|don't fit its spec"):
            _ = load(run)[2].network

    def test_with_a_flipped_byte_or_cut_short_are_refused(self, run):
        whole = (run / WEIGHTS).read_bytes()
        for content in (whole[:-1], whole[:9], whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], whole + b"\0"):
            (run / WEIGHTS).write_bytes(content)
            with pytest.raises(HistoryError, match="are damaged: their checksum"):
                _ = load(run)[2].network
        (run / WEIGHTS).write_bytes(whole)
        assert load(run)[2].network


def endless_schema(path):
    """Makes the pages of a database's list of tables lead in circles of 60 to the power of eight rows, none of which is wrong."""
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA page_size = 1024; VACUUM")
    connection.close()
    content = bytearray(path.read_bytes())
    assert content[100] == 5, "the list of tables has several pages"
    count = len(content) // 1024
    name = content.index(b"indexsqlite_autoindex_objective_1")  # a row whose repetition is no error
    start = next(
        place for place in range(name, name - 12, -1) if place + 2 + content[place] > name and content[place + 2] == name - place - 2
    )
    leaf, row = bytearray(1024), content[start : start + 2 + content[start]]
    leaf[:8] = struct.pack(">BHHHB", 13, 0, 1, 1024 - len(row), 0)
    leaf[8:10] = struct.pack(">H", 1024 - len(row))
    leaf[1024 - len(row) :] = row
    content += leaf  # page `count + 1`
    for level in range(8):  # each leads sixty times to the one before
        content += interior([count + level + 1] * 60)
    cells = [struct.unpack(">I", content[place : place + 4])[0] for place in pointers(content)]
    first = interior([*cells, struct.unpack(">I", content[108:112])[0], count + 9], begin=100)
    content[100:1024] = first[100:]
    content[28:32] = struct.pack(">I", count + 9)
    path.write_bytes(content)


def pointers(content):
    """Where the cells of the first page begin."""
    number = struct.unpack(">H", content[103:105])[0]
    return [struct.unpack(">H", content[112 + 2 * i : 114 + 2 * i])[0] for i in range(number)]


def interior(children, begin=0):
    """A page of a table's tree that leads to other pages."""
    page, cells = bytearray(1024), []
    end = 1024
    for row, page_below in enumerate(children[:-1]):
        end -= 5
        page[end : end + 5] = struct.pack(">IB", page_below, row + 1)
        cells.append(end)
    page[begin : begin + 12] = struct.pack(">BHHHBI", 5, 0, len(cells), end, 0, children[-1])
    for i, place in enumerate(cells):
        page[begin + 12 + 2 * i : begin + 14 + 2 * i] = struct.pack(">H", place)
    return bytes(page)
