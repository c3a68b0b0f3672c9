import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from image_files import write_mnist

from lightning_lemonade import LemonadeModule
from lightning_lemonade.datamodules import MNISTDataModule
from lightning_lemonade.datamodules.dataset import ImageDataset
from lightning_lemonade.datamodules.images import SourceDataset
from lightning_lemonade.errors import ConfigurationError, DataError
from lightning_lemonade.spaces import strided_net


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder / "MNIST" / "raw", (300, 60))
    return folder


def indices(datamodule, split):
    """Which pictures of the source a split holds, by their bytes."""
    dataset = datamodule._datasets[split]
    read = dataset.x if isinstance(dataset, ImageDataset) else dataset.source.read(dataset.indices)
    return {image.numpy().tobytes() for image in read}


def test_the_splits_are_stratified_distinct_and_the_seeds_alone(root):
    def splits(seed):
        datamodule = MNISTDataModule(root, download=False, seed=seed, validation_fraction=0.2)
        datamodule.setup()
        return datamodule, {split: indices(datamodule, split) for split in ("train", "validation", "test")}

    datamodule, first = splits(0)
    assert [len(first[split]) for split in ("train", "validation", "test")] == [240, 60, 60]
    assert not first["train"] & first["validation"]
    assert splits(0)[1] == first
    assert splits(1)[1]["validation"] != first["validation"]
    for split in ("train", "validation"):
        assert np.ptp(np.bincount(datamodule._datasets[split].y)) <= 1


def test_a_limit_takes_a_stratified_subset(root):
    datamodule = MNISTDataModule(root, download=False, limit=100, validation_fraction=0.3)
    datamodule.setup()
    assert [len(datamodule._datasets[split]) for split in ("train", "validation", "test")] == [70, 30, 60]
    assert np.bincount(datamodule._datasets["train"].y).min() >= 23
    more = MNISTDataModule(root, download=False, limit=10_000)
    more.setup()
    assert len(more._datasets["train"]) == 270


def test_in_memory_and_read_by_workers_gives_the_same_batches(root):
    def batches(**arguments):
        datamodule = MNISTDataModule(root, download=False, batch_size=32, **arguments)
        torch.manual_seed(0)
        return datamodule, [*datamodule.train_dataloader(), *datamodule.val_dataloader(), *datamodule.test_dataloader()]

    inside, first = batches()
    outside, second = batches(num_workers=2)
    assert isinstance(inside._datasets["train"], ImageDataset)
    assert isinstance(outside._datasets["train"], SourceDataset)
    assert outside.train_dataloader().num_workers == 2
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
        assert (x.dtype, y.dtype, x.shape[1:]) == (torch.float32, torch.int64, (1, 28, 28))


def test_images_are_normalised(root):
    datamodule = MNISTDataModule(root, download=False)
    datamodule.setup()
    (x, y), raw = datamodule._datasets["test"][3], datamodule._datasets["test"].x[3]
    torch.testing.assert_close(x, (raw / 255 - 0.1307) / 0.3081)
    assert int(y) == 0


def test_training_batches_alone_are_augmented(root):
    class Seen(LemonadeModule):
        def __init__(self, spec):
            super().__init__(spec)
            self.batches = {"train": [], "val": []}

        def training_step(self, batch, batch_idx):
            self.batches["train"].append(batch)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.batches["val"].append(batch)
            super().validation_step(batch, batch_idx, dataloader_idx)

    datamodule = MNISTDataModule(root, download=False, batch_size=30, crop=3, flip=True, cutout=8, mixup=0.4)
    module = Seen(strided_net((1, 28, 28), 10, 2))
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0
    ).fit(module, datamodule=datamodule)
    (x, y), *_ = module.batches["val"]
    assert torch.equal(x, datamodule._datasets["validation"].__getitems__(list(range(len(y)))).x)
    x, y = module.batches["train"][0]
    assert y.shape == (30, 10)
    torch.testing.assert_close(y.sum(1), torch.ones(30))
    assert (y.max(1).values < 1).any()
    assert (x == 0).flatten(1).sum(1).median() > 8


def test_a_last_batch_of_one_image_is_left_out(root):
    datamodule = MNISTDataModule(root, download=False, batch_size=269)
    assert [len(y) for _, y in datamodule.train_dataloader()] == [269]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"limit": 1}, "limit"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"validation_fraction": float("nan")}, "validation_fraction"),
        ({"mixup": -0.1}, "mixup"),
        ({"crop": 1.5}, "crop"),
        ({"seed": 2**32}, "seed"),
        ({"in_memory": True, "num_workers": 2}, "num_workers=2 with in_memory=True"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(root, arguments, name):
    with pytest.raises(ConfigurationError, match=name):
        MNISTDataModule(root, **arguments)


def test_too_small_a_subset_is_told_in_one_line(root):
    datamodule = MNISTDataModule(root, download=False, limit=5)
    with pytest.raises(DataError, match="can't be split into 1 and 4 with every class in both"):
        datamodule.setup()


def test_a_limit_that_leaves_out_a_few_needs_no_class_among_them(root):
    datamodule = MNISTDataModule(root, download=False, limit=299)
    datamodule.setup()
    assert len(datamodule._datasets["train"]) + len(datamodule._datasets["validation"]) == 299
