"""The data of one task: a user's data module, set up once, and the calibration batch."""

import hashlib
import re
import warnings
from functools import cached_property
from numbers import Integral
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_lemonade.batches import BatchFormat, unpack
from lightning_lemonade.errors import DataError
from lightning_lemonade.evaluation.failures import from_data_module
from lightning_lemonade.evaluation.interrupts import as_sent
from lightning_lemonade.evaluation.scopes import quiet, seed_all, seeded, several_processes
from lightning_lemonade.evaluation.shares import (
    MeasuringShare,
    TrainingShare,
    check_training,
    measured_by_share,
    measuring,
    refuse_divided,
    with_share,
)
from lightning_lemonade.search.randomness import derived_rng, derived_seed

LEAN: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""Arguments of every Lightning trainer here: what it would do besides training is the search's."""


class TaskData(pl.LightningDataModule):
    """Delegates to a user's data module, whose `setup` runs once per process (Lightning runs it for every fit).

    Args:
        datamodule: the user's, of `pytorch_lightning` or `lightning`; whoever calls has had its `prepare_data` run.
        batch_format: where its batches hold samples and targets.
        classifies: whether the targets must be classes; set where the loss takes nothing else.

    Raises:
        DataError: if the data module's `setup` raises.
    """

    def __init__(self, datamodule: pl.LightningDataModule, batch_format: BatchFormat = None, *, classifies: bool = True) -> None:
        super().__init__()
        self.inner, self.batch_format, self.classifies = datamodule, batch_format, classifies
        with from_data_module(datamodule, "setup"):
            datamodule.setup("fit")
        self._stages = ["fit"]
        self.evaluated_split: Literal["val", "test"] = "val"
        self.seed = 0
        """Of the training batches' order and of what each rank draws, where several train together; whoever fits sets it."""
        self.by_share = False
        """Whether each of several ranks evaluates its share of a split; whoever validates sets it."""
        self.shares: list[MeasuringShare] = []
        """What this rank evaluates of each loader; empty where it evaluates everything."""
        self.allow_zero_length_dataloader_with_multiple_devices = True  # one of several loaders may have fewer samples than there are ranks
        self._measured_by_share: dict[str, bool] = {}
        self._looked_at: DataLoader[Any] | None = None
        self.checksums: dict[str, str] = {}
        """Of what was looked at: the calibration batch, and the first batch of validation."""

    def __setattr__(self, name: str, value: object) -> None:
        """Hands the trainer on to the user's data module, whose hooks and loaders may ask for it."""
        super().__setattr__(name, value)
        if name == "trainer" and "inner" in self.__dict__:
            self.inner.trainer = value  # type: ignore[assignment]

    def close(self) -> None:
        """Lets the user's data module tear down what it has set up; at the end of a search."""
        for stage in self._stages:
            self.inner.teardown(stage)
        self.trainer = None

    def train_dataloader(self) -> Any:  # noqa: ANN401 (Lightning's signature)
        """Returns a new training loader; where several ranks train together, one that yields this rank's share of each batch."""
        loader = self.inner.train_dataloader()
        if not several_processes():
            return loader
        refuse_divided(loader, "train")  # once more: one that asks the trainer for its ranks has none to ask before a search
        epoch = self.trainer.current_epoch if self.trainer is not None else 0  # where loaders are made anew as the training goes on
        share = TrainingShare(loader.batch_sampler, derived_seed(self.seed, "loader", epoch))
        seed_all(derived_seed(self.seed, "rank", share.rank, epoch))  # its workers draw from a seed that is drawn when they start
        return with_share(loader, share)

    def val_dataloader(self) -> Any:  # noqa: ANN401
        """Returns a new loader of the split that is evaluated, `val` or `test`, or of this rank's share of it."""
        self.shares = []
        if self._looked_at is not None:
            return self._looked_at
        if not self.by_share:
            return self._whole_split()
        loaders, self.shares = measuring(self._whole_split())
        return loaders

    def can_share(self, split: Literal["val", "test"]) -> bool:
        """Returns whether several ranks can each evaluate a share of a split, of which there is then a sample for each.

        Raises:
            DataError: if the data module divides the samples among the ranks by itself.
        """
        if split not in self._measured_by_share:
            self.evaluated_split = split
            with seeded(0):
                self._measured_by_share[split] = measured_by_share(self._whole_split(), split)
        return self._measured_by_share[split]

    def _whole_split(self) -> Any:  # noqa: ANN401
        """Returns a new loader of the split that is evaluated, as the data module makes it."""
        if self.evaluated_split == "val":
            return self.inner.val_dataloader()
        if "test" not in self._stages:
            self.inner.setup("test")
            self._stages.append("test")
        return self.inner.test_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Delegates."""
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Delegates."""
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Delegates."""
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)

    def on_exception(self, exception: BaseException) -> None:
        """Delegates."""
        self.inner.on_exception(exception)

    @cached_property
    def has_test(self) -> bool:
        """Whether the user's data module has a test loader: one of its own, that isn't refused or empty."""
        if not overrides(self.inner, "test_dataloader"):
            return False
        try:
            self.evaluated_split = "test"
            loader = self._whole_split()
        except (NotImplementedError, MisconfigurationException) as error:  # how base classes of others say that there is none
            name = type(self.inner).__name__
            warnings.warn(f"the front has no test errors: {name} refuses a test loader ({type(error).__name__}: {error})", stacklevel=2)
            return False
        finally:
            self.evaluated_split = "val"
        return loader is not None and not (isinstance(loader, list | tuple) and not loader)

    @property
    def class_names(self) -> list[str] | None:
        """The classes' names, where the data module has as many as there are outputs."""
        names = getattr(self.inner, "class_names", None)
        return [str(name) for name in names] if isinstance(names, list | tuple) and len(names) == self.outputs else None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample. See `shapes`."""
        return self.shapes[0]

    @property
    def outputs(self) -> int:
        """How many outputs a network for this task has. See `shapes`."""
        return self.shapes[1]

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], int]:
        """A sample's shape and the number of outputs, from the data module's attributes or the training targets; looked up once.

        The outputs are the data module's `num_outputs` or `num_classes`. Without these, whole numbers are classes, of which there are as
        many as the largest says; other targets are values: as many as (batch, values) says, or one for (batch,).

        Raises:
            DataError: if a loader is missing, raises or is empty, samples aren't float32, or the targets don't fit.
        """
        for split in ("train", "val"):
            if not overrides(self.inner, f"{split}_dataloader"):
                raise DataError(
                    f"{type(self.inner).__name__} has no {split}_dataloader: a search trains with the one and compares children with the "
                    f"other; return a loader of held-out samples, for instance with torch.utils.data.random_split of the training set"
                )
        with seeded(0):  # a look changes nothing of what is drawn afterwards
            return self._shapes()

    def _shapes(self) -> tuple[tuple[int, ...], int]:
        train = self._loader("train")
        _refuse_stream(train)
        if several_processes():
            with from_data_module(self.inner, "the samplers"):
                check_training(train)
                self.can_share("val")
        first = self._look("train", train, limit_val_batches=1)
        held = self._look("val", self._loader("val"), limit_val_batches=1)
        self.checksums["validation"] = held.checksum()
        for split, seen in (("train", first), ("val", held)):
            if not seen.targets:
                raise DataError(f"{split}_dataloader yields no batch: it needs more samples, a smaller batch size, or drop_last=False")
        x, y = first.samples[0], first.targets[0]
        if x.dtype != torch.float32:
            raise DataError(f"samples must be float32, got {x.dtype}: convert and scale them in the dataset, or in on_after_batch_transfer")
        if y.shape[:1] != x.shape[:1]:
            raise DataError(f"a batch has {len(x)} samples and targets of shape {tuple(y.shape)}: give one target for each sample")
        if self.classifies and (y.is_floating_point() or y.ndim != 1):
            raise DataError(
                f"targets must be class numbers of shape (batch,), got {y.dtype} of shape {tuple(y.shape)}: for other targets give "
                f"module=, a LemonadeModule with your own loss"
            )
        values = y.is_floating_point() or y.ndim == 2  # several labels for each sample may be whole numbers
        return tuple(x.shape[1:]), self._values(y) if values else self._classes(first, held)

    def _said(self) -> int | None:
        """Returns the number of outputs that the data module says.

        Raises:
            DataError: if it is no whole number of at least one.
        """
        for name in ("num_outputs", "num_classes"):
            said = getattr(self.inner, name, None)
            if said is not None:
                if isinstance(said, bool) or not isinstance(said, Integral) or said < 1:
                    raise DataError(f"{name} of {type(self.inner).__name__} must be a whole number of at least 1, got {said!r}")
                return int(said)
        return None

    def _values(self, y: Tensor) -> int:
        """Returns the number of outputs for targets that are values, not classes."""
        said = self._said()
        if said is None and y.ndim > 2:
            raise DataError(f"targets of shape {tuple(y.shape)} don't tell the number of outputs: give the data module num_outputs")
        return said or (1 if y.ndim == 1 else int(y.shape[1]))

    def _classes(self, first: "_Collector", held: "_Collector") -> int:
        """Returns the number of classes: the data module's, or as many as the training and validation labels show."""
        some, classes = torch.cat([*map(torch.flatten, first.targets), *map(torch.flatten, held.targets)]), self._said()
        if classes is None:
            train = self._look("train", self._loader("train"), keep_samples=False).flat_targets()
            some = torch.cat([train, self._look("val", self._loader("val"), keep_samples=False).flat_targets()])
            classes = 1 + int(some.max())
            unseen = sorted(set(range(classes)) - set(train.tolist()))
            if unseen:
                warnings.warn(f"no training sample has the class {', '.join(map(str, unseen))}: it can't be learnt", stacklevel=2)
        if not self.classifies:
            return classes
        if classes < 2:
            raise DataError(f"there must be at least two classes, got {classes}")
        if int(some.min()) < 0 or int(some.max()) >= classes:
            raise DataError(f"labels must be from 0 to {classes - 1}, got {int(some.min())} to {int(some.max())}: see num_classes")
        return classes

    def calibration(self, size: int, seed: int) -> Tensor:
        """Returns training samples drawn by the seed: (at most `size`, *sample shape).

        They come from the training loader's dataset in a seeded order, through the data module's hooks as in validation: augmentation in
        the hooks is off, augmentation inside the dataset stays.

        Raises:
            DataError: if the training loader raises or is no DataLoader, its data can't be indexed, or samples and targets aren't found in
                a batch.
        """
        loader = self._loader("train")
        _refuse_stream(loader)
        with from_data_module(self.inner, "train_dataloader's data set"):
            total = len(loader.dataset)
        if total < 2:
            raise DataError(f"a search needs at least two training samples, got {total}")
        order = derived_rng(seed, "calibration").permutation(total)[:size]
        batches = DataLoader(loader.dataset, batch_size=256, sampler=[int(i) for i in order], collate_fn=loader.collate_fn, num_workers=0)
        seen = self._look("train", batches)
        self.checksums["calibration"] = seen.checksum()
        return torch.cat(seen.samples)

    def _loader(self, split: Literal["train", "val"]) -> Any:  # noqa: ANN401 (a loader, or several)
        """Returns a new loader, before the search: what the data module raises there is a DataError."""
        with from_data_module(self.inner, f"{split}_dataloader"):
            return self.inner.train_dataloader() if split == "train" else self.inner.val_dataloader()

    def _look(
        self, split: str, loader: DataLoader[Any], *, keep_samples: bool = True, limit_val_batches: int | None = None
    ) -> "_Collector":
        """Passes a split's batches through the data module's hooks on the CPU, and returns what came out."""
        collector, self._looked_at = _Collector(keep_samples, self.batch_format), loader
        try:
            with from_data_module(self.inner, f"{split}_dataloader's batches"), quiet(), as_sent():
                trainer = pl.Trainer(
                    **LEAN, accelerator="cpu", devices=1, use_distributed_sampler=False, limit_val_batches=limit_val_batches
                )
                trainer.validate(collector, datamodule=self, verbose=False)
        except DataError as error:
            if "stack expects each tensor to be equal size" not in str(error):
                raise
            raise DataError(
                f"samples differ in size ({_sizes(error)}), but a network is made for one: resize or crop them in the dataset"
            ) from error
        finally:
            self._looked_at = None
        return collector


class _Collector(pl.LightningModule):
    """Keeps samples and targets of the batches that it is given."""

    def __init__(self, keep_samples: bool, batch_format: BatchFormat) -> None:
        super().__init__()
        self.keep_samples, self.batch_format = keep_samples, batch_format
        self.samples: list[Tensor] = []
        self.targets: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401 (Lightning's signature)
        x, y = unpack(batch, self.batch_format)
        if self.keep_samples:
            self.samples.append(x)
        self.targets.append(y)

    def checksum(self) -> str:
        """Returns a text that is equal for equal samples and targets."""
        digest = hashlib.sha256()
        for tensor in (*self.samples, *self.targets):
            content = tensor.detach().cpu().contiguous()
            digest.update(f"{content.dtype} {tuple(content.shape)} ".encode())
            digest.update(content.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def flat_targets(self) -> Tensor:
        return torch.cat([target.flatten() for target in self.targets])


def _refuse_stream(loader: object) -> None:
    """Raises DataError unless samples can be drawn from a loader's data set by their numbers."""
    if not isinstance(loader, DataLoader):
        raise DataError(f"train_dataloader must return a torch DataLoader, got {type(loader).__name__}")
    if isinstance(loader.dataset, IterableDataset):
        raise DataError("the training data is an IterableDataset, from which no fixed calibration batch can be drawn: give a map-style one")
    if loader.batch_size is None and loader.batch_sampler is None:
        raise DataError("the training loader has batch_size=None: give it a batch size, so that single samples can be drawn, too")


def overrides(datamodule: object, method: str) -> bool:
    """Returns whether a data module has a method of its own, not the one of Lightning's base class (of either package)."""
    found = getattr(type(datamodule), method, None)
    return method in vars(datamodule) or (found is not None and not getattr(found, "__module__", "").endswith("core.hooks"))


def _sizes(error: DataError) -> str:
    return " and ".join(re.findall(r"\[[\d, ]*\]", str(error))[:2])
