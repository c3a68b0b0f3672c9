"""The digits: the split, the batches, the arguments."""

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError

SPLITS = ("train", "val", "test")


def images(datamodule: DigitsDataModule, split: str) -> tuple[Tensor, Tensor]:
    """All of a split, in the data set's order."""
    dataset: Any = getattr(datamodule, f"{split}_dataloader")().dataset
    return dataset.x, dataset.y


def fingerprint(datamodule: DigitsDataModule) -> str:
    """Tells two splits apart: the images are not all different, but no two splits have the same sums."""
    places = [(x.flatten(1).double() @ torch.arange(64.0).double()).tolist() for x, _ in (images(datamodule, split) for split in SPLITS)]
    return repr([round(sum(i * value for i, value in enumerate(values)), 3) for values in places])


class Tiny(pl.LightningModule):
    """A linear classifier that counts what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.seen = {"train": 0, "val": 0, "test": 0}

    def loss(self, batch: tuple[Tensor, Tensor], split: str) -> Tensor:
        x, y = batch
        self.seen[split] += len(y)
        return nn.functional.cross_entropy(self.layer(x), y)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.loss(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("loss", self.loss(batch, "val"))

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        assert self.loss(batch, "test") < 1

    def predict_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.layer(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_says_what_a_search_reads() -> None:
    datamodule = DigitsDataModule()
    assert datamodule.num_classes == 10
    assert datamodule.sample_shape == (1, 8, 8)
    assert datamodule.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_floats_in_the_unit_interval(split: str) -> None:
    x, y = images(DigitsDataModule(), split)
    assert x.dtype == torch.float32
    assert x.shape[1:] == (1, 8, 8)
    assert (x.min(), x.max()) == (0, 1)
    assert y.dtype == torch.int64


def test_splits_have_the_sizes_asked_for() -> None:
    datamodule = DigitsDataModule(validation_fraction=0.1, test_fraction=0.3)
    assert [len(images(datamodule, split)[1]) for split in SPLITS] == [1797 - 180 - 539, 180, 539]


@pytest.mark.parametrize("seed", [0, 7])
def test_splits_are_stratified(seed: int) -> None:
    datamodule = DigitsDataModule(seed=seed)
    counts = np.stack([torch.bincount(images(datamodule, split)[1], minlength=10).numpy() for split in SPLITS])
    expected = counts.sum(0) * np.array([[0.5], [0.3], [0.2]])
    assert np.abs(counts - expected).max() < 2


@pytest.mark.parametrize(("validation", "test"), [(0.01, 0.01), (0.01, 0.98), (0.98, 0.01)])
def test_every_split_holds_every_class(validation: float, test: float) -> None:
    datamodule = DigitsDataModule(validation_fraction=validation, test_fraction=test)
    for split in SPLITS:
        assert len(images(datamodule, split)[1].unique()) == 10


def test_splits_are_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    datamodule = DigitsDataModule()
    whole = torch.cat([torch.cat([x.flatten(1) * 16, y[:, None]], dim=1) for x, y in (images(datamodule, split) for split in SPLITS)])
    original = np.column_stack(load_digits(return_X_y=True))
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, original.tolist()))


def test_split_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = fingerprint(DigitsDataModule(seed=3))
    torch.manual_seed(2)
    np.random.seed(2)
    assert fingerprint(DigitsDataModule(seed=3, batch_size=8)) == first
    assert fingerprint(DigitsDataModule(seed=4)) != first


def test_split_leaves_the_global_generators_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    DigitsDataModule().setup()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state


def test_setup_happens_once() -> None:
    datamodule = DigitsDataModule()
    datamodule.setup("fit")
    before = images(datamodule, "train")[0]
    datamodule.setup("test")
    assert images(datamodule, "train")[0] is before


def test_training_is_shuffled_and_the_rest_is_not() -> None:
    datamodule = DigitsDataModule()
    torch.manual_seed(0)
    loader = datamodule.train_dataloader()
    first, second = (torch.cat([y for _, y in loader]) for _ in range(2))
    assert not torch.equal(first, second)
    for loader in (datamodule.val_dataloader(), datamodule.test_dataloader(), datamodule.predict_dataloader()):
        first, second = (torch.cat([y for _, y in loader]) for _ in range(2))
        assert torch.equal(first, second)


def test_batches() -> None:
    datamodule = DigitsDataModule(batch_size=100)
    sizes = [len(y) for _, y in datamodule.train_dataloader()]
    assert sizes == [100] * 8 + [99]
    x, y = next(iter(datamodule.val_dataloader()))
    assert (tuple(x.shape), tuple(y.shape)) == ((539, 1, 8, 8), (539,))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert isinstance(x, Tensor)


@pytest.mark.parametrize(("batch_size", "seen"), [(83, 899), (449, 898), (1, 899)])
def test_only_a_single_image_is_left_out(batch_size: int, seen: int) -> None:
    """899 images train: 449 * 2 + 1."""
    assert sum(len(y) for _, y in DigitsDataModule(batch_size=batch_size).train_dataloader()) == seen


def test_images_keep_their_labels() -> None:
    dataset: Any = DigitsDataModule().train_dataloader().dataset
    labels = {tuple(x.flatten().tolist()): int(y) for x, y in (dataset[i] for i in range(len(dataset)))}
    for x, y in DigitsDataModule().train_dataloader():
        assert [labels[tuple(image.flatten().tolist())] for image in x] == y.tolist()


def test_others_may_collate() -> None:
    """A subset of the data set with torch's own collation, and our collation of single samples, give the same batch."""
    loader = DigitsDataModule().train_dataloader()
    dataset: Any = loader.dataset
    x, y = next(iter(DataLoader(Subset(dataset, [4, 2, 9]), batch_size=3)))
    assert torch.equal(x, dataset.x[[4, 2, 9]])
    assert torch.equal(y, dataset.y[[4, 2, 9]])
    again = loader.collate_fn([dataset[i] for i in (4, 2, 9)])
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], y)


def test_workers_yield_the_same() -> None:
    alone = DigitsDataModule().val_dataloader()
    helped = DigitsDataModule(num_workers=1).val_dataloader()
    assert torch.equal(next(iter(alone))[0], next(iter(helped))[0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"num_workers": -1},
        {"seed": -1},
        {"seed": 2**32},
        {"validation_fraction": 0.0},
        {"validation_fraction": float("nan")},
        {"test_fraction": -0.2},
        {"test_fraction": "0.2"},
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r} .*: give ") as caught:
        DigitsDataModule(**arguments)
    assert "\n" not in str(caught.value)


def test_fractions_must_leave_something_to_train_with() -> None:
    with pytest.raises(ConfigurationError, match=r"validation_fraction=0.5 and test_fraction=0.5 .* at most 0.99"):
        DigitsDataModule(validation_fraction=0.5, test_fraction=0.5)


def test_numpy_integers_will_do() -> None:
    assert DigitsDataModule(seed=np.int64(3)).seed == 3  # type: ignore[arg-type]


def test_a_plain_trainer_fits_tests_and_predicts() -> None:
    torch.manual_seed(0)
    module = Tiny()
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    datamodule = DigitsDataModule(batch_size=32)
    trainer.fit(module, datamodule=datamodule)
    assert module.seen == {"train": 5 * 899, "val": 5 * 539, "test": 0}
    assert trainer.callback_metrics["loss"] < 1
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert module.seen["test"] == 359
    (predicted,) = trainer.predict(module, datamodule=datamodule)
    assert predicted.shape == (359, 10)
