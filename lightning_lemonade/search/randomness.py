"""Every draw of a search comes from a generator derived from the seed and what it is for: no generator state to save."""

import zlib

import numpy as np


def derived_seed(seed: int, *purpose: int | str) -> int:
    """Returns a 63-bit seed for one purpose, for instance `derived_seed(seed, "fit", candidate)`. The same in every process."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    state = np.random.SeedSequence([seed, len(words), *words]).generate_state(2, np.uint64)
    return int(state[0] >> np.uint64(1))


def derived_rng(seed: int, *purpose: int | str) -> np.random.Generator:
    """Returns a generator for one purpose, for instance `derived_rng(seed, "ask", generation)`."""
    return np.random.default_rng(derived_seed(seed, *purpose))
