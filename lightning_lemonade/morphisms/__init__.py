"""How a network changes: exact morphisms that keep the function, and approximate ones that shrink it."""

from lightning_lemonade.morphisms.base import KINDS, Mutation, Site, mutation_from_dict
from lightning_lemonade.morphisms.branches import InsertBottleneck, InsertSqueezeExcite
from lightning_lemonade.morphisms.crop import ShrinkKernel
from lightning_lemonade.morphisms.insert import InsertConvBlock, InsertSeparableBlock
from lightning_lemonade.morphisms.kernels import GrowKernel, SplitConv
from lightning_lemonade.morphisms.merge import MergeLayers
from lightning_lemonade.morphisms.prune import PruneFilters
from lightning_lemonade.morphisms.remove import RemoveLayer
from lightning_lemonade.morphisms.remove_skip import RemoveSkip
from lightning_lemonade.morphisms.resize import Widen
from lightning_lemonade.morphisms.separable import ToSeparable
from lightning_lemonade.morphisms.skips import AddSkip, ConcatSkip
from lightning_lemonade.morphisms.state import State, network_with

__all__ = [
    "KINDS",
    "AddSkip",
    "ConcatSkip",
    "GrowKernel",
    "InsertBottleneck",
    "InsertConvBlock",
    "InsertSeparableBlock",
    "InsertSqueezeExcite",
    "MergeLayers",
    "Mutation",
    "PruneFilters",
    "RemoveLayer",
    "RemoveSkip",
    "ShrinkKernel",
    "Site",
    "SplitConv",
    "State",
    "ToSeparable",
    "Widen",
    "mutation_from_dict",
    "network_with",
]
