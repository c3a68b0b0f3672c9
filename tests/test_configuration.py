"""What a run records of objects, and how two records differ."""

import json
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torchvision.transforms import RandomRotation

from lightning_lemonade.configuration import changed_versions, described, differences, versions
from lightning_lemonade.module import Training


class Colour(Enum):
    RED = 1


@dataclass
class Options:
    size: int
    colour: Colour = Colour.RED


class Base:
    def __init__(self, depth=1, **kwargs):
        self.depth = depth


class Thing(Base):
    def __init__(self, root, width, options, hook=None, unused=0, *args, **kwargs):
        super().__init__(**kwargs)
        self.root, self.width, self.options, self.hook = root, width, options, hook
        self.made_later = object()


class Module(pl.LightningDataModule):
    def __init__(self, batch_size=3, data_dir="/data/here"):
        super().__init__()
        self.save_hyperparameters()


def test_an_object_is_its_class_and_the_plain_values_of_its_arguments():
    thing = Thing(Path("/data"), np.int64(4), Options(3), hook=len, depth=(1, 2.5))
    assert described(thing) == {
        "class": f"{__name__}.Thing",
        "arguments": {
            "depth": [1, 2.5],
            "hook": "builtins.len",
            "options": {"class": f"{__name__}.Options", "arguments": {"size": 3, "colour": "RED"}},
            "width": 4,
        },
        "places": {"root": "/data"},
    }
    thing.options = object()
    assert described(thing)["arguments"]["options"] == {"class": "builtins.object", "repr": "<object object at 0x...>"}
    json.dumps(described(thing), allow_nan=False)


def test_other_things_are_described_too():
    assert described(Thing) == f"{__name__}.Thing"
    assert described(partial(Thing, width=3)) == {"class": f"{__name__}.Thing", "keywords": {"width": 3}}
    assert described(None) is None
    assert described([1, {"a": float("inf")}, {2, 1}]) == [1, {"a": "inf"}, [1, 2]]
    assert described(Module(5)) == {
        "class": f"{__name__}.Module",
        "arguments": {"batch_size": 5},
        "places": {"data_dir": "/data/here"},
    }
    assert described(Training())["arguments"]["learning_rate"] == 0.2


def config(**changes):
    base = {"versions": versions(), "epochs": 3, "limits": {"params": [0.0, 10.0]}, "max_generations": 5, "max_seconds": None}
    return base | {"tasks": {"": {"data": described(Module())}}} | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"epochs": 4}, ["epochs was 3 and is 4"]),
        ({"limits": {}}, ["limits.params was [0.0, 10.0] and is none"]),
        ({"limits": {"params": [0, 10], "macs": [0, 5]}}, ["limits.macs was none and is [0, 5]"]),
        ({"versions": {"torch": "0"}, "command": {"epochs": 9}}, []),
        ({"max_generations": 6}, []),
        ({"max_generations": 4, "max_failures": 99}, ["max_generations was 5 and is 4"]),
        ({"max_failures": 3, "max_child_seconds": 5.0}, []),
        ({"max_generations": None, "max_seconds": 60.0}, []),
        ({"max_generations": 4}, ["max_generations was 5 and is 4"]),
        ({"max_seconds": 60.0}, ["max_seconds was none and is 60.0"]),
        ({"tasks": {"": {"data": described(Module(4))}}}, ["data.batch_size was 3 and is 4"]),
        ({"tasks": {"": {"data": described(Module(data_dir="/moved"))}}}, []),
        ({"tasks": {"": {"data": described(Module(data_dir="moved/here"))}}}, []),
        ({"tasks": {"a": {}, "b": {}}}, ["the tasks were one without a name and are a, b"]),
        ({"new": 1}, ["new was none and is 1"]),
    ],
)
def test_differences_are_told_by_name(changes, expected):
    assert differences(json.loads(json.dumps(config())), config(**changes)) == expected


def test_a_task_may_be_called_as_anything():
    def tasks(size):
        return config(tasks={"places": {"data": described(Module(size))}, "class": {"data": described(Module())}})

    assert differences(tasks(3), tasks(4)) == ["places.data.batch_size was 3 and is 4"]


def test_long_values_are_shown_where_they_differ():
    old, new = config(names=["x" * 50, "a"]), config(names=["x" * 50, "b"])
    assert differences(old, new) == ['names was ...xxxxxxxxxxxxxxxx", "a"] and is ...xxxxxxxxxxxxxxxx", "b"]']


def test_what_isnt_plain_is_told_apart():
    def other(value):
        return described(Thing("/data", 1, value))

    assert other(torch.float16) != other(torch.float32)
    assert other(list(range(2000))) != other(list(range(2001)))
    assert other(RandomRotation(3)) == other(RandomRotation(3)) != other(RandomRotation(90))
    assert other(partial(len, 1)) != other(partial(len, 2))


def test_an_attribute_counts_more_than_a_hyperparameter():
    module = Module(5)
    module.batch_size = 7
    assert described(module)["arguments"]["batch_size"] == 7


def test_objects_without_a_dictionary_or_within_themselves():
    @dataclass(slots=True)
    class Small:
        size: int
        inner: object = None

    small = Small(3)
    small.inner = small
    assert described(small)["arguments"]["size"] == 3
    assert "Small" in json.dumps(described(small))


def test_what_another_release_did_not_record_is_not_compared():
    old = config(versions={"lightning-lemonade": "0.0.1"})
    assert differences(old, config(new=1)) == []


def test_what_the_first_schema_did_not_record_is_not_compared():
    old = {name: value for name, value in config().items() if name not in ("versions", "max_seconds")}
    assert differences(old, config(new=1)) == []
    assert differences(old, config(epochs=4)) == ["epochs was 3 and is 4"]


def test_releases_are_compared_by_themselves():
    assert changed_versions({}, config()) == []
    assert changed_versions(
        config(versions={"torch": "1", "numpy": np.__version__}), config(versions={"torch": "2", "numpy": np.__version__})
    ) == ["torch 2 instead of 1"]
