"""Every node type by its name in JSON, and ops from JSON."""

from dataclasses import MISSING, fields
from typing import Any, cast

from lightning_lemonade.graph.ops.base import Op
from lightning_lemonade.graph.ops.checks import shown
from lightning_lemonade.graph.ops.elementwise import Activation, Dropout, Identity, RelaxedActivation
from lightning_lemonade.graph.ops.ends import Input, Output
from lightning_lemonade.graph.ops.joins import Add, Concat, Mix, Mul
from lightning_lemonade.graph.ops.layers import BatchNorm2d, Conv2d, Linear
from lightning_lemonade.graph.ops.pools import AdaptivePool2d, Flatten, GlobalPool2d, Pool2d
from lightning_lemonade.graph.ops.upsample import Upsample2d

OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        Input,
        Output,
        Identity,
        Dropout,
        Activation,
        RelaxedActivation,
        BatchNorm2d,
        Conv2d,
        Linear,
        Pool2d,
        AdaptivePool2d,
        GlobalPool2d,
        Upsample2d,
        Flatten,
        Add,
        Mul,
        Mix,
        Concat,
    )
}
"""Every node type by its name in JSON."""


def op_from_arguments(name: object, arguments: object) -> Op:
    """Makes an op from its name and JSON arguments.

    Raises:
        ValueError: if the name, an argument's name or a value isn't valid.
    """
    if not isinstance(name, str) or name not in OPS:
        raise ValueError(f"unknown op {shown(name)}; known: {', '.join(sorted(OPS))}")
    if not isinstance(arguments, dict):
        raise ValueError(f"args of {name} must be an object, got {shown(arguments)}")
    cls = OPS[name]
    known = {field.name for field in fields(cls)}
    unknown = sorted(map(shown, set(arguments) - known))
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(unknown[:6])}; it has: {', '.join(sorted(known)) or 'none'}")
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in arguments]
    if missing:
        raise ValueError(f"{name} needs the arguments {', '.join(missing)}")
    return cls(**cast(dict[str, Any], arguments))
