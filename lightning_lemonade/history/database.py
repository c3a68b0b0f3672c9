"""The connection to `history.sqlite`, and whether it is ours and whole."""

import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.history.migrations import migrate, problem_of, version_of
from lightning_lemonade.history.schema import APPLICATION_ID, SCHEMA_VERSION, Base
from lightning_lemonade.history.values import read_json, text
from lightning_lemonade.history.weights import fsync_directory

DATABASE = "history.sqlite"
BUSY_SECONDS = 30.0
LONGEST_VALUE = 32 * 1024 * 1024
"""Bytes of the longest text that is read: twice the longest graph spec."""
LARGEST = 1 << 30
"""Bytes of the largest database: a hundred thousand networks take less."""
_LONGEST_SQL = 1 << 20
_SCHEMA_STEPS = 2000
"""Steps of SQLite's machine in which it has read the list of tables: ten times what it takes. A list that leads in circles has no end."""
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_ADVICE = "Restore it from a copy"


def reading_engine(path: Path) -> Engine:
    """Makes an engine that reads a database and never writes to its directory."""
    return _engine(lambda: _reader(path))


def writing_engine(path: Path) -> Engine:
    """Makes the engine of a run's one writer."""
    return _engine(lambda: _connect(path, "rw"))


def _engine(connect: Callable[[], sqlite3.Connection]) -> Engine:
    """Makes an engine with a connection for each transaction: cheap, and safe with threads and forks."""
    made = create_engine("sqlite://", creator=connect, poolclass=NullPool, json_deserializer=read_json)
    event.listen(made, "begin", _begin)
    return made


def _begin(connection: Connection) -> None:
    """Begins a transaction for reads, too, which Python's sqlite3 doesn't: what several queries see is one state."""
    connection.exec_driver_sql("BEGIN")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a database: `ro` never writes, `rw` first rolls back what a killed writer left, `rwc` makes it."""
    path = path.resolve()  # SQLite follows links, too, and looks for a journal beside the file itself
    _refuse_odd_files(path)
    uri = f"file:{quote(str(path))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST_SQL)
        connection.set_progress_handler(lambda: 1, _SCHEMA_STEPS)  # which ends it
        own = ("query_only = ON",) if mode == "ro" else ("synchronous = FULL", "foreign_keys = ON")
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", *own):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT name FROM sqlite_schema LIMIT 1").fetchall()
        connection.set_progress_handler(None, 0)
        if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            raise HistoryError(f"{path} was changed by another program, to a journal of the kind WAL. {_ADVICE}")
    except BaseException as error:
        connection.close()
        if isinstance(error, HistoryError):  # SQLite made these two, and leaves them if it may only read
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise
    return connection


def _refuse_odd_files(path: Path) -> None:
    """Raises a HistoryError if a database, or what SQLite reads beside it, is no file: it would wait for a pipe for ever."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        try:
            status = beside.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode) or suffix in ("-wal", "-shm"):
            raise HistoryError(f"{beside} is no file of a search: close the program that made it, or remove it")
        if status.st_size > LARGEST:
            raise HistoryError(f"{beside} is larger than {LARGEST >> 20} MiB, which no search makes. {_ADVICE}")


def _reader(path: Path) -> sqlite3.Connection:
    """Opens a database for reading; a copy in memory where it has to be rolled back or migrated, which is the writer's to do."""
    try:
        connection = _connect(path, "ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        return _rolled_back(path.resolve())
    try:
        ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        if not (ours and version_of(connection) < SCHEMA_VERSION):
            return connection  # `check_database` says what is wrong with a foreign one
    except BaseException:
        connection.close()
        raise
    return _in_memory(connection, path)


def _rolled_back(path: Path) -> sqlite3.Connection:
    """Returns a copy in memory of a database whose writer was killed in a commit, as it was before that commit."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        try:
            for source in (path, path.with_name(f"{path.name}-journal")):
                shutil.copyfile(source, copy.with_name(source.name))
        except OSError as error:  # the search is resumed at this moment, for instance
            raise HistoryError(f"{path} was left in the middle of a commit and can't be copied: {error}. Try again") from error
        refuse_super_journal(copy)
        connection = _connect(copy, "rw")
        try:
            _refuse_odd_files(copy)  # a journal may make it as large as it likes
        except HistoryError:
            connection.close()
            raise
        return _in_memory(connection, path)


def _in_memory(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """Returns a copy in memory with this release's schema, and closes the original.

    Args:
        connection: to the original.
        path: of the database, for errors.
    """
    try:
        if problem := _problem(connection):
            raise HistoryError(f"{path} {problem}")
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.backup(memory)
        memory.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        memory.execute("PRAGMA trusted_schema = OFF")
        if version_of(memory) < SCHEMA_VERSION:
            migrate(memory)
        memory.execute("PRAGMA query_only = ON")
        return memory
    finally:
        connection.close()


def refuse_super_journal(path: Path) -> None:
    """Raises a HistoryError if a database's journal names another file, which SQLite would delete: none of ours does."""
    journal = path.with_name(f"{path.name}-journal")
    if not journal.exists():
        return
    with journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - len(_SUPER_JOURNAL)))
        if file.read() == _SUPER_JOURNAL:
            raise HistoryError(f"{journal} is no journal of a search, since it names another file: remove it")


def create_database(run_dir: Path, rows: Sequence[Base]) -> None:
    """Makes a run directory's database with its first rows, so that it is either whole or not there."""
    beside = run_dir / f".{DATABASE}.{uuid4().hex}.tmp"
    try:
        with Session(_engine(lambda: _connect(beside, "rwc"))) as session, session.begin():
            connection = session.connection()
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
            Base.metadata.create_all(connection)
            session.add_all(rows)
        if (run_dir / DATABASE).exists():  # nobody makes one now: the directory is locked
            raise HistoryError(f"{run_dir} holds a run already, which another search has just started: give another run_dir")
        beside.replace(run_dir / DATABASE)
    finally:
        beside.unlink(missing_ok=True)
    fsync_directory(run_dir)


def prepare_to_write(path: Path) -> None:
    """Rolls back what a killed writer left, and brings an older database up to date. For the one writer, before its engine.

    Raises:
        HistoryError: if it is foreign or damaged, or a newer release made it.
        sqlite3.Error: if it can't be written.
    """
    if path.is_symlink():
        raise HistoryError(f"{path} is a link, maybe to the history of another run: put the file itself in its place")
    _refuse_odd_files(path)
    refuse_super_journal(path)
    connection = _connect(path, "rw")
    try:
        if problem := _problem(connection):
            raise HistoryError(f"{path} {problem}")
        if version_of(connection) < SCHEMA_VERSION:
            migrate(connection)
    finally:
        connection.close()


def _problem(connection: sqlite3.Connection) -> str:
    """Returns why a database can't be read by this release, or an empty text."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "is a database of another program. Give the directory that a search made"
    version = version_of(connection)
    if not 0 < version <= SCHEMA_VERSION:
        return f"has the schema {version}; this release reads up to {SCHEMA_VERSION}: upgrade lightning-lemonade"
    if problem := problem_of(connection):
        return f"is damaged: {problem}. {_ADVICE}"
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if damage == "ok" else f"is damaged: {damage}. {_ADVICE}"


def check_database(session: Session, run_dir: Path) -> None:
    """Raises a HistoryError unless this is a whole database of ours that this release reads."""
    driver = session.connection().connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"expected SQLite's own connection, got {type(driver).__name__}")
    if problem := _problem(driver):
        raise HistoryError(f"{run_dir / DATABASE} {problem}")


def cause(error: BaseException) -> str:
    """Returns what the driver said, without SQLAlchemy's statement and link, and harmless: it may quote the database."""
    return text(str(getattr(error, "orig", None) or error))
