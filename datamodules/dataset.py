"""Labelled images in memory, indexed a batch at a time."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

Sample = tuple[Tensor, Tensor]
Transform = Callable[[Tensor], Tensor]


class LabelledImages(Dataset[Sample]):
    """Labelled images of a known number."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of images."""


class ImageDataset(LabelledImages):
    """Labelled images in memory.

    Args:
        x: images, shape (N, C, H, W).
        y: class indices, shape (N,), int64.
        transform: what is done to images (..., C, H, W) when they are asked for, if anything.
    """

    def __init__(self, x: Tensor, y: Tensor, transform: Transform | None = None) -> None:
        self.x = x
        self.y = y
        self.transform = transform

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.y)

    def __getitem__(self, index: int) -> Sample:
        """Returns image (C, H, W) and class index () of one sample."""
        return self._transformed(self.x[index]), self.y[index]

    def __getitems__(self, indices: list[int]) -> "ImageDataset":
        """Returns many samples by one index: data loaders ask for a batch this way, and `collate` takes it whole.

        The result reads as a list of samples for those who collate by themselves.
        """
        chosen = torch.tensor(indices, device=self.x.device)
        return ImageDataset(self._transformed(self.x[chosen]), self.y[chosen])

    def to(self, device: torch.device) -> "ImageDataset":
        """Returns the same images on a device; the same object if they are there."""
        return self if self.x.device == device else ImageDataset(self.x.to(device), self.y.to(device), self.transform)

    def _transformed(self, x: Tensor) -> Tensor:
        return x if self.transform is None else self.transform(x)


@dataclass(frozen=True)
class Normalise:
    """Makes float32 of uint8 images, and brings each channel to mean 0 and standard deviation 1.

    Args:
        mean: of each channel, where 255 is 1: (C,).
        std: of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Returns float32 images (..., C, H, W) of uint8 ones."""
        scale, shift = _constants(self.mean, self.std, images.device)
        return images * scale - shift


@lru_cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns what images are multiplied with, and what is taken off then, on their device: (C, 1, 1) each."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale[:, None, None], shift[:, None, None]


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
