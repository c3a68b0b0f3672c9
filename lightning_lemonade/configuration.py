"""What a run records of the objects that it was configured with, and how two configurations differ."""

import inspect
import json
import os
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from importlib import metadata
from math import isfinite
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

PLACES = "places"
"""Where a description keeps paths: recorded, and not compared, since data may be moved."""
BUDGET = ("max_generations", "max_seconds", "max_child_seconds", "max_failures")
"""Arguments that may be larger when a search is resumed; None is the largest."""
NOT_COMPARED = ("versions", "command")
_PLAIN_TYPES = (bool, int, float, str, list, tuple, set, frozenset, dict, PurePath, Enum)
_DEEPEST = 6
_LONGEST = 1000
_SHOWN = 40


def described(thing: object) -> Any:  # noqa: ANN401 (a JSON value)
    """Returns what an object is, as JSON values: the path of a class or function; for another object its class and arguments.

    Arguments are the values of attributes that are called as the parameters of the constructor (or stand in Lightning's `hparams`), as far
    as they are plain: what a data module keeps besides is made by its `setup`.

    >>> from lightning_lemonade.module import Training
    >>> described(Training(epochs=5))["arguments"]["epochs"]
    5
    """
    if thing is None or isinstance(thing, _PLAIN_TYPES):
        return _plain(thing)
    if isinstance(thing, partial):
        given = {"args": _plain(list(thing.args)), "keywords": _plain(thing.keywords)}
        return {"class": described(thing.func)} | {key: value for key, value in given.items() if value}
    if isinstance(thing, type) or inspect.isroutine(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    arguments, places = {}, {}
    for name, value in _arguments(thing):
        if isinstance(value, PurePath) or (isinstance(value, str) and os.sep in value):
            places[name] = str(value)
        elif (plain := _plain(value)) is not None or value is None:
            arguments[name] = plain
    description = {"class": f"{type(thing).__module__}.{type(thing).__qualname__}", "arguments": arguments}
    return description | ({PLACES: places} if places else {})


def _arguments(thing: object) -> Iterator[tuple[str, object]]:
    """Yields an object's constructor arguments that it still tells, by name."""
    if is_dataclass(thing):
        names = [field.name for field in fields(thing)]
    else:
        names = []
        for base in type(thing).__mro__:
            if "__init__" in vars(base) and base.__module__ != "builtins":
                names += [name for name in inspect.signature(vars(base)["__init__"]).parameters if name not in {"self", "args", "kwargs"}]
    hparams = getattr(thing, "hparams", None)
    told = dict(hparams) if isinstance(hparams, Mapping) else {}
    for name in sorted({*names, *map(str, told)}):
        if name in told or name in vars(thing):
            yield name, told.get(name, vars(thing).get(name))


def _plain(value: object, depth: int = 0) -> Any:  # noqa: ANN401 (a JSON value)
    """Returns a value as JSON values; None for what isn't plain, or too deep or long."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, Enum):
        return value.name
    if depth > _DEEPEST or (isinstance(value, Collection) and len(value) > _LONGEST):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, depth + 1) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, type) or inspect.isroutine(value) or is_dataclass(value):
        return described(value)
    return None


def differences(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns in what a configuration differs from a run's recorded one: `training.epochs was 3 and is 5`.

    What the record doesn't tell, since an older release made it, doesn't count; neither do places, nor a budget that is larger or as large.
    """
    tasks = [list(config.get("tasks", {})) for config in (recorded, given)]
    if tasks[0] != tasks[1]:
        return [f"the tasks were {_listed(tasks[0])} and are {_listed(tasks[1])}"]
    old, new = dict(_flat(recorded)), dict(_flat(json.loads(json.dumps(given))))
    ignored = {*NOT_COMPARED, *(BUDGET if _grown(recorded, given) else ())}
    keys = old.keys() | new.keys() if "versions" in recorded else old.keys()  # the first schema's record has gaps
    compared = [key for key in sorted(keys) if key.partition(".")[0] not in ignored and f".{PLACES}." not in f".{key}."]
    return [f"{_name(key)} was {_shown(old.get(key))} and is {_shown(new.get(key))}" for key in compared if old.get(key) != new.get(key)]


def _listed(tasks: Iterable[str]) -> str:
    return ", ".join(task or "one without a name" for task in tasks)


def _name(key: str) -> str:
    """Returns a key as a user knows it."""
    return key.replace("tasks..", "").replace(".arguments.", ".")


def versions() -> dict[str, str]:
    """Returns the releases that decide a run bit for bit."""
    packages = ("lightning-lemonade", "numpy", "pytorch-lightning", "scikit-learn", "torch")
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}


def changed_versions(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns which releases another process of a run had: `torch 2.6.0 instead of 2.5.1`."""
    old, new = recorded.get("versions", {}), given.get("versions", {})
    return [f"{name} {version} instead of {old[name]}" for name, version in new.items() if name in old and old[name] != version]


def _shown(value: object) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _grown(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Returns whether a budget is larger in some part, or smaller in none."""

    def size(config: Mapping[str, Any], name: str) -> float:
        value = config.get(name)
        return float("inf") if value is None else float(value)

    pairs = [(size(recorded, name), size(given, name)) for name in BUDGET]
    return any(new > old for old, new in pairs) or all(new >= old for old, new in pairs)


def _flat(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested mappings by their keys, joined by dots."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
