"""Where children are evaluated: in this process, or by many others."""

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.executors.executor import Executor, Request, Result
from lightning_lemonade.executors.inline import InlineExecutor
from lightning_lemonade.executors.ray_executor import RayExecutor

__all__ = ["Executor", "InlineExecutor", "RayExecutor", "Request", "Result", "make_executor"]


def make_executor(given: object) -> Executor:
    """Returns the executor of a name, or the one that is given.

    Raises:
        ConfigurationError: if it is neither.
    """
    if isinstance(given, Executor):
        return given
    if given == "inline":
        return InlineExecutor()
    if given == "ray":
        return RayExecutor()
    raise ConfigurationError(f"executor must be inline, ray or an Executor, for instance RayExecutor(), got {given!r}")
