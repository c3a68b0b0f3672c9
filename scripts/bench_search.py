"""Our search against others at equal cost: test hypervolume over the seconds of one core.

Usage: python scripts/bench_search.py [--data fashion|cifar10|digits] [--data_root ROOT] [--augment] [--minutes 15] [--seeds 0 1 2]
                                      [--methods ...] [--out CSV]

Methods (all train with the same Lightning module, optimiser, schedule and loader, and count parameters alike):
  ours       `algorithm="gain"`, bounded by time
  polished, strided, unscaled, unscreened, short, generations, uniform, density
             ours with one part changed: with the last 30 % of the time for polish; with the strided starting networks; without the
             operators that make all layers wider or narrower at once; with the training of what begins too badly, too; with all children
             trained for the usual epochs; in generations of eight children; with uniform or with the paper's sampling
  scratch-E  ours without inheritance, and so without polish, E epochs a network
  paper      `algorithm="paper"`: the paper's sampling, operators and starting networks, in generations
  random-E   random networks of a hand-written space, E epochs each
  nsga2-E, tpe-E
             Optuna's NSGA-II and multi-objective TPE over the same space, E epochs each
  sms-emoa-E pymoo's SMS-EMOA over the same space, E epochs each: it selects by hypervolume, as none of Optuna's samplers does
  ladder-E   hand-scaled networks, two blocks a stage, dense, E epochs each, each 1.6 to 1.7 times as large as the one before, from the
             smallest that is allowed to the largest that the time allows; ladder-stride-E: the same with strides from the first
             block on instead of poolings; ladder-sep-E: separable, with poolings; ladder-spanning-E: of the shape of our starting
             networks

Peers that draw networks at random leave out those that would take a large part of the time alone: see `PEERS_WORK`.

Starting networks are charged; what the test split takes isn't. A method's time is the CPU time of its process, one thread. The front at a
time is chosen by validation error; its hypervolume is computed from its members' test errors, over error / reference and the logarithm of
the parameters between 10^3 and 10^6, for the error references 1.0 and 0.3.

`--data fashion` reads torchvision's FashionMNIST files below ROOT (or the environment variable LEMONADE_DATA_ROOT), `--data cifar10` its
CIFAR10 files. They train on 10,000 images, or on `--images`; 5,000 others validate.
"""

import argparse
import csv
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hand_space import DOWN, FixedChooser, RandomChooser, choose, ladder, staged_net
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, FashionMNIST

from lightning_lemonade import LemonadeModule, LemonadeTrainer, SearchCallback, flight
from lightning_lemonade import run as run_module
from lightning_lemonade.callback import SearchInfo
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.datamodules.augmentation import random_crop, random_flip
from lightning_lemonade.datamodules.dataset import ImageDataset, collate
from lightning_lemonade.errors import SearchError
from lightning_lemonade.evaluation import EvaluationRequest, Evaluator, TaskData, TestRequest, limit, pace, scopes
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history import History
from lightning_lemonade.module import Training
from lightning_lemonade.objectives import resolve
from lightning_lemonade.records import CandidateRecord
from lightning_lemonade.search import SAMPLING, Child, GainSampling, Knowledge
from lightning_lemonade.search.cost import work
from lightning_lemonade.search.dominance import hypervolume, non_dominated
from lightning_lemonade.search.sampling import FittedSampling
from lightning_lemonade.settings import ALGORITHMS
from lightning_lemonade.spaces import ConvNetSpace

BOX = (1e3, 1e6)
PEERS_WORK = 12e6
RUNGS = (10, 4e5)  # how many, and the largest; the smallest is the smallest legal one
REFERENCES = (1.0, 0.3)
OBJECTIVES = ("error", "params")
POLISH = 0.3
CROP = 4
OURS = ("ours", "polished", "strided", "unscaled", "unscreened", "short", "generations", "uniform", "density", "scratch", "paper")


MOST_IMAGES = {"fashion": 55_000, "cifar10": 45_000, "digits": 10_000}  # of the digits as many as there are are always taken
SETS = {"fashion": FashionMNIST, "cifar10": CIFAR10}
SHAPES = {"fashion": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}


class Subset(pl.LightningDataModule):
    """Training images of a data set, 5,000 validation and all 10,000 test images, in memory.

    With `augment`, training images are shifted by up to four pixels and mirrored, as those of `CIFAR10DataModule` are by default.
    """

    num_classes = 10

    def __init__(self, name: str, root: str, images: int, *, augment: bool = False, batch_size: int = 128) -> None:
        super().__init__()
        self.name, self.root, self.images, self.augment, self.batch_size = name, root, images, augment, batch_size

    def setup(self, stage: str | None = None) -> None:  # noqa: D102 (Lightning's)
        train, test = (SETS[self.name](self.root, train=train) for train in (True, False))
        labels = np.array(train.targets)
        chosen, rest = train_test_split(np.arange(len(train)), train_size=self.images, stratify=labels, random_state=0)
        held = rest if len(rest) == 5_000 else train_test_split(rest, train_size=5_000, stratify=labels[rest], random_state=0)[0]
        images, targets = _pixels(train.data), torch.from_numpy(labels)
        mean, std = images[chosen].mean((0, 2, 3), keepdim=True), images[chosen].std((0, 2, 3), keepdim=True)
        self.sets = {
            "train": ImageDataset((images[chosen] - mean) / std, targets[chosen]),
            "val": ImageDataset((images[held] - mean) / std, targets[held]),
            "test": ImageDataset((_pixels(test.data) - mean) / std, torch.as_tensor(test.targets)),
        }

    def train_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return DataLoader(self.sets["train"], self.batch_size, shuffle=True, drop_last=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return DataLoader(self.sets["val"], 500, collate_fn=collate)

    def test_dataloader(self) -> DataLoader[Any]:  # noqa: D102
        return DataLoader(self.sets["test"], 500, collate_fn=collate)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401, D102
        if not self.augment or self.trainer is None or not self.trainer.training:
            return batch
        images, *others = batch
        return (random_flip(random_crop(images, CROP)), *others)


def _pixels(data: Any) -> torch.Tensor:  # noqa: ANN401 (torchvision's: an array, or a tensor without channels)
    """Returns images: (n, channels, height, width), in [0, 1]."""
    images = torch.as_tensor(data)
    return (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)).float() / 255


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


def measure_cpu_time() -> None:
    """Makes our search bound itself, and learn what takes how long, by the CPU time of this process.

    By the wall's it would do less, and begin with smaller networks, where other programs run.
    """
    for module in (flight, limit, pace, run_module, scopes):
        module.time = SimpleNamespace(monotonic=time.process_time, perf_counter=time.process_time)  # type: ignore[attr-defined]


class Unscreened(GainSampling):
    """Choice by gain that doesn't look at how a child begins."""

    def fit(self, knowledge: Knowledge) -> FittedSampling:
        """See `Sampling.fit`."""
        return super().fit(replace(knowledge, begun_as=None))


class Short(GainSampling):
    """Choice by gain that trains all children for the usual epochs."""

    lengths = (1,)


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
            max_time="00:{:02}:{:02}:{:02}".format(*(int(budget) // size % 60 for size in (3600, 60, 1))),
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
        records = [record for record in history.candidates() if record.id in keeper.seconds and record.epochs]
        points = [Point(keeper.seconds[r.id], r.epochs, r.objectives["params"], r.objectives["error"]) for r in records]
        evaluator = evaluator_of(data, seed, Training())
        for i in _ever_on_front(points):
            points[i].test = evaluator.test(TestRequest(records[i].spec, {"": history.weights(records[i].id)}))[""]
    return points


def evaluator_of(data: pl.LightningDataModule, seed: int, training: Training) -> Evaluator:
    """Returns what trains networks from scratch, and tests them, on one device."""
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
        self.evaluator = evaluator_of(data, seed, Training(initial_epochs=epochs))
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


def optuna_search(data: pl.LightningDataModule, shape: tuple[int, ...], seed: int, budget: float, epochs: int, sampler: str) -> list[Point]:
    """Optuna's NSGA-II or multi-objective TPE over (error, log parameters); trials outside the limits are pruned at no cost."""
    import optuna  # noqa: PLC0415 (only this method needs it)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    peer = Peer(data, seed, budget, epochs)

    def trial(trial: Any) -> tuple[float, float]:  # noqa: ANN401
        spec = choose(trial, shape, 10)
        if not is_drawn(spec):
            raise optuna.TrialPruned
        return peer.evaluate(spec).error, float(np.log10(spec.parameter_count))

    samplers = {
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    }
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=samplers[sampler]())
    with suppress(Spent):
        study.optimize(trial)
    return peer.finished()


def sms_emoa_search(data: pl.LightningDataModule, shape: tuple[int, ...], seed: int, budget: float, epochs: int) -> list[Point]:
    """Pymoo's SMS-EMOA over (error, log parameters), one child at a time; networks outside the limits have the worst values at no cost."""
    from pymoo.algorithms.moo.sms import SMSEMOA  # noqa: PLC0415 (only this method needs pymoo)
    from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating, MixedVariableSampling  # noqa: PLC0415
    from pymoo.core.problem import Problem  # noqa: PLC0415

    class Networks(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            variables = _Variables()
            choose(variables, shape, 10)
            super().__init__(vars=variables.found, n_obj=2)

    peer = Peer(data, seed, budget, epochs)
    worst = (1.0, float(np.log10(BOX[1])))
    distinct = MixedVariableDuplicateElimination()
    algorithm = SMSEMOA(
        pop_size=20,
        n_offsprings=1,
        sampling=MixedVariableSampling(),
        mating=MixedVariableMating(eliminate_duplicates=distinct),
        eliminate_duplicates=distinct,
    )
    algorithm.setup(Networks(), termination=("n_gen", 10**9), seed=seed, verbose=False)
    with suppress(Spent):
        while True:
            asked = algorithm.ask()
            values = []
            for row in asked.get("X"):
                spec = choose(
                    FixedChooser({name: round(float(np.exp(value))) if name.startswith("width") else value for name, value in row.items()}),
                    shape,
                    10,
                )
                values.append((peer.evaluate(spec).error, float(np.log10(spec.parameter_count))) if is_drawn(spec) else worst)
            asked.set("F", np.array(values))
            algorithm.tell(infills=asked)
    return peer.finished()


class _Variables:
    """Notes every choice of the hand-written space as a variable of pymoo's, and takes the one that leads to most others."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ANN401
        from pymoo.core.variable import Choice  # noqa: PLC0415

        self.found[name] = Choice(options=list(choices))
        return choices[-1]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        from pymoo.core.variable import Integer, Real  # noqa: PLC0415

        self.found[name] = Real(bounds=(np.log(low), np.log(high))) if log else Integer(bounds=(low, high))
        return high

    def suggest_float(self, name: str, low: float, high: float) -> float:
        from pymoo.core.variable import Real  # noqa: PLC0415

        self.found[name] = Real(bounds=(low, high))
        return high


def hand_ladder(
    data: pl.LightningDataModule,
    shape: tuple[int, ...],
    seed: int,
    budget: float,
    epochs: int,
    make: Callable[[tuple[int, ...], int, float], GraphSpec],
) -> list[Point]:
    """Networks of one family, scaled by width, from the smallest that the limits allow to the largest that the budget does.

    Args:
        data: what they are trained on.
        shape: of a sample.
        seed: of weights and batches.
        budget: seconds.
        epochs: of each.
        make: gives a network for samples of a shape and a number of classes, by its width.
    """
    peer = Peer(data, seed, budget, epochs)
    low, _ = ConvNetSpace().limits(shape)["params"]
    earlier: list[GraphSpec] = []
    for spec in filter(is_legal, ladder(partial(make, shape, 10), low, RUNGS[1], RUNGS[0])):
        rate = peer.points[-1].seconds / sum(map(work, earlier)) if earlier else 0.0
        if peer.clock.seconds + rate * work(spec) > budget:  # it would be known too late
            break
        peer.evaluate(spec)
        earlier.append(spec)
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
    name, epochs = (name, int(tail)) if name and tail.isdigit() else (method, 0)
    scratch = {"training": replace(ours["training"], epochs=epochs, initial_epochs=epochs), "inherit": False} if epochs else {}
    parts: dict[str, Mapping[str, Any]] = {  # those of OURS
        "ours": {},
        "polished": {"polish": POLISH},
        "strided": {"space": ConvNetSpace(starts="strided", operators=ours["space"].operators)},
        "unscreened": {"sampling": "unscreened"},
        "short": {"sampling": "short"},
        "unscaled": {"space": ConvNetSpace(starts=ours["space"].starts)},
        "uniform": {"sampling": "uniform"},
        "density": {"sampling": "density"},
        "scratch": scratch,
        "generations": {"asynchronous": False},
        "paper": {"algorithm": "paper", "polish": 0.0, "space": None},
    }
    peers: dict[str, Callable[..., list[Point]]] = {
        "random": random_search,
        "nsga2": partial(optuna_search, sampler="nsga2"),
        "tpe": partial(optuna_search, sampler="tpe"),
        "sms-emoa": sms_emoa_search,
        "ladder": partial(hand_ladder, make=partial(staged_net, kind="conv", down=DOWN[0])),
        "ladder-stride": partial(hand_ladder, make=partial(staged_net, kind="conv", down=DOWN[2])),
        "ladder-sep": partial(hand_ladder, make=partial(staged_net, kind="separable", down=DOWN[0])),
        "ladder-spanning": partial(hand_ladder, make=partial(staged_net, kind="conv", down=DOWN[0], blocks=(1, 2, 2))),
    }
    if name in parts and bool(epochs) == (name == "scratch"):
        return searched(data(), seed, budget, **ours | parts[name])
    if name in peers and epochs:
        return peers[name](data(), shape, seed, budget, epochs)
    raise SystemExit(f"no method is called {method}")


def reached(steps: list[tuple[float, float]], value: float) -> float | None:
    """Returns the seconds after which a curve has a value for the first time."""
    return next((seconds for seconds, volume in steps if volume >= value), None)


def compare(results: dict[tuple[str, int], list[Point]], methods: list[str], seeds: list[int]) -> None:
    """Prints final hypervolumes, and the time at which ours has each other's final value over that method's own time to it."""
    widest = max(map(len, methods))
    for reference in REFERENCES:
        print(f"\nerror reference {reference}: test hypervolume at the end by seed; time for ours to reach it / its own time to it")
        for method in methods:
            cells = []
            for seed in seeds:
                theirs, ours = curve(results[method, seed], reference), curve(results.get(("ours", seed), []), reference)
                final = theirs[-1][1]
                own, mine = reached(theirs, final), reached(ours, final)
                cells.append(f"{final:.4f} ({mine / own:.2f})" if mine and own else f"{final:.4f} (not reached)")
            print(f"{method:>{widest}}  " + "  ".join(cells))


def main() -> None:
    """Runs every method with every seed, one after the other, and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SHAPES), default="fashion")
    parser.add_argument("--data_root", default=os.environ.get("LEMONADE_DATA_ROOT", "data"))
    parser.add_argument("--images", type=int, default=10_000, help="for training; at most 45,000 of CIFAR-10 and 55,000 of Fashion-MNIST")
    parser.add_argument("--augment", action="store_true", help="training images are shifted and mirrored (not those of the digits)")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    usual, chosen = Training(), ALGORITHMS["gain"]
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="of our search's children")
    parser.add_argument("--initial_epochs", type=int, default=usual.initial_epochs, help="of our search's starting networks")
    parser.add_argument("--starts", default=chosen.starts, help="of our search")
    parser.add_argument("--polish", type=float, default=0.0, help="share of our search's budget")
    parser.add_argument("--polish_epochs", type=int, default=usual.polish_epochs)
    parser.add_argument(
        "--methods", nargs="+", default=["ours", "scratch-4", "uniform", "density", "random-4", "random-12", "nsga2-4", "ladder-12"]
    )
    parser.add_argument("--out", help="CSV of every evaluated network; what it holds already isn't run again")
    settings = parser.parse_args()
    if settings.augment and settings.data == "digits":
        parser.error("--augment: the digits are trained on as they are")
    if settings.images > MOST_IMAGES[settings.data]:
        parser.error(f"--images {settings.images}: {settings.data} has {MOST_IMAGES[settings.data]} beside those that validate")
    torch.set_num_threads(1)
    measure_cpu_time()
    warnings.filterwarnings("ignore")
    shape = SHAPES[settings.data]
    SAMPLING["unscreened"], SAMPLING["short"] = Unscreened, Short
    digits = settings.data == "digits"
    subset = partial(Subset, settings.data, settings.data_root, settings.images, augment=settings.augment)
    make: Callable[[], pl.LightningDataModule] = DigitsDataModule if digits else subset
    ours = {
        "training": Training(epochs=settings.epochs, initial_epochs=settings.initial_epochs, polish_epochs=settings.polish_epochs),
        "algorithm": "gain",
        "polish": settings.polish,
        "space": ConvNetSpace(starts=settings.starts, operators=chosen.operators),
    }
    images = "" if digits or settings.images == 10_000 else f", {settings.images} images"
    augmented = ", augmented" if settings.augment else ""
    asked = f"{settings.data}{images}{augmented}, {settings.minutes:g} minutes, learning rate {usual.learning_rate:g}"
    epochs = f"{settings.epochs}, {settings.initial_epochs} and {settings.polish_epochs} epochs"
    parts = f"{settings.starts} starts, {epochs}, polish {settings.polish:g}"
    results = _read(Path(settings.out), asked, parts) if settings.out else {}
    for seed in settings.seeds:
        for method in settings.methods:
            new = (method, seed) not in results
            points = results[method, seed] = run(method, make, shape, seed, settings.minutes * 60, ours) if new else results[method, seed]
            if not points:
                raise SystemExit(f"seed {seed} {method}: no network was trained in {settings.minutes:g} minutes: give more")
            ends = ", ".join(f"{curve(points, reference)[-1][1]:.4f}" for reference in REFERENCES)
            spent = f"{points[-1].seconds:.0f} s, {len(points)} networks, {sum(p.epochs for p in points)} epochs"
            best = min(points, key=lambda p: p.error)
            print(f"seed {seed} {method}: test hypervolume {ends}; {spent}; best {best.error:.4f} (test {best.test:.4f})", flush=True)
            if settings.out and new:
                _write(Path(settings.out), asked, parts if _is_ours(method) else "", method, seed, points)
    compare(results, settings.methods, settings.seeds)


def _is_ours(method: str) -> bool:
    return method.partition("-")[0] in OURS


def _read(path: Path, asked: str, parts: str) -> dict[tuple[str, int], list[Point]]:
    """Returns what a file holds already; ends the script if it was made with other settings."""
    if not path.exists():
        return {}
    found, others, results = read_results(path)
    if found != asked or others - {parts}:
        held = "; ".join([found, *sorted(others)])
        raise SystemExit(f"{path} holds results of {held}, asked for are {asked}; {parts}: give another file")
    return results


def read_results(path: Path) -> tuple[str, set[str], dict[tuple[str, int], list[Point]]]:
    """Returns what a file's results were made with, the settings of our search among them, and the points by method and seed."""
    results: dict[tuple[str, int], list[Point]] = {}
    asked, parts = "", set[str]()
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            asked = row["settings"]
            parts |= {row["ours"]} - {""}
            numbers = (float(row[name]) for name in ("params", "val_error", "test_error"))
            point = Point(float(row["seconds"]), int(row["epochs"]), *numbers)
            results.setdefault((row["method"], int(row["seed"])), []).append(point)
    return asked, parts, results


def _write(path: Path, asked: str, parts: str, method: str, seed: int, points: list[Point]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["settings", "ours", "method", "seed", "seconds", "epochs", "params", "val_error", "test_error"])
        writer.writerows([asked, parts, method, seed, p.seconds, p.epochs, p.params, p.error, p.test] for p in points)


if __name__ == "__main__":
    main()
