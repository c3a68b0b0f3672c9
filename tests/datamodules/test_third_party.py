"""Data modules that this project didn't write, searched as they are."""

import warnings

import numpy as np
import pytest
import torch
from image_files import pictures, write_mnist
from pytorch_lightning.demos import mnist_datamodule

from lightning_lemonade import LemonadeTrainer

SMALL = {"max_generations": 1, "proposals": 4, "accepted": 1, "epochs": 1, "initial_epochs": 1, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        yield


def searched(datamodule, tmp_path, largest=2e4, **arguments):
    front = LemonadeTrainer(run_dir=tmp_path / "run", limits={"params": largest}, **SMALL, **arguments).search(datamodule)
    assert len(front) >= 1
    return next(iter(front))


def test_lightnings_demo(tmp_path, monkeypatch):
    """MNIST, which comes from torchvision where its files are there."""
    write_mnist(tmp_path / "MNIST" / "raw", (60_000, 64))
    monkeypatch.setattr(mnist_datamodule, "_DATASETS_PATH", str(tmp_path))
    datamodule = mnist_datamodule.MNISTDataModule(data_dir=str(tmp_path), batch_size=64)
    candidate = searched(datamodule, tmp_path, largest=7e3, limit_train_batches=3)  # it validates on 5,000 images
    assert candidate.spec.input_shape == (1, 28, 28)
    assert candidate.spec.output_shape == (10,)
    assert candidate.test_error is not None


@pytest.mark.filterwarnings("ignore")
def test_torch_uncertainty(tmp_path):
    """A data module of the other package, `lightning`."""
    datamodules = pytest.importorskip("torch_uncertainty.datamodules")
    write_mnist(tmp_path / "MNIST" / "raw", (300, 60))
    datamodule = datamodules.MNISTDataModule(tmp_path, batch_size=32, val_split=0.2, num_workers=0, persistent_workers=False)
    candidate = searched(datamodule, tmp_path)
    assert candidate.spec.output_shape == (10,)
    assert candidate.test_error is not None


@pytest.mark.filterwarnings("ignore")
def test_torchgeo(tmp_path):
    """Batches are dicts, which its hooks normalise and augment; thirteen channels."""
    datamodules = pytest.importorskip("torchgeo.datamodules")
    import rasterio
    from torchgeo.datasets import EuroSAT

    images, labels = pictures(36, (13, 64, 64))
    names = ["AnnualCrop", "Forest", "River"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / EuroSAT.base_dir / names[label] / f"{names[label]}_{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", driver="GTiff", height=64, width=64, count=13, dtype="uint16") as file:
            file.write(image.astype(np.uint16) * 20)
    files = [f"{names[label]}_{number}.jpg" for number, label in enumerate(labels)]
    for split, chosen in {"train": files[:24], "val": files[24:30], "test": files[30:]}.items():
        (tmp_path / EuroSAT.split_filenames[split]).write_text("\n".join(chosen))
    datamodule = datamodules.EuroSATDataModule(root=tmp_path, batch_size=8, num_workers=0)
    candidate = searched(datamodule, tmp_path)
    assert candidate.spec.input_shape == (13, 64, 64)
    assert candidate.spec.output_shape == (3,)
    assert candidate.test_error is not None
