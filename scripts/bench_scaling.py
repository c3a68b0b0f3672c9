"""How a search scales with workers: with real ones, and the process that leads it against slots that only pretend to train.

Usage: python scripts/bench_scaling.py workers [--epochs 3 20] [--generations 6] [--csv OUT.csv]
       python scripts/bench_scaling.py slots [--slots 8 64 256 1024] [--scale 1] [--turns 8] [--generations 3] [--csv OUT.csv]
                                             [--plot OUT.svg]

`workers` searches the digits with one and with two processes of Ray, synchronously and asynchronously, with one seed. Only the steady phase
counts: from the end of the first generation of children (by then each process has imported, set up and warmed up everything) to that of the
last. It prints children a second, their ratio, and the CPU seconds of the controller, of Ray and of the workers, as shares of one core.

`slots` is a simulation of what is trained, and of nothing else: an executor whose slots are coroutines in one Ray actor. A child sleeps for
a time drawn by the seed and its id (log-normal, median 20 s, log-sigma 0.8, so 27.5 s on average, times `--scale`); its error is a function
of its spec and its id; it sends as many weights through the object store as its spec has parameters. Everything else is the real search:
`Run`, proposals, densities, commits, files of weights, fsyncs, serialisation, `ray.wait`. Columns:

  utilisation  slot-seconds of sleep (as drawn: what is late on either way isn't work) over slot-seconds, from the moment all slots are
               first taken to the last submission; synchronously that spans whole generations
  ideal        the same draws with a controller that takes no time
  children/s   submitted in that time; proposals/s: legal ones made for them
  controller   its seconds outside of waiting, its CPU seconds (Ray's threads in it, too), both as shares of that time, and ms for a child

A generation has as many children as there are slots where the search is synchronous; where it is asynchronous, `--accepted` (8, the default
of a search). In both each child is chosen from four proposals. Once the last child is submitted those underway end at once.
"""

import argparse
import asyncio
import csv
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_lemonade import LemonadeTrainer, SearchCallback
from lightning_lemonade.callback import SearchInfo
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.evaluation import Evaluation, EvaluationRequest, Evaluator, Recipe, Tested
from lightning_lemonade.executors import Executor, RayExecutor, Request, Result
from lightning_lemonade.executors.ray_executor import AT_ONCE
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.graph.ops import BatchNorm2d
from lightning_lemonade.history import History
from lightning_lemonade.morphisms import State
from lightning_lemonade.ranks import Ranks
from lightning_lemonade.records import GenerationRecord
from lightning_lemonade.search import Measurement, Outcome, TaskResult

MEDIAN, SIGMA = 20.0, 0.8
STARTS, PROPOSALS = 4, 4
"""Starting networks of the space, and proposals for each child."""
LIMITS = {"params": 1e5}
MOST_SLOTS = 4096
MODES = {False: "synchronous", True: "asynchronous"}


def draw(seed: int, child: int) -> float:
    """Returns for how many seconds a child would train."""
    return float(np.random.default_rng([seed, child]).lognormal(math.log(MEDIAN), SIGMA))


def error_of(spec: GraphSpec, child: int) -> float:
    """Returns an error that falls with parameters and multiply-adds, and differs from child to child; of ten thousand images."""
    luck = float(np.random.default_rng([1, child]).lognormal(0.0, 0.25))
    return round(min(0.9, 0.01 + 2.0 * luck * spec.parameter_count**-0.25 * spec.macs**-0.1), 4)


def state_of(spec: GraphSpec, child: int) -> State:
    """Returns tensors of the number and size of a network's, without building it."""
    state = {}
    for node in spec.nodes:
        if count := node.op.parameter_count(spec.input_shapes(node.id)):
            names = ("weight", "bias", "running_mean", "running_var") if isinstance(node.op, BatchNorm2d) else ("weight",)
            size = count // 2 if len(names) > 1 else count
            state |= {f"{node.id}.{name}": torch.full((size,), float(child)) for name in names}
    return state


def pretend(request: EvaluationRequest, seconds: float) -> Evaluation:
    """Returns what evaluating a child would have given."""
    spec, child = request.child.spec, request.child.id
    error = error_of(spec, child)
    values = {key: Measurement(value) for key, value in request.child.values.items()} | {"error": Measurement(error)}
    start = None if request.parent is None else min(0.9, 2 * error)
    result = TaskResult(start, {"val_error": error}, 3, 3774)
    return Evaluation(Outcome(child, values, None, {"": result}, {"fit": seconds}), {"": state_of(spec, child)})


class Slots:
    """Many slots of a cluster in one process. An asynchronous actor."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    async def evaluate(self, request: EvaluationRequest, seconds: float) -> tuple[Evaluation, float]:
        """Sleeps as long as a child would train; returns what came of it, and when it began on the monotonic clock."""
        began = time.monotonic()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
        return pretend(request, seconds), began

    async def begin(self) -> None:
        """Lets children of another search sleep."""
        self._over.clear()

    async def finish(self) -> None:
        """Wakes all up, and lets none sleep any more."""
        self._over.set()


@dataclass(frozen=True)
class Moment:
    """What the controller has spent so far.

    Attributes:
        clock: the monotonic clock.
        cpu: seconds of this process.
        waited: seconds of waiting for children.
        submitted: children.
    """

    clock: float
    cpu: float
    waited: float
    submitted: int


class SimulatedExecutor(Executor):
    """Children that sleep instead of training, on a Ray that runs on this machine.

    Args:
        count: slots.
        scale: of the children's times.
        total: children after whose submission all end at once.
        seed: of the times.
    """

    def __init__(self, count: int, scale: float, total: int, seed: int) -> None:
        self.count, self.scale, self.total, self.seed = count, scale, total, seed
        self.spans: dict[int, tuple[float, float]] = {}
        self.full: Moment | None = None
        self.last = Moment(0.0, 0.0, 0.0, 0)
        self._waited, self._submitted = 0.0, 0
        self._underway: list[Any] = []
        self._done: deque[Any] = deque()
        self._tested: deque[Tested] = deque()
        self._connected = False

    def prepare(self, recipe: Recipe) -> Ranks:
        """Starts Ray and the actor."""
        import ray  # noqa: PLC0415 (an extra)

        if not ray.is_initialized():  # one for all searches of this program, with one actor, which takes long to import everything
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(address="local", namespace="bench_scaling", object_store_memory=2**29, **quiet)
        self._connected = True
        options = {"name": "slots", "get_if_exists": True, "lifetime": "detached", "num_cpus": 0, "max_concurrency": MOST_SLOTS}
        self._slots = ray.remote(Slots).options(**options).remote()
        return Ranks(0)

    def open(self, ranks: Ranks, evaluator: Evaluator) -> None:
        """Waits until the actor has imported everything."""
        import ray  # noqa: PLC0415

        ray.get(self._slots.begin.remote())

    @property
    def slots(self) -> int:
        """As many as were given."""
        return self.count

    @property
    def ready(self) -> bool:
        """Whether a child was done when last looked."""
        return bool(self._done)

    def submit(self, request: Request) -> None:
        """Sends a child off, as the executor for a cluster does; tests nothing."""
        import ray  # noqa: PLC0415

        if not isinstance(request, EvaluationRequest):
            self._tested.append(Tested(request.id, {}))
            return
        seconds = self.scale * draw(self.seed, request.child.id)
        self._underway.append(self._slots.evaluate.remote(ray.put(request), seconds))
        self._submitted += 1
        self.last = Moment(time.monotonic(), time.process_time(), self._waited, self._submitted)
        if self.full is None and len(self._underway) + len(self._done) == self.count:
            self.full = self.last
        if self._submitted == self.total:
            self._slots.finish.remote()

    def next(self) -> Result:
        """Waits for a child."""
        import ray  # noqa: PLC0415

        if self._tested:
            return self._tested.popleft()
        if not self._done:
            began = time.monotonic()
            ray.wait(self._underway, num_returns=1)
            self._waited += time.monotonic() - began
            done, self._underway = ray.wait(self._underway, num_returns=min(AT_ONCE, len(self._underway)), timeout=0)
            self._done.extend(done)
        evaluation, started = ray.get(self._done.popleft())
        child = evaluation.outcome.id
        self.spans[child] = (started, started + self.scale * draw(self.seed, child))
        return evaluation  # type: ignore[no-any-return]

    def close(self) -> None:
        """Wakes who still sleeps."""
        if self._connected:
            self._slots.finish.remote()
            self._connected = False


@dataclass(frozen=True)
class Row:
    """What one search against simulated slots gave; the columns of the table."""

    mode: str
    slots: int
    scale: float
    accepted: int
    children: int
    front: int
    seconds: float
    utilisation: float
    ideal: float
    children_per_s: float
    proposals_per_s: float
    controller_wall: float
    controller_cpu: float
    ms_per_child: float
    load: float


def simulated(slots: int, *, asynchronous: bool, accepted: int, generations: int, scale: float, seed: int, run_dir: Path) -> Row:
    """Runs one search against simulated slots."""
    executor = SimulatedExecutor(slots, scale, STARTS + generations * accepted, seed)
    front = LemonadeTrainer(
        run_dir=run_dir,
        algorithm="paper",
        limits=LIMITS,
        max_generations=generations,
        accepted=accepted,
        proposals=PROPOSALS * accepted,
        asynchronous=asynchronous,
        executor=executor,
        seed=seed,
        accelerator="cpu",
    ).search(DigitsDataModule())
    full, last = executor.full, executor.last
    if full is None or last.submitted <= full.submitted:
        raise SystemExit(f"{slots} slots were never full, or the search was over then: give more --turns or --generations")
    seconds, children = last.clock - full.clock, last.submitted - full.submitted
    busy = sum(max(0.0, min(end, last.clock) - max(start, full.clock)) for start, end in executor.spans.values())
    records = History.open(run_dir).generations()[1:]
    working = seconds - (last.waited - full.waited)
    return Row(
        mode=MODES[asynchronous],
        slots=slots,
        scale=scale,
        accepted=accepted,
        children=children,
        front=len(front),
        seconds=seconds,
        utilisation=busy / slots / seconds,
        ideal=1.0 if asynchronous else ideal(slots, generations, seed),
        children_per_s=children / seconds,
        proposals_per_s=children / seconds * sum(record.proposed for record in records) / sum(record.accepted for record in records),
        controller_wall=working / seconds,
        controller_cpu=(last.cpu - full.cpu) / seconds,
        ms_per_child=1000 * working / children,
        load=os.getloadavg()[0],
    )


def ideal(slots: int, generations: int, seed: int) -> float:
    """Returns the utilisation of generations that wait for their slowest child and for nothing else; the last one doesn't count."""
    times = np.array([draw(seed, STARTS + i) for i in range(slots * max(1, generations - 1))]).reshape(-1, slots)
    return float(times.mean() / times.max(1).mean())


def table(rows: Sequence[Row]) -> str:
    """Returns rows as text."""
    head = f"{'mode':>12} slots scale accepted children front seconds utilisation  ideal children/s proposals/s  wall   CPU ms/child  load"
    lines = [
        f"{r.mode:>12} {r.slots:5} {r.scale:5g} {r.accepted:8} {r.children:8} {r.front:5} {r.seconds:7.1f} {r.utilisation:11.1%} "
        f"{r.ideal:6.1%} {r.children_per_s:10.2f} {r.proposals_per_s:11.1f} {r.controller_wall:5.1%} {r.controller_cpu:5.1%} "
        f"{r.ms_per_child:8.1f} {r.load:5.1f}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def plot(rows: Sequence[Row], out: Path) -> None:
    """Draws utilisation over slots."""
    import matplotlib as mpl  # noqa: PLC0415 (an extra)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "lemonade", "font.size": 10}):
        figure = Figure(figsize=(6.4, 3.6), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        for mode, colour, marker in (("asynchronous", "#0072B2", "o"), ("synchronous", "#D55E00", "s")):
            ours = [row for row in rows if row.mode == mode]
            axes.plot([r.slots for r in ours], [100 * r.utilisation for r in ours], color=colour, marker=marker, label=mode)
            if mode == "synchronous":
                ideals = [100 * row.ideal for row in ours]
                axes.plot([r.slots for r in ours], ideals, color=colour, linestyle=":", label="synchronous, controller without cost")
        axes.axhline(95, color="#9a9a9a", linewidth=0.8, linestyle="--")
        axes.set_xscale("log", base=2)
        ticks = sorted({row.slots for row in rows})
        axes.set_xticks(ticks, [f"{slots:,}" for slots in ticks])
        axes.set_ylim(0, 102)
        axes.set_xlabel("simulated slots")
        axes.set_ylabel("utilisation (%)")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(0.02, 0.62))
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def write(rows: Sequence[Any], path: Path) -> None:
    """Writes rows as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[field.name for field in fields(rows[0])], *map(astuple, rows)])


def slots_main(arguments: argparse.Namespace) -> None:
    """Runs a search for each number of slots, asynchronously and synchronously."""
    import ray  # noqa: PLC0415 (an extra)

    rows = []
    try:
        for slots in arguments.slots:
            for asynchronous in [mode == "asynchronous" for mode in arguments.modes]:
                accepted = (arguments.accepted or slots) if asynchronous else slots
                generations = math.ceil(slots * arguments.turns / accepted) if asynchronous else arguments.generations
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(
                        simulated(
                            slots,
                            asynchronous=asynchronous,
                            accepted=accepted,
                            generations=generations,
                            scale=arguments.scale,
                            seed=arguments.seed,
                            run_dir=Path(folder) / "run",
                        )
                    )
                print(table(rows[-1:]) if len(rows) == 1 else table(rows[-1:]).splitlines()[1], flush=True)
    finally:
        ray.shutdown()
    if arguments.csv:
        write(rows, arguments.csv)
    if arguments.plot:
        plot(rows, arguments.plot)


@dataclass(frozen=True)
class WorkersRow:
    """What one search with real workers gave; CPU seconds are shares of one core."""

    mode: str
    epochs: int
    workers: int
    children: int
    seconds: float
    children_per_s: float
    speedup: float
    controller: float
    ray: float
    training: float
    load: float


class Steady(SearchCallback):
    """Notes clock and CPU seconds when generations end."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, dict[str, float], int]] = []

    def on_generation_end(self, search: SearchInfo, record: GenerationRecord) -> None:
        """Notes them."""
        self.ends.append((time.monotonic(), cpu_seconds(), record.evaluated + record.failed))


def cpu_seconds() -> dict[str, float]:
    """Returns the CPU seconds of the controller, of Ray and of the workers: this process and what it began. Needs Linux."""
    parents, spent, names = {}, {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, tail = stat.read_text().rpartition(")")
            parts, process = tail.split(), int(stat.parent.name)
            parents[process], names[process] = int(parts[1]), head.partition("(")[2]
            spent[process] = (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
    seconds = {"controller": time.process_time(), "ray": 0.0, "training": 0.0}
    for process, name in names.items():
        ancestor = process
        while ancestor > 1 and ancestor != os.getpid():
            ancestor = parents.get(ancestor, 0)
        if ancestor == os.getpid() and process != ancestor:
            seconds["training" if name.startswith("ray::Worker") else "ray"] += spent[process]
    return seconds


def with_workers(workers: int, *, asynchronous: bool, epochs: int, generations: int, seed: int, run_dir: Path) -> dict[str, Any]:
    """Searches with real workers; returns what a row tells, without the ratio."""
    steady = Steady()
    LemonadeTrainer(
        run_dir=run_dir,
        algorithm="paper",
        max_generations=generations,
        epochs=epochs,
        asynchronous=asynchronous,
        executor=RayExecutor(workers=workers),
        seed=seed,
        callbacks=[steady],
        accelerator="cpu",
    ).search(DigitsDataModule())
    (began, before, _), *others = steady.ends[1:]
    ended, after, _ = others[-1]
    seconds, children = ended - began, sum(count for *_, count in others)
    shares: Mapping[str, float] = {name: (after[name] - before[name]) / seconds for name in before}
    told = {"mode": MODES[asynchronous], "epochs": epochs, "workers": workers, "children": children, "seconds": seconds}
    return {**told, "children_per_s": children / seconds, **shares, "load": os.getloadavg()[0]}


def workers_main(arguments: argparse.Namespace) -> None:
    """Searches with one and two workers in turn, for each number of epochs and both modes."""
    rows: list[WorkersRow] = []
    print(f"{'mode':>12} epochs workers children seconds children/s ratio controller   ray training  load")
    for epochs in arguments.epochs:
        for asynchronous in [mode == "asynchronous" for mode in arguments.modes]:
            single = math.nan
            for workers in (1, 2):
                with tempfile.TemporaryDirectory() as folder:
                    told = with_workers(
                        workers,
                        asynchronous=asynchronous,
                        epochs=epochs,
                        generations=arguments.generations,
                        seed=arguments.seed,
                        run_dir=Path(folder) / "run",
                    )
                single = told["children_per_s"] if workers == 1 else single
                row = WorkersRow(**told, speedup=told["children_per_s"] / single)
                print(
                    f"{row.mode:>12} {row.epochs:6} {row.workers:7} {row.children:8} {row.seconds:7.1f} {row.children_per_s:10.2f} "
                    f"{row.speedup:5.2f} {row.controller:10.2f} {row.ray:5.2f} {row.training:8.2f} {row.load:5.1f}",
                    flush=True,
                )
                rows.append(row)
    if arguments.csv:
        write(rows, arguments.csv)


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    workers, slots = commands.add_parser("workers"), commands.add_parser("slots")
    workers.add_argument("--epochs", type=int, nargs="+", default=[3, 20], help="of a child")
    workers.add_argument("--generations", type=int, default=6)
    workers.set_defaults(run=workers_main)
    slots.add_argument("--slots", type=int, nargs="+", default=[8, 64, 256, 1024])
    slots.add_argument("--scale", type=float, default=1.0, help="of the children's times")
    slots.add_argument("--turns", type=float, default=8.0, help="children for each slot of an asynchronous search")
    slots.add_argument("--generations", type=int, default=3, help="of a synchronous search; the last one isn't waited for")
    slots.add_argument("--accepted", type=int, default=8, help="children in a generation of an asynchronous search; 0: as many as slots")
    slots.add_argument("--plot", type=Path)
    slots.set_defaults(run=slots_main)
    for command in (workers, slots):
        command.add_argument("--modes", nargs="+", default=["asynchronous", "synchronous"], choices=list(MODES.values()))
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
