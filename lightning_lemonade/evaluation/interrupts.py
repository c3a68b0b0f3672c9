"""Ctrl-C and its like: an exception that is raised by a signal may get lost in a destructor, or become another one on its way."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import popen_fork
from types import FrameType

from pytorch_lightning.utilities.exceptions import SIGTERMException

INTERRUPTS = (KeyboardInterrupt, SIGTERMException)
_pending: list[type[BaseException]] = []


@contextmanager
def remembered(number: signal.Signals, exception: type[BaseException]) -> Iterator[None]:
    """Lets a signal raise an exception for as long as the block takes, and remembers it until the block ends.

    Args:
        number: the signal.
        exception: what it raises.
    """
    process = os.getpid()

    def act(_: int, frame: FrameType | None) -> None:
        if os.getpid() == process:  # and not in a worker of a loader, which is forked with this handler
            _pending.append(exception)
            if is_delicate(frame):
                return
        raise exception

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is None:
        yield
        return
    before = signal.signal(number, act)
    try:
        yield
    finally:
        signal.signal(number, before)
        _pending.clear()


def is_delicate(frame: FrameType | None) -> bool:
    """Returns whether an exception must not be raised at a place: in logging, or while a process is forked.

    Python takes logging's lock before a fork and lets go of it afterwards, in a hook whose exceptions it swallows. One that a signal raises
    there is lost, and the lock is held for ever, for which every other thread then waits. What is called from there is as delicate: the
    handler of another signal, say torch's for workers that end.
    """
    if frame is None:
        return True
    while frame is not None:
        if frame.f_code.co_filename == logging.__file__:
            return True
        if frame.f_code.co_filename == popen_fork.__file__ and frame.f_code.co_name == "_launch":
            return getattr(frame.f_locals.get("self"), "pid", None) != 0  # and not in the child, which lives below it
        frame = frame.f_back
    return False


def raise_pending() -> None:
    """Raises what a signal has raised and somebody swallowed."""
    if _pending:
        raise _pending[-1]


@contextmanager
def as_sent() -> Iterator[None]:
    """Raises an interruption as what it was: Lightning makes a SystemExit of Ctrl-C, and a hook that then fails something else."""
    try:
        yield
    except INTERRUPTS:
        raise
    except BaseException as error:
        raise_pending()
        for one in chain(error):
            if isinstance(one, INTERRUPTS):
                raise type(one) from error
        raise
    raise_pending()


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception, and those that it was raised for or after."""
    seen: set[int] = set()  # `raise error from error` is a circle
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
