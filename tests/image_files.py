"""Files of the forms that data sets come in, small ones."""

import hashlib
import pickle
import struct

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def pictures(count, shape, seed=0):
    """Images (count, *shape) of bytes, the mean of each told by its class, and classes (count,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    return (rng.integers(0, 60, (count, *shape)) + 60 * labels.reshape(-1, *[1] * len(shape))).astype(np.uint8), labels


def write_mnist(folder, sizes=(60, 30)):
    """MNIST's own files, of the classes 0 to 2."""
    folder.mkdir(parents=True)
    for prefix, count in zip(("train", "t10k"), sizes, strict=True):
        images, labels = pictures(count, (28, 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28) + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">4Bi", 0, 0, 8, 1, count) + labels.astype(np.uint8).tobytes())


def write_cifar(root, monkeypatch, dataset_class, sizes=(60, 30)):
    """The files of CIFAR's python version; torchvision's list of checksums becomes theirs."""
    folder = root / dataset_class.base_folder
    folder.mkdir(parents=True)
    key = "fine_labels" if dataset_class.meta["key"] == "fine_label_names" else "labels"

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    lists = []
    for name, count in zip(("train", "test"), sizes, strict=True):
        images, labels = pictures(count, (3, 32, 32))
        lists.append([write(name, {"data": images.reshape(count, -1), key: labels.tolist()})])
    names = [f"class {number}" for number in range(100 if key == "fine_labels" else 10)]
    meta, checksum = write(dataset_class.meta["filename"], {dataset_class.meta["key"]: names})
    monkeypatch.setattr(dataset_class, "train_list", lists[0])
    monkeypatch.setattr(dataset_class, "test_list", lists[1])
    monkeypatch.setattr(dataset_class, "meta", {**dataset_class.meta, "filename": meta, "md5": checksum})


def write_folders(root, splits, size=(12, 10), mode="RGB"):
    """A folder of PNG files for each class of each split; a split is a name ("" for none) and a number of images."""
    for split, count in splits:
        images, labels = pictures(count, (*size, 3) if mode == "RGB" else size)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image, mode).save(folder / f"{number}.png")
