"""Draws the front of a run: validation error over parameters, with every network that was evaluated on the way.

Usage: python scripts/plot_front.py RUN OUT.svg

Needs matplotlib (in the extras `docs` and `dev`). The same run gives the same file.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lightning_lemonade import LemonadeError, load
from lightning_lemonade.history import History
from lightning_lemonade.records import CandidateRecord

BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#9a9a9a", "#333333"  # of Okabe and Ito, told apart by the colour-blind, too
STYLE = {"svg.hashsalt": "lemonade", "font.size": 10, "axes.edgecolor": DARK, "axes.labelcolor": DARK, "text.color": DARK}
SPREAD = 8.0
"""Errors that differ by more than this factor are drawn on a log axis."""


def point(candidate: CandidateRecord) -> tuple[float, float]:
    """Returns parameters, and the validation error in percent."""
    return candidate.objectives["params"], 100 * candidate.objectives["error"]


def lineage(candidates: Sequence[CandidateRecord]) -> list[tuple[CandidateRecord, CandidateRecord]]:
    """Returns parent and child of each step that led to a member of the front."""
    by_id = {candidate.id: candidate for candidate in candidates}
    steps = {}
    for member in candidates:
        child = member if member.in_front else None
        while child is not None and child.parent is not None and child.id not in steps:
            steps[child.id] = (by_id[child.parent], child)
            child = by_id[child.parent]
    return list(steps.values())


def staircase(members: Iterable[CandidateRecord]) -> tuple[list[CandidateRecord], list[CandidateRecord]]:
    """Returns the members that no other beats in these two objectives, by size, and those that are in the front by another objective."""
    best, rest = [], []
    for member in sorted(members, key=point):
        (rest if best and point(member)[1] >= point(best[-1])[1] else best).append(member)
    return best, rest


def draw(candidates: Sequence[CandidateRecord]) -> Figure:
    """Draws evaluated candidates; a line joins the front's members from small to large."""
    figure = Figure(figsize=(7.2, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    best, rest = staircase(candidate for candidate in candidates if candidate.in_front)
    thin = {"color": BLUE, "alpha": 0.45, "linewidth": 0.8, "zorder": 1}
    axes.scatter(*columns(candidates), s=12, color=GREY, linewidths=0, zorder=2, label="evaluated network")
    starts = [candidate for candidate in candidates if candidate.parent is None]
    axes.scatter(
        *columns(starts), s=70, marker="D", facecolors="none", edgecolors=ORANGE, linewidths=1.6, zorder=5, label="starting network"
    )
    axes.plot(*columns(best), color=BLUE, drawstyle="steps-post", marker="o", markersize=6, linewidth=1.8, zorder=4, label="Pareto front")
    if rest:
        ring = {"markerfacecolor": "white", "markersize": 5, "zorder": 3, "label": "in the front by another objective"}
        axes.plot(*columns(rest), color=BLUE, marker="o", linestyle="", **ring)
    for parent, child in lineage(candidates):
        axes.plot(*zip(point(parent), point(child), strict=True), **thin)
    axes.plot([], [], label="from parent to child", **thin)
    _dress(axes, [point(candidate)[1] for candidate in candidates])
    return figure


def columns(candidates: Iterable[CandidateRecord]) -> tuple[list[float], list[float]]:
    """Returns parameters and errors."""
    points = [point(candidate) for candidate in candidates]
    return [x for x, _ in points], [y for _, y in points]


def _dress(axes: Axes, errors: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    if min(errors) > 0 and max(errors) > SPREAD * min(errors):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("validation error (%)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def main(args: list[str] | None = None) -> int:
    """Draws; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("out", type=Path, help="picture: .svg, or another format that matplotlib writes")
    arguments = parser.parse_args(args)
    try:
        front = load(arguments.run)
        missing = {"params", "error"} - {objective.key for objective in front.objectives}
        if missing or not len(front):
            raise LemonadeError(f"{arguments.run} can't be drawn: it has no {' and no '.join(sorted(missing)) or 'front'}")
        evaluated = [candidate for candidate in History.open(arguments.run).candidates() if candidate.state == "evaluated"]
    except LemonadeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with mpl.rc_context(STYLE):
        figure = draw(evaluated)
        plain = {"Date": None, "Creator": None} if arguments.out.suffix == ".svg" else None
        figure.savefig(arguments.out, metadata=plain, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
