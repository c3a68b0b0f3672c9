"""What data modules that hold their splits as data sets have in common: the loaders."""

from typing import ClassVar

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from lightning_lemonade.datamodules.dataset import LabelledImages, Sample, collate


class SplitDataModule(pl.LightningDataModule):
    """Loaders of three splits. Subclasses fill `_datasets` with `train`, `validation` and `test` in `setup`.

    Attributes:
        batch_size: images in a training batch; the other loaders' batches hold at least `eval_batch_size`.
        num_workers: worker processes of each loader.
    """

    eval_batch_size: ClassVar[int]
    batch_size: int
    num_workers: int

    def __init__(self) -> None:
        super().__init__()
        self._datasets: dict[str, LabelledImages] = {}

    def train_dataloader(self) -> DataLoader[Sample]:
        """Returns the training images, shuffled. A last batch of a single image is left out: batch norm can't train on one."""
        dataset = self._dataset("train")
        lonely = self.batch_size > 1 and len(dataset) % self.batch_size == 1
        return self._loader(dataset, batch_size=self.batch_size, shuffle=True, drop_last=lonely)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Returns the validation images, in a fixed order."""
        return self._loader(self._dataset("validation"), batch_size=max(self.batch_size, self.eval_batch_size))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Returns the test images, in a fixed order."""
        return self._loader(self._dataset("test"), batch_size=max(self.batch_size, self.eval_batch_size))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Returns the test images, in a fixed order."""
        return self.test_dataloader()

    def _dataset(self, split: str) -> LabelledImages:
        self.setup("fit")
        return self._datasets[split]

    def _workers(self, dataset: LabelledImages) -> int:
        return self.num_workers

    def _loader(self, dataset: LabelledImages, *, batch_size: int, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Sample]:
        workers = self._workers(dataset)
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
        )
