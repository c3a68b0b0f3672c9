"""Handwritten digits that need no download: scikit-learn's embedded data set."""

import torch
from sklearn.datasets import load_digits

from lightning_lemonade.datamodules.checks import MAX_SEED, check_integer, check_real
from lightning_lemonade.datamodules.dataset import ImageDataset
from lightning_lemonade.datamodules.loaders import SplitDataModule
from lightning_lemonade.datamodules.splits import stratified_split
from lightning_lemonade.errors import ConfigurationError

_MIN_FRACTION = 0.01  # of the rarest class, 174 images: one image at least


class DigitsDataModule(SplitDataModule):
    """The 1,797 handwritten digits of scikit-learn: 8x8 grey images, ten classes, nothing to download.

    Batches are `(x, y)`: x float32 of shape (N, 1, 8, 8) in [0, 1], y int64 of shape (N,). The splits are stratified: each class has about
    the same share of each. They depend on `seed` and the fractions alone, so every process and every fit sees the same ones. The order of
    the training images comes from torch's global generator, as in any other data loader.

    Args:
        batch_size: images in a training batch. The other loaders' batches hold at least 1,024.
        num_workers: worker processes of each loader. 0 is the fastest here, since the images lie in memory.
        seed: of the split, in [0, 2**32).
        validation_fraction: share of all images that validate; at least 0.01. A search looks at them a hundred times: the fewer they are,
            the more the luckiest of equal networks wins.
        test_fraction: share of all images that test; at least 0.01. What is left, at least 0.01 too, trains.

    Attributes:
        num_classes: 10.
        sample_shape: shape of one image, (1, 8, 8).
        class_names: "0" to "9".

    Raises:
        ConfigurationError: an argument is out of its range.

    Example:
        >>> datamodule = DigitsDataModule(batch_size=32)
        >>> datamodule.setup("fit")
        >>> x, y = next(iter(datamodule.train_dataloader()))
        >>> tuple(x.shape), y.dtype
        ((32, 1, 8, 8), torch.int64)
    """

    eval_batch_size = 1024  # no gradients are kept there, so a whole split of this size fits anywhere
    num_classes: int = 10
    sample_shape: tuple[int, int, int] = (1, 8, 8)
    class_names: tuple[str, ...] = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        validation_fraction: float = 0.3,
        test_fraction: float = 0.2,
    ) -> None:
        super().__init__()
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("num_workers", num_workers, minimum=0)
        check_integer("seed", seed, minimum=0, maximum=MAX_SEED)
        _check_fractions(validation_fraction, test_fraction)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str | None = None) -> None:
        """Loads the images and splits them; does nothing the second time.

        Args:
            stage: Lightning's; all splits are made for any of them, since they take milliseconds.
        """
        if self._datasets:
            return
        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images / 16).to(torch.float32).reshape(-1, *self.sample_shape)
        y = torch.from_numpy(labels).to(torch.int64)
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        sizes = {name: round(fraction * len(labels)) for name, fraction in fractions.items()}
        indices = stratified_split(labels, sizes, seed=self.seed)
        self._datasets = {name: ImageDataset(x[torch.from_numpy(chosen)], y[torch.from_numpy(chosen)]) for name, chosen in indices.items()}


def _check_fractions(validation: float, test: float) -> None:
    check_real("validation_fraction", validation, minimum=_MIN_FRACTION, maximum=1)
    check_real("test_fraction", test, minimum=_MIN_FRACTION, maximum=1)
    if validation + test > 1 - _MIN_FRACTION:
        raise ConfigurationError(
            f"validation_fraction={validation!r} and test_fraction={test!r} leave too few images to train with: "
            f"give fractions whose sum is at most {1 - _MIN_FRACTION}."
        )
