"""What many generations cost: memory, open files and time, generation by generation.

Usage: python scripts/bench_endurance.py [--generations 300] [--sampling density] [--csv OUT.csv] [--plot OUT.svg]

Searches the digits with children of one training step, and with networks that can't grow for ever (24 nodes, 5,000 parameters). After each
generation it notes the process's resident memory (MiB), its open files, the seconds of the generation by the clock and of the CPU, those
outside of training and validation (propose, record, other), and the size of the front. Prints a row for every tenth of them and a straight
line through each figure, from the fifth part on, so that what is loaded once does not count: its slope for 100 generations, also in percent
of the mean. Needs Linux, and matplotlib for `--plot`.
"""

import argparse
import csv
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lightning_lemonade import LemonadeTrainer, SearchCallback
from lightning_lemonade.callback import SearchInfo
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.objectives import SpecObjective
from lightning_lemonade.records import GenerationRecord

COLUMNS = ("generation", "memory", "files", "seconds", "cpu", "outside", "front", "accepted")
UNITS = {"memory": "MiB", "files": "files", "seconds": "s", "cpu": "s", "outside": "s"}
WARM = 0.2
SETTINGS = {
    "algorithm": "paper",
    "proposals": 16,
    "accepted": 4,
    "epochs": 1,
    "initial_epochs": 1,
    "limit_train_batches": 1,
    "calibration_size": 64,
}


class Nodes(SpecObjective):
    """The number of nodes, which a limit keeps from growing: deeper networks would take longer for a reason of their own."""

    name = "nodes"
    unit = "nodes"

    def of_spec(self, spec: GraphSpec) -> float:
        """Returns it."""
        return float(len(spec))


class Watch(SearchCallback):
    """Notes what the process holds after each generation."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.began = time.perf_counter(), time.process_time()

    def on_generation_end(self, search: SearchInfo, record: GenerationRecord) -> None:
        """Notes a row."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory, files = pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd"))
        now = time.perf_counter(), time.process_time()
        seconds, cpu = (new - old for new, old in zip(now, self.began, strict=True))
        outside = sum(record.seconds[phase] for phase in ("propose", "record", "other"))
        self.rows.append((record.generation, memory, files, seconds, cpu, outside, len(record.front), record.accepted))
        self.began = now


def slope(values: np.ndarray) -> tuple[float, float]:
    """Returns the slope for 100 generations of a straight line through values, and in percent of their mean."""
    steepness = float(np.polyfit(np.arange(len(values)), values, 1)[0]) * 100
    return steepness, 100 * steepness / max(1e-12, float(values.mean()))


def plot(table: dict[str, np.ndarray], out: Path) -> None:
    """Draws memory, open files and time over the generations."""
    import matplotlib as mpl  # noqa: PLC0415 (an extra)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "lemonade", "font.size": 9}):
        figure = Figure(figsize=(7.2, 5.0), facecolor="white", layout="constrained")
        axes = figure.subplots(3, 1, sharex=True)
        for axis, (name, title) in zip(axes, {"memory": "memory (MiB)", "files": "open files", "cpu": "CPU seconds"}.items(), strict=True):
            axis.plot(table["generation"], table[name], color="#0072B2", linewidth=0.9)
            axis.set_ylim(0, 1.25 * table[name].max())
            axis.set_ylabel(title)
        axes[-1].set_xlabel("generation")
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> int:
    """Runs the search and prints what it cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=300)
    parser.add_argument("--sampling", default="density", choices=["density", "gain", "uniform"])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    watch, folder = Watch(), tempfile.mkdtemp()
    try:
        LemonadeTrainer(
            run_dir=Path(folder) / "run",
            objectives=["error", "params", Nodes()],
            limits={"params": 5e3, "nodes": 24},
            max_generations=arguments.generations,
            sampling=arguments.sampling,
            callbacks=[watch],
            accelerator="cpu",
            **SETTINGS,  # type: ignore[arg-type]
        ).search(DigitsDataModule())
    finally:
        shutil.rmtree(folder)
    table = {name: np.array(column, dtype=float) for name, column in zip(COLUMNS, zip(*watch.rows, strict=True), strict=True)}
    print(" ".join(f"{name:>10}" for name in COLUMNS))
    for row in watch.rows[:: max(1, len(watch.rows) // 10)]:
        print(" ".join(f"{value:10.2f}" for value in row))
    first = int(WARM * len(watch.rows))
    for name, unit in UNITS.items():
        steepness, percent = slope(table[name][first:])
        print(f"{name}: mean {table[name][first:].mean():.3f} {unit}, slope {steepness:+.3f} {unit} in 100 generations ({percent:+.1f} %)")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *watch.rows])
    if arguments.plot:
        plot(table, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
