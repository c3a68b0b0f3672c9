"""What a killed search left half done in its run directory, and what it no longer needs."""

import re
import warnings
from collections.abc import Collection
from pathlib import Path

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.history.weights import FOLDER, NAME

_PARTS = re.compile(r"\.history\.sqlite\.[0-9a-f]{32}\.tmp(-journal)?", re.ASCII)
_HALF_WEIGHTS = re.compile(r"\.\d{6,}-\d+\.safetensors\.tmp", re.ASCII)


def sweep(run_dir: Path, kept: Collection[str] | None) -> None:
    """Deletes files that a killed search left: half a database, half a file of weights, weights that no row names.

    Only names that a search gives are deleted; what a user put there stays. For the writer alone.

    Args:
        run_dir: the run directory.
        kept: the weights that rows name, below the run directory; None: all.

    Raises:
        HistoryError: if the weights lie behind a link, which might lead to the files of another run, or the disk refuses.
    """
    folder = run_dir / FOLDER
    if folder.is_symlink():
        raise HistoryError(f"{folder} is a link: a search deletes files there. Put the folder itself in its place")
    try:
        doomed = [path for path in run_dir.iterdir() if _PARTS.fullmatch(path.name)]
        if folder.is_dir():
            for path in folder.iterdir():
                unnamed = kept is not None and NAME.fullmatch(path.name) and f"{FOLDER}/{path.name}" not in kept
                if unnamed or _HALF_WEIGHTS.fullmatch(path.name):
                    doomed.append(path)
        for path in doomed:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise HistoryError(f"what a killed search left in {run_dir} can't be deleted: {error}. Mend the permissions") from error


def discard(run_dir: Path, names: Collection[str]) -> None:
    """Deletes weights that no row names any more. What can't be deleted now is swept when the search is resumed.

    A name that no search gives isn't deleted: it might lead out of the run directory.
    """
    for name in names:
        folder, _, file = str(name).partition("/")
        if folder != FOLDER or not NAME.fullmatch(file):
            continue
        try:
            (run_dir / FOLDER / file).unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"{run_dir / name} isn't needed any more but can't be deleted: {error}", stacklevel=2)
