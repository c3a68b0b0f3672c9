"""Random graph specs as a hypothesis strategy. The only place of the package that imports hypothesis."""

import random

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.testing.graphs import random_spec

try:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st
except ImportError as error:
    raise ConfigurationError(
        "lightning_lemonade.testing needs hypothesis, which is not installed: pip install 'lightning-lemonade[testing]'"
    ) from error

__all__ = ["HealthCheck", "Phase", "given", "seeded", "seeds", "settings", "specs", "st"]


def specs(max_steps: int = 10) -> st.SearchStrategy[GraphSpec]:
    """Returns a strategy of valid specs; an example shrinks to fewer steps, then to a smaller seed."""

    def make(steps: int, seed: int) -> GraphSpec:
        return random_spec(random.Random(seed), steps=steps)  # noqa: S311 (no secret)

    return st.builds(make, st.integers(0, max_steps), seeds())


def seeds() -> st.SearchStrategy[int]:
    """Returns a strategy of seeds."""
    return st.integers(0, 2**32 - 1)
