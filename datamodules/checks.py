"""Checks of arguments, which the data modules share."""

from numbers import Integral, Real

from lightning_lemonade.errors import ConfigurationError

MAX_SEED = 2**32 - 1  # numpy's


def check_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Raises ConfigurationError unless a value is an integer within bounds."""
    legal = isinstance(value, Integral) and int(value) >= minimum and (maximum is None or int(value) <= maximum)
    if not legal or isinstance(value, bool):
        bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ConfigurationError(f"{name}={value!r} can't be used: give an integer {bounds}.")


def check_real(name: str, value: object, *, minimum: float, maximum: float) -> None:
    """Raises ConfigurationError unless a value is a number within bounds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not minimum <= float(value) <= maximum:  # false for NaN, too
        raise ConfigurationError(f"{name}={value!r} can't be used: give a number from {minimum:g} to {maximum:g}.")
