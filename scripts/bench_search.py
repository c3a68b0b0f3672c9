"""Our search against others at equal cost: test hypervolume over the seconds of one core.

Usage: python scripts/bench_search.py [--data fashion|digits] [--data_root ROOT] [--minutes 10] [--seeds 0 1 2] [--methods ...] [--out CSV]

Methods (all train with the same Lightning module, optimiser, schedule and loader, and count parameters alike):
  ours       the search with strided starting networks that chooses by gain (`GainSampling`)
  scratch-E  the same without inheritance, E epochs a child
  uniform    the same with uniform sampling
  density    the same with the paper's density sampling; paper: also with the paper's starting networks, which is the default of the package
  random-E   random networks of a hand-written space, E epochs each
  nsga2-E    Optuna's NSGA-II over the same space, E epochs each
  ladder-E   about ten hand-scaled networks, two blocks a stage, dense, E epochs each; ladder-stride-E: the same with strides from the first
             block on instead of poolings; ladder-sep-E: separable, with poolings

Peers that draw networks at random leave out those that cost more than any of our starting networks by far: see `PEERS_WORK`.

Starting networks are charged; what the test split takes isn't. A method's time is the CPU time of its process, one thread. The front at a
time is chosen by validation error; its hypervolume is computed from its members' test errors, over error / reference and the logarithm of
the parameters between 10^3 and 10^6, for the error references 1.0 and 0.3.

`--data fashion` reads torchvision's FashionMNIST files below ROOT (or the environment variable LEMONADE_DATA_ROOT), of which it trains on
10,000 images.
"""

import argparse
import csv
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hand_space import DOWN, RandomChooser, choose, ladder, two_block_net
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader
from torchvision.datasets import FashionMNIST

from lightning_lemonade import LemonadeModule, LemonadeTrainer, SearchCallback
from lightning_lemonade.callback import SearchInfo
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.datamodules.dataset import ImageDataset, collate
from lightning_lemonade.errors import SearchError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData, TestRequest
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import History
from lightning_lemonade.module import Training
from lightning_lemonade.objectives import resolve
from lightning_lemonade.records import CandidateRecord
from lightning_lemonade.search import Child
from lightning_lemonade.search.dominance import hypervolume, non_dominated
from lightning_lemonade.search.gain import work
from lightning_lemonade.spaces import ConvNetSpace

BOX = (1e3, 1e6)
PEERS_WORK = 12e6
RUNGS = (10, 4e5)
REFERENCES = (1.0, 0.3)
OBJECTIVES = ("error", "params")


class FashionSubset(pl.LightningDataModule):
    """10,000 training, 5,000 validation and all 10,000 test images of Fashion-MNIST, in memory, without augmentation."""

    num_classes = 10

    def __init__(self, root: str, batch_size: int = 128) -> None:
        super().__init__()
        self.root, self.batch_size = root, batch_size

    def setup(self, stage: str | None = None) -> None:  # noqa: D102 (Lightning's)
        train, test = FashionMNIST(self.root, train=True), FashionMNIST(self.root, train=False)
        chosen, rest = train_test_split(np.arange(len(train)), train_size=10_000, stratify=train.targets, random_state=0)
        held, _ = train_test_split(rest, train_size=5_000, stratify=train.targets[rest], random_state=0)
        self.sets = {
            "train": _images(train.data[chosen], train.targets[chosen]),
            "val": _images(train.data[held], train.targets[held]),
            "test": _images(test.data, test.targets),
        }

    def train_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return DataLoader(self.sets["train"], self.batch_size, shuffle=True, drop_last=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return DataLoader(self.sets["val"], 500, collate_fn=collate)

    def test_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return DataLoader(self.sets["test"], 500, collate_fn=collate)


def _images(data: torch.Tensor, targets: torch.Tensor) -> ImageDataset:
    return ImageDataset((data[:, None].float() / 255 - 0.286) / 0.353, targets)


@dataclass
class Point:
    """One evaluated network of a method: when it was there, and how good it is."""

    seconds: float
    epochs: int
    params: float
    error: float
    test: float = 1.0


class Spent(Exception):  # noqa: N818 (it is no error)
    """The budget is spent."""


class Clock:
    """CPU seconds of this process since it was made."""

    def __init__(self, budget: float) -> None:
        self.budget, self._began = budget, time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds spent."""
        return time.process_time() - self._began


class _Timekeeper(SearchCallback):
    """Notes when each candidate was there, and ends the search when the budget is spent."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seconds = clock, {}

    def on_candidate_end(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        self.seconds[candidate.id] = self.clock.seconds
        if self.clock.seconds > self.clock.budget:
            raise Spent


def searched(data: pl.LightningDataModule, seed: int, budget: float, **settings: Any) -> list[Point]:  # noqa: ANN401
    """Runs our search and returns its candidates, the test errors of those that were ever on the front included."""
    with tempfile.TemporaryDirectory() as folder:
        keeper = _Timekeeper(Clock(budget))
        trainer = LemonadeTrainer(
            run_dir=Path(folder) / "run",
            objectives=OBJECTIVES,
            limits={"params": BOX[1]},
            seed=seed,
            max_generations=10_000,
            accelerator="cpu",
            threads_per_child=1,
            callbacks=[keeper],
            keep_weights="all",  # whoever was ever on the front is tested
            **settings,
        )
        try:
            trainer.search(data)
        except SearchError as error:
            if not isinstance(error.__cause__, Spent):
                raise
        history = History.open(Path(folder) / "run")
        records = [record for record in history.candidates() if record.id in keeper.seconds]
        points = [Point(keeper.seconds[r.id], r.epochs, r.objectives["params"], r.objectives["error"]) for r in records]
        evaluator = _evaluator(data, seed, Training())
        for i in _ever_on_front(points):
            points[i].test = evaluator.test(TestRequest(records[i].spec, {"": history.weights(records[i].id)}))[""]
    return points


def _evaluator(data: pl.LightningDataModule, seed: int, training: Training) -> Evaluator:
    task = TaskData(data)
    return Evaluator(
        tasks={"": task},
        calibration={"": task.calibration(2, seed)},  # nothing is inherited, but a module's output is looked at
        objectives=resolve(OBJECTIVES),
        training=training,
        factory=LemonadeModule,
        seed=seed,
        trainer_arguments={"accelerator": "cpu"},
    )


class Peer:
    """Trains networks from scratch for a method that isn't ours, until the budget is spent."""

    def __init__(self, data: pl.LightningDataModule, seed: int, budget: float, epochs: int) -> None:
        data.setup("fit")
        self.evaluator = _evaluator(data, seed, Training(initial_epochs=epochs))
        self.clock, self.points, self._trained = Clock(budget), [], []

    def evaluate(self, spec: GraphSpec) -> Point:
        """Trains a network and notes it.

        Raises:
            Spent: if the budget is.
        """
        if self.points and self.clock.seconds > self.clock.budget:
            raise Spent
        number = len(self.points)
        done = self.evaluator.evaluate(EvaluationRequest(Child(spec, 0, None, (), {}, id=number), None, {}))
        if done.outcome.failure:
            raise RuntimeError(done.outcome.failure.text)
        values = done.outcome.values
        point = Point(self.clock.seconds, done.outcome.tasks[""].epochs, values["params"].value, values["error"].value)
        self.points.append(point)
        self._trained.append((spec, done.weights))
        return point

    def finished(self) -> list[Point]:
        """Returns all points, with the test errors of those that were ever on the front."""
        for i in _ever_on_front(self.points):
            spec, weights = self._trained[i]
            self.points[i].test = self.evaluator.test(TestRequest(spec, weights))[""]
        return self.points


def legal_random(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[GraphSpec]:
    """Yields random networks of the hand-written space that are to be trained."""
    while True:
        spec = choose(RandomChooser(rng), shape, 10)
        if is_drawn(spec):
            yield spec


def is_legal(spec: GraphSpec) -> bool:
    """Returns whether a network keeps the limits that our search has, too."""
    low, _ = ConvNetSpace().limits(spec.input_shape)["params"]
    return low <= spec.parameter_count <= BOX[1]


def is_drawn(spec: GraphSpec) -> bool:
    """Returns whether a network that was drawn is trained: it is legal, and doesn't take a large part of the budget alone."""
    return is_legal(spec) and work(spec) <= PEERS_WORK


def random_search(data: pl.LightningDataModule, shape: tuple[int, ...], seed: int, budget: float, epochs: int) -> list[Point]:
    """Random networks from scratch."""
    peer = Peer(data, seed, budget, epochs)
    with suppress(Spent):
        for spec in legal_random(np.random.default_rng(seed), shape):
            peer.evaluate(spec)
    return peer.finished()


def nsga2(data: pl.LightningDataModule, shape: tuple[int, ...], seed: int, budget: float, epochs: int) -> list[Point]:
    """Optuna's NSGA-II over (error, log parameters); trials outside the limits are pruned at no cost."""
    import optuna  # noqa: PLC0415 (only this method needs it)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    peer = Peer(data, seed, budget, epochs)

    def trial(trial: Any) -> tuple[float, float]:  # noqa: ANN401
        spec = choose(trial, shape, 10)
        if not is_drawn(spec):
            raise optuna.TrialPruned
        return peer.evaluate(spec).error, float(np.log10(spec.parameter_count))

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.NSGAIISampler(population_size=20, seed=seed))
    with suppress(Spent):
        study.optimize(trial)
    return peer.finished()


def hand_ladder(
    data: pl.LightningDataModule, shape: tuple[int, ...], seed: int, budget: float, epochs: int, kind: str, down: str
) -> list[Point]:
    """Networks of one family, scaled by width, over the range that the limits allow, the smallest first."""
    peer = Peer(data, seed, budget, epochs)
    low, _ = ConvNetSpace().limits(shape)["params"]
    with suppress(Spent):
        for spec in filter(is_legal, ladder(lambda width: two_block_net(shape, 10, width, kind, down), low, RUNGS[1], RUNGS[0])):
            peer.evaluate(spec)
    return peer.finished()


def _ever_on_front(points: list[Point]) -> list[int]:
    values = np.array([[p.error, p.params] for p in points], dtype=np.float64).reshape(-1, 2)
    return sorted({int(i) for n in range(1, len(points) + 1) for i in np.flatnonzero(non_dominated(values[:n]))})


def curve(points: list[Point], reference: float, *, test: bool = True) -> list[tuple[float, float]]:
    """Returns (seconds, hypervolume) after each evaluated network; the front is chosen by validation error."""
    bounds = {"error": (0.0, reference), "params": BOX}
    values = np.array([[p.error, p.params] for p in points], dtype=np.float64).reshape(-1, 2)
    shown = np.array([[p.test if test else p.error, p.params] for p in points], dtype=np.float64).reshape(-1, 2)
    steps = []
    for n in range(1, len(points) + 1):
        front = shown[:n][non_dominated(values[:n])]
        inside = front[front[:, 0] < reference]
        steps.append((points[n - 1].seconds, hypervolume(inside, OBJECTIVES, bounds)))
    return steps


def run(
    method: str,
    data: Callable[[], pl.LightningDataModule],
    shape: tuple[int, ...],
    seed: int,
    budget: float,
    ours: Mapping[str, Any],
) -> list[Point]:
    """Runs one method by its name; `ours` are the settings of our search."""
    name, _, tail = method.rpartition("-")
    match name or method:
        case "ours":
            return searched(data(), seed, budget, **ours)
        case "uniform":
            return searched(data(), seed, budget, **ours | {"sampling": "uniform"})
        case "density":
            return searched(data(), seed, budget, **ours | {"sampling": "density"})
        case "paper":
            return searched(data(), seed, budget, **ours | {"sampling": "density", "space": ConvNetSpace(starts="paper")})
        case "scratch":
            return searched(data(), seed, budget, inherit=False, **ours | {"epochs": int(tail)})
        case "random":
            return random_search(data(), shape, seed, budget, int(tail))
        case "nsga2":
            return nsga2(data(), shape, seed, budget, int(tail))
        case "ladder":
            return hand_ladder(data(), shape, seed, budget, int(tail), "conv", DOWN[0])
        case "ladder-stride":
            return hand_ladder(data(), shape, seed, budget, int(tail), "conv", DOWN[2])
        case "ladder-sep":
            return hand_ladder(data(), shape, seed, budget, int(tail), "separable", DOWN[0])
    raise SystemExit(f"no method is called {method}")


def reached(steps: list[tuple[float, float]], value: float) -> float | None:
    """Returns the seconds after which a curve has a value for the first time."""
    return next((seconds for seconds, volume in steps if volume >= value), None)


def compare(results: dict[tuple[str, int], list[Point]], methods: list[str], seeds: list[int]) -> None:
    """Prints final hypervolumes, and the time at which ours has each other's final value over that method's own time to it."""
    for reference in REFERENCES:
        print(f"\nerror reference {reference}: test hypervolume at the end by seed; time for ours to reach it / its own time to it")
        for method in methods:
            cells = []
            for seed in seeds:
                theirs, ours = curve(results[method, seed], reference), curve(results.get(("ours", seed), []), reference)
                final = theirs[-1][1]
                own, mine = reached(theirs, final), reached(ours, final)
                cells.append(f"{final:.4f} ({mine / own:.2f})" if mine and own else f"{final:.4f} (not reached)")
            print(f"{method:>14}  " + "  ".join(cells))


def main() -> None:
    """Runs every method with every seed, one after the other, and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["fashion", "digits"], default="fashion")
    parser.add_argument("--data_root", default=os.environ.get("LEMONADE_DATA_ROOT", "data"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3, help="of our search's children")
    parser.add_argument("--initial_epochs", type=int, default=3, help="of our search's starting networks")
    parser.add_argument(
        "--methods", nargs="+", default=["ours", "scratch-4", "uniform", "density", "random-4", "random-12", "nsga2-4", "ladder-12"]
    )
    parser.add_argument("--out", help="CSV of every evaluated network; what it holds already isn't run again")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    fashion = settings.data == "fashion"
    shape = (1, 28, 28) if fashion else (1, 8, 8)
    make: Callable[[], pl.LightningDataModule] = (lambda: FashionSubset(settings.data_root)) if fashion else DigitsDataModule
    ours = {
        "epochs": settings.epochs,
        "initial_epochs": settings.initial_epochs,
        "sampling": "gain",
        "space": ConvNetSpace(starts="strided"),
    }
    asked = f"{settings.data}, {settings.minutes:g} minutes, {settings.epochs} and {settings.initial_epochs} epochs"
    results = _read(Path(settings.out), asked) if settings.out else {}
    for seed in settings.seeds:
        for method in settings.methods:
            new = (method, seed) not in results
            points = results[method, seed] = run(method, make, shape, seed, settings.minutes * 60, ours) if new else results[method, seed]
            ends = ", ".join(f"{curve(points, reference)[-1][1]:.4f}" for reference in REFERENCES)
            spent = f"{points[-1].seconds:.0f} s, {len(points)} networks, {sum(p.epochs for p in points)} epochs"
            best = min(points, key=lambda p: p.error)
            print(f"seed {seed} {method}: test hypervolume {ends}; {spent}; best {best.error:.4f} (test {best.test:.4f})", flush=True)
            if settings.out and new:
                _write(Path(settings.out), asked, method, seed, points)
    compare(results, settings.methods, settings.seeds)


def _read(path: Path, asked: str) -> dict[tuple[str, int], list[Point]]:
    """Returns what a file holds already; ends the script if it was made with other settings."""
    results: dict[tuple[str, int], list[Point]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("settings") != asked:
                    raise SystemExit(f"{path} holds results of {row.get('settings')}, asked for are {asked}: give another file")
                numbers = (float(row[name]) for name in ("params", "val_error", "test_error"))
                point = Point(float(row["seconds"]), int(row["epochs"]), *numbers)
                results.setdefault((row["method"], int(row["seed"])), []).append(point)
    return results


def _write(path: Path, asked: str, method: str, seed: int, points: list[Point]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["settings", "method", "seed", "seconds", "epochs", "params", "val_error", "test_error"])
        writer.writerows([asked, method, seed, p.seconds, p.epochs, p.params, p.error, p.test] for p in points)


if __name__ == "__main__":
    main()
