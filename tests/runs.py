"""A small recorded search, made by hand."""

from pathlib import Path

import torch
from strategies import chain

from lightning_lemonade.graph import Activation, BatchNorm2d, Conv2d, GlobalPool2d, GraphSpec, Input, Linear, Output, build, initialise
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import State, Widen
from lightning_lemonade.records import GenerationRecord, ObjectiveRecord
from lightning_lemonade.search import Child, Failure, Measurement, Outcome, TaskResult

OBJECTIVES = (
    ObjectiveRecord("error", "error", "share", "trained"),
    ObjectiveRecord("params", "params", "parameters", "spec"),
    ObjectiveRecord("latency", "latency", "ms", "network"),
)
BOUNDS = {"error": (0.0, 0.9), "params": (10.0, 1e6), "latency": (0.01, 10.0)}
CONFIG = {"seed": 1, "limits": {"params": 2e6}, "nested": [1, None, "ü"]}


def convnet(width: int = 4) -> GraphSpec:
    return chain(
        Input((3, 8, 8)), Conv2d(width, (3, 3), bias=False), BatchNorm2d(), Activation("relu"), GlobalPool2d(), Linear(10), Output()
    )


def state_of(spec: GraphSpec, seed: int) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(spec)
        initialise(network)
        network(torch.randn(16, *spec.input_shape))  # running statistics that aren't the default
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def child(number: int, spec: GraphSpec, parent: int | None = None, generation: int = 0) -> Child:
    mutations = () if parent is None else (Widen("n1", 2.0),)
    return Child(spec, generation, parent, mutations, {"params": float(spec.parameter_count)}, number)


def outcome(number: int, error: float, spec: GraphSpec, epochs: int = 3, start_error: float | None = None) -> Outcome:
    values = {"error": Measurement(error), "params": Measurement(float(spec.parameter_count)), "latency": Measurement(0.1 + number, 0.02)}
    result = TaskResult(start_error, {"accuracy": 1 - error, "loss": error / 3}, epochs, 100 * epochs)
    return Outcome(number, values, None, {"": result}, {"fit": 0.5 + number, "validate": 0.1})


def generation(number: int, front: tuple[int, ...], hypervolume: float, failed: int = 0) -> GenerationRecord:
    return GenerationRecord(number, hypervolume, front, 8, 2, 2 - failed, failed, 12, {"fit": 1.5, "other": 0.1})


def create(run_dir: Path, tasks: tuple[str, ...] = ("",)) -> History:
    return History.create(run_dir, config=CONFIG, objectives=OBJECTIVES, bounds=BOUNDS, tasks=tasks)


def record_run(run_dir: Path, *, error: float = 0.25, seed: int = 0) -> History:
    """Two starting networks, a child that is the best, and one that failed. Ids 2, 0, 1, 3; the front is 2 and 0."""
    history = create(run_dir)
    small, large = convnet(), convnet(8)
    history.accept([child(0, small), child(1, convnet(5))])
    history.start(0)
    history.record(outcome(0, 0.5, small), {"": state_of(small, seed)})
    history.record(outcome(1, 0.6, convnet(5)), {"": state_of(convnet(5), seed + 1)})
    history.record_generation(generation(0, (0,), 0.3))
    history.accept([child(2, large, 0, 1), child(3, convnet(6), 0, 1)])
    history.record(outcome(2, error, large, 5, 0.5), {"": state_of(large, seed + 2)})
    cost, seconds = {"": TaskResult(0.5, {}, 1, 100)}, {"inherit": 0.25, "fit": 1.25}
    history.record(Outcome(3, failure=Failure("exception", "out of memory"), tasks=cost, seconds=seconds), {})
    history.record_generation(generation(1, (2, 0), 0.4, failed=1))
    history.record_test_errors({2: {"": 0.3}})
    return history
