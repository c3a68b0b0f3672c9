"""What a run records of the objects that it was configured with, and how two configurations differ."""

import hashlib
import inspect
import json
import platform
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from importlib import metadata
from math import isfinite
from numbers import Integral, Real
from os.path import commonprefix
from pathlib import PurePath
from typing import Any

BUDGET = ("max_generations", "max_seconds")
"""Arguments that may be larger when a search is resumed; None is the largest."""
TUNED = ("max_child_seconds", "max_failures", "polish")
"""Arguments that may be others when a search is resumed: they are set anew when children failed by them, or the budget grows."""
POLISHED = "polished"
"""What a run records of its polishings by command: see `resume.Polishing`."""
NOT_COMPARED = ("versions", "command", "executor", POLISHED, *TUNED)
OURS = "lightning-lemonade"
_PLACES = "places"
_IS_PLACE = re.compile(r"(^|_)(root|dir|directory|folder|path|file|cache)s?($|_)")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, str, list, tuple, set, frozenset, dict, PurePath, Enum)
_DEEPEST = 6
_LONGEST = 1000
_SHOWN = 40


def described(thing: object, depth: int = 0) -> Any:  # noqa: ANN401 (a JSON value)
    """Returns what an object is, as JSON values: the path of a class or function; for another object its class and arguments.

    Arguments are the values of attributes (or entries of Lightning's `hparams`) that are called as the parameters of the constructor; what
    an object keeps besides is made by its methods. Of a value that isn't plain its class and its `repr` are told. Paths stand by
    themselves, as `places`: they are recorded and not compared, since data may be moved.

    Args:
        thing: the object.
        depth: how many objects it lies within; what lies too deep is told by its class.

    >>> from lightning_lemonade.module import Training
    >>> described(Training(epochs=5))["arguments"]["epochs"]
    5
    """
    if thing is None or isinstance(thing, _PLAIN):
        return _plain(thing, depth)
    if isinstance(thing, partial):
        given = {"args": _plain(list(thing.args), depth + 1), "keywords": _plain(thing.keywords, depth + 1)}
        return {"class": described(thing.func, depth + 1)} | {key: value for key, value in given.items() if value}
    if isinstance(thing, type) or inspect.isroutine(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    arguments, places = {}, {}
    for name, value in _arguments(thing):
        if isinstance(value, PurePath) or (isinstance(value, str) and _IS_PLACE.search(name)):
            places[name] = str(value)
        else:
            arguments[name] = _plain(value, depth + 1)
    description = {"class": _path_of(thing), "arguments": arguments}
    return description | ({_PLACES: places} if places else {})


def _path_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _arguments(thing: object) -> Iterator[tuple[str, object]]:
    """Yields an object's constructor arguments that it still tells, by name."""
    names: set[str] = set()
    if is_dataclass(thing):
        names.update(field.name for field in fields(thing))
    else:
        for base in type(thing).__mro__:
            if inspect.isfunction(made := vars(base).get("__init__")):
                names |= set(inspect.signature(made).parameters) - {"self", "args", "kwargs"}
    hparams = getattr(thing, "hparams", None)
    told = {str(name): value for name, value in hparams.items()} if isinstance(hparams, Mapping) else {}
    own = vars(thing) if hasattr(thing, "__dict__") else {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    for name in sorted({*names, *told}):
        if name in own or name in told:
            yield name, own.get(name, told.get(name))


def _plain(value: object, depth: int) -> Any:  # noqa: ANN401 (a JSON value)
    """Returns a value as JSON values; of one that isn't plain, or too deep or long, what tells it from others."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    if depth <= _DEEPEST:
        if isinstance(value, Mapping) and len(value) <= _LONGEST:
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, set | frozenset) and len(value) <= _LONGEST:
            return sorted((_plain(item, depth + 1) for item in value), key=repr)
        if isinstance(value, list | tuple) and len(value) <= _LONGEST:
            return [_plain(item, depth + 1) for item in value]
        if isinstance(value, type | partial) or inspect.isroutine(value) or is_dataclass(value):
            return described(value, depth + 1)
    if isinstance(value, Collection) and depth <= _DEEPEST:
        return {"class": _path_of(value), "sha256": hashlib.sha256(_repr(value).encode(errors="replace")).hexdigest()}
    return {"class": _path_of(value)} | ({} if depth > _DEEPEST else {"repr": _repr(value)[:_LONGEST]})


def _repr(value: object) -> str:
    """Returns a value's `repr` without addresses; empty, with a warning, where a user's class can't make one."""
    try:
        return _ADDRESS.sub("0x...", repr(value))
    except Exception as error:  # no reason not to search
        problem = f"the repr of a {_path_of(value)} raised {type(error).__name__}: {error}"
        warnings.warn(f"{problem}; whether it changed can't be told when the search is resumed", stacklevel=2)
        return ""


def differences(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns in what a configuration differs from a run's recorded one: `training.epochs was 3 and is 5`.

    What another release didn't record doesn't count; neither do places, nor a budget that is larger or as large.
    """
    given = json.loads(json.dumps(given))
    tasks = [list(config.get("tasks", {})) for config in (recorded, given)]
    if tasks[0] != tasks[1]:
        return [f"the tasks were {_listed(tasks[0])} and are {_listed(tasks[1])}"]
    ignored = {*NOT_COMPARED, *(BUDGET if _grown(recorded, given) else ())}
    old, new = (dict(_flat({key: value for key, value in config.items() if key not in ignored})) for config in (recorded, given))
    same_release = recorded.get("versions", {}).get(OURS) == given.get("versions", {}).get(OURS)
    keys = sorted(old.keys() | new.keys() if same_release else old.keys())
    return [f"{'.'.join(_named(key))} {_shown(old.get(key), new.get(key))}" for key in keys if old.get(key) != new.get(key)]


def _named(key: tuple[str, ...]) -> Iterator[str]:
    """Yields the parts of a key as a user knows it: `data.batch_size`."""
    parts = key[1:] if key[0] == "tasks" else key
    yield from (part for part in parts if part and part not in ("arguments", "checksums"))


def _listed(tasks: Iterable[str]) -> str:
    return ", ".join(task or "one without a name" for task in tasks)


def versions() -> dict[str, str]:
    """Returns the releases that decide a run bit for bit."""
    packages = (OURS, "numpy", "pytorch-lightning", "scikit-learn", "torch")
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}


def changed_versions(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns which releases another process of a run had: `torch 2.6.0 instead of 2.5.1`."""
    old, new = recorded.get("versions", {}), given.get("versions", {})
    return [f"{name} {version} instead of {old[name]}" for name, version in new.items() if name in old and old[name] != version]


def _shown(old: object, new: object) -> str:
    """Returns two values in words; of long ones the part where they begin to differ."""
    texts = ["none" if value is None else json.dumps(value) for value in (old, new)]
    begin = max(0, len(commonprefix(texts)) - _SHOWN // 2) if max(map(len, texts)) > _SHOWN else 0  # noqa: RUF071 (no paths)
    cut = [f"{'...' * (begin > 0)}{text[begin : begin + _SHOWN]}{'...' * (len(text) > begin + _SHOWN)}" for text in texts]
    return f"was {cut[0]} and is {cut[1]}"


def _grown(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Returns whether a budget is larger in some part, or smaller in none."""

    def size(config: Mapping[str, Any], name: str) -> float:
        value = config.get(name)
        return float("inf") if value is None else float(value)

    pairs = [(size(recorded, name), size(given, name)) for name in BUDGET]
    return any(new > old for old, new in pairs) or all(new >= old for old, new in pairs)


def _flat(config: object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the values of nested mappings, and of lists of mappings, by the keys that lead to them; without places."""
    if isinstance(config, Mapping):
        is_description = isinstance(config.get("class"), str)
        for key, value in config.items():
            if not (is_description and key == _PLACES):
                yield from _flat(value, (*prefix, str(key)))
    elif isinstance(config, list) and any(isinstance(item, Mapping) for item in config):
        for i, item in enumerate(config):
            yield from _flat(item, (*prefix, str(i)))
    else:
        yield prefix, config
