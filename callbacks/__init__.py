"""Callbacks: what may watch a search."""

from lightning_lemonade.callbacks.distillation import Distillation
from lightning_lemonade.callbacks.progress import SearchProgressBar
from lightning_lemonade.callbacks.wandb_population import WandbPopulationLogger

__all__ = ["Distillation", "SearchProgressBar", "WandbPopulationLogger"]
