"""What the documentation says of the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_the_method_page_names_is_there():
    named = re.findall(r"`([\w/]+\.py)`((?:: (?:`[\w.]+`(?:, )?)+)?)", (ROOT / "docs/method.md").read_text())
    assert len(named) > 80
    missing = []
    for file, names in named:
        path = next((path for path in (ROOT / "lightning_lemonade" / file, ROOT / file) if path.exists()), None)
        text = path.read_text() if path else ""
        for name in [""] if path is None else re.findall(r"`([\w.]+)`", names):
            last = re.escape(name.split(".")[-1])
            if not name or not re.search(rf"\b(def|class) {last}\b|^\s*{last}\b.* = ", text, re.MULTILINE):
                missing.append(f"{file}: {name}")
    assert missing == []
