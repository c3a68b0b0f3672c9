"""Several processes on one child: rank 0 decides and writes, the others follow."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from lightning_lemonade.errors import ConfigurationError, DataError, SearchError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, TestRequest
from lightning_lemonade.lifeline import ParentWatch, connect, gone
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
        ConfigurationError: if Lightning refuses the strategy or the devices, or they can't be had together.
    """
    given = {name: trainer_arguments[name] for name in _LAUNCH if name in trainer_arguments}
    try:
        fabric = Fabric(**given)
    except (ValueError, TypeError, RuntimeError) as error:  # what Lightning raises for values it doesn't know
        raise ConfigurationError(f"Lightning refuses the strategy or devices: {error}") from error
    devices = len(getattr(fabric.strategy, "parallel_devices", None) or [])
    processes = max(1, devices) * int(given.get("num_nodes", 1))
    _check(processes, fabric.device.type, trainer_arguments)
    if processes > 1:  # also where the strategy is left to Lightning
        launched = os.environ.get("LOCAL_RANK", "0") != "0"
        watch = ParentWatch(int(os.environ["LOCAL_RANK"])) if launched else None
        try:
            fabric.launch()
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigurationError(f"Lightning refuses the strategy or devices: {error}") from error
        finally:
            if watch is not None:
                watch.stop()
    return Ranks(int(fabric.global_rank))


def _check(processes: int, device: str, trainer_arguments: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for what would be told for each child, or would never be told."""
    by_torchrun = TorchElasticEnvironment.detect()
    started = TorchElasticEnvironment().world_size() if by_torchrun else started_by_srun() or processes
    if started != processes:  # each would run a search of its own
        launcher, each, nodes = ("torchrun", "--nproc-per-node", "--nnodes") if by_torchrun else ("srun", "--ntasks-per-node", "--nodes")
        raise ConfigurationError(
            f"{launcher} started {started} process{'es' if started > 1 else ''}, but devices and num_nodes ask for {processes}: give "
            f"devices=({launcher}'s {each}) and num_nodes=(its {nodes})"
        )
    if trainer_arguments.get("sync_batchnorm") and processes > 1 and device == "cpu":
        raise ConfigurationError("sync_batchnorm=True: PyTorch synchronises batch norms on GPUs alone; leave it out on the CPU")


def started_by_srun() -> int:
    """Returns how many processes SLURM's srun started, this one among them; 0 where it started none, as in a batch script or a shell."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "0")) if SLURMEnvironment.detect() else 0


class Ranks:
    """The processes of a search, which is one where no strategy asks for more.

    What they tell each other goes through a group of its own, on the CPU: requests are plain data, and a training that hangs in the group
    of the gradients doesn't keep its failure from being told.

    Args:
        rank: this process's.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # a day: the others wait here while rank 0 proposes, records and runs its callbacks
        group = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if self.several else None
        self._group = group if isinstance(group, dist.ProcessGroup) else None
        self._together_still = True
        self._inside = self._over = False
        self._lifeline = None
        if self.several:
            self._lifeline = connect(rank, dist.get_world_size(), self.share, self.gather)
            if self._lifeline is not None:
                _dismiss_observer()

    def close(self) -> None:
        """Ends what watches the other ranks. They take this one for lost, unless they know that the search is over."""
        if self._lifeline is not None:
            self._lifeline.close(goodbye=self._over and not self._inside)

    def raise_if_lost(self, error: BaseException) -> None:
        """Raises what an exception comes from, where that is another rank's end.

        Raises:
            SearchError: naming the rank that is lost.
        """
        if self._lifeline is not None and (lost := self._lifeline.wait(1.0)) is not None:
            self._together_still = False
            raise SearchError(gone(self.rank, lost)) from error

    def share(self, value: Any) -> Any:  # noqa: ANN401 (whatever rank 0 has)
        """Returns rank 0's value on every rank.

        Raises:
            SearchError: if another rank is lost.
        """
        if self._group is None:
            return value
        box = [value]
        with self._talking():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.raise_if_lost(error)
            self._together_still = False
            raise SearchError(gone(self.rank, None)) from error

    def dismiss(self, stop: Stop) -> None:
        """Tells the other ranks that the search is over, unless they were lost."""
        if self._together_still:
            with suppress(SearchError):  # whatever ends the search matters more
                self.share(stop)
                self._over = True

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Returns every rank's value on every rank.

        Raises:
            SearchError: if another rank is lost.
        """
        if self._group is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size(self._group)
        with self._talking():
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
        return self._tested(evaluator, self.share(request))

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
                self._tested(evaluator, request)
            else:
                self._together(evaluator, request)
        self._over = True
        if request.run_dir is None:
            raise SearchError(f"rank 0 stopped the search: {request.reason}")
        return request.run_dir

    def _tested(self, evaluator: Evaluator, request: TestRequest) -> dict[str, float]:
        self._inside = True
        try:
            errors = evaluator.test(request)
        except RuntimeError as error:
            self.raise_if_lost(error)
            raise
        self._inside = False
        return errors

    def _together(self, evaluator: Evaluator, request: EvaluationRequest) -> Evaluation:
        hashes = self.gather(request.child.spec.structural_hash)
        if len(set(hashes)) != 1:
            raise SearchError(f"the ranks hold different architectures of candidate {request.child.id}: {hashes}")
        self._inside = True  # what this rank raises from here on leaves the others where they wait for it
        evaluation = evaluator.evaluate(request)
        failure = self._agreed(evaluation.outcome.failure, request.child.id)
        self._inside = False
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
            self.raise_if_lost(error)
            reason = f" after it failed here with: {failure.text}" if failure else ""
            raise SearchError(f"rank {self.rank} lost the other ranks at candidate {candidate}{reason}") from error
        return next((other for other in self.gather(failure) if other is not None), None)


def _dismiss_observer() -> None:
    """Lets go of Lightning's thread that kills this process without a word where a launched one dies: a lifeline tells why."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_child_processes"] = []
