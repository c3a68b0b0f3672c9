"""Two devices that train each network together against one: errors of the starting networks, over some seeds.

Usage: python scripts/compare_ranks.py [--seeds 3] [--epochs 4] [--devices 2] [--sync_batchnorm] [--json FILE]

A network is told to differ where the means over the seeds lie further apart than its errors do: more than twice the standard error of their
difference, and more than one image in a hundred. The data are scikit-learn's digits; without GPUs the devices are processes on the CPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from lightning_lemonade import LemonadeTrainer
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.history import History

LEAST = 0.01
"""A difference of errors that is never told."""


def errors(directory: Path, seeds: int, epochs: int, **trainer: Any) -> dict[int, list[float]]:  # noqa: ANN401
    """Returns the errors of each starting network by its parameters, one for each seed."""
    found: dict[int, list[float]] = {}
    for seed in range(seeds):
        run = directory / f"{trainer['devices']}_{seed}"
        settings = {
            "algorithm": "paper",
            "max_generations": 1,
            "proposals": 1,
            "accepted": 1,
            "epochs": 1,
            "initial_epochs": epochs,
            "seed": seed,
        }
        LemonadeTrainer(run_dir=run, callbacks=[], **settings, **trainer).search(DigitsDataModule())
        for candidate in History.open(run).candidates():
            if candidate.generation == 0:
                found.setdefault(int(candidate.objectives["params"]), []).append(candidate.objectives["error"])
    return found


def compared(one: dict[int, list[float]], several: dict[int, list[float]]) -> list[dict[str, float]]:
    """Returns a row for each network: means, their difference, and what it may be."""
    rows = []
    for params, alone in one.items():
        together, count = several[params], len(alone)
        spread = ((statistics.variance(alone) + statistics.variance(together)) / count) ** 0.5
        means = statistics.mean(alone), statistics.mean(together)
        rows.append(
            {"params": params, "one": means[0], "several": means[1], "difference": means[1] - means[0], "allowed": max(2 * spread, LEAST)}
        )
    return rows


def trained(arguments: argparse.Namespace, devices: int, directory: Path) -> dict[int, list[float]]:
    """Returns the errors; of several processes those that a program of its own finds, since one that has them can't have one again."""
    if devices == 1:
        return errors(directory, arguments.seeds, arguments.epochs, accelerator=_accelerator(1), devices=1)
    out = directory / f"{devices}.json"
    options = [f"--{name}={value}" for name, value in vars(arguments).items() if name in {"seeds", "epochs"}]
    more = ["--sync_batchnorm"] if arguments.sync_batchnorm and devices > 1 else []
    subprocess.run([sys.executable, __file__, *options, *more, f"--devices={devices}", f"--worker={out}"], check=True)
    return {int(params): values for params, values in json.loads(out.read_text()).items()}


def _accelerator(devices: int) -> str:
    return "gpu" if torch.cuda.device_count() >= devices else "cpu"


def main() -> int:
    """Compares, prints a table, and returns 1 if a network differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--epochs", type=int, default=4, help="of each starting network")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--sync_batchnorm", action="store_true", help="on GPUs")
    parser.add_argument("--json", type=Path, help="where the rows are written, too")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        accelerator = _accelerator(arguments.devices)
        more = {"sync_batchnorm": True} if arguments.sync_batchnorm else {}
        found = errors(
            arguments.worker.parent, arguments.seeds, arguments.epochs, accelerator=accelerator, devices=arguments.devices, **more
        )
        if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
            arguments.worker.write_text(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = compared(*(trained(arguments, devices, Path(folder)) for devices in (1, arguments.devices)))
    for row in rows:
        print(" ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return int(any(abs(row["difference"]) > row["allowed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
