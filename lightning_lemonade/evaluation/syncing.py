"""Metrics of a module that several ranks validate: each on a share, whose metrics are put together, or each on everything."""

from collections.abc import Iterator
from contextlib import contextmanager

from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from lightning_lemonade.module import LemonadeModule

_PUT_TOGETHER = (dim_zero_sum, dim_zero_cat, dim_zero_min, dim_zero_max)
"""How states of unequal shares become the state of the whole; a mean of means isn't the mean, and other ways are a metric's own affair."""


def can_be_shared(module: LemonadeModule) -> bool:
    """Returns whether a module's metrics over all samples come out where each rank validates a share.

    They do where its validation is LemonadeModule's own and its metrics are synchronised by torchmetrics. What a module logs by itself
    counts what its rank has seen, unless its author thought of other ranks.
    """
    hooks = [name for name in dir(LemonadeModule) if name == "validation_step" or name.startswith("on_validation_")]
    own = all(getattr(type(module), name) is getattr(LemonadeModule, name) and name not in vars(module) for name in hooks)
    return own and all(map(_is_put_together, metrics_of(module)))


def metrics_of(module: LemonadeModule) -> list[Metric]:
    """Returns the torchmetrics in a module, also those inside others."""
    return [part for part in module.modules() if isinstance(part, Metric)]


def _is_put_together(metric: Metric) -> bool:
    usual = metric.sync_on_compute and metric.dist_sync_fn is None and metric.process_group is None and not metric.compute_on_cpu
    wraps = any(isinstance(part, Metric) for part in metric.modules() if part is not metric)
    # one that declares no state keeps it where nobody puts it together, unless it is that of metrics inside
    stated = wraps or bool(metric._reductions)
    return usual and stated and all(reduction in _PUT_TOGETHER for reduction in metric._reductions.values())


@contextmanager
def alone(module: LemonadeModule) -> Iterator[None]:
    """Keeps a module's metrics from asking other ranks for theirs, since each has counted every sample."""
    metrics = metrics_of(module)
    before = [metric.distributed_available_fn for metric in metrics]
    for metric in metrics:
        metric.distributed_available_fn = _nobody_else
    try:
        yield
    finally:
        for metric, function in zip(metrics, before, strict=True):
            metric.distributed_available_fn = function


def _nobody_else() -> bool:
    return False
