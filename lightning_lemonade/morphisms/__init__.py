"""How a network changes: exact morphisms that keep the function, and approximate ones that shrink it."""

from lightning_lemonade.morphisms.base import KINDS, Mutation, Site, mutation_from_dict
from lightning_lemonade.morphisms.insert import InsertConvBlock
from lightning_lemonade.morphisms.remove import RemoveLayer
from lightning_lemonade.morphisms.resize import PruneFilters, Widen
from lightning_lemonade.morphisms.separable import ToSeparable
from lightning_lemonade.morphisms.skips import AddSkip, ConcatSkip, RemoveSkip
from lightning_lemonade.morphisms.state import State, network_with

__all__ = [
    "KINDS",
    "AddSkip",
    "ConcatSkip",
    "InsertConvBlock",
    "Mutation",
    "PruneFilters",
    "RemoveLayer",
    "RemoveSkip",
    "Site",
    "State",
    "ToSeparable",
    "Widen",
    "mutation_from_dict",
    "network_with",
]
