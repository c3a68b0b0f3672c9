"""The command line that started a run, as `resume` gives it again."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.history import History
from lightning_lemonade.parsing import named_data_classes

OURS = "lightning_lemonade.datamodules."
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@contextmanager
def recorded_command(run_dir: Path, args: Sequence[str]) -> Iterator[Path]:
    """Gives the arguments that a run was started with as a configuration file, for as long as the block takes.

    A run directory may come from a stranger, so a class that it names is used only if it is one of this package's data modules, or the
    caller names it, too.

    Args:
        run_dir: the run directory.
        args: what the caller gives besides.

    Raises:
        HistoryError: if there is no run, or it is damaged.
        ConfigurationError: if it wasn't started on the command line, or names a class that the caller doesn't.
    """
    command = History.open(run_dir).config.get("command")
    if not isinstance(command, Mapping) or not command:
        raise ConfigurationError(
            f"{run_dir} wasn't started on the command line: run the program that started it again, with the same run_dir, and it goes on"
        )
    data, tasks = named_data_classes(["resume", *args])
    known = {*data, *tasks, *(arg.partition("=")[2] or arg for arg in args)}
    foreign = sorted({name for name in _dotted(command) if not (name.startswith(OURS) and name.count(".") == 2) and name not in known})
    if foreign:
        recorded = command.get("data")
        named = recorded.get("class_path") if isinstance(recorded, Mapping) else None
        give = f"--data {named}" if named in foreign else "them in a --config"
        raise ConfigurationError(
            f"{run_dir} names {', '.join(foreign)}, which may be code: if you trust it, name it yourself, with {give}; else don't resume it"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recorded.yaml"
        path.write_text(json.dumps(command), encoding="utf-8")  # JSON is YAML
        yield path


def _dotted(value: object) -> Iterator[str]:
    """Yields every text in nested values that Python could import something by, and whatever stands where a class is named."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "class_path":
                yield str(item)
            yield from _dotted(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dotted(item)
    elif isinstance(value, str) and _DOTTED.fullmatch(value):
        yield value
