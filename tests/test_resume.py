"""A search that was interrupted goes on as if it had not been."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from itertools import product

import processes
import pytest
import pytorch_lightning as pl
from events import Events

from lightning_lemonade import LemonadeModule, LemonadeTrainer, SearchCallback, cli, run
from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.errors import ConfigurationError, HistoryError, SearchError
from lightning_lemonade.history import DATABASE, History
from lightning_lemonade.spaces import ConvNetSpace

TINY = {
    "algorithm": "paper",
    "max_generations": 3,
    "proposals": 6,
    "accepted": 2,
    "epochs": 1,
    "initial_epochs": 1,
    "calibration_size": 64,
    "threads_per_child": 1,
    "limit_train_batches": 4,
    "accelerator": "cpu",
}


class Another(DigitsDataModule):
    """A class of its own, with the same data."""


class Interrupt(SearchCallback):
    """Stops a search when an event has happened so often."""

    def __init__(self, event, times):
        self.left = times
        setattr(self, event, self.count)

    def count(self, search, *arguments):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def search(run_dir, data=None, **settings):
    return LemonadeTrainer(run_dir=run_dir, **TINY | settings).search(data or DigitsDataModule())


def interrupted(run_dir, event, times, data=None, **settings):
    with pytest.raises(KeyboardInterrupt):
        search(run_dir, data, callbacks=[Interrupt(event, times)], **settings)


def digest(run_dir):
    return History.open(run_dir).digest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    search(directory)
    return directory


@pytest.mark.parametrize(
    ("event", "times"),
    [
        ("on_search_start", 1),
        ("on_candidate_start", 1),
        ("on_candidate_end", 4),
        ("on_generation_start", 3),
        ("on_candidate_start", 6),
        ("on_search_end", 1),
    ],
)
def test_wherever_a_search_stops_it_comes_to_the_same_end(whole, tmp_path, event, times):
    interrupted(tmp_path / "run", event, times)
    stopped = History.open(tmp_path / "run")
    assert stopped.status == ("finished" if event == "on_search_end" else "stopped")
    front = search(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)
    assert History.open(tmp_path / "run").status == "finished"
    assert sorted(path.name for path in (tmp_path / "run/weights").iterdir()) == sorted(
        f"{number:06d}-0.safetensors" for number in front.ids
    )


@pytest.mark.parametrize(
    "settings",
    [{"sampling": "gain", "polish": 0.5}, {"inherit": False}, {"keep_weights": "all", "population_size": 2}],
    ids=["gain_and_polish", "inherit", "keep_weights"],
)
def test_it_does_so_with_other_settings(tmp_path, settings):
    search(tmp_path / "whole", **settings)
    for event, times in (("on_candidate_start", 5), ("on_candidate_end", 2)):
        interrupted(tmp_path / "parts", event, times, **settings)
    search(tmp_path / "parts", **settings)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_it_does_so_with_two_tasks(tmp_path):
    def tasks():
        return {"a": DigitsDataModule(), "b": DigitsDataModule(seed=1)}

    search(tmp_path / "whole", tasks(), max_generations=1)
    interrupted(tmp_path / "parts", "on_candidate_start", 6, tasks(), max_generations=1)
    search(tmp_path / "parts", tasks(), max_generations=1)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_a_finished_search_is_not_repeated(whole):
    before, events = digest(whole), Events()
    front = search(whole, callbacks=[events])
    assert events.names == ["on_search_resume", "on_search_end"]
    assert digest(whole) == before
    assert len(front) == len(History.open(whole).front())


def test_a_larger_budget_goes_on_from_the_end(whole, tmp_path):
    search(tmp_path / "run", max_generations=2)
    events = Events()
    search(tmp_path / "run", max_generations=3, callbacks=[events])
    assert events.names[:2] == ["on_search_resume", "on_generation_start"]
    assert events.names.count("on_generation_end") == 1
    one, other = History.open(tmp_path / "run"), History.open(whole)
    assert [c.objectives for c in one.candidates()] == [c.objectives for c in other.candidates()]
    assert [g.hypervolume for g in one.generations()] == [g.hypervolume for g in other.generations()]
    assert one.config["max_generations"] == 3


class Louder(LemonadeModule):
    pass


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [
        ({"epochs": 2}, DigitsDataModule(), "training.epochs was 1 and is 2"),
        ({"max_generations": 2}, DigitsDataModule(), "max_generations was 3 and is 2"),
        ({"limits": {"macs": 1e6}}, DigitsDataModule(), "limits.macs was none"),
        ({"objectives": ["error", "params"]}, DigitsDataModule(), "objectives was"),
        ({"space": ConvNetSpace(max_mutations=2)}, DigitsDataModule(), "space.max_mutations was 3 and is 2"),
        ({"module": Louder}, DigitsDataModule(), "test_resume.Louder"),
        ({"gradient_clip_val": 0.5}, DigitsDataModule(), "trainer.gradient_clip_val was none and is 0.5"),
        ({"keep_weights": "all"}, DigitsDataModule(), 'keep_weights was "front"'),
        ({}, DigitsDataModule(batch_size=32), "data.batch_size was 64 and is 32"),
        ({}, DigitsDataModule(seed=1), "calibration was"),
        ({}, Another(), "test_resume.Another"),
        ({}, {"a": DigitsDataModule()}, "the tasks were one without a name and are a"),
    ],
)
def test_another_configuration_is_refused_by_name(whole, settings, data, words):
    before = digest(whole)
    with pytest.raises(HistoryError, match="another configuration") as error:
        search(whole, data, **settings)
    assert words in str(error.value)
    assert digest(whole) == before
    assert History.open(whole).status == "finished"


def test_data_that_was_exchanged_is_found_by_its_calibration_batch(whole):
    class Brighter(DigitsDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return (batch[0] * 1.001, *batch[1:])

    Brighter.__module__, Brighter.__qualname__ = DigitsDataModule.__module__, DigitsDataModule.__qualname__
    with pytest.raises(HistoryError, match=r"\(calibration was"):
        search(whole, Brighter())


def test_labels_and_validation_images_that_were_exchanged_are_found_too(whole):
    class Labels(DigitsDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0], 9 - batch[1]

    class Validation(DigitsDataModule):
        def val_dataloader(self):
            return self.test_dataloader()

    for exchanged, words in ((Labels, r"\(calibration was .*; validation was"), (Validation, r"\(validation was")):
        exchanged.__module__, exchanged.__qualname__ = DigitsDataModule.__module__, DigitsDataModule.__qualname__
        with pytest.raises(HistoryError, match=words):
            search(whole, exchanged())


class Counts(DigitsDataModule):
    """Finds out the number of classes in setup, under the name of an argument."""

    def __init__(self, num_classes=None, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def setup(self, stage=None):
        super().setup(stage)
        self.num_classes = 10


def test_a_data_module_that_its_setup_changed_is_still_the_same_one(tmp_path):
    data = Counts()
    interrupted(tmp_path, "on_candidate_start", 2, data, max_generations=1)
    search(tmp_path, data, max_generations=1)
    search(tmp_path, Counts(), max_generations=1)
    data.batch_size = 32
    with pytest.raises(HistoryError, match=r"data\.batch_size was 64 and is 32"):
        search(tmp_path, data, max_generations=1)


@dataclass
class AsADataclass(DigitsDataModule):
    """Not hashable, and with an argument whose `repr` fails."""

    option: object = None

    def __post_init__(self):
        DigitsDataModule.__init__(self)


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_odd_data_modules_are_resumed_too(tmp_path):
    with pytest.warns(UserWarning, match=r"the repr of a .*NoRepr raised RuntimeError: no repr"):
        interrupted(tmp_path, "on_candidate_start", 2, AsADataclass(NoRepr()), max_generations=1)
    search(tmp_path, AsADataclass(NoRepr()), max_generations=1)
    with pytest.raises(HistoryError, match=r"data\.option"):
        search(tmp_path, AsADataclass(3), max_generations=1)


def test_threads_that_nobody_gave_are_those_that_the_run_began_with(tmp_path):
    search(tmp_path, max_generations=1, threads_per_child=2)
    search(tmp_path, max_generations=1, threads_per_child=None)
    with pytest.raises(HistoryError, match="threads_per_child was 2 and is 1"):
        search(tmp_path, max_generations=1, threads_per_child=1)


def test_a_command_line_is_not_forgotten_when_a_program_goes_on(tmp_path):
    assert cli.main(["search", "--run_dir", str(tmp_path / "run"), *FLAGS, "--max_generations=1"]) == 0
    search(tmp_path / "run", max_generations=2)
    assert cli.main(["resume", str(tmp_path / "run"), "--max_generations=3"]) == 0
    assert len(History.open(tmp_path / "run").generations()) == 4


def test_a_folder_of_weights_that_a_copy_left_out_is_made_again(whole, tmp_path):
    interrupted(tmp_path, "on_search_start", 1)
    (tmp_path / "weights").rmdir()
    search(tmp_path)
    assert digest(tmp_path) == digest(whole)


class SwallowsInterrupts(LemonadeModule):
    """As a destructor or a bare except in somebody's code would."""

    def training_step(self, batch, batch_idx):
        if self.spec.structural_hash == SECOND and batch_idx == 1:
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
        return super().training_step(batch, batch_idx)


class FailsToCleanUp(pl.Callback):
    def on_exception(self, trainer, pl_module, exception):
        raise RuntimeError("cleanup failed")


class InterruptsItself(LemonadeModule):
    def training_step(self, batch, batch_idx):
        if self.spec.structural_hash == SECOND and interrupts:
            interrupts.pop()
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)


SECOND = ConvNetSpace().initial((1, 8, 8), 10)[1].structural_hash
interrupts: list[int] = []


def test_a_ctrl_c_that_got_lost_still_ends_the_search(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, module=SwallowsInterrupts)
    assert [c.state for c in History.open(tmp_path).candidates()] == ["evaluated", "running", "accepted", "accepted"]


def test_a_ctrl_c_that_a_callback_turned_into_another_error_is_no_failure_of_the_child(tmp_path):
    interrupts.append(1)
    settings = {"module": InterruptsItself, "callbacks": [FailsToCleanUp()]}
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, **settings)
    assert "failed" not in [c.state for c in History.open(tmp_path).candidates()]
    search(tmp_path, **settings)
    assert {c.state for c in History.open(tmp_path).candidates()} == {"evaluated"}


def test_a_second_ctrl_c_is_heard_of_by_callbacks_too(tmp_path):
    class Impatient(Interrupt):
        heard = None

        def on_search_exception(self, search, exception):
            Impatient.heard = exception

    class Breaks(SearchCallback):
        def on_search_start(self, search):
            search.history.finish = self.interrupt

        def interrupt(self, *arguments):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, callbacks=[Breaks(), Impatient("on_candidate_start", 2)])
    assert isinstance(Impatient.heard, KeyboardInterrupt)
    assert History.open(tmp_path).status == "running"


def test_a_killed_search_is_shown_as_interrupted(tmp_path, capsys):
    done = program(tmp_path, "import test_resume; test_resume.search('run', callbacks=[test_resume.Kills()])")
    assert done.returncode == -signal.SIGKILL
    assert cli.main(["show", str(tmp_path / "run")]) == 0
    assert "status: interrupted when process" in capsys.readouterr().out


def program(directory, text, *arguments):
    """Runs a program in a directory, as another process."""
    (directory / "program.py").write_text(text)
    return processes.run(directory / "program.py", *arguments, cwd=directory)


class Kills(SearchCallback):
    def on_candidate_start(self, search, candidate):
        if candidate.id == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def test_max_time_counts_over_all_processes(tmp_path):
    interrupted(tmp_path, "on_generation_start", 3, max_generations=None, max_time="00:01:00:00")
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("UPDATE generation_phase SET seconds = 1800 WHERE phase = 'fit'")
    connection.close()
    search(tmp_path, max_generations=None, max_time="00:01:00:00")
    history = History.open(tmp_path)
    assert history.stop_reason == "max_time is spent"
    assert len(history.generations()) == 2


def test_a_clock_that_is_set_back_changes_nothing(whole, tmp_path, monkeypatch):
    real, began = time.time, time.time()
    interrupted(tmp_path, "on_candidate_start", 6)
    monkeypatch.setattr(time, "time", lambda: began - 1e6 - 10 * (real() - began))
    search(tmp_path)
    assert digest(tmp_path) == digest(whole)
    assert all(seconds >= 0 for g in History.open(tmp_path).generations() for seconds in g.seconds.values())


def test_two_searches_in_one_directory_are_refused(tmp_path):
    class Second(SearchCallback):
        message = ""

        def on_generation_start(self, info, generation):
            if generation == 1:
                with pytest.raises(HistoryError) as error:
                    search(tmp_path)
                Second.message = str(error.value)

    search(tmp_path, callbacks=[Second()], max_generations=1)
    assert "is in use by another search" in Second.message


class FailsAfterTheStart(LemonadeModule):
    broken = True

    def loss(self, logits, target):
        if self.broken and self.spec.structural_hash not in STARTS:
            raise RuntimeError("the GPU is on fire")
        return super().loss(logits, target)


STARTS = {spec.structural_hash for spec in ConvNetSpace().initial((1, 8, 8), 10)}


def test_a_search_whose_children_all_fail_stops_with_the_reason_and_goes_on_when_it_is_mended(tmp_path, monkeypatch):
    settings = {"module": FailsAfterTheStart, "max_failures": 3}
    with pytest.raises(SearchError, match=r"3 children failed in a row, the last one with exception: .*on fire.*same command again"):
        search(tmp_path, **settings)
    history = History.open(tmp_path)
    assert [c.state for c in history.candidates()].count("failed") == 3
    assert history.status == "stopped"
    monkeypatch.setattr(FailsAfterTheStart, "broken", False)
    search(tmp_path, **settings)
    states = [c.state for c in History.open(tmp_path).candidates()]
    assert states.count("failed") == 3
    assert states[-2:] == ["evaluated", "evaluated"]


def test_a_low_disk_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOW_DISK", 1 << 60)
    monkeypatch.setattr(run, "LEAST_DISK", 1 << 60)
    with pytest.warns(UserWarning, match="free some space") as told:
        search(tmp_path, max_generations=1)
    assert sum("free some space" in str(warning.message) for warning in told) == 1


FULL = """
import resource, signal, sys
import test_resume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from lightning_lemonade.errors import LemonadeError
try:
    test_resume.search("run")
except LemonadeError as error:
    print(error)
    sys.exit(7)
"""


def test_a_full_disk_stops_a_search_that_goes_on_when_there_is_space(whole, tmp_path):
    """The database grows beyond the limit."""
    done = program(tmp_path, FULL, 90000)
    assert done.returncode == 7, done.stdout + done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert "can't be written" in done.stdout
    assert not list((tmp_path / "run").rglob("*.tmp"))
    search(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole)


def test_releases_that_changed_are_told(tmp_path):
    interrupted(tmp_path, "on_generation_end", 1)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("""UPDATE run SET config = json_set(config, '$.versions.torch', '1.0')""")
    connection.close()
    with pytest.warns(UserWarning, match=f"goes on with torch {re.escape(metadata.version('torch'))} instead of 1.0"):
        search(tmp_path)


def test_a_record_that_contradicts_itself_is_refused(tmp_path):
    search(tmp_path, max_generations=1)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("UPDATE value SET value = 0.0 WHERE objective = 'error' AND candidate = 0")
    connection.close()
    with pytest.raises(HistoryError, match=r"can't be resumed: .* population"):
        search(tmp_path, max_generations=2)


FLAGS = [f"--{name}={value}" for name, value in TINY.items()]
SENDS = """
import os, signal, sys
from lightning_lemonade import cli, run
number, after, real = int(sys.argv[1]), int(sys.argv[2]), run.Run._ask
def ask(self, generation):
    if generation == after:
        os.kill(os.getpid(), number)
    return real(self, generation)
run.Run._ask = ask
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_and_resume_goes_on(whole, tmp_path, number, code, capsys):
    arguments = ["search", "--run_dir", "run", "--data", "lightning_lemonade.datamodules.DigitsDataModule", *FLAGS]
    done = program(tmp_path, SENDS, int(number), 2, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "go on with: lightning-lemonade resume run" in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.main(["show", str(tmp_path / "run")]) == 0
    assert "status: stopped" in capsys.readouterr().out
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    assert "resumed after generation 1" in capsys.readouterr().out
    assert digest(tmp_path / "run") == digest(whole)


TERMINATED = """
import json, os, signal, sys
from lightning_lemonade import LemonadeTrainer
from lightning_lemonade.datamodules import DigitsDataModule
class Terminated(DigitsDataModule):
    sent = 0
    def on_after_batch_transfer(self, batch, dataloader_idx):
        if os.path.exists("run/history.sqlite") and self.trainer.state.fn == sys.argv[2] and not self.sent:
            self.sent += 1
            os.kill(os.getpid(), signal.SIGTERM)
        return super().on_after_batch_transfer(batch, dataloader_idx)
# Stated, since what sends tests off may ignore the signal, which its children inherit.
def own(number, frame):  # as Ray's does
    print("my own")
    sys.exit(number)
handlers = {"default": signal.SIG_DFL, "ignored": signal.SIG_IGN, "its own": lambda *_: print("my own"), "raising": own}
signal.signal(signal.SIGTERM, handlers[sys.argv[3]])
LemonadeTrainer(run_dir="run", **json.loads(sys.argv[1])).search(Terminated())
"""


@pytest.mark.parametrize(
    ("phase", "handler"),
    [*product(("fit", "validate"), ("default", "its own", "raising")), ("validate", "ignored")],
)
def test_a_sigterm_ends_a_program_whatever_it_does_with_it(tmp_path, phase, handler):
    done = program(tmp_path, TERMINATED, json.dumps(TINY), phase, handler)
    assert done.returncode == 143, done.stdout + done.stderr
    assert History.open(tmp_path / "run").stop_reason == "SIGTERMException"
    assert ("my own" in done.stdout) == (handler in ("its own", "raising"))


MINE = """
from pathlib import Path
Path("imported").write_text("")
from lightning_lemonade.datamodules import DigitsDataModule
class Mine(DigitsDataModule):
    pass
"""


def test_resume_imports_only_classes_that_the_caller_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_digits.py").write_text(MINE)
    assert cli.main(["search", "--run_dir", "run", "--data", "my_digits.Mine", *FLAGS, "--max_generations=1"]) == 0
    (tmp_path / "imported").unlink()
    del sys.modules["my_digits"]
    capsys.readouterr()
    assert cli.main(["resume", "run"]) == 2
    assert "which may be code: if you trust it, name it yourself, with --data my_digits.Mine" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()
    assert cli.main(["resume", "run", "--data", "my_digits.Mine", "--max_generations=2"]) == 0
    assert (tmp_path / "imported").exists()
    assert len(History.open(tmp_path / "run").generations()) == 3


EVIL = """
from pathlib import Path
Path("hit").write_text("")
from lightning_lemonade.datamodules import DigitsDataModule
class M(DigitsDataModule):
    pass
"""


@pytest.mark.parametrize(
    "hidden",
    [
        {"data": {"class_path": "os.system", "init_args": {"command": "touch hit"}}},
        {"data": {"class_path": "theirs.evil.M"}},
        {"data": "{class_path: theirs.evil.M}"},
        {"data": "theirs/cfg"},
        {"data": {"class_path": "lightning_lemonade.datamodules.DigitsDataModule", "init_args": {"seed": "{class_path: theirs.evil.M}"}}},
        {"data": {"class_path": "lightning_lemonade.datamodules.DigitsDataModule", "init_args": {"seed": {"class_path": "theirs.evil.M"}}}},
        {"data": {"class_path": "lightning_lemonade.datamodules.DigitsDataModule", "init_args": {"seed": "theirs/cfg"}}},
        {"data": {"class_path": "lightning_lemonade.datamodules.DigitsDataModule", "dict_kwargs": {"x": "theirs.evil.M"}}},
        {"plugins": [{"class_path": "theirs.evil.M"}]},
        {"plugins": "[{class_path: theirs.evil.M}]"},
        {"profiler": "theirs.evil.M"},
        {"profiler": "{class_path: theirs.evil.M}"},
        {"tasks": "{a: theirs.evil.M, b: theirs.evil.M}"},
        {"tasks": {"a": "theirs.evil.M"}},
        {"training": {"class_path": "theirs.evil"}},
        {"training": "{class_path: theirs.evil.M}"},
        {"strategy": "{class_path: theirs.evil.M}"},
        {"strategy": "theirs/cfg"},
        {"objectives": ["error", "theirs/cfg"]},
        {"batch_format": "theirs.evil.M"},
        {"config": "theirs/cfg"},
        {"wandb": "online"},
        {"limits": {"params": "theirs.evil.M"}},
    ],
    ids=lambda hidden: json.dumps(hidden)[:50],
)
def test_a_strangers_command_line_imports_nothing(whole, tmp_path, hidden, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "theirs")
    (tmp_path / "theirs/evil.py").write_text(EVIL)
    (tmp_path / "theirs/cfg").write_text("class_path: theirs.evil.M\n")
    with sqlite3.connect(tmp_path / "theirs" / DATABASE) as connection:
        connection.execute("UPDATE run SET config = json_set(config, '$.command', json(?))", (json.dumps({"epochs": 1} | hidden),))
    connection.close()
    assert cli.main(["resume", "theirs"]) == 2
    assert "may be code" in capsys.readouterr().err
    assert not (tmp_path / "hit").exists()


def test_a_run_that_was_started_in_python_says_how_it_goes_on(whole, capsys):
    assert cli.main(["resume", str(whole)]) == 2
    assert "run the program that started it again" in capsys.readouterr().err
    assert cli.main(["resume"]) == 2
    assert cli.main(["resume", str(whole / "nowhere")]) == 2
    with pytest.raises(ConfigurationError, match="keep_weights must be one of front, all"):
        LemonadeTrainer(keep_weights="some")
