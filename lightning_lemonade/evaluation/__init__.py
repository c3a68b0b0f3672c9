"""One child's evaluation: inherit, fine-tune, validate."""

from lightning_lemonade.evaluation.data import TaskData
from lightning_lemonade.evaluation.evaluator import Evaluation, EvaluationRequest, Evaluator, TestRequest
from lightning_lemonade.evaluation.scopes import seeded, timed

__all__ = ["Evaluation", "EvaluationRequest", "Evaluator", "TaskData", "TestRequest", "seeded", "timed"]
