"""What comes of children and metrics on one process or on several. As a script on two ranks it prints that as JSON, a line for each."""

import json
import sys
import time

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, WeightedRandomSampler
from torchmetrics import Metric, SumMetric

from lightning_lemonade.errors import LemonadeError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData
from lightning_lemonade.module import ErrorRate, LemonadeModule, Training
from lightning_lemonade.objectives import for_tasks, resolve
from lightning_lemonade.search import Child
from lightning_lemonade.spaces import ConvNetSpace

SPEC = ConvNetSpace().initial((1, 8, 8), 3)[0]
TRAIN, VALIDATION = 27, 13
"""Samples; in batches of eight the last has three, in batches of four one."""


class Samples(Dataset):
    """Each carries its number in its first pixel."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
        x[0, 0, 0] = index
        return x, index % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter([Samples(VALIDATION)[index] for index in range(VALIDATION)])


class OwnIterator(DataLoader):
    def __iter__(self):
        return super().__iter__()


class Batches:
    sampler = None

    def __iter__(self):
        yield from ([0, 1, 2, 3, 4, 5, 6], [7], [8, 9], [10, 11, 12, 13, 14])

    def __len__(self):
        return 4


class OfThisRank(torch.utils.data.Sampler):
    def __iter__(self):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return iter(range(rank, TRAIN, 2))

    def __len__(self):
        return TRAIN // 2


class Data(pl.LightningDataModule):
    num_classes = 3

    def __init__(self, train=None, val=None):
        super().__init__()
        self.train, self.val = train or {"batch_size": 8, "shuffle": True}, val

    def train_dataloader(self):
        options = self.train() if callable(self.train) else dict(self.train)
        return options.pop("loader", DataLoader)(Samples(TRAIN), **options)

    def val_dataloader(self):
        return self.val() if self.val else DataLoader(Samples(VALIDATION), batch_size=4)


class Wrong(Metric):
    """How many answers are wrong: a sum, which counts twice if a sample does."""

    def __init__(self):
        super().__init__()
        self.add_state("wrong", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits, target):
        self.wrong += (logits.argmax(1) != target).sum()

    def compute(self):
        return self.wrong.float()


class Counting(LemonadeModule):
    def metrics(self):
        return {"error": ErrorRate(3), "wrong": Wrong()}


class Logging(Counting):
    """Logs by itself: a sum of every batch, over all ranks; and a metric object."""

    def __init__(self, spec, training=None):
        super().__init__(spec, training)
        self.seen = SumMetric()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)
        self.log("val_batches", 1.0, reduce_fx="sum", sync_dist=True, on_epoch=True, add_dataloader_idx=False)
        self.seen.update(len(batch[1]))

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("val_seen", self.seen)


class Recording(LemonadeModule):
    """Keeps which samples it was trained on, the steps, and what it drew."""

    def __init__(self, spec, training=None):
        super().__init__(spec, training)
        self.trained_on, self.draw, self.steps = [], None, 0
        made.append(self)

    def training_step(self, batch, batch_idx):
        self.draw = float(torch.rand(())) if self.draw is None else self.draw
        self.trained_on.append([int(number) for number in batch[0][:, 0, 0, 0]])
        self.steps = self.trainer.estimated_stepping_batches
        return super().training_step(batch, batch_idx)


class Slow(LemonadeModule):
    def forward(self, x):
        if not self.training and self._trainer is not None and self.trainer.validating:
            time.sleep(0.3)
        return super().forward(x)


class SlowAndLogging(Slow):
    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()


made = []


def evaluator(datamodule, factory, **arguments):
    return Evaluator(
        tasks={"": TaskData(datamodule)},
        calibration={"": torch.rand(4, 1, 8, 8)},
        objectives=for_tasks(resolve(["error", "params"]), [""]),
        training=Training(epochs=1, initial_epochs=2),
        factory=factory,
        seed=0,
        **arguments,
    )


def metrics_of(datamodule, factory, arguments):
    """Returns the metrics of a network that isn't trained, so that they are comparable."""
    made_of = evaluator(datamodule, factory, trainer_arguments=arguments, max_child_seconds=100)
    torch.manual_seed(0)
    with made_of._limit.running():
        return made_of.metrics(factory(SPEC, Training()), made_of.tasks[""])


def child_of(datamodule, factory, arguments, **more):
    """Returns what a child's training cost, and what its module kept."""
    made.clear()
    outcome = (
        evaluator(datamodule, factory, trainer_arguments=arguments, **more)
        .evaluate(EvaluationRequest(Child(SPEC, 0, None, (), {}, 7), None, {}))
        .outcome
    )
    kept = {name: getattr(made[-1], name) for name in ("trained_on", "draw", "steps")} if made else {}
    images = outcome.tasks[""].images if outcome.tasks else 0
    return {"images": images, "failure": outcome.failure and (outcome.failure.kind, outcome.failure.text), **kept}


def refused(datamodule):
    try:
        _ = TaskData(datamodule).shapes
    except LemonadeError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def results(arguments):
    val = {
        "plain": (None, Counting),
        "logging": (None, Logging),
        "one": (lambda: DataLoader(Samples(1)), Counting),
        "several": (lambda: [DataLoader(Samples(VALIDATION), batch_size=4), DataLoader(Samples(1))], Counting),
        "stream": (lambda: DataLoader(Stream(), batch_size=4), Counting),
        "shuffled": (lambda: DataLoader(Samples(VALIDATION), batch_size=4, shuffle=True), Counting),
    }
    found = {name: metrics_of(Data(val=loaders), factory, arguments) for name, (loaders, factory) in val.items()}
    train = {
        "shuffle": {"batch_size": 8, "shuffle": True},
        "dropped": {"batch_size": 8, "shuffle": True, "drop_last": True},
        "workers": {"batch_size": 8, "shuffle": True, "num_workers": 1, "persistent_workers": True},
        "weighted": lambda: {"batch_size": 8, "sampler": WeightedRandomSampler([1.0] * 5 + [0.0] * (TRAIN - 5), 20)},
        "batches": lambda: {"batch_sampler": Batches()},
    }
    found |= {name: child_of(Data(options), Recording, arguments) for name, options in train.items()}
    found["slow"] = [child_of(Data(), factory, arguments, max_child_seconds=1.0)["failure"][0] for factory in (Slow, SlowAndLogging)]
    return found


def refusals():
    divided = [{"batch_size": 8, "sampler": DistributedSampler(Samples(TRAIN), 2, rank)} for rank in (0, 1)]
    return {
        "divided": refused(Data(divided[0])),
        "divided validation": refused(Data(val=lambda: DataLoader(Samples(9), batch_size=4, sampler=DistributedSampler(Samples(9), 2, 0)))),
        "own iterator": refused(Data({"batch_size": 8, "loader": OwnIterator})),
        "small": refused(Data({"batch_size": 1})),
        "by rank": refused(Data({"batch_size": 8, "sampler": OfThisRank()})),
    }


if __name__ == "__main__":
    from lightning_lemonade.ranks import Stop, launch

    torch.set_num_threads(1)
    two = {"accelerator": "cpu", "devices": 2}
    ranks = launch(two)
    sys.stdout.write(f"result {json.dumps({'rank': ranks.rank, 'refusals': refusals(), **results(two)})}\n")
    sys.stdout.flush()
    ranks.dismiss(Stop(None, ""))
    ranks.close()
