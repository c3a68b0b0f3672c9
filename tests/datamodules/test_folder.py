import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_files import CLASSES, pictures, write_folders
from PIL import Image

from lightning_lemonade.datamodules import ImageFolderDataModule
from lightning_lemonade.errors import ConfigurationError, DataError

BAD_SHARE = {"test_fraction": 2.0}


def sizes(datamodule):
    datamodule.setup()
    return tuple(len(datamodule._datasets[split]) for split in ("train", "validation", "test"))


def test_folders_of_splits_and_classes(tmp_path):
    write_folders(tmp_path, [("train", 60), ("test", 30)])
    datamodule = ImageFolderDataModule(tmp_path, validation_fraction=0.2)
    assert sizes(datamodule) == (48, 12, 30)
    assert (datamodule.class_names, datamodule.num_classes, datamodule.sample_shape) == (CLASSES, 3, (3, 12, 10))
    images, labels = pictures(30, (12, 10, 3))
    read = {(image.numpy().tobytes(), int(label)) for image, label in zip(*_test_part(datamodule), strict=True)}
    assert read == {(np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes(), int(y)) for image, y in zip(images, labels, strict=True)}


def _test_part(datamodule):
    return datamodule._datasets["test"].x, datamodule._datasets["test"].y


def test_a_validation_split_of_its_own_is_kept(tmp_path):
    write_folders(tmp_path, [("train", 30), ("val", 15), ("test", 9)])
    assert sizes(ImageFolderDataModule(tmp_path)) == (30, 15, 9)


def test_one_folder_of_classes_is_split_in_three(tmp_path):
    write_folders(tmp_path, [("", 100)])
    assert sizes(ImageFolderDataModule(tmp_path, test_fraction=0.2, validation_fraction=0.25)) == (60, 20, 20)


def test_images_are_scaled_cropped_and_made_grey(tmp_path):
    write_folders(tmp_path, [("", 30)])
    write_folders(tmp_path, [("", 12)], size=(30, 20))
    datamodule = ImageFolderDataModule(tmp_path, image_size=(8, 6), channels=1, in_memory=False)
    datamodule.setup()
    assert datamodule.sample_shape == (1, 8, 6)
    x, y = next(iter(datamodule.train_dataloader()))
    assert tuple(x.shape[1:]) == (1, 8, 6)
    assert abs(float(x.mean())) < 0.2
    assert set(y.tolist()) == {0, 1, 2}


def encoded(array):
    file = io.BytesIO()
    Image.fromarray(array, "RGB").save(file, "PNG")
    return file.getvalue()


def write_parquet(path, count, *, names=None, text=False, plain=False, extra=()):
    images, labels = pictures(count, (12, 10, 3))
    column = [encoded(image) if plain else {"bytes": encoded(image), "path": None} for image in images]
    table = {"img": column, "label": [CLASSES[y] if text else int(y) for y in labels], **{name: [0] * count for name in extra}}
    made = pa.table(table)
    if names:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"label": {"names": list(names)}}}})})
    pq.write_table(made, path)


@pytest.mark.parametrize("form", [{}, {"names": CLASSES}, {"text": True}, {"plain": True}])
def test_parquet_files(tmp_path, form):
    write_parquet(tmp_path / "train-0.parquet", 30, **form)
    write_parquet(tmp_path / "train-1.parquet", 30, **form)
    write_parquet(tmp_path / "validation.parquet", 12, **form)
    write_parquet(tmp_path / "test.parquet", 30, **form)
    datamodule = ImageFolderDataModule(tmp_path)
    assert sizes(datamodule) == (60, 12, 30)
    assert datamodule.class_names == (CLASSES if "names" in form or "text" in form else ("0", "1", "2"))
    assert _test_part(datamodule)[1].tolist() == pictures(30, (1,))[1].tolist()
    assert torch.equal(_test_part(datamodule)[0].permute(0, 2, 3, 1), torch.from_numpy(pictures(30, (12, 10, 3))[0]))


def test_the_column_of_labels_is_asked_for_where_there_are_several(tmp_path):
    write_parquet(tmp_path / "train.parquet", 30, extra=["coarse_label"])
    write_parquet(tmp_path / "test.parquet", 30, extra=["coarse_label"])
    with pytest.raises(DataError, match="label may be label or coarse_label; give label=COLUMN"):
        ImageFolderDataModule(tmp_path).setup()
    assert sizes(ImageFolderDataModule(tmp_path, label="label"))[2] == 30
    with pytest.raises(DataError, match="there is no column kind; give label=COLUMN"):
        ImageFolderDataModule(tmp_path, label="kind").setup()


def broken_file(root):
    write_folders(root, [("", 30)])
    (root / "ant" / "0.png").write_bytes(b"no image")


def differing_sizes(root):
    write_folders(root, [("", 30)])
    write_folders(root, [("", 6)], size=(5, 5))


def differing_classes(root):
    write_folders(root, [("train", 30), ("test", 30)])
    (root / "test" / "dog").mkdir()
    Image.new("RGB", (10, 12)).save(root / "test" / "dog" / "1.png")


def empty_class(root):
    write_folders(root, [("", 30)])
    (root / "dog").mkdir()


def lonely_class(root):
    write_folders(root, [("", 30)])
    (root / "dog").mkdir()
    Image.new("RGB", (10, 12)).save(root / "dog" / "1.png")


def no_images(root):
    root.mkdir(exist_ok=True)


def no_encoded_images(root):
    pq.write_table(pa.table({"img": [b"x", None], "label": [0, 1]}), root / "train.parquet")


def no_parquet(root):
    (root / "train.parquet").write_bytes(b"no parquet")


def no_train(root):
    write_parquet(root / "all.parquet", 30)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (broken_file, r"0\.png can't be read as an image"),
        (differing_sizes, r"differ in size: .*give image_size"),
        (differing_classes, "differ in their classes: dog"),
        (empty_class, "classes dog"),
        (lonely_class, "the rarest class has 1"),
        (no_images, "isn't a folder of class folders"),
        (no_encoded_images, "column img of train.parquet holds no encoded images"),
        (no_parquet, "no parquet files that can be read together"),
        (no_train, "no parquet file in .* begins with train"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, make, text):
    make(tmp_path)
    with pytest.raises(DataError, match=text) as caught:
        ImageFolderDataModule(tmp_path).setup()
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        ImageFolderDataModule(tmp_path / "none").setup()


@pytest.mark.parametrize(
    "arguments",
    [{"image_size": 0}, {"image_size": (8, -1)}, {"channels": 4}, {"image_size": (1, 2, 3)}, {"test_fraction": 2.0}, {"image_size": 1.5}],
)
def test_arguments_out_of_range(tmp_path, arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        ImageFolderDataModule(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("folder", "label", "classes", "counts"), [("cifar10", "label", 10, (45_000, 5_000, 10_000)), ("cifar100", "fine_label", 100, None)]
)
def test_the_real_parquet_files(folder, label, classes, counts):
    root = Path(os.environ.get("LEMONADE_DATA_ROOT", "none")) / folder
    if not any(root.glob("train*.parquet")):
        pytest.skip(f"LEMONADE_DATA_ROOT names no folder that holds {folder}/train*.parquet")
    datamodule = ImageFolderDataModule(root, label=label)
    found = sizes(datamodule)
    assert found == (counts or (18_000, 2_000, 4_000))
    assert (datamodule.num_classes, datamodule.sample_shape) == (classes, (3, 32, 32))
    assert torch.bincount(datamodule._datasets["validation"].y).tolist() == [found[1] // classes] * classes
    x, _ = next(iter(datamodule.val_dataloader()))
    assert abs(float(x.mean())) < 0.1


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (24, 12), (6, 6)])
def test_scaled_images_cover_the_size_in_both_directions(tmp_path, size):
    write_folders(tmp_path, [("", 30)], size=(20, 40))
    datamodule = ImageFolderDataModule(tmp_path, image_size=size)
    datamodule.setup()
    images = datamodule._datasets["train"].x[datamodule._datasets["train"].y == 1].float()
    assert tuple(images.shape[2:]) == size
    for border in (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]):
        assert 60 < float(border.mean()) < 120  # what the second class has everywhere


def only(root, make):
    for name in ("a", "b"):
        for number in range(10):
            (root / name).mkdir(exist_ok=True)
            make(root / name / f"{number}.png")
    datamodule = ImageFolderDataModule(root, channels=1)
    datamodule.setup()
    return datamodule._datasets["train"].x


def test_sixteen_bits_are_scaled(tmp_path):
    values = (np.arange(12 * 10, dtype=np.uint16).reshape(12, 10) * 500).astype(np.uint16)
    read = only(tmp_path, lambda path: Image.fromarray(values).save(path))
    assert torch.equal(read[0, 0], torch.from_numpy((values // 257).astype(np.uint8)))


def test_real_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="real numbers, whose range nothing tells"):
        only(tmp_path, lambda path: Image.fromarray(np.random.rand(12, 10).astype(np.float32)).save(path.with_suffix(".tif")))


def test_images_are_turned_as_their_data_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("L", (20, 12))
    picture.paste(255, (0, 0, 20, 6))
    assert tuple(only(tmp_path, lambda path: picture.save(path, exif=exif)).shape[2:]) == (20, 12)


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing")])
def test_folders_of_splits_are_known_in_other_spellings(tmp_path, names):
    write_folders(tmp_path, [(names[0], 60), (names[1], 30)])
    datamodule = ImageFolderDataModule(tmp_path)
    assert sizes(datamodule)[2] == 30
    assert datamodule.class_names == CLASSES


def test_splits_without_a_train_folder_are_no_classes(tmp_path):
    write_folders(tmp_path, [("val", 30), ("test", 30)])
    with pytest.raises(DataError, match="none that is called train"):
        ImageFolderDataModule(tmp_path).setup()


def test_hidden_folders_are_no_classes(tmp_path):
    write_folders(tmp_path, [("", 60)])
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert sizes(ImageFolderDataModule(tmp_path)) is not None
