"""Weights on disk: one safetensors file per candidate and task, which holds named sets of weights (`raw/n3.weight`)."""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.graph import GraphSpec
from lightning_lemonade.history.values import text
from lightning_lemonade.morphisms import State

FOLDER = "weights"
NAME = re.compile(r"\d{6,}-\d+\.safetensors", re.ASCII)
SETS = 4
"""Sets of weights that a file may hold (raw, averaged, polished ...)."""
BYTES_PER_NUMBER = 8
BYTES_PER_NODE = 2048
"""For the header: a node has up to five tensors, whose entries take less than 256 bytes each."""
TYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64})
"""What weights may be; the counters of batch norms are integers."""
LARGEST = 4 << 30
"""Bytes of the largest file that is read in any case."""


def weights_name(candidate_id: int, task_index: int) -> str:
    """Returns the file's name below the run directory; it holds no text from outside."""
    return f"{FOLDER}/{candidate_id:06d}-{task_index}.safetensors"


def write_weights(path: Path, sets: Mapping[str, State]) -> str:
    """Writes weights so that the file is either whole or not there: beside, fsynced, renamed, directory fsynced.

    Args:
        path: the file; its folder exists.
        sets: state dict by the set's name, for instance `raw`.

    Returns:
        The file's SHA-256. Equal weights give equal files.

    Raises:
        HistoryError: if a set has no name or one with a slash, or the file can't be written.
    """
    bad = [name for name in sets if not name or "/" in name]
    if bad:
        raise HistoryError(f"a set of weights can't be called {bad[0]!r}: give it a name without a slash, for instance raw")
    # Copies, because safetensors refuses tensors that share memory, as the sets of one network may.
    copies = {
        f"{name}/{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, state in sets.items()
        for key, tensor in state.items()
    }
    content = save(copies)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.unlink(missing_ok=True)  # a stranger may have put a link there
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            beside.unlink(missing_ok=True)
        raise HistoryError(f"the weights {path} can't be written: {error}. Free some space or mend the permissions") from error
    return hashlib.sha256(content).hexdigest()


def most_bytes(spec: GraphSpec) -> int:
    """Returns how large the weights of an architecture may be on disk: a stranger's file isn't read beyond that.

    Batch norms hold as many statistics as they have parameters, and a counter.
    """
    return min(LARGEST, SETS * (BYTES_PER_NUMBER * 2 * spec.parameter_count + BYTES_PER_NODE * len(spec.nodes)))


def read_weights(path: Path, sha256: str, which: str = "raw", largest: int = LARGEST) -> State:
    """Reads one set of weights; runs no pickle.

    Args:
        path: the file.
        sha256: what `write_weights` returned.
        which: the set's name.
        largest: bytes of the largest file that is read.

    Returns:
        The state dict, on the CPU.

    Raises:
        HistoryError: if the file is missing, isn't the one that was written, or holds no such set.
    """
    try:
        content = _read_file(path, largest)
    except OSError as error:
        raise HistoryError(f"the weights {path} can't be read: {error}. Restore the file from a copy of the run directory") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise HistoryError(f"the weights {path} are damaged: their checksum isn't the recorded one. Restore the file from a copy")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise HistoryError(f"the weights {path} are no safetensors file: {text(str(error))}. Restore the file from a copy") from error
    if odd := {tensor.dtype for tensor in tensors.values()} - TYPES:
        raise HistoryError(f"the weights {path} hold tensors of the type {min(map(str, odd))}, which no weights are: they are damaged")
    state = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.partition("/")[0] == which}
    if not state and (tensors or which != "raw"):
        names = sorted({key.partition("/")[0] for key in tensors})[:SETS]
        raise HistoryError(f"the weights {path} hold no set {which!r}; they hold: {', '.join(text(name)[:40] for name in names) or 'none'}")
    return state


def _read_file(path: Path, largest: int) -> bytes:
    """Reads a file that is one: a pipe would make a reader wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise HistoryError(f"the weights {path} are no file. Restore the file from a copy")
        if status.st_size > largest:
            raise HistoryError(f"the weights {path} are damaged: {status.st_size} bytes are more than their network can have")
        return file.read(status.st_size)


def fsync_directory(path: Path) -> None:
    """Makes renames in a directory durable, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
