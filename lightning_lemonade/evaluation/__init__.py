"""One child's evaluation: inherit, fine-tune, validate."""

from lightning_lemonade.evaluation.data import TaskData
from lightning_lemonade.evaluation.evaluator import Evaluator
from lightning_lemonade.evaluation.failures import FAILURE_KINDS, FailureKind, from_data_module
from lightning_lemonade.evaluation.interrupts import kept, remembered
from lightning_lemonade.evaluation.recipe import Prepare, Recipe
from lightning_lemonade.evaluation.requests import Evaluation, EvaluationRequest, Tested, TestRequest
from lightning_lemonade.evaluation.scopes import seeded, timed

__all__ = [
    "FAILURE_KINDS",
    "Evaluation",
    "EvaluationRequest",
    "Evaluator",
    "FailureKind",
    "Prepare",
    "Recipe",
    "TaskData",
    "TestRequest",
    "Tested",
    "from_data_module",
    "kept",
    "remembered",
    "seeded",
    "timed",
]
