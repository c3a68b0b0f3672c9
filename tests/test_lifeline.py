import os
import socket
import threading
import time

import pytest

from lightning_lemonade import lifeline


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(lifeline, "GRACE", 1.0)
    monkeypatch.setattr(lifeline, "AFTERWARDS", 0.3)
    monkeypatch.setattr(lifeline, "CONNECTING", 2.0)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


class Together:
    """What `connect` asks a process group for, between threads."""

    def __init__(self, ranks):
        self.barrier, self.values = threading.Barrier(ranks, timeout=10), [None] * ranks

    def of(self, rank):
        def gather(value):
            self.values[rank] = value
            self.barrier.wait()
            found = list(self.values)
            self.barrier.wait()
            return found

        return (lambda value: gather(value)[0]), gather


def connected(ranks):
    """Returns the lifelines of threads that stand for processes, and what each was ended with."""
    together, lines, ends = Together(ranks), [None] * ranks, {}

    def one(rank):
        lines[rank] = lifeline.connect(rank, ranks, *together.of(rank), end=lambda text: ends.setdefault(rank, text))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return lines, ends


def close(lines):
    for line in lines:
        line.close(goodbye=True)


def test_those_who_say_goodbye_are_not_missed():
    lines, ends = connected(3)
    close(lines)
    time.sleep(0.6)
    assert [line.lost for line in lines] == [None] * 3
    assert not ends


def test_a_lost_rank_is_named_and_those_who_wait_for_it_are_ended():
    lines, ends = connected(3)
    lines[2].close(goodbye=False)
    assert lines[0].wait(2.0) == 2
    assert lines[1].wait(0.1) is None
    time.sleep(1.8)
    assert ends == {0: lifeline.gone(0, 2)}
    close(lines[:2])


def test_who_notices_by_itself_and_ends_is_left_alone():
    lines, ends = connected(2)
    lines[0].close(goodbye=False)
    assert lines[1].wait(2.0) == 0
    lines[1].close(goodbye=False)
    time.sleep(1.8)
    assert not ends


def test_a_forked_process_does_not_keep_the_connections_open():
    lines, _ = connected(2)
    child = os.fork()
    if child == 0:
        time.sleep(2.0)
        os._exit(0)
    for connection in lines[1]._connections.values():
        connection.close()  # without a shutdown, as the system does it when a process is killed
    began = time.monotonic()
    assert lines[0].wait(1.5) == 1
    assert time.monotonic() - began < 1.4
    os.waitpid(child, 0)
    close(lines)


def test_where_rank_0_cannot_be_reached_there_is_none(monkeypatch):
    def refused(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refused)
    lines, ends = connected(2)
    assert lines == [None, None]
    assert not ends
