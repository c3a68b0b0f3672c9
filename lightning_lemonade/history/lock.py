"""The right to write a run directory: a POSIX record lock, which ends with its process however that ends."""

import errno
import os
import socket
import stat
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

from lightning_lemonade.errors import HistoryError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "search.lock"
PATIENCE = 3.0
"""Seconds that a busy lock is waited for: the system takes a moment to bury a killed process."""
_OWNER_BYTES = 256
_held: dict[tuple[int, int], int] = {}
"""Process by run directory (device and inode). A record lock doesn't keep its own process out, and forked processes inherit this."""


class RunLock:
    """Holds a run directory's lock until it is released, or nothing refers to it.

    A record lock belongs to a process and not, as `flock` does, to an open file: workers of a data loader, which are forked and outlive a
    killed parent for seconds, don't keep it. The process that holds it must not open the file again: to close it would end the lock.

    Args:
        run_dir: the run directory; it exists.

    Raises:
        HistoryError: if another search holds it, or the directory can't be written or locked.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / LOCK
        key = _identity(run_dir)
        if _held.get(key) == os.getpid():
            raise HistoryError(f"{run_dir} is in use by another search of this process: wait for it, or give another run_dir")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise HistoryError(
                f"{run_dir} can't be written: {error}. Mend its permissions, or give another run_dir; show and load only read it"
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HistoryError(f"{path} is no file of a search: remove it")
            _take(descriptor, run_dir)
            owner = _owner(descriptor)
            if owner:
                warnings.warn(f"{run_dir} is taken over from {owner}, which ended without closing it", stacklevel=2)
            _write(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
        except BaseException:
            os.close(descriptor)
            raise
        _held[key] = os.getpid()
        self._release = weakref.finalize(self, _let_go, descriptor, key)

    def release(self) -> None:
        """Lets others write; may be called twice."""
        self._release()


def abandoned_by(run_dir: Path) -> str | None:
    """Returns who wrote a run directory last without closing it (`process 7 on host`): its search, which runs or was killed."""
    if _held.get(_identity(run_dir)) == os.getpid():
        return f"process {os.getpid()} on {socket.gethostname()}"
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # a run without a lock file has no owner
        return None
    try:
        return (_owner(descriptor) or None) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _take(descriptor: int, run_dir: Path) -> None:
    if fcntl is None:
        warnings.warn("this system has no record locks: see to it that no other search writes the run directory", stacklevel=3)
        return
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise HistoryError(f"{run_dir} can't be locked: {error}. Give a run_dir on a file system that has record locks") from error
            if time.monotonic() > deadline:
                raise HistoryError(
                    f"{run_dir} is in use by {_owner(descriptor) or 'another search'}: wait for it, stop it, or give another run_dir"
                ) from error
        time.sleep(0.05)


def _owner(descriptor: int) -> str:
    """Returns what the last owner left in the file, as one harmless line."""
    content = os.pread(descriptor, _OWNER_BYTES, 0).decode(errors="replace")
    return "".join(character for character in content if character.isprintable())


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(errors="replace")[:_OWNER_BYTES], 0)


def _let_go(descriptor: int, key: tuple[int, int]) -> None:
    if _held.get(key) != os.getpid():  # a forked copy of the owner
        return
    del _held[key]
    os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _identity(run_dir: Path) -> tuple[int, int]:
    status = run_dir.stat()
    return status.st_dev, status.st_ino
