"""Training images a second: images in memory, augmented a batch at a time, against workers of a DataLoader.

Usage: python scripts/bench_loading.py [--data_root ROOT] [--images 10000] [--rounds 3] [--accelerator cpu] [--threads 1]

For three sizes of network, and for none (loading alone), it trains one epoch at a time and takes the ways in turn, so that what else the
machine does meets all of them. The median of the rounds counts, the first one left out. Ways:

  memory           bytes on the training's device, batches indexed, shifted and mirrored there
  workers-N        the same bytes, batches indexed and normalised by N worker processes (0: by the process itself)
  transforms-N     as it is mostly done: each image on its own through torchvision's transforms (shift, mirror, normalise) in N workers

ROOT (or the environment variable LEMONADE_DATA_ROOT) holds torchvision's CIFAR-10 files; without them random images stand in.
"""

import argparse
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_lemonade import LemonadeModule
from lightning_lemonade.datamodules import CIFAR10DataModule, ImageDataModule
from lightning_lemonade.datamodules.dataset import Normalise
from lightning_lemonade.datamodules.images import ArraySource
from lightning_lemonade.evaluation.data import LEAN, TaskData
from lightning_lemonade.evaluation.scopes import quiet
from lightning_lemonade.module import Training
from lightning_lemonade.spaces import strided_net

WIDTHS = {"3 k": 4, "50 k": 22, "800 k": 92}


class RandomImages(ImageDataModule):
    """Bytes in place of CIFAR-10, where it isn't there."""

    num_classes, sample_shape = 10, (3, 32, 32)

    def sources(self) -> dict[str, Any]:
        """See `ImageDataModule.sources`."""
        images = torch.randint(256, (60_000, 3, 32, 32), dtype=torch.uint8)
        source = ArraySource(images, (torch.arange(60_000) % 10).numpy())
        return {"train": source, "test": source}

    def normalisation(self, train: Any, indices: Any) -> Normalise:  # noqa: ANN401
        """See `ImageDataModule.normalisation`."""
        return Normalise((0.5,) * 3, (0.25,) * 3)


class Transformed(Dataset[Any]):
    """Each image through torchvision's transforms."""

    def __init__(self, dataset: Any) -> None:  # noqa: ANN401
        self.x, self.y = dataset.x, dataset.y
        mean, std = dataset.transform.mean, dataset.transform.std
        self.transform = v2.Compose(
            [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.y)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401
        """Returns an image and its class."""
        return self.transform(self.x[index]), self.y[index]


def loaded(way: str, root: str | None, images: int) -> tuple[pl.LightningDataModule | None, DataLoader[Any] | None]:
    """Returns a data module, or the training loader, of a way."""
    name, _, workers = way.partition("-")
    made: type[ImageDataModule] = CIFAR10DataModule if root else RandomImages
    arguments: dict[str, Any] = {"limit": images, "validation_fraction": 0.1, "crop": 4, "flip": True}
    if root:
        arguments |= {"root": root, "download": False}
    if name == "workers":
        return made(**arguments, in_memory=False, num_workers=int(workers)), None
    datamodule = made(**arguments)
    if name == "memory":
        return datamodule, None
    datamodule.setup()
    dataset = Transformed(datamodule.train_dataloader().dataset)
    return None, DataLoader(dataset, 128, shuffle=True, num_workers=int(workers), persistent_workers=int(workers) > 0)


def epoch(datamodule: pl.LightningDataModule | None, loader: DataLoader[Any] | None, width: int | None, accelerator: str) -> float:
    """Trains an epoch, or only loads one; returns images a second."""
    if width is None:
        batches = loader or datamodule.train_dataloader()  # type: ignore[union-attr]
        augment = getattr(datamodule, "augment", lambda batch: batch)
        began, seen = time.perf_counter(), 0
        for batch in batches:
            seen += len(augment(batch)[1])
        return seen / (time.perf_counter() - began)
    module = LemonadeModule(strided_net((3, 32, 32), 10, width), Training())
    with quiet():
        trainer = pl.Trainer(**LEAN, max_epochs=1, limit_val_batches=0, accelerator=accelerator, devices=1)
        began = time.perf_counter()
        data = {"train_dataloaders": loader} if datamodule is None else {"datamodule": TaskData(datamodule)}  # as a search has it
        trainer.fit(module, **data)
    if accelerator == "gpu":
        torch.cuda.synchronize()
    seen = len((loader or datamodule.train_dataloader()).dataset)  # type: ignore[union-attr, arg-type]
    return seen / (time.perf_counter() - began)


def main() -> None:
    """Measures each way with each network, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", default=os.environ.get("LEMONADE_DATA_ROOT"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=["memory", "workers-0", "workers-1", "workers-2", "transforms-0", "transforms-2"])
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    warnings.filterwarnings("ignore")
    root = settings.data_root if settings.data_root and (Path(settings.data_root) / "cifar-10-batches-py").is_dir() else None
    print(f"{'CIFAR-10' if root else 'random images'}, {settings.images} images, {settings.accelerator}, {settings.threads} threads")
    ways = {way: loaded(way, root, settings.images) for way in settings.ways}
    for name, width in {"none": None, **WIDTHS}.items():
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(settings.rounds + 1):
            for way, (datamodule, loader) in ways.items():
                speeds[way].append(epoch(datamodule, loader, width, settings.accelerator))
        medians = {way: statistics.median(seen[1:]) for way, seen in speeds.items()}
        print(f"network {name:>6}: " + "  ".join(f"{way} {speed:,.0f}/s" for way, speed in medians.items()), flush=True)


if __name__ == "__main__":
    main()
