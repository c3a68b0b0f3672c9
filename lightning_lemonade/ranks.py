"""Several processes on one child: rank 0 decides and writes, the others follow."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric

from lightning_lemonade.errors import ConfigurationError, SearchError
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, TestRequest

_LAUNCH = ("accelerator", "devices", "num_nodes", "strategy")


def launch(trainer_arguments: Mapping[str, Any]) -> int:
    """Starts the other processes of a distributed strategy, before any trainer does, and returns this one's rank."""
    if trainer_arguments.get("strategy", "auto") == "auto":
        return 0
    try:
        fabric = Fabric(**{name: trainer_arguments[name] for name in _LAUNCH if name in trainer_arguments})
    except (ValueError, TypeError, RuntimeError) as error:  # what Lightning raises for values it doesn't know
        raise ConfigurationError(f"Lightning refuses the strategy or devices: {error}") from error
    fabric.launch()
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


def follow(evaluator: Evaluator) -> None:
    """Does what rank 0 sends until it sends nothing. For the other ranks."""
    while (request := share(None)) is not None:
        if isinstance(request, TestRequest):
            evaluator.test(request)
        else:
            _together(evaluator, request)


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
