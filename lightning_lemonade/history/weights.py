"""Weights on disk: one safetensors file per candidate and task, which holds named sets of weights (`raw/n3.weight`)."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.morphisms import State

FOLDER = "weights"


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
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise HistoryError(f"the weights {path} can't be written: {error}. Free some space or mend the permissions") from error
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path, sha256: str, which: str = "raw") -> State:
    """Reads one set of weights; runs no pickle.

    Args:
        path: the file.
        sha256: what `write_weights` returned.
        which: the set's name.

    Returns:
        The state dict, on the CPU.

    Raises:
        HistoryError: if the file is missing, isn't the one that was written, or holds no such set.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HistoryError(f"the weights {path} can't be read: {error}. Restore the file from a copy of the run directory") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise HistoryError(f"the weights {path} are damaged: their checksum isn't the recorded one. Restore the file from a copy")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise HistoryError(f"the weights {path} are no safetensors file: {error}. Restore the file from a copy") from error
    state = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.partition("/")[0] == which}
    if not state and (tensors or which != "raw"):
        names = sorted({key.partition("/")[0] for key in tensors})
        raise HistoryError(f"the weights {path} hold no set {which!r}; they hold: {', '.join(names) or 'none'}")
    return state


def fsync_directory(path: Path) -> None:
    """Makes renames in a directory durable, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
