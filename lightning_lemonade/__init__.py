"""LEMONADE for PyTorch Lightning: from a data module to a Pareto front of trained networks."""

import importlib
from typing import TYPE_CHECKING

from lightning_lemonade.errors import LemonadeError

if TYPE_CHECKING:
    from lightning_lemonade.callback import SearchCallback
    from lightning_lemonade.executors import Executor, InlineExecutor, RayExecutor
    from lightning_lemonade.front import Candidate, Front, load
    from lightning_lemonade.graph import GraphSpec
    from lightning_lemonade.module import LemonadeModule
    from lightning_lemonade.plan import Plan
    from lightning_lemonade.trainer import LemonadeTrainer

__all__ = [
    "Candidate",
    "Executor",
    "Front",
    "GraphSpec",
    "InlineExecutor",
    "LemonadeError",
    "LemonadeModule",
    "LemonadeTrainer",
    "Plan",
    "RayExecutor",
    "SearchCallback",
    "load",
]
_PLACES = {
    "Candidate": "front",
    "Executor": "executors",
    "Front": "front",
    "GraphSpec": "graph",
    "InlineExecutor": "executors",
    "LemonadeModule": "module",
    "LemonadeTrainer": "trainer",
    "Plan": "plan",
    "RayExecutor": "executors",
    "SearchCallback": "callback",
    "load": "front",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used, so that the lower rooms don't import Lightning."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"lightning_lemonade.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
