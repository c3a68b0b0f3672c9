import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_lemonade"
ALLOWED = {
    "graph": {"graph", "errors"},
    "morphisms": {"graph", "morphisms", "errors"},
    "spaces": {"graph", "morphisms", "spaces", "errors"},
    "objectives": {"graph", "objectives", "errors"},
    "search": {"graph", "morphisms", "spaces", "objectives", "search", "errors"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_stands_below_it(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imported(path):
            parts = module.split(".")
            assert parts[0] not in {"pytorch_lightning", "lightning", "wandb", "sqlalchemy"}, path
            assert parts[0] != "lightning_lemonade" or parts[1] in ALLOWED[room], (path, module)


def test_nothing_imports_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        assert "lightning_lemonade.cli" not in set(imported(path)), path


def test_the_graph_is_usable_without_lightning():
    code = "import sys, lightning_lemonade.spaces; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
