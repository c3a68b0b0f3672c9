"""From older schemas to this release's: in place by the writer, in a copy in memory for readers."""

import re
import sqlite3
from collections.abc import Callable, Mapping
from functools import cache

from lightning_lemonade.history.schema import SCHEMA_VERSION, Base

Tables = Mapping[str, tuple[str, ...]]
_PLAIN = re.compile(r"CREATE TABLE ", re.IGNORECASE)  # and no virtual table
_COMPUTES = re.compile(r"\b(CHECK|GENERATED|DEFAULT|COLLATE)\b|\bAS\s*\(", re.IGNORECASE)


def _to_2(connection: sqlite3.Connection) -> None:
    """Notes how many proposals each generation was chosen from, also while it runs. Older runs know that of finished ones alone."""
    connection.execute("CREATE TABLE asked (generation INTEGER NOT NULL, proposed INTEGER NOT NULL, PRIMARY KEY (generation))")
    connection.execute('INSERT INTO asked SELECT "index", proposed FROM generation')
    connection.execute(
        "INSERT INTO asked SELECT generation, count(*) FROM candidate "
        'WHERE generation NOT IN (SELECT "index" FROM generation) GROUP BY generation'
    )
    connection.execute("ALTER TABLE run DROP COLUMN schema_version")


def _to_3(connection: sqlite3.Connection) -> None:
    """Notes in which order an asynchronous search accepted children and was told of them."""
    for column in ("after", "told"):
        connection.execute(f'ALTER TABLE candidate ADD COLUMN "{column}" INTEGER')


def _to_4(connection: sqlite3.Connection) -> None:
    """Notes how long a child is to be trained, and what it was chosen for."""
    connection.execute("ALTER TABLE candidate ADD COLUMN planned INTEGER")
    connection.execute("ALTER TABLE candidate ADD COLUMN expected JSON")


_STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = {1: _to_2, 2: _to_3, 3: _to_4}


def version_of(connection: sqlite3.Connection) -> int:
    """Returns a database's schema version. The first release's has none in its header."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) or 1


def migrate(connection: sqlite3.Connection) -> None:
    """Brings an older database, whose tables were checked, to this release's schema, in one transaction.

    Args:
        connection: without an open transaction.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for version in range(version_of(connection), SCHEMA_VERSION):
            _STEPS[version](connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@cache
def tables_of(version: int) -> Tables:
    """Returns the columns by table of a schema version, in order."""
    tables = {table.name: tuple(column.name for column in table.columns) for table in Base.metadata.sorted_tables}
    new = {4: ("planned", "expected"), 3: ("after", "told")}
    for number in (4, 3):
        if version < number:
            tables["candidate"] = tuple(name for name in tables["candidate"] if name not in new[number])
    if version < 2:
        del tables["asked"]
        tables["run"] = ("id", "schema_version", *tables["run"][1:])
    return tables


def problem_of(connection: sqlite3.Connection) -> str:
    """Returns what a database holds other than the tables of its version, or an empty text.

    It is asked before anything is read from a table: a view, a generated column or a trigger of a stranger would run in a query.
    """
    expected = tables_of(version_of(connection))
    entries = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    for kind, name, sql in entries:
        if kind == "index" and sql is None:  # SQLite's own, of a unique column
            continue
        if kind != "table" or name not in expected:
            return f"it has the {kind} {str(name)[:40]!r}"
        if not _PLAIN.match(sql) or _COMPUTES.search(sql):
            return f"its table {name} is declared otherwise"
        columns = connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
        if tuple(column for column, _ in columns) != expected[name] or any(hidden for _, hidden in columns):
            return f"its table {name} has other columns"
    missing = set(expected) - {name for _, name, _ in entries}
    return f"it lacks the table {min(missing)}" if missing else ""
