import os
from pathlib import Path

import pytest
import torch
from image_files import pictures, write_cifar, write_mnist
from torchvision import datasets

from lightning_lemonade.datamodules import CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, MNISTDataModule
from lightning_lemonade.errors import DataError

ROOT = os.environ.get("LEMONADE_DATA_ROOT", "")
ALL = [CIFAR10DataModule, CIFAR100DataModule, FashionMNISTDataModule, MNISTDataModule]


@pytest.mark.parametrize(
    ("cls", "folder", "named"), [(MNISTDataModule, "MNIST", "2 - two"), (FashionMNISTDataModule, "FashionMNIST", "Pullover")]
)
def test_files_of_the_mnist_family_are_read(tmp_path, cls, folder, named):
    write_mnist(tmp_path / folder / "raw")
    datamodule = cls(tmp_path, download=False)
    datamodule.prepare_data()
    datamodule.setup("fit")
    images, labels = pictures(30, (28, 28))
    assert torch.equal(datamodule._datasets["test"].x[:, 0], torch.from_numpy(images))
    assert datamodule._datasets["test"].y.tolist() == labels.tolist()
    assert datamodule.class_names[2] == named
    assert len(datamodule.class_names) == datamodule.num_classes


@pytest.mark.parametrize(("cls", "dataset_class"), [(CIFAR10DataModule, datasets.CIFAR10), (CIFAR100DataModule, datasets.CIFAR100)])
def test_files_of_cifar_are_read(tmp_path, monkeypatch, cls, dataset_class):
    write_cifar(tmp_path, monkeypatch, dataset_class)
    datamodule = cls(tmp_path, download=False)
    datamodule.prepare_data()
    datamodule.setup("fit")
    images, labels = pictures(30, (3, 32, 32))
    assert torch.equal(datamodule._datasets["test"].x, torch.from_numpy(images))
    assert datamodule._datasets["test"].y.tolist() == labels.tolist()
    assert (datamodule.crop, datamodule.flip, datamodule.class_names[2]) == (4, True, "class 2")
    assert (datamodule.hparams.crop, datamodule.hparams.root) == (4, tmp_path)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("download", [True, False])
def test_missing_files_are_told_with_what_to_do(tmp_path, monkeypatch, cls, download):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there: no network
    datamodule = cls(tmp_path / "none", download=download)
    with pytest.raises(DataError) as caught:
        datamodule.prepare_data()
    text = str(caught.value)
    assert str(tmp_path / "none") in text
    assert ("can't be downloaded" if download else "isn't downloaded") in text
    assert "put its files there by hand" in text
    assert "\n" not in text


def test_damaged_files_are_told_in_one_line(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0")
    with pytest.raises(DataError, match="MNIST isn't in"):
        MNISTDataModule(tmp_path, download=False).setup()


@pytest.mark.parametrize(
    ("cls", "folder", "sizes"),
    [
        (CIFAR10DataModule, "cifar-10-batches-py", (45_000, 5_000, 10_000)),
        (FashionMNISTDataModule, "FashionMNIST", (54_000, 6_000, 10_000)),
    ],
)
def test_the_real_files(cls, folder, sizes):
    if not (ROOT and (Path(ROOT) / folder).is_dir()):
        pytest.skip(f"LEMONADE_DATA_ROOT names no folder that holds {folder}")
    datamodule = cls(ROOT, download=False)
    datamodule.prepare_data()
    datamodule.setup()
    assert tuple(len(datamodule._datasets[split]) for split in ("train", "validation", "test")) == sizes
    x, _ = next(iter(datamodule.val_dataloader()))
    assert x.mean().abs() < 0.1
    assert 0.9 < x.std() < 1.1
    assert torch.bincount(datamodule._datasets["validation"].y).tolist() == [sizes[1] // 10] * 10
