"""What inheritance is worth on the handwritten digits, and what the search costs beside a bare PyTorch loop.

Usage: python scripts/bench_digits.py [--generations 4] [--epochs E] [--seeds 0 1 2] [--skip_inheritance] [--skip_overhead]

Inheritance: the same search with and without it, for the same number of children and epochs (starting networks
included); prints each seed's validation hypervolume at the end, and the epochs after which each search with inheritance
has reached the final value of the one without.
Overhead: every child of one search is trained again from scratch, for as many epochs, by a plain loop with the same
loader, optimiser and schedule; prints the ratio of both wall times.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from lightning_lemonade import LemonadeTrainer
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.front import Front
from lightning_lemonade.graph import build, initialise
from lightning_lemonade.history import History
from lightning_lemonade.module import Training, _cosine


def search(directory: Path, seed: int, generations: int, *, inherit: bool, epochs: int | None = None) -> tuple[Front, float]:
    """Runs one search on one thread; returns its front and its wall time in seconds."""
    trainer = LemonadeTrainer(
        run_dir=directory, seed=seed, max_generations=generations, inherit=inherit, epochs=epochs, accelerator="cpu", threads_per_child=1
    )
    began = time.perf_counter()
    front = trainer.search(DigitsDataModule())
    return front, time.perf_counter() - began


def compare_inheritance(root: Path, seeds: list[int], generations: int, epochs: int | None) -> None:
    """Prints hypervolumes with and without inheritance at equal total epochs."""
    for seed in seeds:
        runs = {}
        for inherit in (True, False):
            directory = root / f"inherit-{seed}-{inherit}"
            search(directory, seed, generations, inherit=inherit, epochs=epochs)
            runs[inherit] = History.open(directory).generations()
        ours, other = runs[True], runs[False]
        final = other[-1].hypervolume
        reached = next((g.total_epochs for g in ours if g.hypervolume >= final), None)
        print(
            f"seed {seed}: hypervolume with inheritance {ours[-1].hypervolume:.4f} after {ours[-1].total_epochs} epochs, "
            f"without {final:.4f} after {other[-1].total_epochs} epochs; with inheritance the latter is reached after {reached} epochs",
            flush=True,
        )


def bare_loop(history: History) -> float:
    """Trains every child of a run for its epochs with a plain loop; returns the wall time in seconds."""
    data, settings = DigitsDataModule(), Training()
    data.setup("fit")
    began = time.perf_counter()
    for record in history.candidates():
        torch.manual_seed(record.id)
        network = build(record.spec)
        initialise(network)
        loader = data.train_dataloader()
        optimiser = torch.optim.SGD(
            network.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
        )
        steps = record.epochs * len(loader)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step, steps=steps: _cosine(step, steps, settings.warmup))
        network.train()
        for _ in range(record.epochs):
            for x, y in loader:
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                optimiser.step()
                schedule.step()
        network.eval()
        with torch.no_grad():
            for x, _ in data.val_dataloader():
                network(x)
    return time.perf_counter() - began


def compare_overhead(root: Path, generations: int) -> None:
    """Prints whole-run wall time against a bare loop, interleaved, and where the search's time goes."""
    for repetition in range(2):
        directory = root / f"overhead-{repetition}"
        _, ours = search(directory, repetition, generations, inherit=True)
        history = History.open(directory)
        bare = bare_loop(history)
        seconds: dict[str, float] = {}
        for record in history.generations():
            for phase, spent in record.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent
        parts = ", ".join(f"{phase} {spent:.1f}" for phase, spent in seconds.items())
        print(f"run {repetition}: search {ours:.1f} s, bare loop {bare:.1f} s, ratio {ours / bare:.2f}; seconds: {parts}", flush=True)


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--epochs", type=int, help="of a child, for the comparison of inheritance; the trainer's default if left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--skip_inheritance", action="store_true")
    parser.add_argument("--skip_overhead", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.skip_overhead:
            compare_overhead(Path(folder), arguments.generations)
        if not arguments.skip_inheritance:
            compare_inheritance(Path(folder), arguments.seeds, arguments.generations, arguments.epochs)


if __name__ == "__main__":
    main()
