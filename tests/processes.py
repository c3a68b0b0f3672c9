"""Programs of a test that are several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
OF_LAUNCHERS = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


def environment():
    clean = {name: value for name, value in os.environ.items() if name not in OF_LAUNCHERS}
    return clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), clean.get("PYTHONPATH", "")])}


def started(*arguments, **options):
    """Starts a program; Python's own where the first argument is a file or an option of it."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        **options,
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


def torchrun(*arguments, nodes=1, node=0, port=None, per_node=2):
    return [
        *("-m", "torch.distributed.run", f"--nproc-per-node={per_node}", f"--nnodes={nodes}", f"--node-rank={node}"),
        *("--master-addr=127.0.0.1", f"--master-port={port or free_port()}", *map(str, arguments)),
    ]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
