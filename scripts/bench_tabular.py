"""Strategies of choice and survival alone, without training: queries of NAS-Bench-201's table, whose true front is known.

Usage: python scripts/bench_tabular.py TABLE [--data cifar10] [--seeds 100] [--queries 400] [--devices fpga pixel3 raspi4] [--methods ...]
       [--csv FILE] [--workers 2]

TABLE is a CSV file (also .gz) with a row for each cell: `arch`, `{data}_valid_acc_12ep`, `params_derived`, `macs_derived`, and
`latency_ms_{device}`. Nothing is inherited in it: a query is a training of 12 epochs from scratch, so that only the choice of what to query
differs between methods. Objectives are the error and the parameters, or the error, the parameters and the latency on one device; their
hypervolume has the worst and the best of the table as its bounds. Regret is what the points queried so far lack of the true front's.

All methods begin with the same random cells of a seed, except NSGA-II, whose population is larger and begins with them. A cell counts once
however often a method asks for it. A mutation exchanges the operation of one edge.
"""

import argparse
import csv
import gzip
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lightning_lemonade.search import (
    SAMPLING,
    ContributionSurvival,
    Limits,
    Measurement,
    NonDominatedSurvival,
    Outcome,
    Search,
    TaskResult,
    hypervolume,
    non_dominated,
)

STARTS = 10
PROPOSALS = 32
ACCEPTED = 8
AT = (50, 100, 200, 400, 800)
POPULATION, TOURNAMENT = 50, 10
BOUND = 20


@dataclass(frozen=True)
class Cell:
    """A cell as far as a search looks at it: what it does with specs, it does with this.

    Attributes:
        ops: the operation of each of the six edges.
        parameter_count: of its network.
        macs: of its network.
    """

    ops: tuple[str, ...]
    parameter_count: int
    macs: int
    nodes: tuple[()] = ()
    shapes: Mapping[str, tuple[int, ...]] = None  # type: ignore[assignment]  # there are no nodes

    @property
    def structural_hash(self) -> str:
        """What tells it from others."""
        return "|".join(self.ops)


class Table:
    """All cells, their objectives, and the true front.

    Args:
        path: of the file.
        data: `cifar10`, `cifar100` or `imagenet16_120`.
        device: whose latency is an objective; None for none.
    """

    def __init__(self, path: Path, data: str, device: str | None) -> None:
        self.keys = ("error", "params", *((f"latency/{device}",) if device else ()))
        self.cells: dict[str, Cell] = {}
        self.values: dict[str, dict[str, float]] = {}
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for row in csv.DictReader(file):
                ops = tuple(op.partition("~")[0] for op in row["arch"].replace("+", "").split("|") if op)
                cell = Cell(ops, int(float(row["params_derived"])), int(float(row["macs_derived"])))
                self.cells[cell.structural_hash] = cell
                error = 1 - float(row[f"{data}_valid_acc_12ep"]) / 100
                latency = (float(row[f"latency_ms_{device}"]),) if device else ()
                self.values[cell.structural_hash] = dict(zip(self.keys, (error, float(cell.parameter_count), *latency), strict=True))
        self.names = sorted(self.cells)
        self.choices = [sorted({cell.ops[edge] for cell in self.cells.values()}) for edge in range(6)]
        points = self.points(self.names)
        self.bounds = {key: (float(points[:, i].min()), float(points[:, i].max())) for i, key in enumerate(self.keys)}
        self.bounds["error"] = (0.0, self.bounds["error"][1])  # linear, as in a search
        self.best = hypervolume(points[non_dominated(points)], self.keys, self.bounds)

    def points(self, names: Sequence[str]) -> np.ndarray:
        """Returns objectives: (n, objectives)."""
        return np.array([[self.values[name][key] for key in self.keys] for name in names], dtype=np.float64).reshape(-1, len(self.keys))

    def mutate(self, cell: Cell, rng: np.random.Generator) -> tuple[tuple[str, ...], Cell]:
        """Returns a cell with another operation on one edge."""
        edge = int(rng.integers(6))
        others = [op for op in self.choices[edge] if op != cell.ops[edge]]
        ops = (*cell.ops[:edge], others[int(rng.integers(len(others)))], *cell.ops[edge + 1 :])
        return ("exchange",), self.cells["|".join(ops)]

    def starts(self, seed: int, count: int = STARTS) -> list[str]:
        """Returns the random cells that all methods begin with."""
        return [self.names[i] for i in np.random.default_rng(seed).permutation(len(self.names))[:count]]


Method = Callable[[Table, int], Iterator[str]]
"""From a table and a seed to the cells that are queried, one after the other, without an end."""


def ours(table: Table, seed: int, *, sampling: str, bounded: bool) -> Iterator[str]:
    """The search of this package, without training."""
    search = Search(
        space=table,  # type: ignore[arg-type]  # cells in place of specs
        objectives={key: partial(_value, table, key) for key in table.keys if key != "error"},
        keys=table.keys,
        limits=Limits.parse(None),
        sampling=SAMPLING[sampling](),
        survival=ContributionSurvival(BOUND, table.bounds) if bounded else NonDominatedSurvival(),
        proposals=PROPOSALS,
        bounds=table.bounds,
        epochs=12,
        inherits=False,
    )
    rng = np.random.default_rng([seed, 1])
    asked = search.start([table.cells[name] for name in table.starts(seed)])  # type: ignore[misc]
    for generation in range(1, sys.maxsize):
        names = [child.spec.structural_hash for child in asked.children]
        yield from names
        found = [{key: Measurement(value) for key, value in table.values[name].items()} for name in names]
        tasks = {"": TaskResult(None, {}, 12, 0)}
        search.tell([Outcome(child.id, values, tasks=tasks) for child, values in zip(asked.children, found, strict=True)])
        asked = search.ask(rng, ACCEPTED, generation)
        if not asked.children:
            return


def _value(table: Table, key: str, cell: Cell) -> float:
    return table.values[cell.structural_hash][key]


def random_search(table: Table, seed: int) -> Iterator[str]:
    """Cells in random order."""
    yield from table.starts(seed, len(table.names))


def regularised_evolution(table: Table, seed: int) -> Iterator[str]:
    """Aging evolution (Real and others, 2019), by Pareto ranks: the parent is of the best rank among ten of the youngest fifty."""
    rng = np.random.default_rng([seed, 1])
    alive = table.starts(seed, POPULATION)
    yield from alive
    while True:
        chosen = [alive[i] for i in rng.choice(POPULATION, TOURNAMENT, replace=False)]
        best = np.flatnonzero(non_dominated(table.points(chosen)))
        child = table.mutate(table.cells[chosen[int(rng.choice(best))]], rng)[1].structural_hash
        alive = [*alive[1:], child]
        yield child


def nsga2(table: Table, seed: int, *, population: int) -> Iterator[str]:
    """NSGA-II of pymoo: six integers, two-point crossover, and mutation of one edge of six on average."""
    from pymoo.algorithms.moo.nsga2 import NSGA2  # noqa: PLC0415 (only this method needs it)
    from pymoo.core.mutation import Mutation as PymooMutation  # noqa: PLC0415
    from pymoo.core.problem import Problem  # noqa: PLC0415
    from pymoo.operators.crossover.pntx import TwoPointCrossover  # noqa: PLC0415

    class Exchange(PymooMutation):  # type: ignore[misc]
        def _do(self, problem: Any, X: np.ndarray, *, random_state: np.random.Generator, **_: object) -> np.ndarray:  # noqa: ANN401, N803
            changed = random_state.random(X.shape) < 1 / 6
            return np.where(changed, random_state.integers(0, 5, X.shape), X)

    class Cells(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=6, n_obj=len(table.keys), xl=0, xu=4, vtype=int)

    def name_of(row: np.ndarray) -> str:
        return "|".join(table.choices[edge][int(value)] for edge, value in enumerate(row))

    starts = [table.cells[name].ops for name in table.starts(seed, population)]
    first = np.array([[table.choices[edge].index(op) for edge, op in enumerate(ops)] for ops in starts])
    algorithm = NSGA2(pop_size=population, sampling=first, crossover=TwoPointCrossover(prob=0.9), mutation=Exchange(prob=1.0))
    algorithm.setup(Cells(), termination=("n_gen", 10**6), seed=seed, verbose=False)
    while True:
        asked = algorithm.ask()
        names = [name_of(row) for row in asked.get("X")]
        yield from names
        asked.set("F", table.points(names))
        algorithm.tell(infills=asked)


METHODS: dict[str, Method] = {
    **{
        f"{sampling}{f'-{BOUND}' * bounded}": partial(ours, sampling=sampling, bounded=bounded)
        for sampling, bounded in product(("density", "gain", "uniform"), (False, True))
    },
    "random": random_search,
    "regularised": regularised_evolution,
    **{f"nsga2-{population}": partial(nsga2, population=population) for population in (10, 20, 50)},
}


@cache
def table_of(path: Path, data: str, device: str | None) -> Table:
    """Returns a table, read once for each process."""
    return Table(path, data, device)


def regrets(path: Path, data: str, device: str | None, method: str, seed: int, queries: int) -> list[float]:
    """Returns a method's regret after each of the numbers of queries."""
    table, seen, found = table_of(path, data, device), dict[str, None](), list[float]()
    stops = [at for at in AT if at <= queries]
    for asked, name in enumerate(METHODS[method](table, seed), 1):
        seen.setdefault(name)
        if len(seen) == stops[len(found)] or asked == 100 * queries:  # a method that finds nothing new any more
            found.append(table.best - hypervolume(table.points(list(seen)), table.keys, table.bounds))
            if len(found) == len(stops):
                break
    return [*found, *[found[-1] if found else 1.0] * (len(stops) - len(found))]


def main() -> None:
    """Runs every method with every seed, and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", choices=["cifar10", "cifar100", "imagenet16_120"], default="cifar10")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--devices", nargs="*", default=["fpga", "pixel3", "raspi4"], help="each beside error and parameters")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--csv", type=Path, help="where each seed's regrets are written")
    settings = parser.parse_args()
    if not settings.table.is_file():
        parser.error(f"{settings.table} is no file: give NAS-Bench-201's table as a CSV file")
    stops = [at for at in AT if at <= settings.queries]
    if not stops:
        parser.error(f"--queries must be at least {AT[0]}, got {settings.queries}")
    rows = []
    with ProcessPoolExecutor(settings.workers) as pool:
        for device in (None, *settings.devices):
            table = table_of(settings.table, settings.data, device)
            print(f"\n{', '.join(table.keys)}: the true front's hypervolume is {table.best:.4f}; regret x 1000, mean ± standard error")
            print(
                "| method | " + " | ".join(f"{at} queries" for at in stops) + " | seconds a seed |",
                "|---" * (len(stops) + 2) + "|",
                sep="\n",
            )
            for method in settings.methods:
                began = time.perf_counter()
                one = partial(regrets, settings.table, settings.data, device, method, queries=settings.queries)
                found = list(pool.map(one, range(settings.seeds)))
                seconds = (time.perf_counter() - began) * settings.workers / settings.seeds
                cells = [f"{1000 * statistics.mean(at):.2f} ± {1000 * _error(at):.2f}" for at in zip(*found, strict=True)]
                print(f"| {method} | {' | '.join(cells)} | {seconds:.2f} |", flush=True)
                rows += [(" ".join(table.keys), method, seed, *values) for seed, values in enumerate(found)]
    if settings.csv:
        with settings.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("objectives", "method", "seed", *stops), *rows])


def _error(values: Sequence[float]) -> float:
    """Returns the standard error of a mean."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
