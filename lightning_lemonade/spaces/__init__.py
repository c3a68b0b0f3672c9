"""Where a search may go: starting population, allowed operators, limits."""

from lightning_lemonade.spaces.convnets import ConvNetSpace, conv_net, strided_net
from lightning_lemonade.spaces.operators import (
    ALL_OPERATORS,
    EXACT_OPERATORS,
    PAPER_OPERATORS,
    SCALING_OPERATORS,
    Operator,
    random_mutation,
)

__all__ = [
    "ALL_OPERATORS",
    "EXACT_OPERATORS",
    "PAPER_OPERATORS",
    "SCALING_OPERATORS",
    "ConvNetSpace",
    "Operator",
    "conv_net",
    "random_mutation",
    "strided_net",
]
