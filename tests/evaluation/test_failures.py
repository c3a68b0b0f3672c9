"""Each kind of failure, by something real that goes wrong."""

import os
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from lightning_lemonade.errors import ConfigurationError, DataError
from lightning_lemonade.evaluation import FAILURE_KINDS, TaskData, from_data_module
from lightning_lemonade.evaluation.failures import failure_of, in_one_line, ran_out_of_memory
from lightning_lemonade.module import LemonadeModule

HERE = r"\(test_failures.py, line \d+\)"


def training(action):
    """Returns a module whose loss does something first."""

    class Acting(LemonadeModule):
        def loss(self, logits, target):
            if self.trainer.training:
                action(self)
            return super().loss(logits, target)

    return Acting


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (lambda module: fail(ValueError("first line\nsecond")), f"ValueError: first line {HERE}"),
        (lambda module: {}["x"], f"KeyError: 'x' {HERE}"),
        (lambda module: torch.zeros(2) @ torch.zeros(3), rf"RuntimeError: .* {HERE}"),  # torch raised, but the user's line called it
        (lambda module: sys.exit("no more"), f"SystemExit: no more {HERE}"),
        (lambda module: fail(AssertionError), f"AssertionError {HERE}"),
        (lambda module: fail(TypeError(f"got {object()}")), rf"TypeError: got <object object at 0x\.\.\.> {HERE}"),
    ],
)
def test_what_a_module_raises_is_told_in_one_line_with_its_place(small, action, text):
    failures = [small.outcome(factory=training(action)).failure for _ in range(2)]
    assert failures[0] == failures[1]
    assert failures[0].kind == "exception"
    assert re.fullmatch(text, failures[0].text)


def test_an_exception_without_a_line_of_the_user_has_no_place():
    assert in_one_line(ValueError("alone")) == "ValueError: alone"
    with pytest.raises(RuntimeError) as raised:
        torch.nn.Linear(2, 2)(torch.zeros(3))
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # without this line
    assert "(" not in in_one_line(raised.value).partition(":")[0]
    assert "test_failures" not in in_one_line(raised.value)


class Broken:
    """Samples of which one can't be had."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 20:
            raise KeyError("x")
        return torch.zeros(1, 8, 8), index % 3


class Dying(Broken):
    def __getitem__(self, index):
        if index == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def datamodules(small):
    class Late(small.data):
        calls = 0

        def train_dataloader(self):
            self.calls += 1
            return fail(OSError("the disk is gone")) if self.calls > 1 else super().train_dataloader()

    class Hooked(small.data):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return fail(ValueError("no such colour")) if self.trainer.training else batch

    class Unsized(small.data):
        calls = 0

        def train_dataloader(self):
            class Loader(DataLoader):
                def __len__(self):
                    return {}["length"]

            self.calls += 1
            return Loader(self.dataset, batch_size=8) if self.calls > 1 else super().train_dataloader()

    class Validated(small.data):
        def val_dataloader(self):
            return DataLoader(Broken(), batch_size=8)

    loaded = {num_workers: small.data(Broken(), num_workers) for num_workers in (0, 1)}
    return {"late": Late(), "hook": Hooked(), "unsized": Unsized(), "validated": Validated(), 0: loaded[0], 1: loaded[1]}


@pytest.mark.parametrize(
    ("which", "text"),
    [
        ("late", f"OSError: the disk is gone {HERE}"),
        ("hook", f"ValueError: no such colour {HERE}"),
        ("unsized", f"KeyError: 'length' {HERE}"),
        ("validated", f"KeyError: 'x' {HERE}"),
        (0, f"KeyError: 'x' {HERE}"),
        (1, f"KeyError: 'x' {HERE}"),
    ],
)
def test_what_the_data_raise_is_told_apart(small, which, text):
    failure = small.outcome(datamodules(small)[which]).failure
    assert failure.kind == "data"
    assert re.fullmatch(text, failure.text)


def test_a_loaders_process_that_dies_is_told_alike_however_it_is_noticed(small):
    failures = {small.outcome(small.data(Dying(), 1)).failure for _ in range(2)}
    assert [(failure.kind, failure.text.partition(":")[0]) for failure in failures] == [("data", "a process that loads data died")]


@pytest.fixture
def death_comes():
    """A signal's handler as torch's, which raises wherever the program is."""

    def told(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGUSR1, told)
    yield lambda: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    signal.signal(signal.SIGUSR1, before)


def test_a_death_that_is_told_late_is_of_its_evaluation(small, monkeypatch, death_comes):
    def _try_get_data(*_):  # as torch's, whose connection to the process breaks a moment before its signal comes
        death_comes()
        raise ConnectionResetError

    evaluator = small.evaluator(max_child_seconds=0.1)
    monkeypatch.setattr(evaluator, "_evaluate", _try_get_data)
    failure = evaluator.evaluate(small.request).outcome.failure
    time.sleep(0.3)  # nothing comes any more
    assert (failure.kind, failure.text.partition(":")[0]) == ("data", "a process that loads data died")


def test_the_other_kinds(small):
    class Wide(LemonadeModule):
        def forward(self, x):
            return super().forward(x).repeat(1, 2)

    class Pair(LemonadeModule):
        def forward(self, x):
            return (super().forward(x), x)

        def loss(self, output, target):
            return super().loss(output[0], target)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.validation_metrics.update(self(batch[0])[0], batch[1])

    wrong = small.outcome(factory=Wide).failure
    assert wrong.kind == "wrong_output"
    assert "for 2 samples has the shape (2, 6) instead of (2, 3)" in wrong.text
    assert small.outcome(factory=Pair).failure is None
    divergence = small.outcome(factory=training(lambda module: next(module.parameters()).data.fill_(torch.nan))).failure
    assert divergence.kind == "not_a_number"
    assert {wrong.kind, divergence.kind} < set(FAILURE_KINDS)


class Interrupting(Broken):
    def __getitem__(self, index):
        raise SIGTERMException


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (KeyboardInterrupt, lambda module: fail(KeyboardInterrupt())),
        (SIGTERMException, lambda module: fail(SIGTERMException())),
        (ConfigurationError, lambda module: fail(ConfigurationError("for all of them"))),
        (DataError, lambda module: fail(DataError("for all of them"))),
    ],
)
def test_what_ends_the_search_is_no_childs_failure(small, error, action):
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(error):
            small.outcome(factory=training(action))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning has switched it off


def test_too_little_memory_is_known_in_all_its_forms():
    def caught(action):
        with pytest.raises(Exception) as raised:  # noqa: PT011
            action()
        return raised.value

    real = [caught(lambda: torch.empty(10**15)), caught(lambda: np.empty(2**55))]
    said = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), OSError(12, "Cannot allocate memory")]
    said += [RuntimeError(f"CUDA error: {text}") for text in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")]
    assert all(map(ran_out_of_memory, real + said))
    assert [failure_of(error).text.partition(":")[0] for error in real] == [
        "out of memory (4000000000000000 bytes more were needed)",
        "out of memory (256. PiB more were needed)",
    ]
    assert not any(map(ran_out_of_memory, (RuntimeError("other"), KeyError("out of memory"), OSError(13, "Permission denied"))))


class Refusing(DataError):
    pass


def test_what_a_data_module_raises_before_a_search_is_a_data_error_that_names_it(small):
    class Mine(small.data):
        fails = ""

        def __getattribute__(self, name):
            return fail(KeyError("x")) if name == object.__getattribute__(self, "fails") else super().__getattribute__(name)

    mine = Mine()
    with (
        pytest.raises(DataError, match=rf"^Mine.prepare_data raised KeyError: 'x' {HERE}: mend it$"),
        from_data_module(mine, "prepare_data"),
    ):
        fail(KeyError("x"))
    for name in ("setup", "train_dataloader", "val_dataloader"):
        mine.fails = name
        with pytest.raises(DataError, match=rf"^Mine.{name} raised KeyError: 'x' {HERE}: mend it$") as raised:
            _ = TaskData(mine).shapes
        assert isinstance(raised.value.__cause__, KeyError)
    data = TaskData(small.data(Broken()))
    data.inner.num_classes = None  # so that all batches are looked at
    with pytest.raises(DataError, match=rf"Data.train_dataloader's batches raised KeyError: 'x' {HERE}: mend it$"):
        _ = data.shapes
    with pytest.raises(DataError, match=r"batches raised KeyError: 'x'"):
        TaskData(small.data(Broken())).calibration(24, 0)


@pytest.mark.parametrize("error", [Refusing("my words"), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_said_already_or_ends_the_program_passes(error):
    with pytest.raises(type(error)) as raised, from_data_module(None, "setup"):
        raise error
    assert raised.value is error
