"""Which process of a search has died: each of the others holds a connection to rank 0's, which the system closes when one ends.

A process that waits for another one's gradients waits inside a library, on GPUs for many minutes. So threads watch the connections.
They can't raise where their process waits; they give it some seconds to notice by itself, then say what happened and end it. What was
recorded is safe at any moment, and the search can be resumed.
"""

import os
import secrets
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

GRACE = 6.0
"""Seconds that a process has to notice by itself that another one is gone."""
AFTERWARDS = 25.0
"""Seconds that it then has to end: to close its history, and for callbacks."""
CONNECTING = 20.0
"""Seconds for the first connection."""
_BYE = b"."
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a machine without power closes nothing
_ours: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_in_child() -> None:
    """Closes what a forked process inherited: a loader's worker that outlives a killed process would keep its connections open."""
    for connection in list(_ours):
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class Lifeline:
    """The connections of one rank: of rank 0 to all others, of the others to rank 0.

    Args:
        connections: by the other side's rank.
        rank: this process's.
        end: ends the process; called with what happened.
    """

    def __init__(self, connections: Mapping[int, socket.socket], rank: int, end: Callable[[str], None]) -> None:
        self.lost: int | None = None
        """The rank that is gone though it had not said goodbye."""
        self._connections, self._rank, self._end = dict(connections), rank, end
        self._noticed, self._closed, self._found = threading.Event(), threading.Event(), threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True, name="lemonade-lifeline")
        self._watch.start()

    def wait(self, seconds: float) -> int | None:
        """Returns the rank that is lost; waits a little for a connection to close. Whoever asks has noticed that something is wrong."""
        self._found.wait(seconds)
        if self.lost is not None:
            self._noticed.set()
        return self.lost

    def close(self, *, goodbye: bool) -> None:
        """Ends the watch. Without a goodbye the other ranks take this one for lost."""
        self._closed.set()
        for connection in self._connections.values():
            with suppress(OSError):
                if goodbye:
                    connection.sendall(_BYE)
                connection.shutdown(socket.SHUT_WR)  # the other side reads an end; what it has sent isn't thrown away
        self._watch.join(1.0)
        for connection in self._connections.values():
            connection.close()

    def _look(self) -> None:
        """Waits for connections to close; says goodbye to nobody."""
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map() and not self._closed.is_set():
                for key, _ in selector.select(0.2):
                    if self._said_goodbye(key.fileobj):
                        selector.unregister(key.fileobj)
                    elif not self._closed.is_set():
                        self._lose(key.data)
                        return

    @staticmethod
    def _said_goodbye(connection: Any) -> bool:  # noqa: ANN401 (selectors' type is wider)
        try:
            return bool(connection.recv(1) == _BYE)
        except OSError:
            return False

    def _lose(self, rank: int) -> None:
        self.lost = rank
        self._found.set()
        if self._closed.wait(GRACE) or (self._noticed.is_set() and self._closed.wait(AFTERWARDS)):
            return
        self._end(gone(self._rank, rank))


def gone(rank: int, lost: int | None) -> str:
    """Returns what to tell a user whose process lost another one."""
    who = "another process" if lost is None else f"the process of rank {lost}"
    return (
        f"rank {rank} can't go on: {who} of this search has ended; it was killed, ran out of memory, or told its own error. What was "
        f"evaluated is recorded: give the same command with the same run_dir again to go on"
    )


def end_process(text: str) -> None:
    """Says why, and ends this process with the exit code of an error, wherever it is."""
    os.write(2, f"error: {text}\n".encode())  # sys.stderr may be locked by who waits
    os._exit(2)


class ParentWatch:
    """Ends a process that was launched by another one once that is gone; until there is a lifeline."""

    def __init__(self, rank: int) -> None:
        self._rank, self._parent, self._over = rank, os.getppid(), threading.Event()
        threading.Thread(target=self._look, daemon=True, name="lemonade-parent").start()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            if os.getppid() != self._parent:
                end_process(gone(self._rank, 0))

    def stop(self) -> None:
        """Ends the watch."""
        self._over.set()


def connect(
    rank: int, ranks: int, share: Callable[[Any], Any], gather: Callable[[Any], Sequence[Any]], end: Callable[[str], None] = end_process
) -> Lifeline | None:
    """Connects every rank with rank 0; all call it at once.

    Args:
        rank: this process's.
        ranks: how many there are.
        share: returns rank 0's value on every rank.
        gather: returns every rank's value on every rank.
        end: ends the process; called with what happened.

    Returns:
        The lifeline; None on all ranks if one of them can't reach rank 0, whose death is then noticed by those who talk to it.
    """
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    machines = set(gather(socket.gethostname()))
    # a machine's own name often stands for an address that no other machine reaches
    server = _server((host, "") if len(machines) == 1 else ("",)) if rank == 0 else None
    offer = share((server.getsockname()[1], secrets.token_bytes(16)) if server else None)
    if offer is None:
        return None
    port, token = offer
    connections: dict[int, socket.socket] = {}
    with suppress(OSError):
        connections = _accepted(server, ranks, token) if server else {0: _reached(host, port, rank, token)}
    if server:
        server.close()
    complete = len(connections) == (ranks - 1 if rank == 0 else 1)
    if not all(gather(complete)):
        for connection in connections.values():
            connection.close()
        return None
    for connection in connections.values():
        _prepare(connection)
    return Lifeline(connections, rank, end)


def _server(addresses: Sequence[str]) -> socket.socket | None:
    for address in addresses:  # the name of a service isn't an address of this machine's
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                return socket.create_server((address, 0), family=family, backlog=1024)
    return None


def _accepted(server: socket.socket, ranks: int, token: bytes) -> dict[int, socket.socket]:
    """Returns the connections of all other ranks, or of those that came in time; whoever doesn't know the token is turned away."""
    connections: dict[int, socket.socket] = {}
    ends = time.monotonic() + CONNECTING
    with suppress(TimeoutError):
        while len(connections) < ranks - 1:
            server.settimeout(max(0.01, ends - time.monotonic()))
            connection, _ = server.accept()
            connection.settimeout(5.0)
            with suppress(OSError):
                said = connection.recv(len(token) + 4, socket.MSG_WAITALL)
                if secrets.compare_digest(said[:-4], token):
                    connections[int.from_bytes(said[-4:], "big")] = connection
                    continue
            connection.close()
    return connections


def _reached(host: str, port: int, rank: int, token: bytes) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=CONNECTING)
    connection.sendall(token + rank.to_bytes(4, "big"))
    return connection


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(5.0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    _ours.add(connection)
