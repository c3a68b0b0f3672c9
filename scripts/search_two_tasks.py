"""One architecture for CIFAR-10 and CIFAR-100: a search of two tasks, and its front.

Usage: python scripts/search_two_tasks.py [--data_root ROOT] [--limit 5000] [--generations 4] [--seed 0] [--run_dir DIR]

ROOT (or the environment variable LEMONADE_DATA_ROOT) holds torchvision's CIFAR-10 files, and either its CIFAR-100 files or a folder
`cifar100` of parquet files in Hugging Face's layout, of which the fine labels are taken.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import torch

from lightning_lemonade import LemonadeTrainer
from lightning_lemonade.callbacks import SearchProgressBar
from lightning_lemonade.datamodules import CIFAR10DataModule, CIFAR100DataModule, ImageDataModule, ImageFolderDataModule
from lightning_lemonade.spaces import ConvNetSpace


def cifar100(root: Path, limit: int) -> ImageDataModule:
    """Returns CIFAR-100 from parquet files where there are such, else from torchvision's."""
    if any((root / "cifar100").glob("*.parquet")):
        return ImageFolderDataModule(root / "cifar100", label="fine_label", limit=limit, crop=4, flip=True)
    return CIFAR100DataModule(root, download=False, limit=limit)


def main() -> None:
    """Searches and prints the front."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, default=Path(os.environ.get("LEMONADE_DATA_ROOT", "data")))
    parser.add_argument("--limit", type=int, default=5000, help="images of each data set that train and validate")
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--accepted", type=int, default=4, help="children trained in each generation")
    parser.add_argument("--epochs", type=int, default=3, help="of a child")
    parser.add_argument("--initial_epochs", type=int, default=8, help="of a starting network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--accelerator", default="auto")
    settings = parser.parse_args()
    warnings.filterwarnings("ignore")
    began = time.perf_counter()
    trainer = LemonadeTrainer(
        objectives=["error/cifar10", "error/cifar100", "params", "macs"],
        limits={"params": 1.5e5},
        algorithm="paper",
        space=ConvNetSpace(starts="strided"),
        max_generations=settings.generations,
        accepted=settings.accepted,
        epochs=settings.epochs,
        initial_epochs=settings.initial_epochs,
        seed=settings.seed,
        run_dir=settings.run_dir,
        accelerator=settings.accelerator,
        callbacks=[SearchProgressBar()],
    )
    ten = CIFAR10DataModule(settings.data_root, download=False, limit=settings.limit)
    front = trainer.search({"cifar10": ten, "cifar100": cifar100(settings.data_root, settings.limit)})
    columns = ["id", "parent", *(objective.key for objective in front.objectives), "test_error/cifar10", "test_error/cifar100", "epochs"]
    print(front.to_pandas()[columns].to_string(index=False))
    print(f"hypervolume {front.hypervolume:.4f}, {torch.get_num_threads()} threads, {time.perf_counter() - began:.0f} s, {front.run_dir}")


if __name__ == "__main__":
    main()
