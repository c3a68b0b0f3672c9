"""Conformance kits for parts of your own: a kind of mutation must pass what ours pass. Needs hypothesis (the extra `testing`)."""

from lightning_lemonade.testing.graphs import random_spec
from lightning_lemonade.testing.morphisms import check_morphism, check_one
from lightning_lemonade.testing.properties import BrokenMorphism
from lightning_lemonade.testing.states import sample_batch, uneven_state
from lightning_lemonade.testing.strategies import specs

__all__ = ["BrokenMorphism", "check_morphism", "check_one", "random_spec", "sample_batch", "specs", "uneven_state"]
