"""The data of one task: a user's data module, set up once, and the calibration batch."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_lemonade.errors import DataError
from lightning_lemonade.module import pair
from lightning_lemonade.search.randomness import derived_rng


class TaskData(pl.LightningDataModule):
    """Delegates to a user's data module, whose `prepare_data` and `setup` run once per process (Lightning runs them for every fit)."""

    def __init__(self, datamodule: pl.LightningDataModule) -> None:
        super().__init__()
        self.inner = datamodule
        datamodule.prepare_data()
        datamodule.setup("fit")
        self._tested = False
        self.evaluated_split = "val"

    def __setattr__(self, name: str, value: object) -> None:
        """Hands the trainer on to the user's data module, whose hooks and loaders may ask for it."""
        super().__setattr__(name, value)
        if name == "trainer" and "inner" in self.__dict__:
            self.inner.trainer = value  # type: ignore[assignment]

    def train_dataloader(self) -> Any:  # noqa: ANN401 (Lightning's signature)
        """Returns a new training loader."""
        return self.inner.train_dataloader()

    def val_dataloader(self) -> Any:  # noqa: ANN401
        """Returns a new loader of the split that is evaluated: `val` or `test`."""
        if self.evaluated_split == "val":
            return self.inner.val_dataloader()
        if not self._tested:
            self.inner.setup("test")
            self._tested = True
        return self.inner.test_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Delegates."""
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Delegates."""
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Delegates."""
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)

    @property
    def has_test(self) -> bool:
        """Whether the user's data module has a test loader of its own."""
        return type(self.inner).test_dataloader is not pl.LightningDataModule.test_dataloader

    def shapes(self) -> tuple[tuple[int, ...], int]:
        """Returns a sample's shape and the number of classes, from the data module's attributes or the training labels.

        Raises:
            DataError: if the batches aren't `(x, y)` with integer classes.
        """
        x, y = pair(next(iter(self.train_dataloader())))
        if y.is_floating_point() or y.ndim != 1:
            raise DataError(f"targets must be class numbers of shape (batch,), got {y.dtype} of shape {tuple(y.shape)}")
        classes = getattr(self.inner, "num_classes", None)
        if classes is None:
            classes = 1 + max(int(pair(batch)[1].max()) for batch in self.train_dataloader())
        return tuple(x.shape[1:]), int(classes)

    def calibration(self, size: int, seed: int) -> Tensor:
        """Returns training samples drawn by the seed: (at most `size`, *sample shape).

        They come from the training loader's dataset in a seeded order, as that dataset gives them. Raises nothing of its own.
        """
        loader = self.train_dataloader()
        if not isinstance(loader, DataLoader):
            raise DataError(f"train_dataloader must return a torch DataLoader, got {type(loader).__name__}")
        total = len(loader.dataset)  # type: ignore[arg-type]
        order = derived_rng(seed, "calibration").permutation(total)[:size]
        batches = DataLoader(loader.dataset, batch_size=256, sampler=[int(i) for i in order], collate_fn=loader.collate_fn, num_workers=0)
        return torch.cat([pair(batch)[0] for batch in batches])
