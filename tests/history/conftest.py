import os
import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import record_run

NOBODY = 65534


@pytest.fixture(scope="session")
def _recorded(tmp_path_factory):
    run = tmp_path_factory.mktemp("recorded") / "run"
    record_run(run).close()
    return run


@pytest.fixture
def run(_recorded, tmp_path):
    """A run directory, made by `record_run` and closed."""
    return shutil.copytree(_recorded, tmp_path / "run")


@pytest.fixture
def change():
    """Executes SQL in the database of a run directory, as a stranger does who knows SQLite."""

    def execute(run_dir, script, *values):
        connection = sqlite3.connect(run_dir / "history.sqlite", isolation_level=None)
        try:
            if values:
                connection.execute(script, values)
            else:
                connection.executescript(script)
        finally:
            connection.close()

    return execute


@pytest.fixture
def files():
    """Everything below a folder: path -> bytes and time of change."""
    return lambda folder: {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()
    }


@pytest.fixture
def open_folder():
    """A folder that anybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def nobody():
    """Makes whatever lies in a folder impossible to write, in a block: root may write anything, so it is somebody else for that long."""

    @contextmanager
    def block(folder):
        paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
        before = {path: path.stat().st_mode for path in paths}
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)
            for path, mode in before.items():
                if path.exists():
                    path.chmod(mode)

    return block
