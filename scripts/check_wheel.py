"""Checks what users install, away from the source tree: the files, the imports and the types of the wheel.

An editable install and pytest read the source tree, so they can't notice a package that is missing from the wheel. This script builds the
sdist, a wheel from the tree and a wheel from the sdist; compares the wheels' files with the tree; installs the wheel into an environment of
its own, where no editable install is in reach; imports every module there and type-checks it there. Nothing is written into the tree.

Usage:
    python scripts/check_wheel.py
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lightning_lemonade"
LAYOUT = {  # folder of the tree -> folder of the wheel
    "lightning_lemonade": "lightning_lemonade",
    "callbacks": "lightning_lemonade/callbacks",
    "datamodules": "lightning_lemonade/datamodules",
}

# Runs in the wheel's environment; prints the file of each module, or why there is none.
IMPORTER = """
import importlib, json, sys, traceback
found = {}
for name in json.load(sys.stdin):
    try:
        found[name] = {"file": importlib.import_module(name).__file__}
    except BaseException:
        found[name] = {"error": traceback.format_exc()}
with open(sys.argv[1], "w") as report:
    json.dump(found, report)
"""


class CheckError(Exception):
    """A step failed, so that those after it can't run."""


def installed_path(path: str) -> str | None:
    """Returns the place in the wheel of a file of the tree, or None if it isn't installed.

    Args:
        path: relative to the root, with forward slashes.
    """
    folder, _, rest = path.partition("/")
    return f"{LAYOUT[folder]}/{rest}" if rest and folder in LAYOUT else None


def installed_paths(paths: Iterable[str]) -> set[str]:
    """Returns the places in the wheel of those files of the tree that are installed."""
    return {place for path in paths if (place := installed_path(path)) is not None}


def package_paths(names: Iterable[str]) -> set[str]:
    """Returns a wheel's entries less its metadata."""
    return {name for name in names if not name.endswith("/") and not name.partition("/")[0].endswith(".dist-info")}


def differences(expected: set[str], found: set[str], origin: str) -> list[str]:
    """Compares the files that a wheel should hold with those that it holds.

    Args:
        expected: what the tree says.
        found: what the wheel holds.
        origin: what the wheel was built from, for the messages.

    Returns:
        One message per difference, sorted by file.
    """
    wheel = f"the wheel built from {origin}"
    cure = "list its package in [tool.setuptools] packages, or the file in package-data"
    missing = [f"{path} is missing from {wheel}: {cure}." for path in sorted(expected - found)]
    cure = "see [tool.setuptools.package-dir], and LAYOUT in this script"
    surplus = [f"{path} is in {wheel} but has no source: {cure}." for path in sorted(found - expected)]
    marker = f"{PACKAGE}/py.typed"
    untyped = [] if marker in found else [f"{marker} is not in {wheel}: without it type checkers ignore its annotations."]
    return missing + surplus + untyped


def module_names(paths: Iterable[str]) -> list[str]:
    """Returns the modules to import, sorted; `__main__` modules are programs and left out.

    Args:
        paths: places in the wheel.
    """
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths if path.endswith(".py")}
    return sorted(name for name in names if not name.endswith(".__main__"))


def import_problems(report: dict[str, dict[str, str]], site: Path) -> list[str]:
    """Returns what is wrong with imported modules.

    Args:
        report: by module, either its `file` or the `error` that it raised.
        site: where every file has to lie.
    """
    problems = []
    for name, outcome in report.items():
        if "error" in outcome:
            problems.append(f"{name} can't be imported from the installed wheel:\n{outcome['error'].rstrip()}")
        elif not Path(outcome["file"]).resolve().is_relative_to(site.resolve()):
            problems.append(f"{name} was imported from {outcome['file']}, not from the installed wheel.")
    return problems


def source_paths(root: Path) -> list[str]:
    """Returns the files of the tree that are tracked, or neither tracked nor ignored, relative to the root."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root).split("\0")
    return [path for path in listed if path and (root / path).is_file()]


def copy_tree(root: Path, paths: Iterable[str], target: Path) -> Path:
    """Copies files with their folders, and returns the target."""
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target / path)
    return target


def build(kind: str, tree: Path, output: Path) -> Path:
    """Builds the `sdist` or the `wheel` of a tree, and returns the file.

    With a setuptools here that is new enough, no build environment is made: that is quicker.
    """
    isolation = ["--no-isolation"] if has_setuptools() else []
    run([sys.executable, "-m", "build", f"--{kind}", *isolation, "--outdir", str(output), str(tree)], cwd=output.parent)
    (built,) = output.iterdir()
    return built


def has_setuptools() -> bool:
    """Tells whether this environment's setuptools is at least 77, the build's requirement."""
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def unpack(sdist: Path, target: Path) -> Path:
    """Unpacks an sdist and returns the folder that it holds."""
    shutil.unpack_archive(sdist, target)
    (tree,) = target.iterdir()
    return tree


def install(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """Installs a wheel into a new environment that sees the packages installed here, but none of their `.pth` files.

    Editable installs work by `.pth` files, and Python reads those of an environment's own folder alone: here they are out of reach.

    Returns:
        The environment's Python, and the folder that holds its packages.
    """
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = Path(run([str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip())
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)], cwd=folder)
    here = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (site / "installed_here.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    return python, site


def check_imports(python: Path, site: Path, modules: Sequence[str], folder: Path) -> list[str]:
    """Imports modules in the wheel's environment, and returns the problems."""
    report = folder / "imports.json"
    run([str(python), "-I", "-c", IMPORTER, str(report)], cwd=folder, text=json.dumps(modules))
    return import_problems(json.loads(report.read_text()), site)


def check_types(python: Path, config: Path, folder: Path) -> list[str]:
    """Type-checks the installed wheel by the settings in a configuration file, and returns mypy's errors if there are any.

    Modules named by `-p` are reported on although they lie in site-packages; what they import from there is not.
    """
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--python-executable", str(python)]
    command += ["--cache-dir", str(folder / "mypy_cache"), "--no-color-output", "-p", PACKAGE]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"mypy doesn't accept the installed wheel:\n{(done.stdout + done.stderr).rstrip()}"]


def environment() -> dict[str, str]:
    """Returns this process's environment less what would lead Python or mypy elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "MYPYPATH"}}


def run(command: Sequence[str], *, cwd: Path, text: str = "") -> str:
    """Runs a command with `text` as its input, and returns what it wrote to stdout.

    Raises:
        CheckError: it is not there, or failed; the message holds its output.
    """
    try:
        done = subprocess.run(command, cwd=cwd, env=environment(), input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CheckError(f"{command[0]} is not installed: install it and try again.") from error
    if done.returncode != 0:
        raise CheckError(f"`{' '.join(command[:8])}` failed with exit code {done.returncode}:\n{(done.stdout + done.stderr).rstrip()}")
    return done.stdout


def check(root: Path, folder: Path) -> list[str]:
    """Runs every check and returns the problems.

    Args:
        root: the source tree.
        folder: an empty folder to work in.
    """
    paths = source_paths(root)
    expected = installed_paths(paths)
    tree = copy_tree(root, paths, folder / "tree")
    sdist = build("sdist", tree, folder / "sdist")
    wheel = build("wheel", tree, folder / "wheel")
    rebuilt = build("wheel", unpack(sdist, folder / "unpacked"), folder / "rebuilt")
    problems: list[str] = []
    for origin, built in (("the tree", wheel), ("the sdist", rebuilt)):
        with zipfile.ZipFile(built) as archive:
            problems += differences(expected, package_paths(archive.namelist()), origin)
    python, site = install(wheel, folder / "environment")
    away = folder / "away"
    away.mkdir()
    problems += check_imports(python, site, module_names(expected), away)
    problems += check_types(python, root / "pyproject.toml", away)
    return problems


def main() -> int:
    """Checks the tree that this script lies in.

    Returns:
        The exit code: 0 if all is well.
    """
    with tempfile.TemporaryDirectory(prefix="check_wheel_") as folder:
        try:
            problems = check(ROOT, Path(folder))
        except CheckError as error:
            problems = [str(error)]
    for problem in problems:
        print(f"check_wheel: {problem}", file=sys.stderr)
    print(f"check_wheel: {len(problems)} problems" if problems else "check_wheel: sdist and wheel hold the tree, import and type-check")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
