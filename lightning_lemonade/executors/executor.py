"""Executor: where children are evaluated."""

from abc import ABC, abstractmethod

from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, Recipe, Tested, TestRequest
from lightning_lemonade.ranks import Ranks

Request = EvaluationRequest | TestRequest
Result = Evaluation | Tested


class Executor(ABC):
    """Evaluates children of one search, in this process or elsewhere, and gives back results as they come.

    A search calls `prepare`, then `open`, then `submit` and `next` by turns, with at most `slots` requests at a time underway, and `close`
    at last, also where something raised. It may be opened again for another search. Only where `prepare` raises isn't `close` called: it
    may be at work for another search, so `prepare` itself lets go of what it had begun.

    A child whose evaluation raises is a result with a failure. What would be the same for every child (`ConfigurationError`, `DataError`)
    is raised by `next`. Who evaluates somewhere else tries again where a process is lost, and makes a failure of it after some tries:
    `next` never waits for ever.
    """

    @abstractmethod
    def prepare(self, recipe: Recipe) -> Ranks:
        """Begins, before the data is set up here.

        Args:
            recipe: how an evaluator is made.

        Returns:
            The processes that run this search together; where children are evaluated elsewhere, this one alone.

        Raises:
            ConfigurationError: if it can't be run as it is configured.
        """

    @abstractmethod
    def open(self, ranks: Ranks, evaluator: Evaluator) -> None:
        """Takes what `prepare` returned and the evaluator of this process, with its data set up. Called on rank 0 alone."""

    @property
    def threads(self) -> int | None:
        """How many of torch's threads a child gets where nobody says it; None for torch's own number."""
        return None

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many requests it works on at a time, at least one; may change while it works."""

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Takes a request; returns at once."""

    @abstractmethod
    def next(self) -> Result | None:
        """Waits for a result of a submitted request, whichever comes first; None where `slots` changed instead.

        Raises:
            ConfigurationError: if no child can be evaluated as it is configured.
            DataError: if a data module doesn't yield what it must.
            SearchError: if there is nowhere left to evaluate.
        """

    @property
    def ready(self) -> bool:
        """Whether `next` would return at once.

        An asynchronous search takes all that is there before it proposes again: children that are proposed together and recorded in one
        commit cost less each, so that one that falls behind many workers catches up.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Ends what is underway, and lets go of everything. May be called at any time, and again."""
