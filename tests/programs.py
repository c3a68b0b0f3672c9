"""The programs of scripts/, run within a test's process: an interpreter of their own would import for ten seconds."""

import contextlib
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from unittest import mock

import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run_script(name, *arguments):
    """Returns what `subprocess.run` would."""
    path, threads, code = str(SCRIPTS / name), torch.get_num_threads(), 0
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        with (
            mock.patch.object(sys, "argv", [path, *map(str, arguments)]),
            mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            try:
                runpy.run_path(path, run_name="__main__")
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                stderr.write(error.code if isinstance(error.code, str) else "")
            except Exception:
                traceback.print_exc()
                code = 1
            finally:
                torch.set_num_threads(threads)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(path, code, stdout.read(), stderr.read())
