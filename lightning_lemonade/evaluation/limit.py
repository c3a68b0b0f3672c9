"""How long the evaluation of one child may take."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.evaluation.interrupts import is_delicate, raise_pending
from lightning_lemonade.evaluation.scopes import several_processes

REPEAT = 30.0
"""Seconds after which the alarm rings again: an exception that is raised in a destructor or a bare `except` gets lost."""

SOON = 0.02
"""Seconds after which it rings again where it must not interrupt."""


class OutOfTime(BaseException):
    """A child took longer than it may. It is no Exception, since users' code may catch all of these."""


class TimeLimit:
    """Ends the evaluation of a child that takes too long.

    In the main thread of a search's only process an alarm ends it wherever it is, so that a loader or a network that hangs is ended, too.
    Everywhere the clock is looked at after each batch; with several processes they agree on it, since one that stopped alone would leave
    the others waiting for its gradients.

    Args:
        seconds: how long; None for as long as it takes.

    Raises:
        ConfigurationError: if this isn't positive.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise ConfigurationError(f"a child's time must be more than 0 seconds, got {seconds!r}")
        self.seconds = seconds
        self._ends: float | None = None
        self._alarm: _Alarm | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raises OutOfTime if the block takes too long.

        The alarm may ring while the block is being left. So whoever catches OutOfTime calls `stop` once more.
        """
        if self.seconds is None:
            yield
            return
        self._ends = time.monotonic() + self.seconds
        if _alarms_ring():
            self._alarm = _Alarm(self.seconds, self._ring)
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the limit; does nothing where it has ended."""
        self._ends = None  # first: an alarm that rings from here on does nothing
        if self._alarm is not None:
            self._alarm.restore()
            self._alarm = None

    def look(self, trainer: pl.Trainer) -> None:
        """Raises OutOfTime where the time is over, on every rank; and an interruption that got lost."""
        raise_pending()
        if self._ends is not None and trainer.strategy.reduce_boolean_decision(time.monotonic() > self._ends, all=False):
            self._raise()

    def _ring(self, _: int, frame: FrameType | None) -> None:
        if self._ends is None:
            return
        if is_delicate(frame):
            signal.setitimer(signal.ITIMER_REAL, SOON, REPEAT)
        else:
            self._raise()

    def _raise(self) -> None:
        raise OutOfTime(f"not done after {self.seconds:.10g} seconds: raise max_child_time, or tighten the limits")


class AfterEachBatch(pl.Callback):
    """Looks at the clock after each batch. One for each trainer, since Lightning keeps a callback's last module in it."""

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object, **__: object) -> None:
        """Looks."""
        self._limit.look(trainer)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks, as long as every rank has a batch: one that has no other to validate wouldn't answer."""
        shares = getattr(getattr(trainer, "datamodule", None), "shares", None)
        if not shares or batch_idx < shares[dataloader_idx].common:
            self._limit.look(trainer)


class _Alarm:
    """The process's alarm clock, taken from whoever had set it.

    Args:
        seconds: until it rings, and then every `REPEAT`.
        act: the handler.
    """

    def __init__(self, seconds: float, act: Any) -> None:  # noqa: ANN401 (signal's own)
        self._began = time.monotonic()
        self._timer = signal.setitimer(signal.ITIMER_REAL, 0)
        self._handler = signal.signal(signal.SIGALRM, act)
        signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT)

    def restore(self) -> None:
        """Gives the clock back, as far on as it would be by now."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        delay, interval = self._timer
        if delay:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, delay - (time.monotonic() - self._began)), interval)


def _alarms_ring() -> bool:
    """Returns whether an alarm can end what this thread does, and do no harm."""
    main = threading.current_thread() is threading.main_thread()
    # a handler that wasn't installed by Python can't be put back
    return main and hasattr(signal, "setitimer") and not several_processes() and signal.getsignal(signal.SIGALRM) is not None
