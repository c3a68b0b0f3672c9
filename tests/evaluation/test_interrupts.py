"""Signals that arrive at a bad moment."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time

import filelock  # noqa: F401 (which PyTorch needs, and may load: it has hooks of a fork)
import pytest
from pytorch_lightning.trainer.connectors.signal_connector import _HandlersCompose
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_lemonade.evaluation.interrupts import as_sent, kept, raise_pending, remembered
from lightning_lemonade.evaluation.limit import OutOfTime, TimeLimit


def test_a_limit_that_ends_while_a_process_is_forked_leaves_no_lock_behind(monkeypatch):
    swallowed = []  # by hooks of a fork: logging's, filelock's
    monkeypatch.setattr(sys, "unraisablehook", lambda told: swallowed.append((told.exc_value, told.object)))
    ended = 0
    for i in range(30):
        try:
            with TimeLimit(1000).running():
                signal.setitimer(signal.ITIMER_REAL, (i + 1) * 2e-4, 30)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    fork()
        except OutOfTime:
            ended += 1
    assert swallowed == []
    assert ended == 30
    free = []

    def use_logging():
        logging.getLogger("another").setLevel(logging.ERROR)
        free.append(True)

    thread = threading.Thread(target=use_logging, daemon=True)
    thread.start()
    thread.join(10)
    assert free == [True]


def test_what_logging_calls_is_not_interrupted():
    logger, waited = logging.getLogger(__name__), []

    def wait(_):
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 30)
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        waited.append("whole")
        return True

    logger.addFilter(wait)
    try:
        with TimeLimit(1000).running():
            logger.error("this is told")
            time.sleep(60)
    except OutOfTime:
        waited.append("and ended")
    finally:
        logger.removeFilter(wait)
    assert waited == ["whole", "and ended"]


def test_a_process_that_was_forked_may_be_interrupted():
    process = multiprocessing.get_context("fork").Process(target=end_of_time, daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 7


def end_of_time():
    try:
        with TimeLimit(0.1).running():
            time.sleep(50)
    except OutOfTime:
        os._exit(7)


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("swallows", [True, False])
def test_an_interruption_is_raised_as_what_it_was(swallows):
    def interrupted():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            if not swallows:
                raise SystemExit(1) from None

    with pytest.raises(KeyboardInterrupt), remembered(signal.SIGINT, KeyboardInterrupt), as_sent():
        interrupted()
    raise_pending()  # nothing is left


def in_logging(action):
    """Does something while Python logs."""
    logger = logging.getLogger(__name__)

    def do(_):
        action()
        return True

    logger.addFilter(do)
    try:
        logger.error("this is told")
    finally:
        logger.removeFilter(do)


def test_what_comes_while_python_logs_is_raised_at_the_end_at_the_latest():
    ended = []
    with pytest.raises(KeyboardInterrupt), remembered(signal.SIGINT, KeyboardInterrupt):  # noqa: PT012 (the end of the block raises)
        with pytest.raises(SIGTERMException), remembered(signal.SIGTERM, SIGTERMException):  # noqa: PT012
            in_logging(lambda: (signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGTERM)))
            ended.append("inner")
        ended.append("outer")
    assert ended == ["inner", "outer"]
    raise_pending()  # nothing is left


@pytest.fixture
def handler():
    """What SIGTERM does beforehand, which a test may change."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_handlers_of_a_program_are_called_and_stay(handler):
    called = []

    def own(number, frame):
        called.append(number)

    signal.signal(signal.SIGTERM, own)
    with pytest.raises(SIGTERMException), remembered(signal.SIGTERM, SIGTERMException):
        signal.raise_signal(signal.SIGTERM)
    assert called == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own
    with remembered(signal.SIGTERM, SIGTERMException):
        signal.signal(signal.SIGTERM, _HandlersCompose([signal.getsignal(signal.SIGTERM)]))  # left by a training
    assert signal.getsignal(signal.SIGTERM) is own
    with remembered(signal.SIGTERM, SIGTERMException):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_what_a_handler_of_a_program_raises_is_the_cause(handler):
    def own(number, frame):
        sys.exit(number)

    signal.signal(signal.SIGTERM, own)
    for send in (lambda: signal.raise_signal(signal.SIGTERM), lambda: in_logging(lambda: signal.raise_signal(signal.SIGTERM))):
        with pytest.raises(SIGTERMException) as told, remembered(signal.SIGTERM, SIGTERMException):
            send()
        assert type(told.value.__cause__) is SystemExit
        assert told.value.__cause__.code == signal.SIGTERM
    raise_pending()  # nothing is left


def test_a_handler_is_kept(handler):
    before = signal.getsignal(signal.SIGTERM)
    with kept(signal.SIGTERM):
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_comes_to_its_end_before_the_time_does(handler):
    """Else the signal would be lost, and the child would count as one that took too long."""

    def own(*_):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass

    signal.signal(signal.SIGTERM, own)
    with pytest.raises(SIGTERMException), remembered(signal.SIGTERM, SIGTERMException), TimeLimit(0.1).running():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)


@pytest.mark.parametrize(("kind", "code"), [(signal.SIG_DFL, -signal.SIGTERM), (signal.SIG_IGN, 3)])
def test_a_forked_process_does_with_a_signal_what_it_would_have_done(handler, kind, code):
    signal.signal(signal.SIGTERM, kind)
    with remembered(signal.SIGTERM, SIGTERMException):
        pid = os.fork()
        if pid == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with remembered(signal.SIGINT, KeyboardInterrupt):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
