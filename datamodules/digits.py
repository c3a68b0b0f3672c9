"""Handwritten digits that need no download: scikit-learn's embedded data set."""

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_lemonade.errors import ConfigurationError

Sample = tuple[Tensor, Tensor]

_EVAL_BATCH_SIZE = 1024  # no gradients are kept there, so a whole split of this size fits anywhere
_MIN_FRACTION = 0.01  # of the rarest class, 174 images: one image at least
_MAX_SEED = 2**32 - 1  # numpy's


class ImageDataset(Dataset[Sample]):
    """Labelled images in memory.

    Args:
        x: images, shape (N, C, H, W).
        y: class indices, shape (N,), int64.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.y)

    def __getitem__(self, index: int) -> Sample:
        """Returns image (C, H, W) and class index () of one sample."""
        return self.x[index], self.y[index]

    def __getitems__(self, indices: list[int]) -> "ImageDataset":
        """Returns many samples by one index: data loaders ask for a batch this way, and `collate` takes it whole.

        The result reads as a list of samples for those who collate by themselves.
        """
        return ImageDataset(self.x[indices], self.y[indices])


def collate(samples: ImageDataset | Sequence[Sample]) -> Sample:
    """Returns the tensors of a batch, as they are if they were never split up.

    Args:
        samples: what `ImageDataset.__getitems__` returns, or samples one by one.

    Returns:
        Images (N, C, H, W) and class indices (N,).
    """
    if isinstance(samples, ImageDataset):
        return samples.x, samples.y
    x, y = default_collate(list(samples))
    return x, y


class DigitsDataModule(pl.LightningDataModule):
    """The 1,797 handwritten digits of scikit-learn: 8x8 grey images, ten classes, nothing to download.

    Batches are `(x, y)`: x float32 of shape (N, 1, 8, 8) in [0, 1], y int64 of shape (N,). The splits are stratified: each class has about
    the same share of each. They depend on `seed` and the fractions alone, so every process and every fit sees the same ones. The order of
    the training images comes from torch's global generator, as in any other data loader.

    Args:
        batch_size: images in a training batch. The other loaders' batches hold at least 1,024.
        num_workers: worker processes of each loader. 0 is the fastest here, since the images lie in memory.
        seed: of the split, in [0, 2**32).
        validation_fraction: share of all images that validate; at least 0.01. A search looks at them a hundred times: the fewer they are,
            the more the luckiest of equal networks wins.
        test_fraction: share of all images that test; at least 0.01. What is left, at least 0.01 too, trains.

    Attributes:
        num_classes: 10.
        sample_shape: shape of one image, (1, 8, 8).
        class_names: "0" to "9".

    Raises:
        ConfigurationError: an argument is out of its range.

    Example:
        >>> datamodule = DigitsDataModule(batch_size=32)
        >>> datamodule.setup("fit")
        >>> x, y = next(iter(datamodule.train_dataloader()))
        >>> tuple(x.shape), y.dtype
        ((32, 1, 8, 8), torch.int64)
    """

    num_classes: int = 10
    sample_shape: tuple[int, int, int] = (1, 8, 8)
    class_names: tuple[str, ...] = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        validation_fraction: float = 0.3,
        test_fraction: float = 0.2,
    ) -> None:
        super().__init__()
        _check_integer("batch_size", batch_size, minimum=1)
        _check_integer("num_workers", num_workers, minimum=0)
        _check_integer("seed", seed, minimum=0, maximum=_MAX_SEED)
        _check_fractions(validation_fraction, test_fraction)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.save_hyperparameters(logger=False)
        self._splits: dict[str, ImageDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Loads the images and splits them; does nothing the second time.

        Args:
            stage: Lightning's; all splits are made for any of them, since they take milliseconds.
        """
        if self._splits:
            return
        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images / 16).to(torch.float32).reshape(-1, *self.sample_shape)
        y = torch.from_numpy(labels).to(torch.int64)
        indices = _split(labels, self.seed, {"validation": self.validation_fraction, "test": self.test_fraction})
        self._splits = {name: ImageDataset(x[chosen], y[chosen]) for name, chosen in indices.items()}

    def train_dataloader(self) -> DataLoader[Sample]:
        """Returns the training images, shuffled. A last batch of a single image is left out: batch norm can't train on one."""
        dataset = self._dataset("train")
        lonely = self.batch_size > 1 and len(dataset) % self.batch_size == 1
        return self._loader(dataset, batch_size=self.batch_size, shuffle=True, drop_last=lonely)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Returns the validation images, in a fixed order."""
        return self._loader(self._dataset("validation"), batch_size=max(self.batch_size, _EVAL_BATCH_SIZE))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Returns the test images, in a fixed order."""
        return self._loader(self._dataset("test"), batch_size=max(self.batch_size, _EVAL_BATCH_SIZE))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Returns the test images, in a fixed order."""
        return self.test_dataloader()

    def _dataset(self, split: str) -> ImageDataset:
        self.setup()
        return self._splits[split]

    def _loader(self, dataset: ImageDataset, *, batch_size: int, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
        )


def _split(labels: "np.ndarray[tuple[int], np.dtype[np.int64]]", seed: int, fractions: dict[str, float]) -> dict[str, Tensor]:
    """Splits stratified: the named fractions, and `train` with what is left.

    Args:
        labels: class indices, shape (N,).
        seed: decides the split together with the fractions.
        fractions: share of all N samples by split.

    Returns:
        Sample indices by split, int64, ascending.
    """
    rest = np.arange(len(labels))
    parts: dict[str, Tensor] = {}
    for name, fraction in fractions.items():
        size = round(fraction * len(labels))
        rest, part = train_test_split(rest, test_size=size, stratify=labels[rest], random_state=seed)
        parts[name] = torch.from_numpy(np.sort(part))
    return {"train": torch.from_numpy(np.sort(rest)), **parts}


def _check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    legal = isinstance(value, Integral) and int(value) >= minimum and (maximum is None or int(value) <= maximum)
    if not legal:
        bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ConfigurationError(f"{name}={value!r} can't be used: give an integer {bounds}.")


def _check_fraction(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise ConfigurationError(f"{name}={value!r} is no number: give one of at least {_MIN_FRACTION}.")
    if not float(value) >= _MIN_FRACTION:  # true for NaN, too
        raise ConfigurationError(f"{name}={value!r} leaves classes without an image: give at least {_MIN_FRACTION}.")


def _check_fractions(validation: float, test: float) -> None:
    _check_fraction("validation_fraction", validation)
    _check_fraction("test_fraction", test)
    if not validation + test <= 1 - _MIN_FRACTION:
        raise ConfigurationError(
            f"validation_fraction={validation!r} and test_fraction={test!r} leave too few images to train with: "
            f"give fractions whose sum is at most {1 - _MIN_FRACTION}."
        )
