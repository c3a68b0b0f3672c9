import os
from pathlib import Path

import programs
import pytest

ROOT = Path(os.environ.get("LEMONADE_DATA_ROOT", "none"))


def searched(*arguments):
    return programs.run_script("search_two_tasks.py", *arguments)


def test_missing_data_is_told_with_what_to_do(tmp_path):
    done = searched("--data_root", str(tmp_path), "--run_dir", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "task cifar10: CIFAR10 isn't in" in done.stderr.splitlines()[-1]


def test_a_short_search_of_both(tmp_path):
    if not (ROOT / "cifar-10-batches-py").is_dir() or not ((ROOT / "cifar100").is_dir() or (ROOT / "cifar-100-python").is_dir()):
        pytest.skip("LEMONADE_DATA_ROOT names no folder that holds cifar-10-batches-py, and cifar100 or cifar-100-python")
    short = ["--limit", "1500", "--generations", "1", "--accepted", "1", "--epochs", "1", "--initial_epochs", "1", "--accelerator", "cpu"]
    done = searched("--data_root", str(ROOT), "--run_dir", str(tmp_path / "run"), *short)
    assert done.returncode == 0, done.stderr
    assert "test_error/cifar100" in done.stdout
    assert "hypervolume" in done.stdout
