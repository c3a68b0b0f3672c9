"""Scopes around a child's evaluation: seeded, quiet, timed."""

import logging
import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric.utilities.warnings import PossibleUserWarning

T = TypeVar("T")
_LIGHTNING_SEED = "PL_GLOBAL_SEED"
_LOGGERS = (
    "pytorch_lightning",
    "lightning",
    "lightning.pytorch",
    "lightning_fabric",
    "lightning.fabric",
)  # the packages share one, once both are there


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the time that a block takes to a phase."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's lines about devices, tips and few batches, which it would repeat for every child, off the terminal."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch (all devices) for a block, and restores them.

    Lightning seeds distributed samplers, and every process of a distributed fit, with an environment variable, which is set for the block,
    too: otherwise every child would see its samples in the same order.
    """
    states = random.getstate(), np.random.get_state()
    environment = os.environ.get(_LIGHTNING_SEED)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        seed_all(seed)
        os.environ[_LIGHTNING_SEED] = str(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            if environment is None:
                del os.environ[_LIGHTNING_SEED]
            else:
                os.environ[_LIGHTNING_SEED] = environment


def seed_all(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def several_processes() -> bool:
    """Returns whether several processes train each child together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(value: T) -> list[T]:
    """Returns the value of every process that trains the same child, which all call this at the same point."""
    if not several_processes():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)
