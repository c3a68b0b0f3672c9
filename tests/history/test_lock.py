"""One search at a time writes a run directory."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from runs import create, record_run

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.history import History, lock, owner_of

HOLDS = """
import os, sys, time
from pathlib import Path
from lightning_lemonade.history.lock import RunLock
held = RunLock(Path(sys.argv[1]))
if sys.argv[2] == "forks" and os.fork() == 0:
    time.sleep(60)  # as a loader's worker, which outlives its parent
print("held", flush=True)
time.sleep(60)
"""


def holder(run_dir, how="alone"):
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(run_dir), how], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_another_process_is_kept_out_and_told_who_writes(tmp_path, monkeypatch):
    record_run(tmp_path).close()
    process = holder(tmp_path)
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    with pytest.raises(HistoryError, match=f"is in use by process {process.pid} on .*: wait for it, stop it, or give another run_dir"):
        History.resume(tmp_path)
    owner, runs = owner_of(tmp_path)
    assert owner.startswith(f"process {process.pid} on ")
    assert runs
    assert len(History.open(tmp_path).candidates()) == 4
    end(process)


@pytest.mark.parametrize("how", ["alone", "forks"])
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, how):
    record_run(tmp_path).close()
    process = holder(tmp_path, how)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert owner_of(tmp_path)[1] is False
    began = time.monotonic()
    with pytest.warns(UserWarning, match=f"taken over from process {process.pid} on .*, which ended without closing it"):
        history = History.resume(tmp_path)
    assert time.monotonic() - began < lock.PATIENCE
    history.close()
    assert owner_of(tmp_path) is None
    if how == "forks":
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()


def test_the_same_process_is_kept_out_too(tmp_path):
    history = record_run(tmp_path)
    with pytest.raises(HistoryError, match="in use by another search of this process"):
        History.resume(tmp_path)
    assert owner_of(tmp_path)[0].startswith(f"process {os.getpid()} on ")
    history.close()
    History.resume(tmp_path).close()


def test_a_history_that_nobody_holds_any_more_lets_go(tmp_path):
    record_run(tmp_path)
    gc.collect()
    History.resume(tmp_path).close()


def test_a_search_that_can_not_be_resumed_lets_go(tmp_path):
    record_run(tmp_path).close()
    content = (tmp_path / "history.sqlite").read_bytes()
    (tmp_path / "history.sqlite").write_bytes(content[:5000])
    with pytest.raises(HistoryError):
        History.resume(tmp_path)
    (tmp_path / "history.sqlite").write_bytes(content)
    History.resume(tmp_path).close()


def test_two_that_start_at_once_in_one_directory_become_one(tmp_path):
    first = create(tmp_path)
    with pytest.raises(HistoryError, match="holds a run already"):
        create(tmp_path)
    first.close()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_directory_that_can_not_be_written_is_told(tmp_path):
    record_run(tmp_path).close()
    (tmp_path / "search.lock").unlink()
    (tmp_path / "search.lock").symlink_to(tmp_path / "nowhere" / "else")  # also root can't open it
    with pytest.raises(HistoryError, match=r"can't be written: .* Mend its permissions"):
        History.resume(tmp_path)
    (tmp_path / "search.lock").unlink()
    os.mkfifo(tmp_path / "search.lock")
    with pytest.raises(HistoryError, match="is no file of a search"):
        History.resume(tmp_path)
    assert owner_of(tmp_path) is None
    assert Path(tmp_path / "search.lock").is_fifo()


def test_a_directory_that_can_only_be_read_is_told(open_folder, nobody):
    run = open_folder / "run"
    record_run(run).close()
    with nobody(run):
        with pytest.raises(HistoryError, match=r"can't be written: .* show and load only read it"):
            History.resume(run)
        assert owner_of(run) is None
    History.resume(run).close()


def test_of_many_threads_one_gets_the_lock(tmp_path):
    record_run(tmp_path).close()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            won, start = [], threading.Barrier(2)

            def attempt(won=won, start=start):
                start.wait()
                try:
                    won.append(lock.RunLock(tmp_path))
                except HistoryError:
                    won.append(None)

            threads = [threading.Thread(target=attempt) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(held is not None for held in won) == 1
            next(filter(None, won)).release()
    finally:
        sys.setswitchinterval(interval)


def test_a_copy_of_the_directory_within_its_process_does_not_end_the_lock_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    history = record_run(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    history.finish("running", "")  # a write takes it anew
    process = subprocess.run([sys.executable, "-c", HOLDS, str(tmp_path / "run"), "alone"], capture_output=True, text=True, check=False)
    assert "is in use by process" in process.stderr
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    process = holder(tmp_path / "run")
    with pytest.raises(HistoryError, match=f"in use by process {process.pid}"):
        history.finish("running", "")
    end(process)
    with pytest.raises(HistoryError, match="was taken over by process"):
        history.finish("running", "")
    history.close()
