"""Images in folders or in parquet files."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from torchvision.transforms.v2 import functional

from lightning_lemonade.datamodules.checks import check_integer, check_real
from lightning_lemonade.datamodules.dataset import Normalise
from lightning_lemonade.datamodules.images import ImageDataModule, Source
from lightning_lemonade.datamodules.splits import Indices, stratified_split
from lightning_lemonade.errors import ConfigurationError, DataError

SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing")}
"""What the folder of a split is called, and what a file of one begins with, in small or capital letters."""
STATISTICS_IMAGES = 1_000
CHUNK = 64
MODES = {1: "L", 3: "RGB"}
SIXTEEN_BITS = 65_535


class EncodedSource:
    """Encoded images, in files or in memory, which are decoded when they are read.

    Args:
        images: paths, or files' contents.
        labels: class indices, shape (N,).
        channels: 1 or 3, which every image is converted to.
        size: (H, W) that every image is scaled and cropped to; None where all have the same.
    """

    def __init__(self, images: Sequence[str | bytes], labels: Indices, channels: int, size: tuple[int, int] | None) -> None:
        self.images, self.labels, self.channels = images, labels, channels
        self.size = size

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        channels, height, width = self._decode(0).shape
        return channels, height, width

    def read(self, indices: Indices) -> Tensor:
        """See `Source.read`.

        Raises:
            DataError: if an image can't be decoded, or its size differs from the first one's.
        """
        read = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        for place, index in enumerate(indices):
            image = self._decode(int(index))
            if image.shape != self.shape:
                raise DataError(
                    f"the images differ in size: {_size(self.shape)} and {_size(image.shape)} ({self._name(int(index))}): give image_size"
                )
            read[place] = image
        return read

    def _decode(self, index: int) -> Tensor:
        given = self.images[index]
        try:
            with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given) as image:
                upright = ImageOps.exif_transpose(_eight_bits(image)).convert(MODES[self.channels])
                if self.size is not None:
                    upright = ImageOps.fit(upright, self.size[::-1], Image.Resampling.BILINEAR)
                tensor: Tensor = functional.pil_to_tensor(upright)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            raise DataError(f"{self._name(index)} can't be read as an image ({error}): mend, convert or remove it") from error
        return tensor

    def _name(self, index: int) -> str:
        given = self.images[index]
        return f"image {index}" if isinstance(given, bytes) else str(given)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image of 8 bits a channel; grey ones of 16 bits are scaled, which Pillow would cut off.

    Raises:
        ValueError: if its values have no known range.
    """
    if image.mode == "F":
        raise ValueError("its values are real numbers, whose range nothing tells")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > SIXTEEN_BITS:
            raise ValueError("its values need more than 16 bits")
        scaled = Image.fromarray((values // 257).astype(np.uint8))
        scaled.info = image.info
        return scaled
    return image


class ImageFolderDataModule(ImageDataModule):
    """Your own images: a folder for each class, or parquet files with encoded images and labels.

    Folders: `root/train/CLASS/*.png`, and the same below `val` and `test` where there are such splits; or `root/CLASS/*.png`, of which
    a stratified share tests. Parquet: files in `root` whose names begin with `train`, `val` and `test`, in Hugging Face's layout: a column
    of encoded images (`{bytes, path}` or bytes) and one of labels. A validation split that isn't there is taken from the training images.
    Images are turned as their EXIF data says, and lose their transparency.

    Args:
        root: the folder.
        image_size: (height, width) or one number for both: images are scaled to cover it, and cropped at their centre. Needed only where
            sizes differ.
        channels: 3 for colour, 1 for grey.
        label: the parquet column of labels; by default the only one whose name ends in `label`.
        image: the parquet column of images; by default the only one that holds such.
        test_fraction: share of all images that test, where there is no split of its own.
        **arguments: see `ImageDataModule`.

    Raises:
        ConfigurationError: an argument is out of its range.
        DataError: if there are no images as described, or splits differ in their classes.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        channels: int = 3,
        label: str | None = None,
        image: str | None = None,
        test_fraction: float = 0.1,
        **arguments: Any,  # noqa: ANN401 (ImageDataModule's)
    ) -> None:
        sides: tuple[Any, ...] = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
        if len(sides) != 2:
            raise ConfigurationError(f"image_size={image_size!r} can't be used: give height and width, or one number for both.")
        for side in sides if image_size is not None else ():
            check_integer("image_size", side, minimum=1)
        check_real("test_fraction", test_fraction, minimum=0.001, maximum=0.9)
        if channels not in MODES:
            raise ConfigurationError(f"channels={channels!r} can't be used: give 3 for colour or 1 for grey.")
        super().__init__(root, **arguments)
        self.image_size = None if image_size is None else (int(sides[0]), int(sides[1]))
        self.channels, self.label, self.image, self.test_fraction = channels, label, image, test_fraction

    def sources(self) -> dict[str, Source]:
        """See `ImageDataModule.sources`."""
        if not self.root.is_dir():
            raise DataError(f"{self.root.resolve()} is no folder: give the folder of the images as root")
        labelled = self._parquet() if any(self.root.glob("*.parquet")) else self._folders()
        self.class_names = next(iter(labelled.values())).class_names
        self.num_classes = len(self.class_names)
        for split, found in labelled.items():
            if found.class_names != self.class_names:
                odd = sorted(set(found.class_names) ^ set(self.class_names))
                raise DataError(f"the splits in {self.root} differ in their classes: {', '.join(odd)} is not in both train and {split}")
        if "test" not in labelled:
            whole = labelled.pop("train")
            parts = stratified_split(whole.labels, {"test": max(1, round(self.test_fraction * len(whole.labels)))}, seed=self.seed)
            labelled |= {split: whole.part(indices) for split, indices in parts.items()}
        sources: dict[str, Source] = {
            split: EncodedSource(found.images, found.labels, self.channels, self.image_size) for split, found in labelled.items()
        }
        self.sample_shape = sources["train"].shape
        return sources

    def normalisation(self, train: Source, indices: Indices) -> Normalise:
        """Returns the normalisation with mean and standard deviation of up to 1,000 training images, evenly spaced."""
        chosen = indices[np.unique(np.linspace(0, len(indices) - 1, min(len(indices), STATISTICS_IMAGES)).astype(np.int64))]
        total = squares = torch.zeros(train.shape[0], dtype=torch.float64)
        for first in range(0, len(chosen), CHUNK):
            pixels = train.read(chosen[first : first + CHUNK]).to(torch.float64) / 255
            total, squares = total + pixels.sum((0, 2, 3)), squares + pixels.square().sum((0, 2, 3))
        count = len(chosen) * train.shape[1] * train.shape[2]
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=1e-6).sqrt()
        return Normalise(tuple(mean.tolist()), tuple(std.tolist()))

    def _folders(self) -> dict[str, "_Labelled"]:
        """Returns the paths of images by split."""
        inside = {path.name.lower(): path for path in sorted(self.root.iterdir()) if path.is_dir()}
        folders = {split: inside[name] for split, names in SPLIT_NAMES.items() for name in names if name in inside}
        if folders and "train" not in folders:
            raise DataError(f"{self.root} has a folder {next(iter(folders.values())).name}, but none that is called train: rename it")
        labelled = {}
        for split, folder in (folders or {"train": self.root}).items():
            try:
                names = [name for name in find_classes(str(folder))[0] if not name.startswith(".")]
                found = make_dataset(str(folder), {name: number for number, name in enumerate(names)}, extensions=IMG_EXTENSIONS)
            except (FileNotFoundError, ValueError) as error:
                raise DataError(
                    f"{folder} isn't a folder of class folders with images in each ({error}): make one folder for each class"
                ) from error
            labelled[split] = _Labelled([path for path, _ in found], np.array([number for _, number in found]), tuple(names))
        return labelled

    def _parquet(self) -> dict[str, "_Labelled"]:
        """Returns encoded images by split."""
        labelled = {}
        for split, prefixes in SPLIT_NAMES.items():
            files = sorted(path for path in self.root.glob("*.parquet") if path.name.lower().startswith(prefixes))
            if files:
                labelled[split] = _read_parquet(files, self.image, self.label)
        if "train" not in labelled:
            raise DataError(f"no parquet file in {self.root} has a name that begins with train: rename them to train*, val*, test*")
        return labelled


@dataclass(frozen=True)
class _Labelled:
    images: Sequence[str | bytes]
    labels: Indices
    class_names: tuple[str, ...]

    def part(self, indices: Indices) -> "_Labelled":
        return _Labelled([self.images[i] for i in indices], self.labels[indices], self.class_names)


def _read_parquet(files: Sequence[Path], image: str | None, label: str | None) -> _Labelled:
    """Reads the images and labels of a split.

    Raises:
        DataError: if a file can't be read or the columns can't be told.
    """
    import pyarrow as pa  # noqa: PLC0415 (only parquet files need it)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        schema = pq.read_schema(files[0])
        held = [field.name for field in schema if _holds_images(field.type)]
        image = _column("image", image, schema.names, held)
        label = _column("label", label, schema.names, [name for name in schema.names if name.endswith("label")])
        table = pa.concat_tables(pq.read_table(file, columns=[image, label]) for file in files)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{files[0].parent} holds no parquet files that can be read together: {_short(error)}") from error
    column = table.column(image)
    images: list[Any] = [item.get("bytes") if isinstance(item, dict) else item for item in column.to_pylist()]
    if not images:
        raise DataError(f"{files[0]} holds no rows: give files with images")
    if not all(isinstance(item, bytes) for item in images):
        raise DataError(f"column {image} of {files[0].name} holds no encoded images: give bytes, or {{bytes, path}} with the bytes in it")
    values = table.column(label).to_pylist()
    if any(value is None for value in values):
        raise DataError(f"column {label} of {files[0].name} lacks some labels: leave out the rows without one")
    names = _class_names(schema.metadata, label)
    if names is None or isinstance(values[0], str):  # the numbers aren't the names' places
        names, labels = (part.tolist() for part in np.unique(np.array(values), return_inverse=True))
    else:
        labels = values
    return _Labelled(images, np.array(labels, dtype=np.int64), tuple(str(name) for name in names))


def _holds_images(kind: Any) -> bool:  # noqa: ANN401 (pyarrow is untyped)
    import pyarrow as pa  # noqa: PLC0415

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind))


def _column(what: str, given: str | None, names: Sequence[str], likely: Sequence[str]) -> str:
    """Returns the column that is meant.

    Raises:
        DataError: if it isn't there, or can't be told.
    """
    if given is not None and given in names:
        return given
    if given is None and len(likely) == 1:
        return likely[0]
    problem = f"there is no column {given}" if given else f"{what} may be {' or '.join(likely) or 'none of them'}"
    raise DataError(f"the parquet files have the columns {', '.join(names)}: {problem}; give {what}=COLUMN")


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
    """Returns the classes' names, where Hugging Face's metadata has them."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[2]}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
