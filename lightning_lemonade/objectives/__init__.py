"""What is minimised: error, parameters, multiply-adds, and a user's own."""

from lightning_lemonade.objectives.counting import count_macs
from lightning_lemonade.objectives.objective import Error, Macs, Objective, Params, SpecObjective, TrainedObjective, resolve

__all__ = ["Error", "Macs", "Objective", "Params", "SpecObjective", "TrainedObjective", "count_macs", "resolve"]
