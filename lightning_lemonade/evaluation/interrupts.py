"""Ctrl-C and its like: an exception that is raised by a signal may get lost in a destructor, or become another one on its way."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import popen_fork
from types import FrameType

from pytorch_lightning.trainer.connectors import signal_connector
from pytorch_lightning.utilities.exceptions import SIGTERMException

INTERRUPTS = (KeyboardInterrupt, SIGTERMException)
_DELICATE = (logging.__file__, signal_connector.__file__)
_pending: list[BaseException] = []


@contextmanager
def remembered(number: signal.Signals, exception: type[BaseException]) -> Iterator[None]:
    """Lets a signal raise an exception for as long as the block takes, and remembers it until the block ends.

    A handler of the program's own, set by Python's `signal`, is called first; what it raises (Ray's raises a SystemExit with the signal's
    number as code) is the exception's cause, and not raised itself. One that is set within the block stays. A process that is forked within
    the block does with the signal what it would have done without.

    Args:
        number: the signal.
        exception: what it raises.
    """
    process = os.getpid()

    def act(_: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, before)
            signal.raise_signal(number)
            return
        told = exception()
        if callable(before) and before is not signal.default_int_handler:
            try:
                before(number, frame)
            except BaseException as error:  # it would get lost where the frame is delicate, and be a child's failure elsewhere
                told.__cause__ = error
        _pending.append(told)
        if not is_delicate(frame):
            try:
                raise told
            finally:
                del told  # its traceback holds this frame, and so all that was interrupted

    before = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    signal.signal(number, act)
    try:
        yield
    finally:
        now = signal.getsignal(number)
        if now is act or type(now).__module__ == signal_connector.__name__:  # Lightning's stays where its own clean up is interrupted
            signal.signal(number, before)
        came = [told for told in _pending if type(told) is exception]
        _pending[:] = [told for told in _pending if type(told) is not exception]
    if came:
        try:
            raise came[-1]
        finally:
            del came


def is_delicate(frame: FrameType | None) -> bool:
    """Returns whether an exception must not be raised at a place: in logging, filelock, a handler of ours or Lightning's, or a fork.

    Python takes logging's lock before a fork and lets go of it afterwards, in a hook whose exceptions it swallows. One that a signal raises
    there is lost, and the lock is held for ever, for which every other thread then waits. What is called from there is as delicate: the
    handler of another signal, say torch's for workers that end. A handler of another signal that doesn't come to its end loses that one.
    """
    if frame is None:
        return True
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _DELICATE or (code.co_filename == __file__ and code.co_name == "act"):
            return True
        if str(frame.f_globals.get("__name__", "")).startswith("filelock."):  # version 4 has such hooks, too
            return True
        if code.co_filename == popen_fork.__file__ and code.co_name == "_launch":
            return getattr(frame.f_locals.get("self"), "pid", None) != 0  # and not in the child, which lives below it
        frame = frame.f_back
    return False


def raise_pending() -> None:
    """Raises what a signal has raised and somebody swallowed."""
    if _pending:
        raise _pending[-1]


@contextmanager
def kept(number: signal.Signals) -> Iterator[None]:
    """Gives a signal its handler back after the block: what Ray sets for SIGTERM ends the process without a word."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(number, before)


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
