"""Callbacks: what may watch a search."""

from lightning_lemonade.callbacks.progress import SearchProgressBar
from lightning_lemonade.callbacks.wandb_population import WandbPopulationLogger

__all__ = ["SearchProgressBar", "WandbPopulationLogger"]
