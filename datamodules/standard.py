"""CIFAR and the MNIST family, from torchvision's own files."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import datasets

from lightning_lemonade.datamodules.dataset import Normalise
from lightning_lemonade.datamodules.images import ArraySource, ImageDataModule, Source
from lightning_lemonade.datamodules.splits import Indices
from lightning_lemonade.errors import DataError


class TorchvisionDataModule(ImageDataModule):
    """A data set of torchvision that holds its images in one array.

    Args:
        root: the folder that torchvision keeps its data sets in.
        download: whether the files may be downloaded where they are missing; once per machine, as Lightning has it.
        **arguments: see `ImageDataModule`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    dataset_class: ClassVar[type[Any]]
    statistics: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]

    def __init__(self, root: str | Path = "data", *, download: bool = True, **arguments: Any) -> None:  # noqa: ANN401 (ImageDataModule's)
        super().__init__(root, **arguments)
        self.download = download

    def prepare_data(self) -> None:
        """Downloads what is missing, if that is allowed.

        Raises:
            DataError: if the files are missing and can't be had.
        """
        for train in (True, False) if not self._datasets else ():  # torchvision reads and checks all files each time
            self._open(train, download=self.download)

    def sources(self) -> dict[str, Source]:
        """See `ImageDataModule.sources`."""
        return {"train": self._source(train=True), "test": self._source(train=False)}

    def normalisation(self, train: Source, indices: Indices) -> Normalise:
        """Returns the normalisation with the data set's well-known mean and standard deviation."""
        return Normalise(*self.statistics)

    def _source(self, *, train: bool) -> ArraySource:
        dataset = self._open(train, download=False)
        self.class_names = tuple(dataset.classes)
        images = torch.as_tensor(dataset.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return ArraySource(images.contiguous(), np.asarray(dataset.targets, dtype=np.int64))

    def _open(self, train: bool, *, download: bool) -> Any:  # noqa: ANN401 (torchvision is untyped)
        try:
            return self.dataset_class(str(self.root), train=train, download=download)
        except (OSError, RuntimeError, ValueError, EOFError) as error:  # what torchvision raises for missing, cut and unreachable files
            name = self.dataset_class.__name__
            tried = "can't be downloaded" if download else "isn't downloaded here"
            raise DataError(
                f"{name} isn't in {self.root.resolve()} as torchvision keeps it, and {tried} ({_one_line(error)}): "
                f"put its files there by hand, or give another root"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class _CIFARDataModule(TorchvisionDataModule):
    sample_shape = (3, 32, 32)

    def __init__(
        self,
        root: str | Path = "data",
        *,
        download: bool = True,
        crop: int = 4,
        flip: bool = True,
        **arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(root, download=download, crop=crop, flip=flip, **arguments)


class CIFAR10DataModule(_CIFARDataModule):
    """CIFAR-10: 45,000 images that train, 5,000 that validate, 10,000 that test; 32x32 in colour, ten classes.

    Args:
        root: the folder that holds `cifar-10-batches-py`.
        download: whether the files may be downloaded where they are missing.
        crop: how far training images are shifted at most, in pixels.
        flip: whether training images are mirrored left to right, half of them.
        **arguments: see `ImageDataModule`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    dataset_class = datasets.CIFAR10
    num_classes = 10
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class CIFAR100DataModule(_CIFARDataModule):
    """CIFAR-100: 45,000 images that train, 5,000 that validate, 10,000 that test; 32x32 in colour, a hundred classes.

    Args:
        root: the folder that holds `cifar-100-python`.
        download: whether the files may be downloaded where they are missing.
        crop: how far training images are shifted at most, in pixels.
        flip: whether training images are mirrored left to right, half of them.
        **arguments: see `ImageDataModule`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    dataset_class = datasets.CIFAR100
    num_classes = 100
    statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


class MNISTDataModule(TorchvisionDataModule):
    """MNIST: 54,000 handwritten digits that train, 6,000 that validate, 10,000 that test; 28x28 in grey, ten classes.

    Args:
        root: the folder that holds `MNIST/raw`.
        download: whether the files may be downloaded where they are missing.
        **arguments: see `ImageDataModule`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    dataset_class = datasets.MNIST
    num_classes = 10
    sample_shape = (1, 28, 28)
    statistics = ((0.1307,), (0.3081,))


class FashionMNISTDataModule(TorchvisionDataModule):
    """Fashion-MNIST: 54,000 pictures of clothes that train, 6,000 that validate, 10,000 that test; 28x28 in grey, ten classes.

    Args:
        root: the folder that holds `FashionMNIST/raw`.
        download: whether the files may be downloaded where they are missing.
        **arguments: see `ImageDataModule`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    dataset_class = datasets.FashionMNIST
    num_classes = 10
    sample_shape = (1, 28, 28)
    statistics = ((0.2860,), (0.3530,))
