"""Node types: what one node of a graph spec computes, as plain data.

Nothing here imports torch: shapes, parameter counts and multiply-adds of a spec are derived from these classes alone, so that thousands
of proposals can be judged without building a network. `lightning_lemonade.graph.build` turns each type into its torch module.

Counts follow fvcore: one fused multiply-add is 1, biases are free (see `lightning_lemonade.objectives.counting`).
"""

from lightning_lemonade.graph.ops.base import Join, Op, PassThrough
from lightning_lemonade.graph.ops.checks import MAX_SIZE, Pair, shown
from lightning_lemonade.graph.ops.elementwise import Activation, ActivationName, Dropout, Identity, RelaxedActivation
from lightning_lemonade.graph.ops.ends import Input, Output
from lightning_lemonade.graph.ops.joins import Add, Concat, Mix, Mul
from lightning_lemonade.graph.ops.layers import BatchNorm2d, Conv2d, Linear
from lightning_lemonade.graph.ops.pools import AdaptivePool2d, Flatten, GlobalPool2d, Pool2d, PoolMode
from lightning_lemonade.graph.ops.shapes import Shape
from lightning_lemonade.graph.ops.table import OPS, op_from_arguments
from lightning_lemonade.graph.ops.upsample import Upsample2d, UpsampleMode

__all__ = [
    "MAX_SIZE",
    "OPS",
    "Activation",
    "ActivationName",
    "AdaptivePool2d",
    "Add",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalPool2d",
    "Identity",
    "Input",
    "Join",
    "Linear",
    "Mix",
    "Mul",
    "Op",
    "Output",
    "Pair",
    "PassThrough",
    "Pool2d",
    "PoolMode",
    "RelaxedActivation",
    "Shape",
    "Upsample2d",
    "UpsampleMode",
    "op_from_arguments",
    "shown",
]
