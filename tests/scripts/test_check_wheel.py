"""What the wheel's check notices."""

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

TREE = {
    "README.md",
    "pyproject.toml",
    "lightning_lemonade/__init__.py",
    "lightning_lemonade/__main__.py",
    "lightning_lemonade/py.typed",
    "lightning_lemonade/graph/__init__.py",
    "lightning_lemonade/graph/spec.py",
    "callbacks/__init__.py",
    "datamodules/__init__.py",
    "datamodules/digits.py",
    "tests/datamodules/test_digits.py",
}
WHEEL = {
    "lightning_lemonade/__init__.py",
    "lightning_lemonade/__main__.py",
    "lightning_lemonade/py.typed",
    "lightning_lemonade/graph/__init__.py",
    "lightning_lemonade/graph/spec.py",
    "lightning_lemonade/callbacks/__init__.py",
    "lightning_lemonade/datamodules/__init__.py",
    "lightning_lemonade/datamodules/digits.py",
}


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "check_wheel.py"
    spec = importlib.util.spec_from_file_location("check_wheel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_wheel = load()


def test_tree_is_mapped_to_the_wheel() -> None:
    assert check_wheel.installed_paths(TREE) == WHEEL


@pytest.mark.parametrize("path", ["callbacks", "tests/callbacks/test_it.py", "callbacks_old/__init__.py", "scripts/check_wheel.py"])
def test_the_rest_is_not_installed(path: str) -> None:
    assert check_wheel.installed_path(path) is None


def test_metadata_and_folders_are_no_package_files() -> None:
    names = ["lightning_lemonade/", "lightning_lemonade/__init__.py", "lightning_lemonade-0.1.0.dist-info/RECORD", "stray.py"]
    assert check_wheel.package_paths(names) == {"lightning_lemonade/__init__.py", "stray.py"}


def test_a_whole_wheel_has_no_differences() -> None:
    assert check_wheel.differences(WHEEL, WHEEL, "the tree") == []


@pytest.mark.parametrize("package", ["lightning_lemonade/graph/", "lightning_lemonade/callbacks/", "lightning_lemonade/datamodules/"])
def test_a_missing_subpackage_is_named(package: str) -> None:
    found = {path for path in WHEEL if not path.startswith(package)}
    messages = check_wheel.differences(WHEEL, found, "the sdist")
    assert len(messages) == len(WHEEL - found)
    assert all(message.startswith(f"{package}") and "missing from the wheel built from the sdist" in message for message in messages)


def test_a_stray_file_is_named() -> None:
    (message,) = check_wheel.differences(WHEEL, WHEEL | {"tests/test_it.py"}, "the tree")
    assert message.startswith("tests/test_it.py is in the wheel built from the tree but has no source")


def test_types_need_their_marker_in_tree_and_wheel() -> None:
    files = WHEEL - {"lightning_lemonade/py.typed"}
    (message,) = check_wheel.differences(files, files, "the tree")
    assert message.startswith("lightning_lemonade/py.typed")


def test_modules_are_named_as_they_are_imported() -> None:
    assert check_wheel.module_names(WHEEL) == [
        "lightning_lemonade",
        "lightning_lemonade.callbacks",
        "lightning_lemonade.datamodules",
        "lightning_lemonade.datamodules.digits",
        "lightning_lemonade.graph",
        "lightning_lemonade.graph.spec",
    ]


def test_imports_must_come_from_the_wheel(tmp_path: Path) -> None:
    report = {
        "good": {"file": str(tmp_path / "good.py")},
        "shadowed": {"file": str(tmp_path.parent / "shadowed.py")},
        "broken": {"error": "Traceback ...\nModuleNotFoundError: No module named 'missing'\n"},
    }
    shadowed, broken = check_wheel.import_problems(report, tmp_path)
    assert shadowed.startswith("shadowed was imported from ")
    assert broken.endswith("No module named 'missing'")


def test_tree_is_what_git_would_take(tmp_path: Path) -> None:
    for name in ("tracked.py", "deleted.py", "new.py", "ignored.log", "a folder/näme.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("*.log\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "tracked.py", "deleted.py"], cwd=tmp_path, check=True)
    (tmp_path / "deleted.py").unlink()
    paths = check_wheel.source_paths(tmp_path)
    assert sorted(paths) == [".gitignore", "a folder/näme.py", "new.py", "tracked.py"]
    copy = check_wheel.copy_tree(tmp_path, paths, tmp_path / "copy")
    assert (copy / "a folder" / "näme.py").read_text() == "a folder/näme.py"


def test_a_failed_command_is_told_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(check_wheel.CheckError, match=r"failed with exit code [^0]"):
        check_wheel.run(["git", "no-such-command"], cwd=tmp_path)
    with pytest.raises(check_wheel.CheckError, match="no-such-program is not installed"):
        check_wheel.run(["no-such-program"], cwd=tmp_path)
