"""Several processes on one child: rank 0 decides and writes, the others follow."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric

from lightning_lemonade.errors import ConfigurationError, DataError, SearchError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, TestRequest
from lightning_lemonade.search import Failure

PATIENCE = timedelta(seconds=45)
"""How long a rank whose training failed waits for the others: they failed alike at once, or wait for its gradients for ever."""
_LAUNCH = ("accelerator", "devices", "num_nodes", "strategy")


@dataclass(frozen=True)
class Stop:
    """What rank 0 sends at the end: the run directory, or the reason why there is none to read."""

    run_dir: Path | None
    reason: str


def launch(trainer_arguments: Mapping[str, Any]) -> "Ranks":
    """Starts the other processes of a distributed strategy, before any trainer does.

    Raises:
        ConfigurationError: if Lightning refuses the strategy or the devices.
    """
    given = {name: trainer_arguments[name] for name in _LAUNCH if name in trainer_arguments}
    try:
        fabric = Fabric(**given)
        devices = len(getattr(fabric.strategy, "parallel_devices", None) or [])
        if devices * int(given.get("num_nodes", 1)) > 1:  # also where the strategy is left to Lightning
            fabric.launch()
    except (ValueError, TypeError, RuntimeError) as error:  # what Lightning raises for values it doesn't know
        raise ConfigurationError(f"Lightning refuses the strategy or devices: {error}") from error
    return Ranks(int(fabric.global_rank))


class Ranks:
    """The processes of a search, which is one where no strategy asks for more.

    What they tell each other goes through a group of its own, on the CPU: requests are plain data, and a training that hangs in the group
    of the gradients doesn't keep its failure from being told.

    Args:
        rank: this process's.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # a day: the others wait here while rank 0 proposes, records and runs its callbacks
        group = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if several else None
        self._group = group if isinstance(group, dist.ProcessGroup) else None
        self._together_still = True

    def share(self, value: Any) -> Any:  # noqa: ANN401 (whatever rank 0 has)
        """Returns rank 0's value on every rank."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def dismiss(self, stop: Stop) -> None:
        """Tells the other ranks that the search is over, unless they were lost."""
        if self._together_still:
            self.share(stop)

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Returns every rank's value on every rank."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(values, value, group=self._group)
        return values

    def prepare(self, action: Callable[[], None], *, per_node: bool) -> None:
        """Runs an action on one process of each node, or on one of all, while the others wait, as Lightning does with `prepare_data`.

        Raises:
            DataError: if it failed on another rank; what it raises here goes through.
        """
        problem: Exception | None = None
        if (int(os.environ.get("LOCAL_RANK", "0")) if per_node else self.rank) == 0:
            try:
                action()
            except Exception as error:  # raised below, once the other ranks know
                problem = error
        problems = self.gather(problem and f"{type(problem).__name__}: {problem}")
        if problem is not None:
            raise problem
        if any(problems):
            raise DataError(f"prepare_data failed on another rank: {next(filter(None, problems))}")

    def evaluate(self, evaluator: Evaluator, request: EvaluationRequest) -> Evaluation:
        """Evaluates a child on every rank. Call on rank 0; the others `follow`.

        Raises:
            SearchError: see `follow`.
        """
        return self._together(evaluator, self.share(request))

    def measure_test(self, evaluator: Evaluator, request: TestRequest) -> dict[str, float]:
        """Measures a candidate on the test split, on every rank. Call on rank 0; the others `follow`."""
        return evaluator.test(self.share(request))

    def follow(self, evaluator: Evaluator) -> Path:
        """Does what rank 0 sends until the search stops. For the other ranks.

        Returns:
            The run directory.

        Raises:
            SearchError: if rank 0 stopped because of an exception, the ranks hold different architectures, or a training failed on some
                ranks alone and left the others waiting.
        """
        while not isinstance(request := self.share(None), Stop):
            if isinstance(request, TestRequest):
                evaluator.test(request)
            else:
                self._together(evaluator, request)
        if request.run_dir is None:
            raise SearchError(f"rank 0 stopped the search: {request.reason}")
        return request.run_dir

    def _together(self, evaluator: Evaluator, request: EvaluationRequest) -> Evaluation:
        hashes = self.gather(request.child.spec.structural_hash)
        if len(set(hashes)) != 1:
            raise SearchError(f"the ranks hold different architectures of candidate {request.child.id}: {hashes}")
        evaluation = evaluator.evaluate(request)
        failure = self._agreed(evaluation.outcome.failure, request.child.id)
        if failure is None or evaluation.outcome.failure is not None:
            return evaluation
        return Evaluation(replace(evaluation.outcome, values={}, failure=failure), {})  # it failed on another rank, after the last step

    def _agreed(self, failure: Failure | None, candidate: int) -> Failure | None:
        """Returns a failure that any rank had."""
        if self._group is None:
            return failure
        try:
            arrival = dist.barrier(group=self._group, async_op=True)
            if arrival is not None:
                arrival.wait(PATIENCE)
        except RuntimeError as error:
            self._together_still = False
            reason = f" after it failed here with: {failure.text}" if failure else ""
            raise SearchError(f"rank {self.rank} lost the other ranks at candidate {candidate}{reason}") from error
        return next((other for other in self.gather(failure) if other is not None), None)
