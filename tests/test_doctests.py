import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

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


OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL | doctest.ELLIPSIS


@pytest.mark.parametrize(
    ("page", "examples"), [("change-a-network", 30), ("one-gpu", 4), ("runs", 10), ("your-data", 20), ("your-loss", 25)]
)
def test_pages_of_examples_run(page, examples, tmp_path, monkeypatch):
    known = dict(KINDS)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    guide = Path(__file__).resolve().parents[1] / "docs" / f"{page}.md"
    try:
        result = doctest.testfile(str(guide), module_relative=False, optionflags=OPTIONS)
    finally:
        KINDS.clear()  # a page's own kinds of mutations
        KINDS.update(known)
    assert result.attempted > examples
    assert result.failed == 0
