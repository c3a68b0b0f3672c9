"""InlineExecutor: children are evaluated in this process, one after the other."""

from collections import deque

from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, Recipe, Tested
from lightning_lemonade.executors.executor import Executor, Request, Result
from lightning_lemonade.ranks import Ranks, launch


class InlineExecutor(Executor):
    """Evaluates one child at a time, here; where the trainer's arguments ask for several devices, on all of them together (DDP)."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def prepare(self, recipe: Recipe) -> Ranks:
        """See `Executor.prepare`; starts the other processes of a distributed strategy."""
        return launch(recipe.trainer_arguments)

    def open(self, ranks: Ranks, evaluator: Evaluator) -> None:
        """See `Executor.open`."""
        self._ranks, self._evaluator = ranks, evaluator
        self._requests.clear()

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, request: Request) -> None:
        """See `Executor.submit`; the work is done in `next`."""
        self._requests.append(request)

    def next(self) -> Result:
        """See `Executor.next`."""
        request = self._requests.popleft()
        if isinstance(request, EvaluationRequest):
            return self._ranks.evaluate(self._evaluator, request)
        return Tested(request.id, self._ranks.measure_test(self._evaluator, request))

    def close(self) -> None:
        """See `Executor.close`."""
        self._requests.clear()
        self.__dict__.pop("_evaluator", None)
