"""What went wrong: the kinds of failures, and exceptions in one line for a person."""

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Literal, NamedTuple, get_args

import lightning_fabric
import pytorch_lightning as pl
import torch

from lightning_lemonade.errors import DataError, EvaluationError, LemonadeError
from lightning_lemonade.evaluation.interrupts import chain
from lightning_lemonade.evaluation.limit import OutOfTime
from lightning_lemonade.search import Failure

FailureKind = Literal["exception", "not_a_number", "out_of_memory", "time_limit", "wrong_output", "data", "worker_lost"]
"""Why a child has no values.

- `exception`: code raised that isn't the data's: the module's, a callback's, an objective's.
- `not_a_number`: a loss, a weight or an objective is nan or infinite.
- `out_of_memory`: there was too little memory, also with half of each batch at a time.
- `time_limit`: the evaluation took longer than a child may.
- `wrong_output`: the module's output has another shape than its spec says.
- `data`: the data module or its data set raised: a loader that was made, a batch that was loaded (also in another process), a batch's hook.
- `worker_lost`: the process that evaluated it died or fell silent, as often as it may be tried again elsewhere.
"""
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)

_HERE = Path(__file__).parent
_FOLDERS = [Path(str(module.__file__)).parent for module in (torch, pl, lightning_fabric, os)]  # os stands for Python's own library
_MACHINERY = tuple(f"{folder}{os.sep}" for folder in (*_FOLDERS, _HERE.parent))
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]|^<(eval_with_key|frozen)")  # fx numbers what it generates differently each time
_LOOPS = f"{Path(pl.__file__).parent / 'loops'}{os.sep}"
_LOADING = (str(_HERE / "data.py"), f"{_LOOPS}fetchers.py", f"{Path(torch.__file__).parent / 'utils' / 'data'}{os.sep}")
_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "ALLOC_FAILED",
)
_TRACEBACK = "Traceback (most recent call last):\n"
DEATH_TOLD = 1.0
"""Seconds that are waited for the signal of a process that died: its connections end a moment before."""


class _Told(NamedTuple):
    """An exception: its type's name, the first line of its message, and file and line of its frames, the innermost last."""

    name: str
    message: str
    frames: Sequence[tuple[str, int]]


def failure_of(error: BaseException) -> Failure:
    """Returns a child's failure for what its evaluation raised."""
    for one in chain(error):
        if isinstance(one, OutOfTime):
            return Failure("time_limit", str(one))
    if isinstance(error, EvaluationError):
        return Failure(error.kind, _told(error).message)
    if ran_out_of_memory(error):
        return Failure("out_of_memory", str(memory_error(error)))
    return Failure("data" if _lost_a_worker(error) or _is_of_data(error) else "exception", in_one_line(error))


def ran_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that there is too little memory, of a device or the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in _told(error).message for sign in _MEMORY)


def memory_error(error: BaseException, note: str = "") -> EvaluationError:
    """Returns the error of a child for which there is too little memory; `note` says what else was tried, or not."""
    amount = re.search(r"allocate ([\d.]+ \w+)", _told(error).message)
    text = f"out of memory{f' ({amount[1]} more were needed)' if amount else ''}{note and f', {note}'}"
    return EvaluationError(f"{text}: tighten the limits, or make the batches smaller", "out_of_memory")


def in_one_line(error: BaseException) -> str:
    """Returns an exception's type, the first line of its message, and the user's line of code that raised it, if there is one.

    The same exception gives the same text in every run: addresses in memory are left out.
    """
    if _lost_a_worker(error):
        return "a process that loads data died: it was killed, or there was too little memory for it"
    told = _told(error)
    places = [f" ({Path(file).name}, line {line})" for file, line in told.frames if not _is_machinery(file)]
    return (f"{told.name}: {told.message}" if told.message else told.name) + (places[-1] if places else "")


@contextmanager
def from_data_module(datamodule: object, step: str) -> Iterator[None]:
    """Makes a DataError of what a user's data module raises before a search; a LemonadeError passes as it is.

    Args:
        datamodule: the user's.
        step: what of it is run, for instance `setup`.

    Raises:
        DataError: naming the data module, the step, and the user's line of code.
    """
    try:
        yield
    except LemonadeError:
        raise
    except Exception as error:
        raise DataError(f"{type(datamodule).__name__}.{step} raised {in_one_line(error)}: mend it") from error


@contextmanager
def deaths_told() -> Iterator[None]:
    """Waits, where the connection to a loader's process broke, for the signal that says that it died.

    Torch's handler of that signal raises wherever the main thread is, which may otherwise be after the failure was dealt with. Another
    thread doesn't wait: nothing is raised in it.
    """
    try:
        yield
    except Exception as error:
        if _broke_off(error) and threading.current_thread() is threading.main_thread():
            time.sleep(DEATH_TOLD)
        raise


def _told(error: BaseException) -> _Told:
    """Returns what an exception tells; one that was raised in another process carries its traceback as text."""
    name, text = type(error).__name__, str(error)
    frames: list[tuple[str, int]] = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    if text.startswith("Caught ") and _TRACEBACK in text:
        text = text.rpartition(_TRACEBACK)[2]
        frames = [(file, int(line)) for file, line in re.findall(r'^  File "(.+)", line (\d+), in ', text, re.MULTILINE)]
        text = next((line for line in text.splitlines() if line[:1].strip()), "")
        name, _, text = text.partition(": ")
        name = name.rpartition(".")[2]
    message = text.strip().partition("\n")[0]
    return _Told(name, re.sub(r"\b0x[0-9a-fA-F]+", "0x...", message), frames)


def _lost_a_worker(error: BaseException) -> bool:
    """Returns whether a loader's process died, of which each way to notice it, and each run, tells something else."""
    if str(error).startswith("DataLoader worker (pid"):  # raised by a handler of signals, wherever the program is
        return True
    return _broke_off(error)


def _broke_off(error: BaseException) -> bool:
    """Returns whether the connection to a loader's process ended while a batch was awaited from it."""
    asked = any(frame.f_code.co_name == "_try_get_data" for frame, _ in walk_tb(error.__traceback__))
    return asked and isinstance(error, ConnectionError | EOFError | FileNotFoundError)


def _is_machinery(file: str) -> bool:
    return file.startswith(_MACHINERY) or _INSTALLED.search(file) is not None


def _is_of_data(error: BaseException) -> bool:
    """Returns whether an exception came while Lightning made a loader, loaded a batch, or ran a hook of the data module."""
    for frame, _ in walk_tb(error.__traceback__):
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(_LOADING) or (function == "setup_data" and file.startswith(_LOOPS)):
            return True
    return False
