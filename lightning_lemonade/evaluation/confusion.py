"""How often a classifier takes one class for another."""

from typing import Any, Literal

import pandas as pd
import pytorch_lightning as pl
from torchmetrics.classification import MulticlassConfusionMatrix

from lightning_lemonade.errors import DataError
from lightning_lemonade.evaluation.data import LEAN, TaskData, overrides
from lightning_lemonade.evaluation.scopes import quiet
from lightning_lemonade.module import LemonadeModule


def confusion_matrix(
    module: LemonadeModule, datamodule: pl.LightningDataModule, split: Literal["val", "test"], names: list[str] | None
) -> pd.DataFrame:
    """Returns counts of a classifier's answers: (classes, classes), a row for each true class.

    Args:
        module: the classifier; it keeps its weights and its mode.
        datamodule: yields samples and classes.
        split: whose samples are counted.
        names: of the classes, by default their numbers.

    Raises:
        DataError: if the data module has no such split, or its samples don't fit the network.
    """
    if split not in ("val", "test") or not overrides(datamodule, f"{split}_dataloader"):
        raise DataError(f"{type(datamodule).__name__} has no {split}_dataloader: give split='val' or 'test', whichever it has")
    datamodule.prepare_data()
    data = TaskData(datamodule, module.batch_format)
    data.evaluated_split = split
    classes = module.spec.output_shape[0]
    shape, outputs = data.shapes
    if (shape, outputs) != (module.spec.input_shape, classes):
        raise DataError(
            f"{type(datamodule).__name__} has samples of shape {shape} and {outputs} classes, the network is made for "
            f"{module.spec.input_shape} and {classes}: give the data module that it was trained with"
        )
    answers = _Answers(module, classes)
    with quiet():
        pl.Trainer(**LEAN, devices=1).validate(answers, datamodule=data, verbose=False)
    counts = answers.matrix.compute().cpu().numpy()
    labels = names or [str(number) for number in range(classes)]
    return pd.DataFrame(counts, index=pd.Index(labels, name="true"), columns=pd.Index(labels, name="answer"))


class _Answers(pl.LightningModule):
    """Compares a module's answers with the targets."""

    def __init__(self, module: LemonadeModule, classes: int) -> None:
        super().__init__()
        self.module = module
        self.matrix = MulticlassConfusionMatrix(num_classes=classes)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401 (Lightning's signature)
        x, y = self.module.unpack(batch)
        self.matrix.update(self.module(x), y)
