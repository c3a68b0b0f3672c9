"""What the command line refuses: one line that says what was given, what is wrong and what to do."""

import sys
from pathlib import Path
from typing import get_args

import pytest

from lightning_lemonade import cli, parsing

OWN_DATA = """
import pytorch_lightning as pl

class Needy(pl.LightningDataModule):
    def __init__(self, folder: str, size: int = 3) -> None:
        super().__init__()

class Broken(pl.LightningDataModule):
    def __init__(self) -> None:
        raise RuntimeError("no\\nroom")

class Plain:
    pass
"""
ADVICE = "give a class of this package (DigitsDataModule), or the full path of a LightningDataModule, for instance my_data.MyDataModule"
TASKS = "tasks must name data modules, for instance '{first: DigitsDataModule, second: MNISTDataModule}'; a single one is data"
ALIASES = b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"\n".join(b"%c: &%c [%s]" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in b"abcdefgh")
MERGES = b"a: &a {x: 1}\n" + b"\n".join(b"%c: &%c {<<: [%s]}" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in b"abcdefgh")
HELP = "see lightning-lemonade search --data.help"
DIGITS = "lightning_lemonade.datamodules.DigitsDataModule"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--data.batch_size", "x"], "data.batch_size can't be 'x': give an integer"),
        (["--data.batch_size", "0"], "batch_size=0 can't be used: give an integer of at least 1."),
        (["--data.colour", "3"], f"data.colour is unknown: {HELP} {DIGITS}"),
        (["--data", "Nonsense"], f"unknown data class 'Nonsense': {ADVICE}"),
        (["--data.class_path", "Nonsense"], f"unknown data class 'Nonsense': {ADVICE}"),
        (["--data", "no.such.Data"], f"unknown data class 'no.such.Data': {ADVICE}"),
        (["--data", "null"], f"unknown data class 'None': {ADVICE}"),
        (["--data", "own_data.Missing"], f"unknown data class 'own_data.Missing': {ADVICE}"),
        (["--data", "own_data.Plain"], f"the data class 'own_data.Plain' is no LightningDataModule: {ADVICE}"),
        (["--data", "json.dumps"], f"the data class 'json.dumps' is no LightningDataModule: {ADVICE}"),
        (
            ["--data", "bad_data.Data"],
            f"the data class 'bad_data.Data' can't be imported: ModuleNotFoundError: No module named 'absent'; mend it, or {ADVICE}",
        ),
        (["--data", "own_data.Needy"], f"data.folder must be given: {HELP} own_data.Needy"),
        (["--data", "own_data.Needy", "--data.folder=a", "--data.size=b"], "data.size can't be 'b': give an integer"),
        (["--data", "own_data.Broken"], "the data module can't be made: RuntimeError: no room"),
    ],
)
def test_data_that_cant_be_used_is_named(
    args: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    (tmp_path / "bad_data.py").write_text("import absent")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    assert cli.main(["search", *args]) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "the configuration given.yaml can't be read: No such file or directory. Give a YAML file of arguments"),
        (b"epochs: [1\n x: {", "the configuration given.yaml isn't YAML: expected ',' or ']', but got ':'; mend line 2, column 3"),
        (b"\xff\xfe\x00", "the configuration given.yaml is no text: give a YAML file of arguments, in UTF-8"),
        (b"epochs: \0", "the configuration given.yaml isn't YAML: "),
        (b"just words", "the configuration given.yaml holds no arguments: give them as YAML, for instance epochs: 3"),
        (b"", "the configuration given.yaml holds no arguments: give them as YAML, for instance epochs: 3"),
        (b"1: 2", "the configuration given.yaml holds no arguments: give them as YAML, for instance epochs: 3"),
        (b"epochs: x", "epochs can't be 'x': give an integer"),
        (b"colour: red", "colour is unknown: see --help"),
        (b"a: " + b"[" * 50_000, "the configuration given.yaml has values nested more than 32 deep: give a YAML file of arguments"),
        (b"- " * 50_000, "the configuration given.yaml has values nested more than 32 deep: give a YAML file of arguments"),
        (b"x: [" + b"1, " * 3000 + b"]", "the configuration given.yaml has more than 2000 values: give a YAML file of arguments"),
        (ALIASES, "the configuration given.yaml has more than 2000 values: give a YAML file of arguments"),
        (MERGES, "the configuration given.yaml has more than 2000 values: give a YAML file of arguments"),
        (b"x: &a [*a]", "the configuration given.yaml has more than 2000 values: give a YAML file of arguments"),
        (b"x: '" + b"y" * 300_000 + b"'", "the configuration given.yaml has more than 262144 bytes: give a YAML file of arguments"),
        (b"x: 2001-99-99", "the configuration given.yaml holds a value that YAML can't be made of: month must be in 1..12; mend it"),
        (b"x: " + b"9" * 5000, "the configuration given.yaml holds a value that YAML can't be made of: Exceeds the limit (4300 digits)"),
        (b"x: !!int x", "the configuration given.yaml holds a value that YAML can't be made of: invalid literal for int()"),
        (
            b"x: !!python/object/apply:os.system [touch canary]",
            "the configuration given.yaml isn't YAML: could not determine a constructor",
        ),
        (b"config: other.yaml", "the configuration given.yaml names another one: give each with a --config of its own"),
        (b"config: given.yaml", "the configuration given.yaml names another one: give each with a --config of its own"),
        (b"max_epochs: 3", "max_epochs can't be given to a search: use --epochs and --initial_epochs"),
        (b"data: {class_path: DigitsDataModule, init_args: {batch_size: x}}", "data.batch_size can't be 'x': give an integer"),
    ],
)
def test_configurations_that_cant_be_used_are_named(
    content: bytes | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("given.yaml").write_bytes(content)
    assert cli.main(["search", "--config", "given.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not Path("canary").exists()


def test_a_configuration_may_use_aliases(tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("data: &d {class_path: DigitsDataModule}\ntasks: {a: *d, b: {<<: *d}}\n")
    assert parsing.named_data_classes(["search", "--config", str(tmp_path / "given.yaml")]) == (
        ["DigitsDataModule"],
        ["DigitsDataModule"] * 2,
    )


@pytest.mark.parametrize("limits", ["{params: x}", "{params: [1, 2, 3]}"])
def test_limits_that_cant_be_used_are_named(limits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", "--limits", limits]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: limit of params: give one number or two, for instance 2e6 or [1e4, 2e6], got ")
    assert captured.err.count("\n") == 1


def test_data_modules_of_the_other_package_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pytest.importorskip("lightning.pytorch").LightningDataModule
    (tmp_path / "others_data.py").write_text("import lightning.pytorch as L\n\nclass Other(L.LightningDataModule):\n    pass\n")
    (tmp_path / "two.yaml").write_text("tasks: {a: others_data.Other, b: {class_path: DigitsDataModule}}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data, none = parsing.named_data_classes(["search", "--data", "others_data.Other"])
    assert (data, none) == (["others_data.Other"], [])
    assert parsing.data_module_base(data) is base
    assert parsing.data_module_base([]) is parsing.data_module_base(["DigitsDataModule"]) is not base
    data, tasks = parsing.named_data_classes(["search", f"--config={tmp_path / 'two.yaml'}"])
    assert (data, tasks) == ([], ["others_data.Other", "DigitsDataModule"])
    assert base in get_args(parsing.data_module_base(tasks))


def test_a_search_with_a_data_module_of_the_other_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning.pytorch")
    (tmp_path / "foreign_data.py").write_text("import lightning.pytorch as L\n\nclass Empty(L.LightningDataModule):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["search", "--data", "foreign_data.Empty"]) == 2
    assert "Empty has no train_dataloader" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("tasks: {a: Nonsense}", f"unknown data class 'Nonsense': {ADVICE}"),
        ("tasks: DigitsDataModule", TASKS),
        ("tasks: [DigitsDataModule]", TASKS),
        ("tasks: {}", "search needs a data module, got an empty mapping"),
        ("training: {label_smoothing: 2}", "training can't be used: label_smoothing must be a number of at least 0 and below 1, got 2.0"),
    ],
)
def test_tasks_and_training_that_cant_be_used_are_named(
    content: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(content)
    assert cli.main(["search", "--config", "bad.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
