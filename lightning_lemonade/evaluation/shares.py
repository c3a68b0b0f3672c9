"""What each of several ranks takes of the batches of a user's own loader."""

import copy
import hashlib
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import torch.distributed as dist
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler

from lightning_lemonade.errors import ConfigurationError, DataError
from lightning_lemonade.evaluation.scopes import gathered, seeded, several_processes
from lightning_lemonade.search import derived_seed

Batch = list[Any]
"""Numbers of samples, or whatever a sampler yields for them."""


def equal_share(batch: Batch, rank: int, ranks: int) -> Batch:
    """Returns a rank's share of a batch to train on, as long as every other rank's.

    DDP averages the gradients of the ranks, so that together they are those of the batch. Where it can't be divided evenly, samples of it
    are repeated. A share has two samples at least, if the batch has, since batch norms can't train on a single one.

    Args:
        batch: at least one sample.
        rank: from 0.
        ranks: how many there are.
    """
    size = max(-(-len(batch) // ranks), min(2, len(batch)))
    return list(islice(cycle(batch), rank * size, (rank + 1) * size))


def own_share(batch: Batch, rank: int, ranks: int) -> Batch:
    """Returns a rank's share of a batch to be measured on: each sample is in exactly one share; a small batch leaves some of them empty."""
    return batch[rank::ranks]


class _Share(Sampler[Batch]):
    """Stands in for a loader's batch sampler, which is asked for its batches by every rank, in a scope that is seeded alike.

    Args:
        batches: the loader's own.
        seed: of every draw, together with their number.
    """

    def __init__(self, batches: Any, seed: int) -> None:  # noqa: ANN401 (whatever a user gives a loader)
        self.batches, self.seed = batches, seed
        self.sampler = getattr(batches, "sampler", None)  # Lightning tells it the epoch
        self.rank, self.ranks = (dist.get_rank(), dist.get_world_size()) if several_processes() else (0, 1)
        self._draws = 0

    def draw(self) -> list[Batch]:
        """Returns an epoch's batches, which are the same on every rank.

        Raises:
            DataError: if they aren't.
        """
        with seeded(derived_seed(self.seed, "batches", self._draws)):
            drawn = [list(batch) for batch in islice(self.batches, len(self.batches))]
        self._draws += 1
        if len(set(gathered(hashlib.sha256(repr(drawn).encode()).hexdigest()))) > 1:
            name = type(self.sampler or self.batches).__name__
            raise DataError(
                f"the ranks draw different batches from {name}: a search divides the samples of a batch itself, so give a sampler that "
                f"doesn't, and draws from the global generators or from one with a fixed seed"
            )
        return drawn


class TrainingShare(_Share):
    """A rank's share of each training batch.

    Attributes:
        sizes: of the whole batches of the epoch that was drawn last.
    """

    sizes: Sequence[int] = ()

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self.batches)

    def __iter__(self) -> Any:  # noqa: ANN401 (an iterator)
        """Yields the rank's shares of an epoch's batches."""
        drawn = self.draw()
        self.sizes = [len(batch) for batch in drawn]
        for batch in drawn:
            yield equal_share(batch, self.rank, self.ranks)

    def whole(self, number: int, seen: int) -> int:
        """Returns how many samples a batch has on all ranks, none counted twice.

        Args:
            number: of the batch in its epoch.
            seen: samples that came out of the rank's share, which are more than went in where a loader makes several of each.
        """
        size = self.sizes[number]
        return seen * size // len(equal_share(list(range(size)), self.rank, self.ranks))


class MeasuringShare(_Share):
    """A rank's share of each batch of validation. Batches of which the rank has no sample are left out.

    Attributes:
        common: after so many of its batches each rank knows that all the others had one, too.
    """

    def __init__(self, batches: Any, seed: int) -> None:  # noqa: ANN401
        super().__init__(batches, seed)
        drawn = self.draw()
        self.shares = [share for batch in drawn if (share := own_share(batch, self.rank, self.ranks))]
        self.common = sum(len(batch) >= self.ranks for batch in drawn)

    def __len__(self) -> int:
        """Returns the number of batches that the rank has a sample of."""
        return len(self.shares)

    def __iter__(self) -> Any:  # noqa: ANN401
        """Yields the rank's shares."""
        return iter(self.shares)


def with_share(loader: DataLoader[Any], share: _Share) -> DataLoader[Any]:
    """Returns a loader that is like another one in all but the batches."""
    twin = copy.copy(loader)
    # a loader refuses to have its batch sampler set; workers that it keeps have the old one
    vars(twin).update(batch_sampler=share, _iterator=None)
    return twin


def why_whole(loader: object) -> str:
    """Returns why a loader's batches can't be shared among ranks; empty where they can."""
    if not isinstance(loader, DataLoader):
        return f"it is a {type(loader).__name__}, and no torch DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "its data is an IterableDataset"
    if loader.batch_sampler is None:
        return "it has batch_size=None"
    for name in ("__iter__", "_get_iterator", "_index_sampler"):
        if getattr(type(loader), name) is not getattr(DataLoader, name):
            return f"{type(loader).__name__} has an {name} of its own"
    try:
        len(loader.batch_sampler)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return f"its batch sampler {type(loader.batch_sampler).__name__} has no len()"
    return ""


def refuse_divided(loader: object, split: str) -> None:
    """Raises DataError where a loader gives each rank other samples by itself, since they would be divided twice, or counted by none."""
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            raise DataError(
                f"{split}_dataloader has a {type(sampler).__name__}, but a search divides each batch among its {sampler.num_replicas} "
                f"processes itself: return the loader that you would give one device, with shuffle=True or the sampler inside"
            )


def check_training(loader: DataLoader[Any]) -> None:
    """Sees that a training loader's batches can be shared among the ranks.

    Raises:
        DataError: if they can't.
        ConfigurationError: if they are too small for it.
    """
    refuse_divided(loader, "train")
    if reason := why_whole(loader):
        raise DataError(
            f"the batches of train_dataloader can't be shared among several processes: {reason}. Return a torch DataLoader of a map-style "
            f"data set with a batch size or a batch sampler, or train with devices=1"
        )
    share = TrainingShare(loader.batch_sampler, 0)
    largest = max(map(len, share.draw()), default=share.ranks)
    if largest < share.ranks:
        raise ConfigurationError(
            f"{share.ranks} processes train each child together and share each batch, but train_dataloader's batches have "
            f"{largest} sample{'s' if largest > 1 else ''}: give a batch size of at least {share.ranks}, or fewer devices"
        )


def combined(loaders: Any) -> CombinedLoader:  # noqa: ANN401 (a loader, or several in any form)
    """Returns one or several loaders of validation as Lightning goes through them."""
    return copy.copy(loaders) if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "sequential")


def measured_by_share(loaders: Any, split: str) -> bool:  # noqa: ANN401
    """Returns whether loaders of a split that is evaluated can be shared so that each rank has a sample at least.

    Raises:
        DataError: if one gives each rank other samples already.
    """
    together = combined(loaders)
    for loader in together.flattened:
        refuse_divided(loader, split)
    if together._mode != "sequential" or any(map(why_whole, together.flattened)):
        return False
    return any(MeasuringShare(loader.batch_sampler, 0).common for loader in together.flattened)


def measuring(loaders: Any) -> tuple[CombinedLoader, list[MeasuringShare]]:  # noqa: ANN401
    """Returns loaders of validation by which this rank sees its share, and the shares, in the same order."""
    together = combined(loaders)
    shares = [MeasuringShare(loader.batch_sampler, 0) for loader in together.flattened]
    together.flattened = [with_share(loader, share) for loader, share in zip(together.flattened, shares, strict=True)]
    return together, shares
