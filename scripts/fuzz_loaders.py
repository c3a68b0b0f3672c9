"""Malformed specs, mutations, configurations, databases, journals and weights against the loaders: a stranger's run directory is safe.

Usage: python scripts/fuzz_loaders.py [--cases 12000] [--seed 0] [--kind KIND] [--first 0]

Every case is something valid that was changed at random, with a taste for what hurts: deep, huge, of another type, not a number, code,
escape sequences. Either a `LemonadeError` refuses it, or it is read, and then it must hold together: a spec has its hash, comes back from
JSON and gives a network; a mutation comes back and changes a graph or says why not; of a run, everything that can be asked of it is, on
the command line too, where nothing a terminal obeys may be printed; a network is built from its weights; a search goes on from it. What
reads a run directory leaves it as it is; nothing beside it is touched by anything. Every case has ten seconds.

Prints for each kind the cases, how many were read and how many refused, failures, the slowest case, the longest time that one took and
the growth of peak memory; then every failure with what repeats it. The exit code is 1 if there is one, or memory grew by a gigabyte.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import math
import os
import random
import resource
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace
from safetensors.torch import save

from lightning_lemonade import cli, load
from lightning_lemonade.errors import LemonadeError, MutationError, SpecError
from lightning_lemonade.graph import GraphSpec, build, with_outputs
from lightning_lemonade.history import DATABASE, History
from lightning_lemonade.morphisms import KINDS, State, mutation_from_dict
from lightning_lemonade.parsing import Parser
from lightning_lemonade.records import GenerationRecord, ObjectiveRecord
from lightning_lemonade.resume import restore
from lightning_lemonade.search import (
    Child,
    Failure,
    Limits,
    Measurement,
    NonDominatedSurvival,
    Outcome,
    Search,
    TaskResult,
    UniformSampling,
)
from lightning_lemonade.spaces import ConvNetSpace
from lightning_lemonade.testing import random_spec

SECONDS = 10.0
MOST_GROWTH = 1024
"""MiB by which peak memory may grow, over all cases."""
NAMES = ("error", "params")
CONFIG = """
objectives: [error, params]
limits: {params: 2e6}
max_generations: 3
max_time: "00:01:00:00"
epochs: 2
inherit: true
sampling: gain
seed: 7
accelerator: cpu
precision: 32
training: {epochs: 1, initial_epochs: 1, label_smoothing: 0.1}
data: {class_path: DigitsDataModule, init_args: {batch_size: 32, seed: 1}}
run_dir: run
"""
TWO_TASKS = (
    "tasks: {first: DigitsDataModule, second: {class_path: DigitsDataModule, init_args: {seed: 1}}}\nobjectives: error/first,params\n"
)
VERSION_1 = Path(__file__).parents[1] / "tests" / "history" / "version_1.sql"


def nested(depth: int, kind: str = "[") -> Any:  # noqa: ANN401
    """A list in a list in a list, or a mapping in a mapping."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "[" else {"a": value}
    return value


TEXTS = (
    "", "x", "n0", "n1;import os", "__import__('os').system('false')", "../../victim", "/etc/passwd", "os.system", "canary.Canary",
    "\x1b[31mred\x1b[0m", "\x9b31m", "[red]x[/red]", "[/]", "<script>alert(1)</script>", "\u202etxt", "\ud800", "\x00", "line\nline",
    "é" * 300,
    "A" * 100_000, "NaN", "1e999", "null", "true", "{}", "[]", '{"a": 1', "weights/000000-0.safetensors", "2001-99-99", "error", "params",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    2**20,
    2**20 + 1,
    2**31,
    2**63 - 1,
    -(2**63),
    2**64,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
    math.nan,
    math.inf,
)
VALUES: tuple[Callable[[], Any], ...] = (
    *(lambda text=text: text for text in TEXTS),
    *(lambda number=number: number for number in NUMBERS),
    lambda: None, lambda: True, lambda: False, list, dict, lambda: [[]], lambda: [None, 1], lambda: {"kind": "widen"}, lambda: [3, 3, 3],
    lambda: nested(20), lambda: nested(90, "{"), lambda: nested(300), lambda: ["n1"] * 5000, lambda: [{}] * 3000,
)  # fmt: skip


@dataclass
class Tally:
    """What happened to the cases of one kind.

    Attributes:
        cases: in all.
        read: accepted, and sound.
        slowest: number and seconds of the slowest case.
        growth: of peak memory, in MiB.
        failures: texts.
    """

    cases: int = 0
    read: int = 0
    slowest: tuple[float, int] = (0.0, -1)
    growth: float = 0.0
    failures: list[str] = field(default_factory=list)


class TooSlowError(BaseException):
    """A case took too long; no loader may catch that."""


def value_of(rng: random.Random) -> Any:  # noqa: ANN401
    """A value that nobody expects."""
    return rng.choice(VALUES)()


def changed(value: Any, rng: random.Random, times: int) -> Any:  # noqa: ANN401
    """A copy of nested JSON values with some of them replaced, deleted, repeated, renamed or exchanged."""
    root = [deepcopy(value)]
    for _ in range(times):
        places = [(outer, key) for outer in walked(root) for key in (list(outer) if isinstance(outer, dict) else range(len(outer)))]
        if not places:
            break
        outer, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1:
                outer[key] = value_of(rng)
            case 2 if outer is not root:
                del outer[key]
            case 3:
                other, place = rng.choice(places)
                outer[key] = deepcopy(other[place]) if len(places) < 5000 else None
            case 4 if isinstance(outer, list) and outer is not root:
                outer.insert(key, deepcopy(outer[key]))
            case 5 if isinstance(outer, dict):
                outer[str(rng.choice(TEXTS))] = outer.pop(key)
            case _:
                outer[key] = value_of(rng)
    return root[0]


def walked(value: Any) -> Iterator[Any]:  # noqa: ANN401
    """Every list and mapping in nested values, without recursion, down to some depth and number."""
    waiting, count = [value], 0
    while waiting and count < 3000:
        outer = waiting.pop()
        if isinstance(outer, list | dict):
            count += 1
            yield outer
            waiting += outer if isinstance(outer, list) else outer.values()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some changed, cut out, repeated or put in."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        place = rng.randrange(len(made) + 1)
        match rng.randrange(5):
            case 0 | 1:
                made[place : place + 1] = bytes([rng.randrange(256)])
            case 2:
                made[place : place + rng.choice((1, 4, 100, 5000))] = b""
            case 3:
                made[place:place] = rng.choice(
                    (b"\x00", b"\xff" * 4, b"[" * 3000, b"9" * 5000, b'"', b"\n", b"\\ud800", b"\x1b[2J", b"&a *a ", b"<<: ")
                )
            case _:
                made[place : place + 4] = struct.pack(">I", rng.choice((0, 1, 2**31 - 1, 2**32 - 1, rng.randrange(2**16))))
    return bytes(made)


def odd_text(text: str, rng: random.Random) -> str:
    """The same for a text."""
    return damaged(text.encode(), rng).decode(errors=rng.choice(("replace", "surrogateescape", "ignore")))


# --- specs and mutations


def sound_spec(spec: GraphSpec) -> None:
    """Checks that a spec that was read is one."""
    assert GraphSpec.from_json(spec.to_json()) == spec
    assert len(spec.structural_hash) == 32
    assert spec.parameter_count >= 0 <= spec.macs
    assert len(str(spec.parameter_count)) < 40  # which JSON, floats and databases hold
    _ = spec.channels
    with contextlib.suppress(SpecError):
        with_outputs(spec, 7)
    if len(spec) < 300:
        with torch.device("meta"):
            build(spec)


def spec_text(rng: random.Random) -> None:
    """A spec as JSON text."""
    text = random_spec(rng, steps=rng.randint(0, 8)).to_json()
    if rng.random() < 0.2:
        text = json.dumps(changed(json.loads(text), rng, rng.randint(1, 3)))
    if rng.random() < 0.1:
        key = rng.choice(("nodes", "id", "op", "args", "inputs", "version"))
        text = text.replace(f'"{key}":', f'"{key}": {rng.choice(("null", "1e9999", "-", "9" * 5000, "[" * 99_999, "NaN"))}, "{key}":', 1)
    if rng.random() < 0.4:  # another digit
        place = rng.choice([i for i, character in enumerate(text) if character.isdigit()] or [0])
        text = f"{text[:place]}{rng.choice('0123456789')}{text[place + 1 :]}"
    else:
        text = odd_text(text, rng)
    sound_spec(GraphSpec.from_json(text))


def spec_values(rng: random.Random) -> None:
    """A spec as JSON values; at times a large one: a chain, a comb, a graph of equals."""
    data = random_spec(rng, steps=rng.randint(0, 8)).to_dict()
    if rng.random() < 0.06:
        data["nodes"] = large_graph(rng)
    sound_spec(GraphSpec.from_dict(changed(data, rng, rng.choice((0, 0, 1, 1, 2, 8)) if len(data["nodes"]) < 100 else 0)))


def large_graph(rng: random.Random) -> list[dict[str, Any]]:
    """Nodes that grow without end, are too many, have too many ways to the output, or are too much alike to be told apart."""
    count, kind = rng.choice((30, 200, 1500, 5000)), rng.randrange(5)
    nodes: list[dict[str, Any]] = [{"id": "n0", "op": "input", "args": {"shape": [1, 2, 2]}}]
    for i in range(1, count):
        before, equal = f"n{i - 1}", count // 3
        op: dict[str, Any] = {"op": "identity", "inputs": [before]}
        if kind == 1:
            op = {"op": "concat", "inputs": [before, before]}
        elif kind == 2:
            op = {"op": "upsample2d", "args": {"scale": rng.choice((2, 2**20))}, "inputs": [before]}
        elif kind == 3:
            op = (
                {"op": "add", "inputs": [before, before]}
                if i > 1
                else {"op": "conv2d", "args": {"out_channels": 3, "kernel_size": 1}, "inputs": ["n0"]}
            )
        elif kind == 4 and i > equal:  # sums of two of many equal branches, each of which is in four
            op = {"op": "add", "inputs": [f"n{1 + i % equal}", f"n{1 + (i * 7 + 3) % equal}"]}
        elif kind == 4:
            op = {"op": "activation", "inputs": ["n0"]}
        nodes.append({"id": f"n{i}", **op})
    ends = [f"n{count - 1}"] if kind < 4 else [f"n{i}" for i in range(1, count)]
    last = {"id": f"n{count}", "op": "add" if len(ends) > 1 else "identity", "inputs": ends}
    return [*nodes, last, {"id": f"n{count + 1}", "op": "output", "inputs": [f"n{count}"]}]


def mutation(rng: random.Random) -> None:
    """A mutation as JSON values."""
    spec = random_spec(rng, steps=rng.randint(0, 6))
    kind = KINDS[rng.choice(sorted(KINDS))]
    sites = kind.sites(spec) or [tuple("n1" for _ in kind.site_fields)]
    data = kind.at(rng.choice(sites)).to_dict()
    if rng.random() < 0.5:
        fields = sorted(kind.__dataclass_fields__)
        data[rng.choice(fields)] = value_of(rng)
    made = mutation_from_dict(changed(data, rng, rng.choice((0, 0, 1, 2))))
    assert mutation_from_dict(json.loads(json.dumps(made.to_dict()))) == made
    str(made)
    with contextlib.suppress(MutationError):
        sound_spec(made.rewrite(spec))


# --- configurations


def configuration(rng: random.Random) -> None:
    """A configuration file, given to the parser of `lightning-lemonade search`."""
    text = rng.choice((CONFIG, CONFIG, TWO_TASKS))
    if rng.random() < 0.6:
        lines = text.strip().split("\n")
        place = rng.randrange(len(lines))
        key = lines[place].partition(":")[0]
        lines[place] = f"{key}: {yaml_value(rng)}" if rng.random() < 0.8 else f"{yaml_value(rng)}: {lines[place].partition(':')[2]}"
        text = "\n".join(lines)
    content = damaged(text.encode(errors="surrogateescape"), rng) if rng.random() < 0.5 else text.encode(errors="replace")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.yaml"
        path.write_bytes(content)
        args = ["search", "--config", str(path)]
        search = Parser()
        cli._prepare_search(search, args)
        parser = Parser()
        parser.add_subcommands(required=True, dest="command").add_subcommand("search", search)
        settings = parser.parse(args)
        assert isinstance(cli._instantiated(parser, settings).search, Namespace)


def yaml_value(rng: random.Random) -> str:
    """A value that nobody expects, as YAML."""
    bombs = (
        "[" * 2000, "- " * 2000, "{a: " * 500, "&a [*a]", "&a {<<: *a}", "!!int x", "!!int ''", "!!float ''", "!!bool x", "!!timestamp x",
        "!!python/object/apply:os.system ['false']", "!!binary x", "2001-99-99", "9" * 5000, "0x", ".nan", ".inf", "1:99:99", "? ? x", "~",
        "[&a [1,1,1,1], " + ", ".join(f"&{c} [{', '.join([f'*{b}'] * 9)}]" for b, c in zip("abcdefg", "bcdefgh", strict=True)) + "]",
        '"\\Uffffffff"', '"\\ud800"', "'" + "x" * 300_000, "[" + "1, " * 3000 + "]", "!!set {a}", "!!omap [a: 1]", "| \n x", "*x", "<<",
        "%TAG",
    )  # fmt: skip
    return rng.choice(bombs) if rng.random() < 0.6 else json.dumps(changed(value_of(rng), rng, 1))


# --- run directories


@dataclass(frozen=True)
class Recorded:
    """A recorded run, as bytes by file name.

    Attributes:
        files: below the run directory.
        loose: its database without constraints, into which SQL can write anything.
    """

    files: dict[str, bytes]
    loose: bytes


def record(folder: Path) -> Recorded:
    """Records a small search of two generations, whose numbers are made up, and one generation that is interrupted."""
    torch.manual_seed(0)
    rng, space = np.random.default_rng(0), ConvNetSpace(min_mutations=1, max_mutations=1)
    objectives = [ObjectiveRecord("error", "error", "share", "trained"), ObjectiveRecord("params", "params", "parameters", "spec")]
    config = {"tasks": {"": {"outputs": 3, "class_names": ["a", "b", "c"], "data": {"class": "canary.Canary"}}}, "max_generations": 2}
    history = History.create(folder, config=config, objectives=objectives, bounds={"error": (0.0, 0.9), "params": (1.0, 1e6)})
    search = new_search(space, history)
    for number in range(3):
        asked = search.start(space.initial((1, 8, 8), 3)[:2]) if number == 0 else search.ask(rng, 3, number)
        history.accept(asked.children, asked.proposed)
        outcomes = [outcome_of(child, rng) for child in asked.children]
        for outcome, child in list(zip(outcomes, asked.children, strict=True))[: 1 if number == 2 else None]:
            history.record(outcome, {} if outcome.failure else {"": state_of(child.spec)})
        if number < 2:
            search.tell(outcomes)
            front, failed = tuple(member.id for member in search.population), sum(outcome.failure is not None for outcome in outcomes)
            counts = (asked.proposed, len(outcomes), len(outcomes) - failed, failed, 3 * number)
            history.record_generation(GenerationRecord(number, search.hypervolume, front, *counts, {"fit": 1.0}))
    history.record_test_errors({0: {"": 0.5}})
    history.finish("stopped", "RuntimeError: no luck")
    history.close()
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return Recorded(files, without_constraints(files[DATABASE]))


def new_search(space: ConvNetSpace, history: History) -> Search:
    """A search as `restore` wants it."""
    keys = [objective.key for objective in history.objectives]
    measures = {"params": lambda spec: float(spec.parameter_count)} if "params" in keys else {}
    return Search(
        space=space, objectives=measures, keys=keys, limits=Limits({}), sampling=UniformSampling(), survival=NonDominatedSurvival(),
        proposals=6, bounds=history.bounds, epochs=1,
    )  # fmt: skip


def outcome_of(child: Child, rng: np.random.Generator) -> Outcome:
    """An outcome of made-up numbers; every fifth child fails."""
    if child.id % 5 == 4:
        return Outcome(child.id, failure=Failure("exception", "no\nluck"), seconds={"fit": 0.1})
    values = {"error": Measurement(float(rng.random()), 0.1), "params": Measurement(float(child.spec.parameter_count))}
    return Outcome(child.id, values, None, {"": TaskResult(None, {"val_error": 0.5}, 1, 10)}, {"fit": 0.1})


def state_of(spec: GraphSpec) -> State:
    """Weights of a network."""
    return dict(build(spec).state_dict())


def without_constraints(content: bytes) -> bytes:
    """The same database without NOT NULL, keys and UNIQUE."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content)
    connection.executescript("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '');")
    made = connection.serialize()
    connection.close()
    return made


def version_1(recorded: Recorded) -> bytes:
    """A database of the first release."""
    if not VERSION_1.exists():
        return recorded.files[DATABASE]
    connection = sqlite3.connect(":memory:")
    connection.executescript(VERSION_1.read_text(encoding="utf-8"))
    made = connection.serialize()
    connection.close()
    return made


STATEMENTS = (
    "DROP TABLE {table}", "DELETE FROM {table}", "INSERT INTO {table} SELECT * FROM {table}", "ALTER TABLE {table} ADD COLUMN more",
    "ALTER TABLE {table} RENAME COLUMN {column} TO other", "CREATE INDEX odd ON {table} ({column})",
    "CREATE INDEX odd ON {table} (abs({column}))",
    "CREATE VIEW odd AS WITH RECURSIVE t(x) AS (VALUES (1) UNION ALL SELECT x FROM t) SELECT * FROM t",
    "ALTER TABLE {table} RENAME TO old; CREATE VIEW {table} AS "
    "WITH RECURSIVE t(x) AS (VALUES (1) UNION ALL SELECT x FROM t) SELECT x AS id FROM t",
    "CREATE TRIGGER odd AFTER UPDATE ON {table} BEGIN DELETE FROM {table}; END", "CREATE VIRTUAL TABLE odd USING fts5(x)",
    "ALTER TABLE {table} RENAME TO old; CREATE VIRTUAL TABLE {table} USING fts5(id, {column})",
    "ALTER TABLE {table} ADD COLUMN odd GENERATED ALWAYS AS (abs({column})) VIRTUAL", "PRAGMA user_version = {number}",
    "PRAGMA application_id = {number}", "PRAGMA journal_mode = WAL", "PRAGMA page_size = 512; VACUUM", "PRAGMA auto_vacuum = FULL; VACUUM",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = {number} WHERE name = '{table}'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 2 WHERE type = 'table'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, '{column}', '\x1b[2J') WHERE name = '{table}'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE {table} ({column} CHECK (abs(1)))' WHERE name = '{table}'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET type = 'view', rootpage = 0 WHERE name = '{table}'",
    "INSERT INTO value SELECT id, 'x' || id, 0.1, NULL FROM candidate", "UPDATE candidate SET parent = id",
    "UPDATE candidate SET parent = id + 1",
    "UPDATE candidate SET id = id + {number}", "UPDATE candidate SET spec = (SELECT spec FROM candidate WHERE id = 1)", "ANALYZE",
    "WITH RECURSIVE t(x) AS (VALUES (10) UNION ALL SELECT x + 1 FROM t WHERE x < 400) "
    "INSERT INTO objective SELECT x, 'k' || x, 'k', '', 'spec' FROM t",
    "WITH RECURSIVE t(x) AS (VALUES (9) UNION ALL SELECT x + 1 FROM t WHERE x < 3000) INSERT INTO front_member SELECT 1, x, x FROM t",
)  # fmt: skip


def database_by_sql(rng: random.Random, recorded: Recorded) -> None:
    """A run directory whose database another program has written to."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(rng.choice((recorded.loose, recorded.loose, recorded.loose, recorded.files[DATABASE], version_1(recorded))))
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")]
    for _ in range(rng.choice((1, 1, 2, 4))):
        table = rng.choice(tables)
        column = rng.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})")] or ["x"])
        with contextlib.suppress(sqlite3.Error, OverflowError, ValueError, TypeError, LookupError, RecursionError):
            rng.choice((by_statement, renamed, deleted, replaced, rewritten, rewritten))(connection, table, column, rng)
    content = connection.serialize()
    connection.close()
    check_run(recorded.files | {DATABASE: content}, rng)


def by_statement(connection: sqlite3.Connection, table: str, column: str, rng: random.Random) -> None:
    """Runs one of the statements that nobody expects."""
    number = rng.choice((0, 1, 2, 3, -1, 99, 2**31 - 1))
    connection.executescript(rng.choice(STATEMENTS).format(table=table, column=column, number=number))


def renamed(connection: sqlite3.Connection, table: str, column: str, rng: random.Random) -> None:
    """Calls an objective or the task something else, wherever it is named."""
    new = rng.choice(TEXTS).encode(errors="replace").decode()
    if rng.random() < 0.3:
        connection.execute("UPDATE task_result SET task = ?", (new,))
        connection.execute("UPDATE run SET tasks = ?, config = replace(config, '\"\"', ?)", (json.dumps([new]), json.dumps(new)))
        return
    old = rng.choice(NAMES)
    connection.execute("UPDATE objective SET key = ?, name = ? WHERE key = ?", (new, new, old))
    connection.execute("UPDATE value SET objective = ? WHERE objective = ?", (new, old))
    connection.execute("UPDATE run SET bounds = replace(bounds, ?, ?)", (json.dumps(old), json.dumps(new)))


def deleted(connection: sqlite3.Connection, table: str, column: str, rng: random.Random) -> None:
    """Deletes a row."""
    connection.execute(f'DELETE FROM "{table}" WHERE rowid IN (SELECT rowid FROM "{table}" LIMIT 1 OFFSET {rng.randrange(9)})')


def replaced(connection: sqlite3.Connection, table: str, column: str, rng: random.Random) -> None:
    """Puts an odd value of any type somewhere."""
    where = rng.choice(("", f" WHERE rowid = {rng.randrange(4)}"))
    connection.execute(f'UPDATE "{table}" SET "{column}" = ?{where}', (sql_value(rng),))


def rewritten(connection: sqlite3.Connection, table: str, column: str, rng: random.Random) -> None:
    """Changes something inside the JSON of a column."""
    table, column = rng.choice(
        (("run", "config"), ("run", "bounds"), ("candidate", "spec"), ("candidate", "mutations"), ("task_result", "metrics"))
    )
    found = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY length({column}) DESC").fetchall()
    row, text = rng.choice(found)
    with contextlib.suppress(ValueError, TypeError):  # changed before to something that is no JSON
        text = json.dumps(changed(json.loads(text), rng, rng.choice((1, 1, 2))))
    text = str(text)
    if rng.random() < 0.2:
        text = text.replace(": ", f': {rng.choice(("[" * 500 + "]" * 500, "1e999", "9" * 4000, "9" * 5000, "NaN"))}, "more": ', 1)
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (text, row))


def sql_value(rng: random.Random) -> Any:  # noqa: ANN401
    """A value of any type that SQLite has; often JSON."""
    value = value_of(rng)
    if isinstance(value, list | dict) or rng.random() < 0.3:
        return json.dumps(value)
    if rng.random() < 0.1:
        return rng.choice((b"", b"\xff\xfe", b"{}", b"x" * 100_000, b"\x80\x04."))
    return value


def database_by_bytes(rng: random.Random, recorded: Recorded) -> None:
    """A run directory whose database is damaged."""
    content = bytearray(recorded.files[DATABASE])
    if rng.random() < 0.5:  # where pages begin, lengths and pointers are
        for _ in range(rng.choice((1, 2, 5))):
            place = 4096 * rng.randrange(len(content) // 4096) + rng.choice((rng.randrange(100), rng.randrange(4096)))
            content[place : place + 1] = bytes([rng.choice((0, 1, 5, 13, 255, rng.randrange(256)))])
        check_run(recorded.files | {DATABASE: bytes(content)}, rng)
    else:
        check_run(recorded.files | {DATABASE: damaged(bytes(content), rng)}, rng)


def journal(rng: random.Random, recorded: Recorded) -> None:
    """A run directory whose writer was killed in a commit, with a damaged journal, or one that names another file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / DATABASE
        path.write_bytes(recorded.files[DATABASE])
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE candidate SET spec = spec || ' '; UPDATE run SET status = 'half'")
        half, made = path.read_bytes(), path.with_name(f"{DATABASE}-journal").read_bytes()
        connection.close()
    kind = rng.random()
    if kind < 0.4:
        made = damaged(made, rng)
    elif kind < 0.6:  # pages, sectors and sizes, as the header says
        place = rng.choice((8, 12, 16, 20, 24))
        made = made[:place] + struct.pack(">I", rng.choice((0, 1, 3, 512, 2**16, 2**31, 2**32 - 1))) + made[place + 4 :]
    elif kind < 0.8:
        made += super_journal(rng.choice((b"@", str(VICTIM).encode())))
    check_run(recorded.files | {DATABASE: half, f"{DATABASE}-journal": made}, rng)


def super_journal(name: bytes) -> bytes:
    """The end of a journal of a commit that spans several databases: SQLite deletes the file that it names."""
    total = sum(byte - 256 if byte > 127 else byte for byte in name) & 0xFFFFFFFF
    return struct.pack(">I", 2**31 // 4096 + 1) + name + struct.pack(">II", len(name), total) + bytes.fromhex("d9d505f920a163d7")


def weights(rng: random.Random, recorded: Recorded) -> None:
    """A run directory with odd weights whose checksum is right."""
    name = rng.choice([name for name in recorded.files if name.endswith(".safetensors")])
    content = recorded.files[name]
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    match rng.randrange(5):
        case 0:
            content = damaged(content[: 8 + length], rng) + content[8 + length :]
        case 1:
            content = struct.pack("<Q", rng.choice((0, 1, 100_000_001, 2**62, 2**64 - 1))) + content[8:]
        case 2:
            dtypes = ("F64", "I64", "BOOL", "F8_E4M3", "F4", "C64", "U8", "XX")
            odd = changed(header, rng, 1) if rng.random() < 0.6 else json.loads(json.dumps(header).replace("F32", rng.choice(dtypes)))
            text = json.dumps(odd, ensure_ascii=False).encode(errors="replace")
            content = struct.pack("<Q", len(text)) + text + content[8 + length :]
        case 3:
            tensors = {f"raw/n{i}.weight": torch.zeros(0) for i in range(rng.choice((1, 2000)))}
            content = save(tensors) if rng.random() < 0.7 else save({"raw/n1.weight": torch.full((3,), math.nan), "odd": torch.zeros(2)})
        case _:
            content = rng.choice((b"", b"\x80\x04\x95.", b"PK\x03\x04" + bytes(300), bytes(8), b"\xff" * 3000))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(recorded.files[DATABASE])
    connection.execute("UPDATE task_result SET sha256 = ? WHERE weights = ?", (sha256(content).hexdigest(), name))
    made = connection.serialize()
    connection.close()
    check_run(recorded.files | {DATABASE: made, name: content}, rng)


VICTIM = Path(tempfile.gettempdir()) / f"victim-of-fuzz-loaders-{os.getpid()}"


def check_run(files: dict[str, bytes], rng: random.Random) -> None:
    """Reads everything of a run directory; then goes on with it as a search would.

    Raises:
        LemonadeError: if that refuses it.
    """
    VICTIM.write_text("alive")
    try:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            run = Path(folder) / "run"
            for name, content in files.items():
                (run / name).parent.mkdir(parents=True, exist_ok=True)
                (run / name).write_bytes(content)
            try:
                read_all(run, rng)
            finally:
                assert {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()} == files, (
                    "it was changed"
                )
                if rng.random() < 0.5:
                    with contextlib.suppress(LemonadeError):
                        go_on(run)
    finally:
        assert VICTIM.read_text() == "alive", "a file beside the run was changed"
        VICTIM.unlink()


def read_all(run: Path, rng: random.Random) -> None:
    """Asks a run directory for everything."""
    history = History.open(run)
    candidates = history.candidates()
    for candidate in rng.sample(candidates, min(2, len(candidates))):
        assert candidate == history.candidate(candidate.id)
    json.dumps([[candidate.mutations, candidate.objectives, candidate.seconds] for candidate in candidates])
    front = load(run)
    assert len(front.to_pandas()) == len(front)
    harmless(repr(front) + history.digest())
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as told:
        code = cli.main(["show", str(run), *rng.choice(([], ["--json"]))])
    harmless(out.getvalue() + told.getvalue())
    if code:
        raise LemonadeError(told.getvalue())
    for candidate in rng.sample(list(front), min(2, len(front))):
        assert candidate.class_names is None or all(isinstance(name, str) for name in candidate.class_names)
        assert candidate.network.meta["spec"] == candidate.spec


def harmless(text: str) -> None:
    """Checks that a text holds nothing that a terminal obeys."""
    assert all(character.isprintable() or character in "\n\t" for character in text.replace("\xa0", " ")), "control characters are printed"


def go_on(run: Path) -> None:
    """Goes on with a run, as a search of the same configuration does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = History.resume(run)
    try:
        restore(new_search(ConvNetSpace(), history), history)
        history.go_on(history.config)
        history.record_generation(GenerationRecord(50, 0.5, (), 1, 0, 0, 0, 1, {}))
    finally:
        history.close()


# --- the frame

KINDS_OF_CASES: dict[str, tuple[float, Callable[..., None], bool]] = {
    "spec text": (0.25, spec_text, False),
    "spec values": (0.25, spec_values, False),
    "mutation": (0.25, mutation, False),
    "configuration": (0.06, configuration, False),
    "database by bytes": (0.06, database_by_bytes, True),
    "database by sql": (0.08, database_by_sql, True),
    "journal": (0.025, journal, True),
    "weights": (0.025, weights, True),
}
"""By name: share of the cases, what makes and checks one, and whether it needs a recorded run."""


def one_case(number: int, seed: int, kind: str, recorded: Recorded, tally: Tally) -> None:
    """Runs a case and counts it."""
    _, check, of_run = KINDS_OF_CASES[kind]
    rng = random.Random(f"{seed}-{kind}-{number}")
    began = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)  # a library that never returns to Python can't be interrupted
    try:
        check(rng, recorded) if of_run else check(rng)
        tally.read += 1
    except LemonadeError:
        pass
    except (Exception, TooSlowError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = "".join(traceback.format_exception_only(error)).strip()[:300]
        tally.failures.append(f"--kind {kind.replace(' ', '_')} --first {number} --cases 1: {text} ({where.filename}:{where.lineno})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    tally.cases += 1
    tally.slowest = max(tally.slowest, (time.perf_counter() - began, number))


def report(tallies: dict[str, Tally]) -> None:
    """Prints the table and the failures."""
    print(f"{'kind':20}{'cases':>7}{'read':>7}{'refused':>9}{'failures':>10}{'slowest':>10}{'case':>7}{'memory':>10}")
    for kind, tally in tallies.items():
        refused = tally.cases - tally.read - len(tally.failures)
        seconds, number = tally.slowest
        print(f"{kind:20}{tally.cases:7}{tally.read:7}{refused:9}{len(tally.failures):10}{seconds:8.2f} s{number:7}{tally.growth:6.0f} MiB")
    for tally in tallies.values():
        for text in tally.failures:
            print(text)


def peak() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def too_slow(number: int, frame: object) -> None:
    """Ends a case."""
    raise TooSlowError(f"it took more than {SECONDS:.0f} s")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    names = {kind.replace(" ", "_"): kind for kind in KINDS_OF_CASES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(names), help="of this kind alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, too_slow)
    began = time.perf_counter()
    cli._prepare_search(Parser(), ["search"])  # imports Lightning, which is no case's fault
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(Path(folder) / "run")
    check_run(recorded.files, random.Random(settings.seed))  # what isn't changed is read
    for kind in [names[settings.kind]] if settings.kind else KINDS_OF_CASES:
        tally, before = tallies.setdefault(kind, Tally()), peak()
        count = settings.cases if settings.kind else math.ceil(settings.cases * KINDS_OF_CASES[kind][0])
        for number in range(settings.first, settings.first + count):
            one_case(number, settings.seed, kind, recorded, tally)
            if sys.stderr.isatty():
                print(f"\r{kind}: {number + 1}    ", end="", file=sys.stderr)
        tally.growth = peak() - before
    report(tallies)
    print(f"{sum(tally.cases for tally in tallies.values())} cases in {time.perf_counter() - began:.0f} s")
    grown = sum(tally.growth for tally in tallies.values())
    print(f"failures: {sum(len(tally.failures) for tally in tallies.values())}; peak memory grew by {grown:.0f} MiB")
    return 1 if grown > MOST_GROWTH or any(tally.failures for tally in tallies.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
