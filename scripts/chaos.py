"""Kills a search again and again, and compares what it comes to with a search that nobody disturbed.

Usage: python scripts/chaos.py [--kills 30] [--generations 12] [--every 1] [--seed 0] [--spawn] [--only random|sweep]

Two campaigns on the digits, on the CPU, with trainings of two steps:

- random: `kill -9` at random moments, and the same search again, until it ends by itself and at least so many kills struck. Each round ends
  with the final history, front, hypervolume and files compared with the undisturbed run's.
- sweep: one generation, killed before, after and (writes) in the middle of every `write`, `fsync`, `rename`, `link`, `unlink`, `truncate`
  and creation of a file that it does in its run directory, SQLite's own among them, one at a time; then the same search again. The start of
  a run (its database) and the end of one (test errors) are swept alike.

After each kill the record is read as it lies there: whatever was recorded as evaluated must still be so at the end, unchanged. Prints
kills, recoveries and losses; the exit code is 1 if anything was lost, doubled, left over or different. Needs Linux and a C compiler (for
the library that counts file operations, chaos.c). `--spawn` makes each process of the random campaign a new interpreter with the command
line, in place of a fork of this one.
"""

import argparse
import ctypes
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SHIM = "LEMONADE_CHAOS_SHIM"
SETTINGS = {
    "algorithm": "paper",
    "proposals": 6,
    "accepted": 2,
    "epochs": 1,
    "initial_epochs": 1,
    "limit_train_batches": 2,
    "accelerator": "cpu",
}
SETTINGS |= {"calibration_size": 64, "threads_per_child": 1, "enable_progress_bar": False}
BEFORE, AFTER, TORN = 0, 1, 2
MODES = {BEFORE: "before", AFTER: "after", TORN: "within"}
COUNT_ONLY = 1 << 60


def preload() -> None:
    """Starts this script again with the library that counts file operations, unless it is loaded."""
    if SHIM in os.environ:
        return
    folder = tempfile.mkdtemp()
    library = Path(folder) / "chaos.so"
    done = subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "chaos.c"), "-ldl"], check=False)
    if done.returncode:
        sys.exit("chaos.py needs a C compiler called cc")
    environment = os.environ | {"LD_PRELOAD": str(library), SHIM: folder, "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


@dataclass
class Tally:
    """What was counted."""

    kills: int = 0
    recoveries: int = 0
    losses: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def judge(self, where: str, problems: list[str]) -> None:
        """Counts what went wrong at a place."""
        self.losses += len(problems)
        self.problems += [f"{where}: {problem}" for problem in problems]
        for problem in problems:
            print(f"  LOST {where}: {problem}", flush=True)


def search(run_dir: Path, generations: int, seed: int) -> None:
    """Runs the search, or goes on with it."""
    from lightning_lemonade import LemonadeTrainer  # noqa: PLC0415 (here and below: after `preload`, which begins this script anew)
    from lightning_lemonade.datamodules import DigitsDataModule  # noqa: PLC0415

    LemonadeTrainer(run_dir=run_dir, max_generations=generations, seed=seed, **SETTINGS).search(DigitsDataModule())  # type: ignore[arg-type]


def command(run_dir: Path, generations: int, seed: int) -> list[str]:
    """Returns the same search as a command."""
    flags = [f"--{name}={value}" for name, value in SETTINGS.items() if name != "enable_progress_bar"]
    program = "import sys; from lightning_lemonade.cli import main; sys.exit(main(sys.argv[1:]))"
    return [
        sys.executable,
        "-c",
        program,
        "search",
        "--run_dir",
        str(run_dir),
        f"--max_generations={generations}",
        f"--seed={seed}",
        *flags,
    ]


def forked(work: Callable[[], None]) -> int:
    """Starts work in a forked process; returns its id."""
    process = os.fork()
    if process:
        return process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int) -> int:
    """Waits for a process; returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_at(work: Callable[[], None], directory: Path, operation: int, mode: int) -> tuple[int, list[str]]:
    """Runs work that dies by one of its file operations; returns its exit code and the operations it did."""
    shim = ctypes.CDLL(None)
    with tempfile.TemporaryFile("w+") as log:

        def armed() -> None:
            shim.chaos_arm(os.fsencode(directory), ctypes.c_long(operation), mode, log.fileno())
            work()

        code = ended(forked(armed))
        log.seek(0)
        return code, re.sub(r"[0-9a-f]{32}", "*", log.read()).splitlines()


def recorded(run_dir: Path) -> dict[int, tuple[object, ...]]:
    """Returns what is recorded for good: everything of candidates that were evaluated or failed, read as it lies there."""
    from lightning_lemonade.history import DATABASE, History  # noqa: PLC0415

    if not (run_dir / DATABASE).exists():
        return {}
    history = History.open(run_dir)
    done = {}
    for c in history.candidates():
        if c.state in ("evaluated", "failed"):
            numbers = (sorted(c.objectives.items()), sorted(c.tasks.items()), c.epochs, c.cumulative_epochs)
            done[c.id] = (c.state, c.hash, c.parent, c.generation, repr(numbers))
    return done


def final(run_dir: Path) -> dict[str, object]:
    """Returns what two runs of one seed must have in common."""
    from lightning_lemonade.history import History  # noqa: PLC0415

    history = History.open(run_dir)
    files = {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".safetensors" else ""
        for path in sorted(run_dir.rglob("*"))
        if path.is_file()
    }
    return {
        "status": (history.status, history.stop_reason),
        "digest": history.digest(),
        "front": [candidate.id for candidate in history.front()],
        "hypervolume": [repr(generation.hypervolume) for generation in history.generations()],
        "ids": [candidate.id for candidate in history.candidates()],
        "files": files,
    }


def compared(run_dir: Path, expected: dict[str, object], seen: dict[int, tuple[object, ...]]) -> list[str]:
    """Returns what is wrong with a finished run."""
    found = final(run_dir)
    problems = [f"{name} is {str(found[name])[:200]}, not {str(value)[:200]}" for name, value in expected.items() if found[name] != value]
    now = recorded(run_dir)
    return problems + [
        f"candidate {number} was recorded and has changed" for number, facts in seen.items() if not same(facts, now.get(number))
    ]


def same(before: tuple[object, ...], now: tuple[object, ...] | None) -> bool:
    """Returns whether a record is as it was; the test error comes last, once the search is over."""

    def bare(facts: tuple[object, ...] | None) -> str:
        return re.sub(r"test_error=[^,]*", "", str(facts))

    return bare(before) == bare(now)


def random_campaign(folder: Path, arguments: argparse.Namespace, tally: Tally) -> None:
    """Kills a search at random moments until it ends, and again until enough kills struck."""
    rng = random.Random(arguments.seed)
    whole = folder / "undisturbed"
    began = time.monotonic()
    if arguments.spawn:
        subprocess.run(command(whole, arguments.generations, arguments.seed), check=True, stdout=subprocess.DEVNULL)
    else:
        assert ended(forked(lambda: search(whole, arguments.generations, arguments.seed))) == 0
    took, expected, rounds = time.monotonic() - began, final(whole), 0
    print(f"undisturbed: {arguments.generations} generations in {took:.1f} s, front {expected['front']}", flush=True)
    patience = (8.0 if arguments.spawn else 0.5) + took / arguments.generations * 3
    while tally.kills < arguments.kills:
        run_dir, seen, rounds = folder / f"round{rounds}", dict[int, tuple[object, ...]](), rounds + 1
        while True:
            if arguments.spawn:
                with subprocess.Popen(command(run_dir, arguments.generations, arguments.seed), stdout=subprocess.DEVNULL) as process:
                    code = struck(process.pid, rng.uniform(0, patience), process.poll)
                    process.returncode = process.returncode if process.returncode is not None else code
            else:
                pid = forked(lambda: search(run_dir, arguments.generations, arguments.seed))  # noqa: B023 (runs at once)
                code = struck(pid, rng.uniform(0, patience), None)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                tally.judge(f"round {rounds}", [f"the search ended by itself with the code {code}"])
                return
            tally.kills += 1
            now = recorded(run_dir)
            tally.judge(f"round {rounds}", [f"candidate {i} is gone" for i, facts in seen.items() if not same(facts, now.get(i))])
            seen |= now
            print(f"  kill {tally.kills}: {len(now)} of {len(expected['ids'])} recorded", flush=True)  # type: ignore[arg-type]
        tally.recoveries += 1
        tally.judge(f"round {rounds}", compared(run_dir, expected, seen))
        shutil.rmtree(run_dir)


def struck(pid: int, seconds: float, poll: Callable[[], int | None] | None) -> int:
    """Kills a process after some time, unless it ends before; returns its exit code."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if poll is not None:
            if (code := poll()) is not None:
                return code
        else:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def sweep_campaign(folder: Path, arguments: argparse.Namespace, tally: Tally) -> None:
    """Kills a generation at each of its file operations in turn; so the start of a run and its end."""
    base = folder / "base"
    assert ended(forked(lambda: search(base, 1, arguments.seed))) == 0
    swept(folder, base, lambda run_dir: search(run_dir, 2, arguments.seed), "generation", arguments, tally)
    empty = folder / "empty"
    empty.mkdir()
    swept(folder, empty, lambda run_dir: search(run_dir, 1, arguments.seed), "start", arguments, tally, most=40)


def swept(
    folder: Path,
    base: Path,
    work: Callable[[Path], None],
    name: str,
    arguments: argparse.Namespace,
    tally: Tally,
    most: int | None = None,
) -> None:
    """Sweeps what work does in a copy of a run directory."""
    run_dir = folder / "swept"
    shutil.copytree(base, run_dir)
    code, operations = killed_at(lambda: work(run_dir), run_dir, COUNT_ONLY, BEFORE)
    assert code == 0, "the undisturbed search failed"
    expected = final(run_dir)
    print(f"{name}: {len(operations)} operations in the run directory", flush=True)
    places = [
        (number, mode)
        for number, operation in enumerate(operations[:most])
        for mode in MODES
        if mode != TORN or operation.split()[0] in ("write", "pwrite", "pwrite64")
    ]
    before = tally.losses
    for number, mode in places[:: arguments.every]:
        shutil.rmtree(run_dir)
        shutil.copytree(base, run_dir)
        where = f"{name}, {MODES[mode]} operation {number} ({operations[number]})"
        code, done = killed_at(lambda: work(run_dir), run_dir, number, mode)
        if code != -signal.SIGKILL or done != operations[: number + 1]:
            tally.judge(where, [f"it didn't die there: code {code} after {len(done)} operations"])
            continue
        tally.kills += 1
        tally.operations[operations[number].split()[0]] += 1
        seen = recorded(run_dir)
        if ended(forked(lambda: work(run_dir))) != 0:
            tally.judge(where, ["the search could not go on"])
            continue
        tally.recoveries += 1
        tally.judge(where, compared(run_dir, expected, seen))
    print(f"{name}: {len(places[:: arguments.every])} places swept, {tally.losses - before} losses", flush=True)
    shutil.rmtree(run_dir)


def main() -> int:
    """Runs the campaigns; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="least kills at random moments")
    parser.add_argument("--generations", type=int, default=12, help="of the search that is killed at random moments")
    parser.add_argument("--every", type=int, default=1, help="sweep every so many places only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spawn", action="store_true", help="new interpreters with the command line, in place of forks")
    parser.add_argument("--only", choices=["random", "sweep"])
    arguments = parser.parse_args()
    preload()
    import lightning_lemonade.datamodules  # noqa: PLC0415 (once, rather than in each fork)
    import lightning_lemonade.run  # noqa: F401, PLC0415

    losses = 0
    for name, campaign in (("random", random_campaign), ("sweep", sweep_campaign)):
        if arguments.only in (None, name):
            tally = Tally()
            with tempfile.TemporaryDirectory() as folder:
                campaign(Path(folder).resolve(), arguments, tally)
            kinds = ", ".join(f"{operation} {count}" for operation, count in sorted(tally.operations.items()))
            print(f"{name}: kills {tally.kills}, recoveries {tally.recoveries}, losses {tally.losses}{f' ({kinds})' if kinds else ''}")
            losses += tally.losses
    shutil.rmtree(os.environ[SHIM], ignore_errors=True)
    return int(losses > 0)


if __name__ == "__main__":
    sys.exit(main())
