"""What is minimised: error, parameters, multiply-adds, and a user's own."""

from lightning_lemonade.objectives.counting import count_macs
from lightning_lemonade.objectives.objective import (
    Error,
    Macs,
    Metric,
    Objective,
    Params,
    SpecObjective,
    TrainedObjective,
    for_tasks,
    resolve,
)

__all__ = ["Error", "Macs", "Metric", "Objective", "Params", "SpecObjective", "TrainedObjective", "count_macs", "for_tasks", "resolve"]
