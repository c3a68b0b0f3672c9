"""Several processes on one child: rank 0 decides and writes, the others follow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric

from lightning_lemonade.errors import ConfigurationError, SearchError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, TestRequest


@dataclass(frozen=True)
class Stop:
    """What rank 0 sends at the end: the run directory, or the reason why there is none to read."""

    run_dir: Path | None
    reason: str


_LAUNCH = ("accelerator", "devices", "num_nodes", "strategy")


def launch(trainer_arguments: Mapping[str, Any]) -> int:
    """Starts the other processes of a distributed strategy, before any trainer does, and returns this one's rank."""
    given = {name: trainer_arguments[name] for name in _LAUNCH if name in trainer_arguments}
    try:
        fabric = Fabric(**given)
        devices = len(getattr(fabric.strategy, "parallel_devices", None) or [])
        if devices * int(given.get("num_nodes", 1)) > 1:  # also where the strategy is left to Lightning
            fabric.launch()
    except (ValueError, TypeError, RuntimeError) as error:  # what Lightning raises for values it doesn't know
        raise ConfigurationError(f"Lightning refuses the strategy or devices: {error}") from error
    return int(fabric.global_rank)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share(value: Any) -> Any:  # noqa: ANN401 (whatever rank 0 has)
    """Returns rank 0's value on every rank."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def evaluate(evaluator: Evaluator, request: EvaluationRequest) -> Evaluation:
    """Evaluates a child on every rank. Call on rank 0; the others `follow`."""
    return _together(evaluator, share(request))


def measure_test(evaluator: Evaluator, request: TestRequest) -> dict[str, float]:
    """Measures a candidate on the test split, on every rank. Call on rank 0; the others `follow`."""
    return evaluator.test(share(request))


def follow(evaluator: Evaluator) -> Path:
    """Does what rank 0 sends until the search stops. For the other ranks.

    Returns:
        The run directory.

    Raises:
        SearchError: if rank 0 stopped because of an exception.
    """
    while not isinstance(request := share(None), Stop):
        if isinstance(request, TestRequest):
            evaluator.test(request)
        else:
            _together(evaluator, request)
    if request.run_dir is None:
        raise SearchError(f"rank 0 stopped the search: {request.reason}")
    return request.run_dir


def _together(evaluator: Evaluator, request: EvaluationRequest) -> Evaluation:
    """Evaluates a child on this rank, once all ranks hold the same architecture.

    Raises:
        SearchError: if the hashes differ.
    """
    if _several():
        hashes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(hashes, request.child.spec.structural_hash)
        if len(set(hashes)) != 1:
            raise SearchError(f"the ranks hold different architectures of candidate {request.child.id}: {hashes}")
    return evaluator.evaluate(request)
