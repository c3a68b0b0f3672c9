"""Modules, data and programs of searches on two ranks: what goes wrong on one of them, and what is looked at on each."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from lightning_lemonade import InlineExecutor, LemonadeModule, LemonadeTrainer, SearchCallback, ranks
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.evaluation import Evaluation
from lightning_lemonade.history import History
from lightning_lemonade.search import Measurement
from lightning_lemonade.spaces import ConvNetSpace

_, SECOND, THIRD, *_ = (spec.structural_hash for spec in ConvNetSpace().initial((1, 8, 8), 10))
SMALL = {"algorithm": "paper", "max_generations": 2, "proposals": 4, "accepted": 2, "epochs": 1, "initial_epochs": 1, "accelerator": "cpu"}


class Odd(DigitsDataModule):
    """539 images in batches of 64: an odd number, and a last batch of 27."""

    def val_dataloader(self):
        return DataLoader(super().val_dataloader().dataset, batch_size=64, collate_fn=super().val_dataloader().collate_fn)


class _OnRankOne(LemonadeModule):
    def goes_wrong(self, candidate):
        return dist.get_rank() == 1 and self.spec.structural_hash == candidate and self.training


class WrongOnRankOne(_OnRankOne):
    """A loss of nan for one candidate, an exception for the next."""

    def loss(self, logits, target):
        if self.goes_wrong(THIRD) and self.global_step == 3:
            raise RuntimeError("this rank's own bug")
        return super().loss(logits, target) * (float("nan") if self.goes_wrong(SECOND) else 1.0)


class Hashed(LemonadeModule):
    """Tells which architectures this rank trains, and for how many steps."""

    trained: ClassVar = []

    def on_train_end(self):
        self.trained.append((self.spec.structural_hash, self.global_step))


class Dying(DigitsDataModule):
    """Kills the process of a rank in the second training or validation that it takes part in, once.

    Args:
        rank: whose.
        phase: `fit` or `validate`.
        flag: a file that tells that it has happened.
        hang: whether the other ranks hang then, as they do inside a library that waits for gradients.
    """

    def __init__(self, rank: int, phase: str, flag: str, hang: bool = False):
        super().__init__()
        self.rank, self.phase, self.flag, self.hang = rank, phase, flag, hang
        self.fits = 0

    def train_dataloader(self):
        if dist.is_initialized() and self.trainer is not None:
            self.fits += 1
        return super().train_dataloader()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.state.fn == self.phase and self.fits == 2 and dist.is_initialized():
            if dist.get_rank() == self.rank:
                die_once(self.flag)
            elif self.hang and not Path(self.flag).exists():
                time.sleep(1000)
        return batch


class Proposing(SearchCallback):
    """Takes long on rank 0 between two generations, while rank 1 is killed."""

    def __init__(self, flag):
        self.flag = flag

    def on_generation_end(self, search, record):
        if not Path(self.flag).exists():
            Path(f"{self.flag}.proposing").touch()
            time.sleep(1000)


class Replaying(InlineExecutor):
    """Trains each child on all ranks, and tells the search what another run recorded of it.

    Args:
        recorded: the other run's directory.
    """

    def __init__(self, recorded):
        super().__init__()
        self.others = {candidate.id: candidate.objectives for candidate in History.open(recorded).candidates()}

    def next(self):
        result = super().next()
        if not isinstance(result, Evaluation):
            return result
        values = {key: Measurement(value) for key, value in self.others[result.outcome.id].items()}
        return replace(result, outcome=replace(result.outcome, values=values))


def die_once(flag):
    if not Path(flag).exists():
        Path(flag).write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)


class DiesWhileRank0Proposes(pl.Callback):
    """Kills rank 1 once rank 0 proposes, for which it waits."""

    def __init__(self, flag):
        self.flag = flag

    def on_train_end(self, trainer, pl_module):
        if trainer.global_rank == 1:
            threading.Thread(target=self.wait_and_die, daemon=True).start()

    def wait_and_die(self):
        while not Path(f"{self.flag}.proposing").exists():
            time.sleep(0.2)
        time.sleep(1.0)
        die_once(self.flag)


def writes_below(directory):
    """Returns a list that fills with what this process writes below a directory."""
    written = []

    def hear(event, arguments):
        if event == "open" and str(arguments[0]).startswith(str(directory)) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(str(arguments[0]))
        if event in {"os.mkdir", "os.rename", "os.remove"} and str(arguments[0]).startswith(str(directory)):
            written.append(str(arguments[0]))

    sys.addaudithook(hear)
    return written


def looked_at(run_dir, **arguments):
    """Searches, and prints what this rank saw of it."""
    written = writes_below(run_dir)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    front = LemonadeTrainer(run_dir=run_dir, module=Hashed, **SMALL | arguments).search(Odd())
    seen = {
        "rank": dist.get_rank(),
        "front": front.ids,
        "trained": Hashed.trained,
        "written": written,
        "restored": torch.equal(before, torch.get_rng_state()),
    }
    sys.stdout.write(f"result {json.dumps(seen)}\n")
    sys.stdout.flush()


def main(what, run_dir, *more):
    torch.set_num_threads(1)
    if what == "look":
        looked_at(run_dir, **json.loads(more[0]))
    elif what == "replay":
        looked_at(run_dir, devices=2, executor=Replaying(more[0]), **json.loads(more[1]))
    elif what == "proposing":
        callbacks = [Proposing(more[0]), DiesWhileRank0Proposes(more[0])]
        LemonadeTrainer(run_dir=run_dir, devices=2, callbacks=callbacks, **SMALL | {"max_generations": 1}).search(DigitsDataModule())
    elif what == "dying":
        rank, phase, flag, hang = more
        data = Dying(int(rank), phase, flag, hang == "hang")
        LemonadeTrainer(run_dir=run_dir, devices=2, **SMALL | {"max_generations": 1}).search(data)
    else:
        ranks.PATIENCE = ranks.PATIENCE / 15
        LemonadeTrainer(run_dir=run_dir, devices=2, module=WrongOnRankOne, **SMALL | {"max_generations": 1}).search(DigitsDataModule())


if __name__ == "__main__":
    main(*sys.argv[1:])
