import doctest
import importlib
import pkgutil

import pytest

import lightning_lemonade.callbacks
import lightning_lemonade.datamodules

MAPPED = [
    info.name
    for package in (lightning_lemonade.callbacks, lightning_lemonade.datamodules)
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", MAPPED)
def test_examples_in_mapped_packages_hold(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
