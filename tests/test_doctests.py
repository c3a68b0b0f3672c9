import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import lightning_lemonade.callbacks
import lightning_lemonade.datamodules
from lightning_lemonade.morphisms import KINDS

MAPPED = [
    info.name
    for package in (lightning_lemonade.callbacks, lightning_lemonade.datamodules)
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", MAPPED)
def test_examples_in_mapped_packages_hold(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_the_guide_to_changing_a_network_runs():
    known = dict(KINDS)
    guide = Path(__file__).parents[1] / "docs" / "change-a-network.md"
    try:
        result = doctest.testfile(
            str(guide), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
        )
    finally:
        KINDS.clear()  # the guide's own kinds of mutations
        KINDS.update(known)
    assert result.attempted > 30
    assert result.failed == 0
