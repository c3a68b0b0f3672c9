import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_lemonade"
FIVE = {"graph", "morphisms", "spaces", "objectives", "search"}
"""What a search is made of; these know neither Lightning nor files."""
ALLOWED = {
    "errors": set(),
    "parsing": set(),
    "configuration": set(),
    "graph": set(),
    "morphisms": {"graph"},
    "spaces": {"morphisms"},
    "objectives": {"graph"},
    "search": {"spaces", "objectives"},
    "testing": {"morphisms", "executors"},
    "records": {"search"},
    "batches": set(),
    "module": {"graph", "batches"},
    "callback": {"records", "module"},
    "evaluation": {"callback", *FIVE},
    "history": {"records", "configuration", *FIVE},
    "front": {"history", "module", "evaluation"},
    "lifeline": set(),
    "ranks": {"evaluation", "lifeline"},
    "beats": set(),
    "executors": {"evaluation", "ranks", "beats"},
    "settings": {"callback", "configuration", "executors", *FIVE},
    "resume": {"history"},
    "flight": {"executors", "history"},
    "starts": {"settings"},
    "run": {"flight", "starts", "resume"},
    "plan": {"starts", "history"},
    "trainer": {"plan", "run", "front"},
    "callbacks": {"callback", "front"},
    "datamodules": set(),
    "recorded": {"history", "parsing"},
    "cli": {"trainer", "callbacks", "datamodules", "recorded"},
}
"""What a room may import, besides `errors` and what these may import."""


def reachable(room):
    found = {room, "errors"}
    for other in ALLOWED[room]:
        found |= reachable(other)  # never ends if the rooms stand in a circle
    return found


def rooms():
    """Yields each source file with the room that it stands in."""
    for folder in (PACKAGE, ROOT / "callbacks", ROOT / "datamodules"):
        for path in folder.rglob("*.py"):
            room = path.relative_to(folder).parts[0].removesuffix(".py") if folder == PACKAGE else folder.name
            if room != "__init__":
                yield room, path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_stands_below_it(room):
    paths = [path for name, path in rooms() if name == room]
    assert paths
    for path in paths:
        for module in imported(path):
            parts = module.split(".")
            assert room not in FIVE or parts[0] not in {"pytorch_lightning", "lightning", "wandb", "sqlalchemy"}, path
            assert parts[0] != "lightning_lemonade" or parts[1] in reachable(room), (path, module)


def test_every_room_is_looked_at():
    assert {room for room, _ in rooms()} == set(ALLOWED)


def test_the_graph_is_usable_without_lightning():
    code = "import sys, lightning_lemonade.spaces; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
