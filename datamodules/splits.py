"""Stratified splits and subsets that depend on a seed alone."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from lightning_lemonade.errors import DataError

Indices = NDArray[np.int64]


def stratified_split(labels: Indices, sizes: dict[str, int], *, seed: int, rest: str = "train") -> dict[str, Indices]:
    """Splits samples so that each class has about the same share of each part.

    Args:
        labels: class indices, shape (N,).
        sizes: samples by part; a part of 0 is empty.
        seed: decides the split together with the sizes.
        rest: the part that gets what is left.

    Returns:
        Sample indices by part, int64, ascending.

    Raises:
        DataError: if a class has too few samples to be in each part.
    """
    left: Indices = np.arange(len(labels), dtype=np.int64)
    parts: dict[str, Indices] = {}
    for name, size in sizes.items():
        chosen = left[:0]
        if size:
            left, chosen = _cut(left, labels, size, seed)
        parts[name] = np.sort(chosen)
    return {rest: np.sort(left), **parts}


def stratified_subset(labels: Indices, size: int, *, seed: int) -> Indices:
    """Returns indices of so many samples, ascending; of all if there aren't more.

    Raises:
        DataError: if there are fewer samples than classes, or a class has one alone.
    """
    everything: Indices = np.arange(len(labels), dtype=np.int64)
    left_out = len(labels) - size
    if left_out <= 0:
        return everything
    if left_out < len(np.unique(labels)):  # too few for one of each class, and so few that it doesn't matter
        return np.sort(train_test_split(everything, test_size=left_out, random_state=seed)[0])
    return np.sort(_cut(everything, labels, size, seed)[1])


def _cut(left: Indices, labels: Indices, size: int, seed: int) -> tuple[Indices, Indices]:
    try:
        rest, chosen = train_test_split(left, test_size=size, stratify=labels[left], random_state=seed)
    except ValueError as error:
        present = [int(count) for count in np.bincount(labels[left]) if count]
        raise DataError(
            f"{len(left)} images of {len(present)} classes can't be split into {size} and {len(left) - size} with every class in both "
            f"(the rarest class has {min(present)}): give more images, or another limit or fraction"
        ) from error
    return rest, chosen
