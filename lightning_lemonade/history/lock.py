"""The right to write a run directory: a POSIX record lock, which ends with its process however that ends."""

import errno
import os
import socket
import stat
import threading
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
_reserving = threading.Lock()
_held: dict[tuple[int, int], int] = {}
"""Process by run directory (device and inode). A record lock doesn't keep its own process out, and forked processes inherit this."""


class RunLock:
    """Holds a run directory's lock until it is released, or nothing refers to it.

    A record lock belongs to a process and not, as `flock` does, to an open file: workers of a data loader, which are forked and outlive a
    killed parent for seconds, don't keep it. In return it ends when its process opens and closes the file again, for instance to copy the
    run directory; so it is taken anew before each write.

    Args:
        run_dir: the run directory; it exists.

    Raises:
        HistoryError: if another search holds it, or the directory can't be written or locked.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / LOCK
        self._run_dir, self._owner = run_dir, f"process {os.getpid()} on {socket.gethostname()}"
        key = _identity(run_dir)
        with _reserving:
            if _held.get(key) == os.getpid():
                raise HistoryError(f"{run_dir} is in use by another search of this process: wait for it, or give another run_dir")
            _held[key] = os.getpid()
        try:
            self._descriptor = _opened(path)
        except BaseException:
            _held.pop(key, None)
            raise
        self._release = weakref.finalize(self, _let_go, self._descriptor, key, self._owner)
        try:
            _take(self._descriptor, run_dir, PATIENCE)
            owner = _owner(self._descriptor)
            if owner:
                warnings.warn(f"{run_dir} is taken over from {owner}, which ended without closing it", stacklevel=2)
            _write(self._descriptor, self._owner)
        except BaseException:
            self._release.detach()
            os.close(self._descriptor)
            _held.pop(key, None)
            raise

    def renew(self) -> None:
        """Sees that the lock is still held.

        Raises:
            HistoryError: if it was lost, and another search took the directory over.
        """
        _take(self._descriptor, self._run_dir, 0.0)
        if _owner(self._descriptor) != self._owner:
            raise HistoryError(
                f"{self._run_dir} was taken over by {_owner(self._descriptor) or 'another search'}, since this process has read {LOCK}: "
                f"leave that file out where you copy a run directory within its search"
            )

    def release(self) -> None:
        """Lets others write; may be called twice."""
        self._release()


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise HistoryError(
            f"{path.parent} can't be written: {error}. Mend its permissions, or give another run_dir; show and load only read it"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HistoryError(f"{path} is no file of a search: remove it")
    return descriptor


def owner_of(run_dir: Path) -> tuple[str, bool] | None:
    """Returns who writes a run directory, or did so last without closing it (`process 7 on host`), and whether that still runs.

    Returns:
        None if the last search was closed, or there is no telling.
    """
    if _held.get(_identity(run_dir)) == os.getpid():
        return f"process {os.getpid()} on {socket.gethostname()}", True
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # a run without a lock file has no owner
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not (owner := _owner(descriptor)):
            return None
        return owner, fcntl is not None and not _is_free(descriptor)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go at once, when the descriptor is closed; who begins waits longer
    except OSError as error:
        return error.errno not in {errno.EAGAIN, errno.EACCES}
    return True


def _take(descriptor: int, run_dir: Path, patience: float) -> None:
    if fcntl is None and not patience:
        return
    if fcntl is None:
        warnings.warn("this system has no record locks: see to it that no other search writes the run directory", stacklevel=3)
        return
    deadline = time.monotonic() + patience
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
    os.lseek(descriptor, 0, os.SEEK_SET)
    content = os.read(descriptor, _OWNER_BYTES).decode(errors="replace")
    return "".join(character for character in content if character.isprintable())


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode(errors="replace")[:_OWNER_BYTES])


def _let_go(descriptor: int, key: tuple[int, int], owner: str) -> None:
    if _held.get(key) != os.getpid():  # a forked copy of the owner
        return
    del _held[key]
    if _owner(descriptor) == owner:  # the lock was not lost
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _identity(run_dir: Path) -> tuple[int, int]:
    status = run_dir.stat()
    return status.st_dev, status.st_ino
