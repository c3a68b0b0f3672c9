import contextlib
import signal
import textwrap
import threading
import time
from pathlib import Path

import processes
import pytest
import torch

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.evaluation import limit
from lightning_lemonade.evaluation.limit import OutOfTime, TimeLimit
from lightning_lemonade.module import LemonadeModule

TEXT = "not done after 0.5 seconds: raise max_child_time, or tighten the limits"


class Slow(torch.utils.data.Dataset):
    """The last sample never comes, once this is so slow."""

    slow = False

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 23 and self.slow:
            time.sleep(1000)
        return torch.zeros(1, 8, 8), index % 3


class Hanging(LemonadeModule):
    def loss(self, logits, target):
        time.sleep(1000)


class Careless(LemonadeModule):
    """Goes on whatever happens, even where it hangs."""

    def training_step(self, batch, batch_idx):
        with contextlib.suppress(Exception):
            time.sleep(1000)
        return super().training_step(batch, batch_idx)


class Stubborn(LemonadeModule):
    """Catches what nobody should."""

    def training_step(self, batch, batch_idx):
        try:
            time.sleep(1000)
        except:  # noqa: E722
            if self.hangs_again:
                time.sleep(1000)
        return super().training_step(batch, batch_idx)

    hangs_again = False


class HangingAgain(Stubborn):
    hangs_again = True


class Long(LemonadeModule):
    def on_train_batch_start(self, batch, batch_idx):
        time.sleep(0.1)
        self.trainer.fit_loop.max_epochs = 1000


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_that_hangs_is_ended(small, num_workers):
    data = Slow()
    evaluator = small.evaluator(small.data(data, num_workers), max_child_seconds=4)  # enough for the first batch on a busy machine
    data.slow = bool(evaluator.tasks[""].shapes)
    outcome = evaluator.evaluate(small.request).outcome
    assert (outcome.failure.kind, outcome.tasks[""].images) == ("time_limit", 16)


@pytest.mark.parametrize("factory", [Hanging, Careless, Stubborn, HangingAgain, Long])
def test_a_module_that_hangs_is_ended_whatever_it_catches(small, factory, monkeypatch):
    monkeypatch.setattr(limit, "REPEAT", 0.5)
    evaluator = small.evaluator(factory=factory, max_child_seconds=0.5)
    failure = evaluator.evaluate(small.request).outcome.failure
    assert (failure.kind, failure.text) == ("time_limit", TEXT)
    evaluator.factory = LemonadeModule
    evaluator._limit.seconds = 60
    assert evaluator.evaluate(small.request).outcome.failure is None  # the next child is not disturbed


def test_an_exception_that_is_raised_for_the_limits_counts_as_it(small):
    class Wrapping(LemonadeModule):
        def loss(self, logits, target):
            try:
                time.sleep(1000)
            except BaseException as error:
                raise ValueError("something happened") from error

    assert small.outcome(factory=Wrapping, max_child_seconds=0.5).failure.kind == "time_limit"


def test_in_another_thread_the_clock_is_looked_at_after_each_batch(small):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(small.outcome(factory=Long, max_child_seconds=0.5)))
    thread.start()
    thread.join(60)
    assert (outcomes[0].failure.kind, outcomes[0].failure.text) == ("time_limit", TEXT)
    assert outcomes[0].tasks[""].images > 0


def test_the_alarm_is_given_back(small):
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 1000, 7)
    try:
        assert small.outcome(max_child_seconds=100).failure is None
        delay, interval = signal.getitimer(signal.ITIMER_REAL)
        assert (900 < delay < 1000, interval) == (True, 7)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(OutOfTime), TimeLimit(0.4).running():
            time.sleep(1000)
        assert not rung  # it would have rung meanwhile
        time.sleep(0.1)
        assert len(rung) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_stopping_twice_does_no_harm():
    handler = signal.getsignal(signal.SIGALRM)
    clock = TimeLimit(100)
    with clock.running():
        clock.stop()
    clock.stop()
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_must_be_positive(small, seconds):
    with pytest.raises(ConfigurationError, match="more than 0 seconds"):
        small.evaluator(max_child_seconds=seconds)


RANKS = """
import sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from conftest import Small
from lightning_lemonade import LemonadeModule
from lightning_lemonade.ranks import launch

class SlowOnRankOne(LemonadeModule):
    def on_train_batch_start(self, batch, batch_idx):
        self.trainer.fit_loop.max_epochs = 1000
        if self.global_rank == 1:
            time.sleep(0.2)

class Hungry(LemonadeModule):
    def training_step(self, batch, batch_idx):
        return torch.empty(10**15)

if __name__ == "__main__":
    arguments = {{"accelerator": "cpu", "devices": 2}}
    ranks = launch(arguments)
    for factory in (SlowOnRankOne, Hungry):
        failure = ranks.evaluate(Small.evaluator(factory=factory, trainer=arguments, max_child_seconds=1), Small.request).outcome.failure
        print(f"rank {{ranks.rank}} {{failure.kind}} {{failure.text}}\\n", end="", flush=True)
"""


def test_several_processes_stop_together_and_do_not_try_again(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANKS.format(here=str(Path(__file__).parent))))
    printed = processes.run_ranks(script)
    assert [rank.returncode for rank in printed] == [0, 0], printed
    lines = sorted(line for rank in printed for line in rank.stdout.splitlines() if line.startswith("rank"))
    kinds = [line.split()[2] for line in lines]
    assert kinds == ["out_of_memory", "time_limit"] * 2
    assert all("where several processes train a child, it isn't tried again" in line for line in lines if "memory" in line)
