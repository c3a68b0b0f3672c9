"""Programs of a test that are several processes."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).parent
OF_LAUNCHERS = (
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "GROUP_RANK",
    "LOCAL_WORLD_SIZE",
)


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if name not in OF_LAUNCHERS}
    return clean | more | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), clean.get("PYTHONPATH", "")])}


class Reader(threading.Thread):
    """Reads the end of a pipe."""

    def __init__(self, end):
        super().__init__(daemon=True)
        self._end, self.text = end, ""
        self.start()

    def run(self):
        with os.fdopen(self._end) as file:
            self.text = file.read()


class Forked:
    """A program as a fork of this process, which has imported what takes a new interpreter ten seconds; what `subprocess.Popen` would be.

    Args:
        program: the file, and its arguments.
        cwd: as Popen's.
        start_new_session: as Popen's.
        env: of the program.
    """

    def __init__(self, program, *, cwd=".", start_new_session=False, env=None):
        self.args, self.returncode = program, None
        pipes = [os.pipe() for _ in range(2)]
        self._pid = os.fork()
        if self._pid == 0:
            try:
                code = self._program([end for _, end in pipes], cwd, start_new_session, env or environment())
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        for _, end in pipes:
            os.close(end)
        self._readers = [Reader(end) for end, _ in pipes]

    def _program(self, ends, cwd, start_new_session, env):
        for descriptor, end in enumerate(ends, 1):
            os.dup2(end, descriptor)
            os.close(end)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if callable(signal.getsignal(signal.SIGTERM)):  # Ray leaves one behind, and this is another program
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(cwd)
        if start_new_session:
            os.setsid()
        os.environ.clear()
        os.environ.update(env)
        sys.argv, sys.path = self.args, [str(Path(self.args[0]).parent), *sys.path]
        try:
            runpy.run_path(self.args[0], run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def communicate(self, timeout):
        deadline = time.monotonic() + timeout
        for reader in self._readers:  # until it and all that it has started have closed them
            reader.join(max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return [reader.text for reader in self._readers]

    def kill(self):
        os.kill(self._pid, signal.SIGKILL)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def started(*arguments, **options):
    """Starts a Python program, or what follows an option of Python's own."""
    program = [str(argument) for argument in arguments]
    if not program[0].startswith("-"):
        return Forked(program, **options)
    return subprocess.Popen(
        [sys.executable, *program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options
    )


def ended(process, timeout=200):
    """Returns what subprocess.run would."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(*arguments, **options):
    return ended(started(*arguments, **options))


def run_ranks(*arguments, ranks=2, like_torchrun=False, **options):
    """Returns what `run` would for each process of a program that is started so many times.

    All begin at once, and as forks, where launchers start new interpreters, some of them after some seconds.

    Args:
        arguments: the program, and its arguments.
        ranks: how many processes.
        like_torchrun: whether they find what torchrun tells its processes, in place of the least that Lightning asks for.
        options: as `started` takes them.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
    if like_torchrun:
        shared |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "none"}
    own = [{"LOCAL_RANK": str(rank)} | ({"RANK": str(rank)} if like_torchrun else {}) for rank in range(ranks)]
    processes = [started(*arguments, env=environment(**shared, **names), **options) for names in own]
    try:
        return [ended(process) for process in processes]
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()


def torchrun(*arguments, nodes=1, node=0, port=None, per_node=2):
    return [
        *("-m", "torch.distributed.run", f"--nproc-per-node={per_node}", f"--nnodes={nodes}", f"--node-rank={node}"),
        *("--master-addr=127.0.0.1", f"--master-port={port or free_port()}", *map(str, arguments)),
    ]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
