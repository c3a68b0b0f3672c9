"""The command line that started a run, as `resume` gives it again."""

import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.history import History
from lightning_lemonade.parsing import named_data_classes

_OURS = re.compile(r"lightning_lemonade\.datamodules\.[^\W\d]\w*")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_WORD = re.compile(r"[\w+-]+(?:[/,][\w+-]+)*")
_TIME = re.compile(r"\d+(:\d+){3}")
_CODE = re.compile(r"[{}\[\]\n\r'\"&*!|>]|:\s|^\s|\s$|^[?@`%#-]")
"""What YAML makes something else of than a text."""
_WORDS = frozenset(
    {
        "accelerator",
        "algorithm",
        "devices",
        "gradient_clip_algorithm",
        "keep_weights",
        "metric",
        "mode",
        "objectives",
        "precision",
        "sampling",
    }
    | {"schedule", "strategy"}
)
_TIMES = frozenset({"max_time", "max_child_time"})
_MAPPINGS = frozenset({"limits", "training"})


@contextmanager
def recorded_command(run_dir: Path, args: Sequence[str]) -> Iterator[Path]:
    """Gives the arguments that a run was started with as a configuration file, for as long as the block takes.

    A run directory may come from a stranger, and the command line's parser imports what a text names, or what a file says that a text
    names. So every value must have the form of one that can't be that; a class is used only if it is one of this package's data modules,
    or the caller names it, too.

    Args:
        run_dir: the run directory.
        args: what the caller gives besides.

    Raises:
        HistoryError: if there is no run, or it is damaged.
        ConfigurationError: if it wasn't started on the command line, or holds something that might be code.
    """
    command = History.open(run_dir).config.get("command")
    if not isinstance(command, Mapping) or not command:
        raise ConfigurationError(
            f"{run_dir} wasn't started on the command line: run the program that started it again, with the same run_dir, and it goes on"
        )
    data, tasks = named_data_classes(["resume", *args])
    known = {*data, *tasks, *(arg.partition("=")[2] for arg in args), *args}
    for name, value in command.items():
        if name == "data" and _is_data(value, known):
            continue
        if name == "tasks" and isinstance(value, Mapping) and all(_is_data(one, known) for one in value.values()):
            continue
        if name not in ("data", "tasks") and _is_plain(name, value):
            continue
        named = sorted(_class_paths(value) - known)
        give = f"--data {named[0]}" if name == "data" and len(named) == 1 else f"--{name}" if name != "tasks" else "a --config"
        raise ConfigurationError(
            f"{run_dir} holds the argument {name}={json.dumps(value)[:80]}, which may be code: if you trust it, name it yourself, with "
            f"{give}; else don't resume it"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recorded.yaml"
        path.write_text(json.dumps(command), encoding="utf-8")  # JSON is YAML
        yield path


def _is_plain(name: str, value: object) -> bool:
    """Returns whether an argument is a number, a word where words are expected, or such in lists and mappings."""
    if isinstance(value, bool | int | float | None):
        return True
    if isinstance(value, str):
        pattern = _TIME if name in _TIMES else _WORD if name in _WORDS else None
        return pattern is not None and pattern.fullmatch(value) is not None and not os.path.isfile(value)
    if isinstance(value, list):
        return all(not isinstance(item, list | dict) and _is_plain(name, item) for item in value)
    if isinstance(value, Mapping) and name in _MAPPINGS:
        return all(_WORD.fullmatch(key) and not isinstance(item, str | Mapping) and _is_plain("", item) for key, item in value.items())
    return False


def _is_data(value: object, known: Collection[str]) -> bool:
    """Returns whether a value is a data module of a class that may be used, with arguments that are nothing but values."""
    if (
        not isinstance(value, Mapping)
        or not set(value) <= {"class_path", "init_args"}
        or not isinstance(value.get("init_args", {}), Mapping)
    ):
        return False
    path = value.get("class_path")
    allowed = isinstance(path, str) and (_OURS.fullmatch(path) is not None or path in known)
    return allowed and all(_is_value(item, known) for item in value.get("init_args", {}).values())


def _is_value(value: object, known: Collection[str]) -> bool:
    if isinstance(value, str) and value not in known:
        return not (_CODE.search(value) or _DOTTED.fullmatch(value) or os.path.isfile(value))
    if isinstance(value, list):
        return all(_is_value(item, known) for item in value)
    if isinstance(value, Mapping):
        return "class_path" not in value and all(_is_value(item, known) for item in value.values())
    return True


def _class_paths(value: object) -> set[str]:
    """Returns the classes that nested values name."""
    if isinstance(value, Mapping):
        own = {str(value["class_path"])} if "class_path" in value else set()
        return own.union(*map(_class_paths, value.values()))
    return set[str]().union(*map(_class_paths, value)) if isinstance(value, list) else set()
