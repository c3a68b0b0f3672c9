"""The command line's parser: jsonargparse's, with what it refuses told in one line."""

import pydoc
import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]  # 4.53 leaves the first out of __all__

from lightning_lemonade.errors import ConfigurationError

_KINDS = {
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "a text",
    "<class 'collections.abc.Mapping'>": "a mapping, for instance '{params: 2e6}'",
}
LONGEST_CONFIGURATION = 256 * 1024
"""Bytes of a configuration file. All its bounds are far above what the arguments of a search take."""
MOST_VALUES = 2000
DEEPEST = 32
_ODD_VALUES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML raises besides its own errors."""
_DATA_CLASS = (
    "give a class of this package (DigitsDataModule), or the full path of a LightningDataModule, for instance my_data.MyDataModule"
)

_EXECUTOR = "give inline, ray or a class with its arguments, for instance {class_path: RayExecutor, init_args: {address: auto}}"


class Parser(ArgumentParser):
    """Errors are exceptions.

    Attributes:
        reserved: arguments that can't be given, in a configuration file either, and what to do instead.
    """

    reserved: Mapping[str, str] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what is wrong, as jsonargparse says it."""
        raise ArgumentError(None, message) from ex

    def parse(self, args: list[str]) -> Namespace:
        """Parses arguments.

        Raises:
            ConfigurationError: one of them can't be used.
        """
        try:
            return self.parse_args(args)
        except ArgumentError as error:
            raise ConfigurationError(_plain(str(error))) from error


class ConfigFile(ActionConfigFile):
    """A configuration file. It is looked through before jsonargparse reads it, whose messages don't name the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:  # noqa: ANN401  (argparse's)
        """Reads it.

        Raises:
            ConfigurationError: it can't be read, isn't YAML, or holds something else than arguments.
        """
        content = _mapping(Path(values))
        refuse_reserved(content, parser.reserved)
        if content.get("config") is not None:
            raise ConfigurationError(f"the configuration {values} names another one: give each with a --config of its own")
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def refuse_reserved(names: Iterable[str], reserved: Mapping[str, str]) -> None:
    """Raises a ConfigurationError if an argument of these names can't be given to a search."""
    for name in names:
        if name in reserved:
            raise ConfigurationError(f"{name} can't be given to a search: {reserved[name]}")


def named_data_classes(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the classes that arguments, and configuration files among them, name as the data module and as those of tasks."""
    data: list[str] = []
    tasks: list[str] = []
    for flag, following in zip(args, [*args[1:], ""], strict=True):
        name, joined, behind = flag.partition("=")
        value = behind if joined else following
        content = {"data": value} if name in ("--data", "--data.class_path") else {}
        if name == "--config":
            try:
                content = dict(_mapping(Path(value)))
            except ConfigurationError:  # told where it is read in earnest
                continue
        data.append(_class_path(content.get("data")))
        several = content.get("tasks")
        tasks += [_class_path(entry) for entry in several.values()] if isinstance(several, Mapping) else []
    return [path for path in data if path], [path for path in tasks if path]


def _class_path(entry: object) -> str:
    path = entry.get("class_path") if isinstance(entry, Mapping) else entry
    return path if isinstance(path, str) else ""


def data_module_base(names: Sequence[str]) -> Any:  # noqa: ANN401 (a type, or a union of two)
    """Returns the base class of data modules of these names: `pytorch_lightning`'s, `lightning`'s, or both."""
    from pytorch_lightning import LightningDataModule  # noqa: PLC0415  (takes seconds)

    bases: Any = None
    for name in names:
        try:
            found = pydoc.locate(name) if "." in name else None
        except pydoc.ErrorDuringImport:  # told where it is used
            found = None
        lineage = [base for base in getattr(found, "__mro__", ()) if base.__name__ == LightningDataModule.__name__]
        base = lineage[0] if lineage else LightningDataModule
        bases = base if bases is None else bases | base
    return LightningDataModule if bases is None else bases


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        text = _text(path)
        _check_size(text, path)
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigurationError(f"the configuration {path} can't be read: {error.strerror}. Give a YAML file of arguments") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the configuration {path} is no text: give a YAML file of arguments, in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"mend line {mark.line + 1}, column {mark.column + 1}" if mark else "mend it"
        raise ConfigurationError(f"the configuration {path} isn't YAML: {getattr(error, 'problem', None) or error}; {where}") from error
    except _ODD_VALUES as error:  # a date with a 99th month, an integer of thousands of digits, !!int of nothing
        raise ConfigurationError(f"the configuration {path} holds a value that YAML can't be made of: {error}; mend it") from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"the configuration {path} holds no arguments: give them as YAML, for instance epochs: 3")
    return content


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(LONGEST_CONFIGURATION + 1)
    if len(content) > LONGEST_CONFIGURATION:
        raise ConfigurationError(f"the configuration {path} has more than {LONGEST_CONFIGURATION} bytes: give a YAML file of arguments")
    return content.decode("utf-8")


def _check_size(text: str, path: Path) -> None:
    """Raises a ConfigurationError if YAML is too deep, or has too many values once its aliases are written out."""
    values, begun, sizes = 0, list[tuple[str | None, int]](), dict[str | None, int]()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            values += sizes.get(event.anchor, MOST_VALUES)  # unknown yet: it holds itself
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor] = values - before
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            sizes[event.anchor] = 1
            if isinstance(event, yaml.CollectionStartEvent):
                begun.append((event.anchor, values - 1))
                sizes.pop(event.anchor)
        if values > MOST_VALUES or len(begun) > DEEPEST:
            problem = f"more than {MOST_VALUES} values" if values > MOST_VALUES else f"values nested more than {DEEPEST} deep"
            raise ConfigurationError(f"the configuration {path} has {problem}: give a YAML file of arguments")


def _plain(message: str, prefix: str = "", advice: str = "see --help") -> str:
    """Returns what was given, what is wrong and what to do; a message of jsonargparse that isn't known as it is.

    Args:
        message: jsonargparse's.
        prefix: of the argument's name: `data.` where it is one of the data class.
        advice: where the arguments are listed.
    """
    key = _match(r'^Parser key "(.+?)":', message)
    if key == "tasks" and "Expected a <class 'dict'>" in message:
        return "tasks must name data modules, for instance '{first: DigitsDataModule, second: MNISTDataModule}'; a single one is data"
    if key == "tasks" and (given := _match(r"(?:import path string:|import path|class_path) (\S+)", message)):
        return _of_data_class(given.strip("':")) or first_cause(message)
    if key == "data" and not prefix:
        given = _match(r"(?:class_path|import path string:|import path|got value:) (\S+)", message) or ""
        if problem := _of_data_class(given.strip("':")):
            return problem
    within = re.search(r"Problem with given class_path '(.+?)':\s+(.+?)(?=\n  Given value type|\Z)", message, re.DOTALL)
    if key == "executor" and not prefix and not (within and re.search("^Parser key|[Oo]ption '", within[2])):
        return _of_executor(message)
    if within:
        return _plain(within[2], f"{prefix}{key}.", f"see lightning-lemonade search --{prefix}{key}.help {within[1]}")
    if name := _match(r"option '(.+?)'", message):
        return f"{prefix}{name} is unknown: {advice}"
    if names := _match(r"unrecognized arguments: (.*)", message):
        lists = "" if names.startswith("-") else "; a list is one argument, for instance --objectives '[error, params]'"
        return f"unknown arguments: {names}{lists}; {advice}"
    if names := _match(r"arguments are required: (.*)", message):
        return f"{prefix}{names} must be given: {advice}"
    return _of_value(f"{prefix}{key}", message) or message


def first_cause(message: str) -> str:
    """Returns a message in which a list of why none of several types fits gives way to the first reason."""
    listed = re.search(
        r"Does not validate against any of the Union subtypes.*?Errors:\s+- (.+?)(?:\n?\s+- Expected a .*|\Z)", message, re.DOTALL
    )
    return message[: listed.start()] + listed[1] if listed else message


def _of_value(name: str, message: str) -> str | None:
    value = _match(r"(?:given|got) value:(.*)\Z", message)
    expected = re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    kinds = [_KINDS[kind] for kind in expected if kind in _KINDS]
    choices = [choice.strip("'") for kind in expected for choice in re.findall(r"'.*?'|\w+", _match(r"Literal\[(.*)\]", kind) or "")]
    if choices:
        kinds.append(f"one of {', '.join(dict.fromkeys(choices))}")
    return None if value is None or not kinds else f"{name} can't be {value!r}: give {' or '.join(kinds)}"


def _of_data_class(name: str) -> str | None:
    """Returns why a class can't be used as a data module, if so."""
    from pytorch_lightning import LightningDataModule  # noqa: PLC0415  (takes seconds)

    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        return f"the data class {name!r} can't be imported: {type(error.value).__name__}: {error.value}; mend it, or {_DATA_CLASS}"
    if found is None:
        return f"unknown data class {name!r}: {_DATA_CLASS}"
    bases = {base.__name__ for base in getattr(found, "__mro__", ())}  # by name: there are two packages of Lightning
    if LightningDataModule.__name__ not in bases:
        return f"the data class {name!r} is no LightningDataModule: {_DATA_CLASS}"
    return None


def _of_executor(message: str) -> str:
    """Returns what is wrong with an executor, other than an argument of its class."""
    given = _match(r"given value:(.*)\Z", message) or ""
    if name := _match(r"^NestedArg\(key='(.+?)'", given):
        return f"executor.{name} is an argument of an executor that isn't named: {_EXECUTOR}"
    return f"executor can't be {given!r}: {_EXECUTOR}"


def executor_cause(message: str) -> str | None:
    """Returns why an executor can't be made, where a message of jsonargparse is of that."""
    return _match(r"executors\.executor\.Executor'>\]\s+Errors:\s+- Expected a typing\.Literal.*?\n\s+- (.+?)\s+Given value type", message)


def _match(pattern: str, text: str) -> str | None:
    """Returns what the pattern's group matches first, if anything."""
    found = re.search(pattern, text, re.DOTALL | re.IGNORECASE)
    return found[1].strip() if found else None
