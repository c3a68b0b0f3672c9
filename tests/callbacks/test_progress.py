"""The progress bar: plain lines, and the live bar of a terminal."""

from io import StringIO
from pathlib import Path

import pytest
from memory_history import SmallSearch
from rich.console import Console

from lightning_lemonade.callbacks import SearchProgressBar


def plain() -> Console:
    return Console(file=StringIO(), width=40, force_terminal=False)


def terminal(width: int = 120) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=True, color_system="standard", _environ={"TERM": "xterm"})


def text(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_every_generation_is_one_line(tmp_path: Path) -> None:
    console = plain()
    SmallSearch(tmp_path).run(SearchProgressBar(console))
    assert text(console).splitlines() == [
        "generation 0: 2 starting networks, front 2, best error 25 %, hypervolume 0.438, 34 s",
        "child 3 failed (not_a_number): loss [nan]",
        "generation 1: 2 children (1 failed), front 2, best error 1.4 %, hypervolume 0.812, 34 s",
    ]


def test_a_resumed_search_tells_where_it_goes_on(tmp_path: Path) -> None:
    search = SmallSearch(tmp_path)
    search.first_generation(SearchProgressBar(plain()))
    console = plain()
    callback = SearchProgressBar(console)
    callback.on_search_resume(search.info)
    search.second_generation(callback)
    search.end(callback)
    first, *_ = text(console).splitlines()
    assert first == "resumed after generation 0: front 2, best error 25 %, hypervolume 0.438"


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    console = terminal()
    SmallSearch(tmp_path, max_generations=1).run(SearchProgressBar(console))
    shown = text(console)
    assert "generation 0/1 · child 1/2" in shown
    assert "generation 1/1 · child 2/2 · front 2 · best error 1.4 % · hypervolume 0.812" in shown
    assert "child 3 failed (not_a_number): loss [nan]" in shown
    assert "starting networks" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again


def test_a_narrow_terminal_gets_a_second_line(tmp_path: Path) -> None:
    console = terminal(width=50)
    SmallSearch(tmp_path).run(SearchProgressBar(console))
    *_, first, second, _ = text(console).splitlines()
    assert "━" * 10 in first
    assert "generation 1/1 · child 2/2 · front 2 ·" in first
    assert second.strip() == "best error 1.4 % · hypervolume 0.812"


@pytest.mark.parametrize("max_generations", [None, 9])
def test_an_interrupted_search_gives_the_terminal_back(tmp_path: Path, max_generations: int | None) -> None:
    console = terminal()
    search, callback = SmallSearch(tmp_path, max_generations), SearchProgressBar(console)
    callback.on_search_start(search.info)
    search.first_generation(callback)
    callback.on_search_exception(search.info, KeyboardInterrupt())
    assert text(console).endswith("\x1b[?25h")
    search.second_generation(callback)  # no bar any more: plain lines
    assert text(console).splitlines()[-1].startswith("generation 1: 2 children")


def test_one_bar_serves_several_searches(tmp_path: Path) -> None:
    console = plain()
    callback = SearchProgressBar(console)
    for name in "ab":
        SmallSearch(tmp_path / name).run(callback)
    lines = text(console).splitlines()
    assert lines[:3] == lines[3:]
