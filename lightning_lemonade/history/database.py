"""The connection to `history.sqlite`, and whether it is ours and whole."""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.history.schema import APPLICATION_ID, SCHEMA_VERSION, Base
from lightning_lemonade.history.weights import fsync_directory

DATABASE = "history.sqlite"
BUSY_SECONDS = 30.0


def engine(path: Path, *, writable: bool, create: bool = False) -> Engine:
    """Makes the engine. A connection for each transaction: cheap, and safe with threads and forks."""

    def connect() -> sqlite3.Connection:
        # rw even for reading: SQLite opens a write-protected file read-only by itself, and may roll back what a killed writer left.
        uri = f"file:{quote(str(path.resolve()))}?mode={'rwc' if create else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("trusted_schema = OFF", "synchronous = FULL", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute(f"PRAGMA query_only = {'OFF' if writable else 'ON'}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    made = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(made, "begin", _begin)
    return made


def _begin(connection: Connection) -> None:
    """Begins a transaction for reads, too, which Python's sqlite3 doesn't: what several queries see is one state."""
    connection.exec_driver_sql("BEGIN")


def create_database(run_dir: Path, rows: Sequence[Base]) -> None:
    """Makes a run directory's database with its first rows, so that it is either whole or not there."""
    beside = run_dir / f".{DATABASE}.{uuid4().hex}.tmp"
    with Session(engine(beside, writable=True, create=True)) as session, session.begin():
        connection = session.connection()
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        Base.metadata.create_all(connection)
        session.add_all(rows)
    try:
        os.link(beside, run_dir / DATABASE)  # fails where another search was faster
    except FileExistsError:
        raise HistoryError(f"{run_dir} holds a run already, which another search has just started: give another run_dir") from None
    finally:
        beside.unlink()
    fsync_directory(run_dir)


def check_database(session: Session, run_dir: Path) -> None:
    """Raises a HistoryError unless this is a whole database of ours that this release reads."""
    connection, path = session.connection(), run_dir / DATABASE
    if connection.exec_driver_sql("PRAGMA application_id").scalar() != APPLICATION_ID:
        raise HistoryError(f"{path} is a database of another program. Give the directory that a search made")
    version = connection.exec_driver_sql("SELECT schema_version FROM run").scalar()
    if not isinstance(version, int):
        raise HistoryError(f"{path} is damaged: it tells no schema version. Restore it from a copy")
    if version > SCHEMA_VERSION:
        raise HistoryError(f"{path} has the schema {version}; this release reads up to {SCHEMA_VERSION}: upgrade lightning-lemonade")
    problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if problem != "ok":
        raise HistoryError(f"{path} is damaged: {problem}. Restore it from a copy")


def cause(error: BaseException) -> object:
    """Returns what the driver said, without SQLAlchemy's statement and link."""
    return getattr(error, "orig", None) or error
