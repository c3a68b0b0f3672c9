"""What inheritance is worth on the handwritten digits, and what a search costs beside a bare PyTorch loop.

Usage: python scripts/bench_digits.py [inheritance] [overhead] [profile] [--seeds 0 1 2] [--total_epochs 480] [--scratch_epochs 3 5] ...

inheritance: the same search with and without it, for the same number of epochs in all (starting networks included). Without it, every
    length of a child's training in `--scratch_epochs` is tried, so that the comparison isn't with a length that suits only the other side.
    Prints each seed's validation hypervolume, and the epochs after which the winner had the loser's final value.
overhead: every candidate of one search is trained again by a plain loop, from scratch, for as many epochs, with the same loader, optimiser
    and schedule, and validated as often; the searches and the loops take turns. Prints the ratio of their wall times.
profile: where the time of one search goes, by function.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from lightning_lemonade import LemonadeTrainer
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.graph import build, initialise
from lightning_lemonade.history import History
from lightning_lemonade.module import Training, cosine


def search(directory: Path, seed: int, generations: int, *, inherit: bool, epochs: int, initial_epochs: int) -> float:
    """Runs one search on one thread; returns its wall time in seconds."""
    trainer = LemonadeTrainer(
        run_dir=directory,
        algorithm="paper",
        seed=seed,
        max_generations=generations,
        inherit=inherit,
        epochs=epochs,
        initial_epochs=initial_epochs,
        accelerator="cpu",
        threads_per_child=1,
    )
    began = time.perf_counter()
    trainer.search(DigitsDataModule())
    return time.perf_counter() - began


def curve(directory: Path, seed: int, settings: argparse.Namespace, *, inherit: bool, epochs: int) -> list[tuple[int, float]]:
    """Runs one search for about the total number of epochs; returns (epochs so far, hypervolume) by generation."""
    generations = max(1, round((settings.total_epochs - 4 * settings.initial_epochs) / (8 * epochs)))
    search(directory, seed, generations, inherit=inherit, epochs=epochs, initial_epochs=settings.initial_epochs)
    return [(record.total_epochs, record.hypervolume) for record in History.open(directory).generations()]


def compare_inheritance(root: Path, settings: argparse.Namespace) -> None:
    """Prints hypervolumes with and without inheritance at equal total epochs."""
    shares: dict[int, list[float]] = {epochs: [] for epochs in settings.scratch_epochs}
    for seed in settings.seeds:
        ours = curve(root / f"inherit-{seed}", seed, settings, inherit=True, epochs=settings.epochs)
        print(
            f"seed {seed}: inheritance, {settings.epochs} epochs a child: hypervolume {ours[-1][1]:.4f} after {ours[-1][0]} epochs",
            flush=True,
        )
        for epochs in settings.scratch_epochs:
            other = curve(root / f"scratch-{seed}-{epochs}", seed, settings, inherit=False, epochs=epochs)
            first, winner, loser = (ours, "with", other) if ours[-1][1] >= other[-1][1] else (other, "without", ours)
            reached = next(spent for spent, volume in first if volume >= loser[-1][1])
            if winner == "with":
                shares[epochs].append(reached)
            print(
                f"seed {seed}: none, {epochs} epochs a child: hypervolume {other[-1][1]:.4f} after {other[-1][0]} epochs; "
                f"{winner} inheritance is ahead, and had the other's final value after {reached} epochs",
                flush=True,
            )
    for epochs, spent in shares.items():
        ahead = f"ahead on {len(spent)} of {len(settings.seeds)} seeds"
        mean = f", there with the loser's final value after {sum(spent) / len(spent):.0f} epochs on average" if spent else ""
        print(f"against {epochs} epochs a child from scratch: {ahead}{mean}")


def bare_loop(history: History, memory_format: torch.memory_format = torch.contiguous_format) -> float:
    """Trains every candidate of a run for its epochs with a plain loop, and validates it as often; returns the wall time in seconds."""
    data, settings = DigitsDataModule(), Training()
    data.setup("fit")
    began = time.perf_counter()
    for record in history.candidates():
        torch.manual_seed(record.id)
        network = build(record.spec).to(memory_format=memory_format)
        initialise(network)
        if record.start_error is not None:
            validate(network, data)
        loader = data.train_dataloader()
        optimiser = torch.optim.SGD(
            network.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
        )
        steps = record.epochs * len(loader)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step, steps=steps: cosine(step, steps, settings.warmup))
        network.train()
        for _ in range(record.epochs):
            for x, y in loader:
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x), y).backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip or float("inf"))
                optimiser.step()
                schedule.step()
        validate(network, data)
    return time.perf_counter() - began


def validate(network: nn.Module, data: DigitsDataModule) -> float:
    """Returns a network's validation error, computed plainly."""
    network.eval()
    wrong = total = 0
    with torch.no_grad():
        for x, y in data.val_dataloader():
            wrong += int((network(x).argmax(1) != y).sum())
            total += len(y)
    return wrong / total


def compare_overhead(root: Path, settings: argparse.Namespace) -> None:
    """Prints whole-run wall time against a bare loop, interleaved, and where the search's time goes."""
    for seed in settings.seeds:
        directory = root / f"overhead-{seed}"
        ours = search(directory, seed, settings.generations, inherit=True, epochs=settings.epochs, initial_epochs=settings.initial_epochs)
        history = History.open(directory)
        bare, same = bare_loop(history), bare_loop(history, torch.channels_last)
        seconds: dict[str, float] = {}
        for record in history.generations():
            for phase, spent in record.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent
        parts = ", ".join(f"{phase} {spent:.1f}" for phase, spent in seconds.items())
        print(
            f"seed {seed}: search {ours:.1f} s, bare loop {bare:.1f} s, ratio {ours / bare:.2f}; "
            f"with weights laid out as in the search {same:.1f} s, ratio {ours / same:.2f}; seconds: {parts}",
            flush=True,
        )


def profile(root: Path, settings: argparse.Namespace) -> None:
    """Prints the functions in which one search spends its time."""
    profiler = cProfile.Profile()
    profiler.enable()
    search(root / "profile", 0, settings.generations, inherit=True, epochs=settings.epochs, initial_epochs=settings.initial_epochs)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats("lightning_lemonade|trainer.py|sgd.py|engine", 40)


PARTS = {"inheritance": compare_inheritance, "overhead": compare_overhead, "profile": profile}


def main() -> None:
    """Runs the parts asked for: inheritance and overhead if none is named."""
    defaults = Training()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="of a child")
    parser.add_argument("--initial_epochs", type=int, default=defaults.initial_epochs, help="of a starting network")
    parser.add_argument("--scratch_epochs", type=int, nargs="+", default=[defaults.epochs], help="of a child that inherits nothing")
    parser.add_argument("--total_epochs", type=int, default=480, help="of one search, for the comparison of inheritance")
    parser.add_argument("--generations", type=int, default=4, help="of one search, for the overhead and the profile")
    settings = parser.parse_args()
    if unknown := set(settings.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.parts or ["inheritance", "overhead"]:
            PARTS[name](Path(folder), settings)


if __name__ == "__main__":
    main()
