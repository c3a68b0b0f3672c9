"""Data modules that a search can start with."""

from lightning_lemonade.datamodules.digits import DigitsDataModule
from lightning_lemonade.datamodules.folder import ImageFolderDataModule
from lightning_lemonade.datamodules.images import ImageDataModule
from lightning_lemonade.datamodules.standard import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, MNISTDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
]
