import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData
from lightning_lemonade.module import LemonadeModule, Training
from lightning_lemonade.objectives import for_tasks, resolve
from lightning_lemonade.search import Child
from lightning_lemonade.spaces import ConvNetSpace

SPEC = ConvNetSpace().initial((1, 8, 8), 3)[0]


class Samples(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.full((1, 8, 8), index / 24), index % 3


class Data(pl.LightningDataModule):
    """Twenty-four samples of three classes, in batches of eight."""

    num_classes = 3

    def __init__(self, dataset=None, num_workers=0):
        super().__init__()
        self.dataset, self.num_workers = dataset or Samples(), num_workers

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=8, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(Samples(), batch_size=8)


class Small:
    """What tests of an evaluation are made of; a fixture hands it out, since no module of this folder can be imported."""

    samples, data, spec = Samples, Data, SPEC
    request = EvaluationRequest(Child(SPEC, 0, None, (), {}, 7), None, {})

    @staticmethod
    def evaluator(datamodules=None, factory=LemonadeModule, *, trainer=None, **arguments):
        modules = datamodules if isinstance(datamodules, dict) else {"": datamodules or Data()}
        return Evaluator(
            tasks={task: TaskData(one) for task, one in modules.items()},
            calibration=dict.fromkeys(modules, torch.rand(4, 1, 8, 8)),
            objectives=for_tasks(resolve(["error", "params"]), list(modules)),
            training=Training(epochs=1, initial_epochs=2),
            factory=factory,
            seed=0,
            trainer_arguments={"accelerator": "cpu"} | (trainer or {}),
            **arguments,
        )

    @classmethod
    def outcome(cls, *given, **arguments):
        return cls.evaluator(*given, **arguments).evaluate(cls.request).outcome


@pytest.fixture(scope="session")
def small():
    torch.set_num_threads(1)
    return Small
