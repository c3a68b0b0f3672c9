"""What the data modules of images have in common."""

import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_lemonade.datamodules.augmentation import cutout, random_crop, random_flip
from lightning_lemonade.datamodules.checks import MAX_SEED, check_integer, check_real
from lightning_lemonade.datamodules.dataset import ImageDataset, LabelledImages, Normalise, Sample
from lightning_lemonade.datamodules.loaders import SplitDataModule
from lightning_lemonade.datamodules.splits import Indices, stratified_split, stratified_subset
from lightning_lemonade.errors import ConfigurationError

SPLITS = ("train", "validation", "test")
IN_MEMORY_BYTES = 2 * 2**30
"""What decoded images may take, so that they are kept in memory where the user doesn't say."""


class Source(Protocol):
    """Images that can be read by number.

    Attributes:
        labels: class indices, shape (N,).
    """

    labels: Indices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""

    def read(self, indices: Indices) -> Tensor:
        """Returns images as uint8, shape (n, C, H, W)."""


@dataclass
class ArraySource:
    """Images that are in memory anyway.

    Args:
        images: uint8, shape (N, C, H, W).
        labels: class indices, shape (N,).
    """

    images: Tensor
    labels: Indices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def read(self, indices: Indices) -> Tensor:
        """See `Source.read`."""
        return self.images[torch.from_numpy(indices)]


class SourceDataset(LabelledImages):
    """Images that are read when they are asked for, for the workers of a loader.

    Args:
        source: of all images.
        indices: those of this data set, shape (N,).
        transform: what makes float32 images of uint8 ones.
    """

    def __init__(self, source: Source, indices: Indices, transform: Normalise) -> None:
        self.source, self.indices, self.transform = source, indices, transform

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Returns image (C, H, W) and class index () of one sample."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> ImageDataset:
        """Returns many samples; see `ImageDataset.__getitems__`."""
        chosen = self.indices[indices]
        return ImageDataset(self.transform(self.source.read(chosen)), torch.from_numpy(self.source.labels[chosen]))


class ImageDataModule(SplitDataModule):
    """Labelled images of one size. Subclasses say where they come from.

    Batches are `(x, y)`: x float32 of shape (N, C, H, W), each channel normalised; y int64 of shape (N,). Training images are shifted,
    mirrored and so on a whole batch at a time on the training's device, in the hook that Lightning calls after a batch has come there; so
    what a loader yields by itself isn't augmented. With mixup, y of a training batch is float32 of shape (N, classes).

    Args:
        root: the folder of the data.
        batch_size: images in a training batch. The other loaders' batches hold at least 512.
        num_workers: worker processes of each loader, where images aren't in memory.
        in_memory: whether decoded images are kept as uint8 on the training's device, from which batches are indexed without workers; by
            default where they take at most 2 GiB, which is faster (docs/benchmarks.md).
        seed: of split and subset, in [0, 2**32).
        validation_fraction: share of the training images that validate, stratified, where the data has no validation split of its own.
        limit: at most so many of the training images, a stratified subset, of which a validation split that isn't there is taken; splits
            of their own stay whole.
        crop: how far training images are shifted at most, in pixels.
        flip: whether training images are mirrored left to right, half of them.
        cutout: side of the square that is cut from each training image, in pixels.
        mixup: alpha of the distribution of shares by which training images are mixed; 0 mixes none.

    Attributes:
        num_classes: how many there are; of a folder known after `setup`, as the next two.
        class_names: their names, in order.
        sample_shape: (C, H, W) of an image.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    eval_batch_size = 512
    num_classes: int
    class_names: tuple[str, ...]
    sample_shape: tuple[int, int, int]

    def __init__(
        self,
        root: str | Path = "data",
        *,
        batch_size: int = 128,
        num_workers: int = 0,
        in_memory: bool | None = None,
        seed: int = 0,
        validation_fraction: float = 0.1,
        limit: int | None = None,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("crop", crop, 0),
            ("cutout", cutout, 0),
        ):
            check_integer(name, value, minimum=minimum)
        check_integer("seed", seed, minimum=0, maximum=MAX_SEED)
        if limit is not None:
            check_integer("limit", limit, minimum=2)
        check_real("validation_fraction", validation_fraction, minimum=0.001, maximum=0.9)
        check_real("mixup", mixup, minimum=0, maximum=100)
        if in_memory and num_workers:
            raise ConfigurationError(f"num_workers={num_workers} with in_memory=True: images in memory need none, so give one of both")
        self.root, self.batch_size, self.num_workers, self.in_memory = Path(os.path.expanduser(root)), batch_size, num_workers, in_memory
        self.seed, self.validation_fraction, self.limit = seed, validation_fraction, limit
        self.crop, self.flip, self.cutout, self.mixup = crop, flip, cutout, mixup
        self.save_hyperparameters(logger=False)

    @abstractmethod
    def sources(self) -> dict[str, Source]:
        """Returns where the images of the splits `train`, `test` and, if there is one, `validation` come from.

        Raises:
            DataError: if the data isn't there.
        """

    @abstractmethod
    def normalisation(self, train: Source, indices: Indices) -> Normalise:
        """Returns what is done to each image, from the training images if need be."""

    def setup(self, stage: str | None = None) -> None:
        """Reads the data and splits it; does nothing the second time.

        Args:
            stage: Lightning's; the splits are the same for any of them.

        Raises:
            DataError: if the data isn't there, or can't be split.
        """
        if self._datasets:
            return
        sources = self.sources()
        chosen = self._indices(sources)
        normalise = self.normalisation(sources["train"], chosen["train"])
        datasets: dict[str, LabelledImages] = {}
        held = self._held_in_memory(sources, chosen)
        for split, indices in chosen.items():
            source = sources.get(split, sources["train"])
            if held:
                datasets[split] = ImageDataset(source.read(indices), torch.from_numpy(source.labels[indices]), normalise)
            else:
                datasets[split] = SourceDataset(source, indices, normalise)
        self._datasets = datasets

    def _indices(self, sources: dict[str, Source]) -> dict[str, Indices]:
        """Returns the images of each split, by their numbers in its source."""
        labels = sources["train"].labels
        subset = stratified_subset(labels, self.limit, seed=self.seed) if self.limit else np.arange(len(labels), dtype=np.int64)
        chosen = {split: np.arange(len(source.labels), dtype=np.int64) for split, source in sources.items()} | {"train": subset}
        if "validation" not in sources:
            held = max(1, round(self.validation_fraction * len(subset)))
            parts = stratified_split(labels[subset], {"validation": held}, seed=self.seed)
            chosen |= {split: subset[part] for split, part in parts.items()}
        return chosen

    def _held_in_memory(self, sources: dict[str, Source], chosen: dict[str, Indices]) -> bool:
        if self.in_memory is not None:
            return self.in_memory
        size = sum(len(indices) for indices in chosen.values()) * int(np.prod(sources["train"].shape))
        return size <= IN_MEMORY_BYTES and self.num_workers == 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401 (Lightning's signature)
        """Augments a training batch."""
        return self.augment(batch) if self.trainer is not None and self.trainer.training else batch

    def augment(self, batch: Sample) -> Sample:
        """Returns a batch `(x, y)` as it is trained on: shifted, mirrored, cut and mixed."""
        x, y = batch
        x = random_crop(x, self.crop)
        x = random_flip(x) if self.flip else x
        x = cutout(x, self.cutout)
        if self.mixup:
            x, y = v2.MixUp(alpha=self.mixup, num_classes=self.num_classes)(x, y)
        return x, y

    def _dataset(self, split: str) -> LabelledImages:
        """Returns the images of a split; those in memory lie on the training's device, once there is one."""
        dataset = super()._dataset(split)
        if isinstance(dataset, ImageDataset) and self.trainer is not None:
            dataset = self._datasets[split] = dataset.to(self.trainer.strategy.root_device)
        return dataset

    def _workers(self, dataset: LabelledImages) -> int:
        return 0 if isinstance(dataset, ImageDataset) else self.num_workers
