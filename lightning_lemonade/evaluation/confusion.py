"""How often a classifier takes one class for another."""

from typing import Any, Literal

import pandas as pd
import pytorch_lightning as pl
from torch import fx
from torchmetrics.classification import MulticlassConfusionMatrix

from lightning_lemonade.batches import BatchFormat, unpack
from lightning_lemonade.errors import DataError
from lightning_lemonade.evaluation.data import LEAN, TaskData, overrides
from lightning_lemonade.evaluation.failures import from_data_module
from lightning_lemonade.evaluation.scopes import quiet
from lightning_lemonade.graph import spec_of


def confusion_matrix(
    network: fx.GraphModule,
    datamodule: pl.LightningDataModule,
    split: Literal["val", "test"],
    names: list[str] | None,
    batch_format: BatchFormat,
) -> pd.DataFrame:
    """Returns counts of a classifier's answers: (classes, classes), a row for each true class.

    Args:
        network: made by `build`; it keeps its weights and its mode.
        datamodule: yields samples and classes.
        split: whose samples are counted.
        names: of the classes, by default their numbers.
        batch_format: where a batch holds samples and targets.

    Raises:
        DataError: if the data module has no such split, or its samples or targets don't fit the network.
    """
    if split not in ("val", "test") or not overrides(datamodule, f"{split}_dataloader"):
        raise DataError(f"{type(datamodule).__name__} has no {split}_dataloader: give split='val' or 'test', whichever it has")
    with from_data_module(datamodule, "prepare_data"):
        datamodule.prepare_data()
    data = TaskData(datamodule, batch_format)
    answers = _Answers(network, batch_format)
    try:
        data.evaluated_split = split
        with quiet():
            pl.Trainer(**LEAN, devices=1).validate(answers, datamodule=data, verbose=False)
    finally:
        data.close()
    labels = names or [str(number) for number in range(answers.classes)]
    return pd.DataFrame(
        answers.matrix.compute().cpu().numpy(), index=pd.Index(labels, name="true"), columns=pd.Index(labels, name="answer")
    )


class _Answers(pl.LightningModule):
    """Compares a network's answers with the targets."""

    def __init__(self, network: fx.GraphModule, batch_format: BatchFormat) -> None:
        super().__init__()
        self.network, self.batch_format, self.spec = network, batch_format, spec_of(network)
        self.classes = self.spec.output_shape[0]
        # each process of a script that several devices run counts all samples, and may be the only one that is asked
        self.matrix = MulticlassConfusionMatrix(num_classes=max(2, self.classes), sync_on_compute=False)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401 (Lightning's signature)
        x, y = unpack(batch, self.batch_format)
        if tuple(x.shape[1:]) != self.spec.input_shape:
            raise DataError(f"a sample has the shape {tuple(x.shape[1:])}, the network takes {self.spec.input_shape}: give its own data")
        if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= self.classes:
            shown = "real numbers" if y.is_floating_point() else f"numbers from {int(y.min())} to {int(y.max())}"
            raise DataError(f"targets are {shown}, but the network tells the classes 0 to {self.classes - 1}: give its own data")
        self.matrix.update(self.network(x), y)
