"""Tables and pictures of what `bench_search.py` measured: who found how much when.

Usage: python scripts/report_search.py CSV... [--page docs/benchmarks.md] [--pictures docs]

Files of one data set and one length of runs go together. For each data set the page gets a table of all methods and seeds (test and
validation hypervolume at the end, and how soon ours was as good), between two marks that it must hold: `<!-- search: begin -->` and
`<!-- search: end -->`. A picture of each shows the test hypervolume over time and over epochs, median and range of the seeds, and what half
of the seeds attain at the end: the error at each size. Of a method with several numbers of epochs (`random-4`, `random-12`) pictures show
the one whose median at the end is the highest.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
import numpy as np
from bench_search import BOX, REFERENCES, Point, curve, reached, read_results
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_lemonade.search.dominance import non_dominated

MARKS = ("<!-- search: begin -->", "<!-- search: end -->")
OURS = "ours"
Results = Mapping[tuple[str, int], Sequence[Point]]


def family(method: str) -> str:
    """Returns a method's name without its epochs."""
    name, _, tail = method.rpartition("-")
    return name if name and tail.isdigit() else method


def final(results: Results, method: str, reference: float, *, test: bool = True) -> dict[int, float]:
    """Returns a method's hypervolumes at the end, by seed."""
    return {seed: curve(points, reference, test=test)[-1][1] for (name, seed), points in sorted(results.items()) if name == method}


def best_of(results: Results) -> list[str]:
    """Returns of each family the method with the highest median hypervolume at the first reference, ours first."""
    methods = dict.fromkeys(method for method, _ in results)
    chosen: dict[str, str] = {}
    for method in methods:
        other = chosen.setdefault(family(method), method)
        if _middle(results, method) > _middle(results, other):
            chosen[family(method)] = method
    return sorted(chosen.values(), key=lambda method: method != OURS)


def _middle(results: Results, method: str) -> float:
    return median(final(results, method, REFERENCES[0]).values())


def ratios(results: Results, method: str, reference: float) -> dict[int, float]:
    """Returns, by seed, the time at which ours has a method's final value over that method's own time to it; infinite where never."""
    found = {}
    for (name, seed), points in sorted(results.items()):
        if name == method and (OURS, seed) in results:
            theirs, ours = curve(points, reference), curve(results[OURS, seed], reference)
            if not theirs[-1][1]:  # any network at all reaches that
                continue
            own, mine = reached(theirs, theirs[-1][1]), reached(ours, theirs[-1][1])
            found[seed] = mine / own if mine and own else float("inf")
    return found


def table(results: Results) -> list[str]:
    """Returns a table of all methods, each cell by seed."""
    seeds = sorted({seed for _, seed in results})
    sides = [f"{kind} at {reference:g}" for reference in REFERENCES for kind in ("test", "validation", "time of ours / its own")]
    lines = [f"| method | networks | seconds | epochs | {' | '.join(sides)} |", "|---" * (4 + len(sides)) + "|"]
    for method in sorted({method for method, _ in results}, key=lambda m: (m != OURS, -_middle(results, m))):
        runs = [results.get((method, seed), []) for seed in seeds]
        cells = [
            method,
            _cell(str(len(points)) if points else "-" for points in runs),
            _cell(f"{points[-1].seconds:.0f}" if points else "-" for points in runs),
            _cell(str(sum(point.epochs for point in points)) if points else "-" for points in runs),
        ]
        for reference in REFERENCES:
            for test in (True, False):
                ends = final(results, method, reference, test=test)
                cells.append(_cell(f"{ends[seed]:.3f}" if seed in ends else "-" for seed in seeds))
            shares = {} if method == OURS else ratios(results, method, reference)
            cells.append(_cell(_share(shares.get(seed)) for seed in seeds) if shares else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _share(share: float | None) -> str:
    return "-" if share is None else "never" if share == float("inf") else f"{share:.2f}"


def _cell(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def attained(runs: Sequence[Sequence[Point]], sizes: np.ndarray) -> np.ndarray:
    """Returns the test error that half of the runs attain with at most so many parameters; 1 where they attain none."""
    reach = []
    for points in runs:
        values = np.array([[p.error, p.params] for p in points], dtype=np.float64)
        front = [points[i] for i in np.flatnonzero(non_dominated(values))]
        reach.append([min((p.test for p in front if p.params <= size), default=1.0) for size in sizes])
    return np.sort(np.array(reach), axis=0)[(len(reach) - 1) // 2]


def over(runs: Sequence[Sequence[Point]], grid: np.ndarray, *, epochs: bool) -> np.ndarray:
    """Returns test hypervolumes at times, or at epochs: (runs, grid)."""
    rows = []
    for points in runs:
        steps = curve(points, REFERENCES[0])
        at = np.cumsum([point.epochs for point in points]) if epochs else np.array([seconds for seconds, _ in steps])
        values = np.array([0.0, *(volume for _, volume in steps)])
        rows.append(values[np.searchsorted(at, grid, side="right")])
    return np.array(rows)


def picture(results: Results) -> Figure:
    """Draws hypervolumes over time and epochs, and what is attained."""
    figure = Figure(figsize=(12, 4.2), facecolor="white", layout="constrained")
    time, epochs, errors = figure.subplots(1, 3)
    sizes = np.geomspace(*BOX, 200)
    for number, method in enumerate(best_of(results)):
        runs = [points for (name, _), points in sorted(results.items()) if name == method]
        style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--", "linewidth": 2.2 if method == OURS else 1.2}
        for axes, by_epochs in ((time, False), (epochs, True)):
            ends = [sum(p.epochs for p in points) if by_epochs else points[-1].seconds for points in runs]
            grid = np.geomspace(10, max(ends), 200)
            found = over(runs, grid, epochs=by_epochs)
            axes.plot(grid, np.median(found, axis=0), label=method, **style)
            axes.fill_between(grid, found.min(0), found.max(0), color=style["color"], alpha=0.12, linewidth=0)
        errors.plot(sizes, 100 * attained(runs, sizes), **style)
    for axes, label in ((time, "seconds of one core"), (epochs, "epochs trained, all networks together"), (errors, "parameters")):
        _finish(axes, label)
    for axes in (time, epochs):
        axes.set_ylabel("test hypervolume (error reference 1)")
    errors.set_ylabel("test error, % (attained by half of the seeds)")
    errors.set_yscale("log")
    epochs.legend(fontsize=7, frameon=False)
    return figure


def _finish(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def gathered(paths: Iterable[Path]) -> dict[str, tuple[set[str], dict[tuple[str, int], Sequence[Point]]]]:
    """Returns settings of ours, and results, of each data set.

    Raises:
        ValueError: if two files hold the same method and seed.
    """
    found: dict[str, tuple[set[str], dict[tuple[str, int], Sequence[Point]]]] = {}
    for path in paths:
        asked, parts, results = read_results(path)
        settings, held = found.setdefault(asked, (set(), {}))
        if twice := held.keys() & results.keys():
            raise ValueError(f"{path} holds again what another file does: {', '.join(f'{m} of seed {s}' for m, s in sorted(twice))}")
        settings |= parts
        held |= results
    return found


def section(asked: str, parts: Iterable[str], results: Results, image: str) -> list[str]:
    """Returns the page's part on one data set."""
    seeds = ", ".join(str(seed) for seed in sorted({seed for _, seed in results}))
    medians = []
    for method in best_of(results)[1:]:
        shown = [
            f"{_share(median(found.values()))} at {reference:g}"
            for reference in REFERENCES
            if (found := ratios(results, method, reference))
        ]
        medians.append(f"{method} {' and '.join(shown)}")
    return [
        f"### {asked}",
        "",
        f"Ours: {' or '.join(sorted(parts))}. Seeds {seeds}; each cell by seed, a dash where it wasn't run "
        "or there was nothing to reach. "
        f"Median time of ours / its own, for each method's best number of epochs: {'; '.join(medians)}.",
        "",
        *table(results),
        "",
        f"![Test hypervolume over time and over epochs, and the error attained at each size, by method]({image})",
        "",
    ]


def main() -> None:
    """Reads, writes pictures, and prints the tables or writes them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, help="a page with both marks; without it the tables are printed")
    parser.add_argument("--pictures", type=Path, default=Path("docs"))
    settings = parser.parse_args()
    lines: list[str] = []
    try:
        found = gathered(settings.csv)
    except ValueError as error:
        parser.error(str(error))
    for asked, (parts, results) in found.items():
        name = f"search-{asked.replace(',', '').replace(' ', '-')}.svg"
        with mpl.rc_context({"svg.hashsalt": "lemonade"}):
            picture(results).savefig(settings.pictures / name, metadata={"Date": None})
        lines += section(asked, parts, results, name)
    if settings.page is None:
        sys.stdout.write("\n".join(lines) + "\n")
        return
    text = settings.page.read_text()
    if any(text.count(mark) != 1 for mark in MARKS):
        parser.error(f"{settings.page} must hold each of {' and '.join(MARKS)} once")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    settings.page.write_text("\n".join([before + MARKS[0], "", *lines, MARKS[1] + after]))


if __name__ == "__main__":
    main()
