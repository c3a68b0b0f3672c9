"""Values from a run directory, which may come from a stranger: of the right type, of bounded size, and harmless where they are printed."""

import json
import math
import re
from typing import Any

from lightning_lemonade.graph.ops import shown

LONGEST_JSON = 4 * 1024 * 1024
"""Characters of a JSON column: a configuration with the names of tens of thousands of classes takes less."""
DEEPEST_JSON = 64
LONGEST_NAME = 256
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys (escape sequences, the direction of writing), or what no UTF-8 can hold. Tabs and ends of lines may stay."""


def read_json(text: object) -> Any:  # noqa: ANN401 (any JSON value)
    """Reads a JSON column.

    Raises:
        ValueError: if it is no JSON, too long or too deeply nested.
        RecursionError: the same.
    """
    if not isinstance(text, str) or len(text) > LONGEST_JSON:
        raise ValueError(f"JSON of at most {LONGEST_JSON} characters was expected, not {shown(text)}")
    value = json.loads(text)
    level, depth = [value], 0
    while level:
        level = [item for outer in level for item in _items(outer)]
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError(f"JSON is nested more than {DEEPEST_JSON} deep")
    return value


def _items(value: object) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def integer(value: object) -> int:
    """Returns a whole number of at least 0. SQLite's columns hold whatever a stranger wrote into them."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a whole number was expected, not {shown(value)}")
    return value


def number(value: object, *, infinite: bool = False) -> float:
    """Returns a number; a finite one unless `infinite`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (infinite or math.isfinite(value)):
        raise ValueError(f"a number was expected, not {shown(value)}")
    return float(value)


def text(value: object) -> str:
    """Returns a text, harmless where it is printed."""
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, not {shown(value)}")
    return _HARMFUL.sub("\ufffd", value)


def printable(value: object) -> str:
    """Returns a name: a short text of one line that can be printed as it is."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME or value != text(value) or not {"\n", "\t"}.isdisjoint(value):
        raise ValueError(f"a name was expected (at most {LONGEST_NAME} characters, none of them for control), not {shown(value)}")
    return value


def mapping(value: object) -> dict[str, Any]:
    """Returns a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, not {shown(value)}")
    return value


def sequence(value: object) -> list[Any]:
    """Returns a JSON list."""
    if not isinstance(value, list):
        raise ValueError(f"a list was expected, not {shown(value)}")
    return value


def harmless(value: Any) -> Any:  # noqa: ANN401 (any JSON value)
    """Returns a JSON value whose texts are harmless where they are printed."""
    if isinstance(value, dict):
        return {text(key): harmless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [harmless(item) for item in value]
    return text(value) if isinstance(value, str) else value


def error_number(value: float) -> float:
    """Returns an error as SQLite can hold it: infinity for not-a-number, which SQLite would turn into "none measured"."""
    return math.inf if math.isnan(value) else float(value)


def writable_text(value: str) -> str:
    """Returns a text that can be written as UTF-8 (paths in error messages may hold half surrogate pairs)."""
    return value.encode(errors="replace").decode()
