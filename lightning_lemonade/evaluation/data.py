"""The data of one task: a user's data module, set up once, and the calibration batch."""

import warnings
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_lemonade.errors import DataError
from lightning_lemonade.evaluation.scopes import quiet
from lightning_lemonade.module import pair
from lightning_lemonade.search.randomness import derived_rng

LEAN: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""Arguments of every Lightning trainer here: what it would do besides training is the search's."""


class TaskData(pl.LightningDataModule):
    """Delegates to a user's data module, whose `setup` runs once per process (Lightning runs it for every fit).

    Args:
        datamodule: the user's; whoever calls has had its `prepare_data` run.
    """

    def __init__(self, datamodule: pl.LightningDataModule) -> None:
        super().__init__()
        self.inner = datamodule
        datamodule.setup("fit")
        self._stages = ["fit"]
        self.evaluated_split: Literal["val", "test"] = "val"
        self._looked_at: DataLoader[Any] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        """Hands the trainer on to the user's data module, whose hooks and loaders may ask for it."""
        super().__setattr__(name, value)
        if name == "trainer" and "inner" in self.__dict__:
            self.inner.trainer = value  # type: ignore[assignment]

    def close(self) -> None:
        """Lets the user's data module tear down what it has set up; at the end of a search."""
        for stage in self._stages:
            self.inner.teardown(stage)

    def train_dataloader(self) -> Any:  # noqa: ANN401 (Lightning's signature)
        """Returns a new training loader."""
        return self.inner.train_dataloader()

    def val_dataloader(self) -> Any:  # noqa: ANN401
        """Returns a new loader of the split that is evaluated: `val` or `test`."""
        if self._looked_at is not None:
            return self._looked_at
        if self.evaluated_split == "val":
            return self.inner.val_dataloader()
        if "test" not in self._stages:
            self.inner.setup("test")
            self._stages.append("test")
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

    def on_exception(self, exception: BaseException) -> None:
        """Delegates."""
        self.inner.on_exception(exception)

    @property
    def has_test(self) -> bool:
        """Whether the user's data module has a test loader of its own."""
        return type(self.inner).test_dataloader is not pl.LightningDataModule.test_dataloader

    def shapes(self) -> tuple[tuple[int, ...], int]:
        """Returns a sample's shape and the number of classes, from the data module's attributes or the training labels.

        Raises:
            DataError: if the batches aren't `(x, y)` of float32 samples and integer classes, or there is none.
        """
        first = self._look(self.train_dataloader(), limit_val_batches=1)
        held = self._look(self.val_dataloader(), limit_val_batches=1)
        for split, seen in (("train", first), ("val", held)):
            if not seen.targets:
                raise DataError(f"{split}_dataloader yields no batch: it needs more samples, a smaller batch size, or drop_last=False")
        x, y = first.samples[0], first.targets[0]
        if y.is_floating_point() or y.ndim != 1:
            raise DataError(f"targets must be class numbers of shape (batch,), got {y.dtype} of shape {tuple(y.shape)}")
        if x.dtype != torch.float32:
            raise DataError(f"samples must be float32, got {x.dtype}: convert and scale them in the dataset, or in on_after_batch_transfer")
        return tuple(x.shape[1:]), self._classes(torch.cat([*first.targets, *held.targets]))

    def _classes(self, some: Tensor) -> int:
        """Returns the number of classes: the data module's, or as many as the training and validation labels show.

        Args:
            some: labels to check the data module's number against.
        """
        classes = getattr(self.inner, "num_classes", None)
        if classes is None:
            train = self._look(self.train_dataloader(), keep_samples=False).targets
            some = torch.cat([*train, *self._look(self.val_dataloader(), keep_samples=False).targets])
            classes = 1 + int(some.max())
            unseen = sorted(set(range(classes)) - set(torch.cat(train).tolist()))
            if unseen:
                warnings.warn(f"no training sample has the class {', '.join(map(str, unseen))}: it can't be learnt", stacklevel=2)
        if int(classes) < 2:
            raise DataError(f"there must be at least two classes, got {classes}")
        if int(some.min()) < 0 or int(some.max()) >= int(classes):
            raise DataError(f"labels must be from 0 to {int(classes) - 1}, got {int(some.min())} to {int(some.max())}: see num_classes")
        return int(classes)

    def calibration(self, size: int, seed: int) -> Tensor:
        """Returns training samples drawn by the seed: (at most `size`, *sample shape).

        They come from the training loader's dataset in a seeded order, through the data module's hooks as in validation: augmentation in
        the hooks is off, augmentation inside the dataset stays.

        Raises:
            DataError: if the training loader is no DataLoader, or yields anything but `(x, y)`.
        """
        loader = self.train_dataloader()
        if not isinstance(loader, DataLoader):
            raise DataError(f"train_dataloader must return a torch DataLoader, got {type(loader).__name__}")
        if isinstance(loader.dataset, IterableDataset):
            raise DataError(
                "the training data is an IterableDataset, from which no fixed calibration batch can be drawn: give a map-style one"
            )
        total = len(loader.dataset)  # type: ignore[arg-type]
        if total < 2:
            raise DataError(f"a search needs at least two training samples, got {total}")
        order = derived_rng(seed, "calibration").permutation(total)[:size]
        batches = DataLoader(loader.dataset, batch_size=256, sampler=[int(i) for i in order], collate_fn=loader.collate_fn, num_workers=0)
        return torch.cat(self._look(batches).samples)

    def _look(self, loader: DataLoader[Any], *, keep_samples: bool = True, limit_val_batches: int | None = None) -> "_Collector":
        """Passes a loader's batches through the data module's hooks on the CPU, and returns what came out."""
        collector, self._looked_at = _Collector(keep_samples), loader
        try:
            with quiet():
                trainer = pl.Trainer(
                    **LEAN, accelerator="cpu", devices=1, use_distributed_sampler=False, limit_val_batches=limit_val_batches
                )
                trainer.validate(collector, datamodule=self, verbose=False)
        finally:
            self._looked_at = None
        return collector


class _Collector(pl.LightningModule):
    """Keeps samples and targets of the batches that it is given."""

    def __init__(self, keep_samples: bool) -> None:
        super().__init__()
        self.keep_samples = keep_samples
        self.samples: list[Tensor] = []
        self.targets: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401 (Lightning's signature)
        x, y = pair(batch)
        if self.keep_samples:
            self.samples.append(x)
        self.targets.append(y)
