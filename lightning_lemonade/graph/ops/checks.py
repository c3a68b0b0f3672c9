"""Checks of the arguments of ops, which may come from outside. Each raises ValueError with the argument's name and value."""

import reprlib
from collections.abc import Sequence

Pair = tuple[int, int]

MAX_SIZE = 1 << 20
"""Upper bound of every integer in a spec: far above any real network, far below what would exhaust memory in a check."""

_REPR = reprlib.Repr()
_REPR.maxlevel = 2  # a value from outside may be large, or nested deeper than Python's own repr can follow


def shown(value: object) -> str:
    """Returns a short text of any value, for error messages."""
    try:
        return _REPR.repr(value)[:100]
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "an integer of thousands of digits"


def integer(name: str, value: object, low: int) -> int:
    """Returns an integer between `low` and `MAX_SIZE`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {shown(value)}")
    if not low <= value <= MAX_SIZE:
        raise ValueError(f"{name} must be between {low} and {MAX_SIZE}, got {shown(value)}")
    return value


def pair(name: str, value: object, low: int) -> Pair:
    """Returns two such integers; one stands for both."""
    if isinstance(value, int):
        value = (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} must be an integer or two integers, got {shown(value)}")
    return (integer(name, value[0], low), integer(name, value[1], low))


def boolean(name: str, value: object) -> None:
    """Accepts true and false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")


def number(name: str, value: object, low: float, high: float) -> float:
    """Returns a number between `low` and `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number between {low} and {high}, got {shown(value)}")
    return float(value) + 0.0  # -0.0 becomes 0.0: equal numbers have one text


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Accepts one of some texts."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}")
