"""Data modules that a search can start with."""

from lightning_lemonade.datamodules.digits import DigitsDataModule

__all__ = ["DigitsDataModule"]
