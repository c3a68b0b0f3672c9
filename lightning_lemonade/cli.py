"""The command line: `lightning-lemonade search`, `resume`, `polish` and `show`."""

import inspect
import json
import math
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_lemonade.errors import ConfigurationError, LemonadeError
from lightning_lemonade.parsing import (
    ConfigFile,
    Parser,
    data_module_base,
    executor_cause,
    first_cause,
    named_data_classes,
    refuse_reserved,
)

if TYPE_CHECKING:  # at run time, what imports torch or scikit-learn is imported inside `main`, which answers Ctrl-C
    from lightning_lemonade.callback import SearchInfo
    from lightning_lemonade.history import History
    from lightning_lemonade.records import CandidateRecord
    from lightning_lemonade.trainer import LemonadeTrainer

_NOT_FLAGS = frozenset({"space", "module", "callbacks", "logger"})
_NOT_RECORDED = frozenset({"config", "dry_run", "executor", "run_dir", "wandb"})  # where a run is, where it computes, and who watches it
_DEFAULT_DATA = "lightning_lemonade.datamodules.DigitsDataModule"
_INSTEAD = {  # where the flag isn't called as the argument is in Python
    "max_epochs": "use --epochs and --initial_epochs",
    "min_epochs": "use --epochs and --initial_epochs",
    "max_steps": "use --epochs and --initial_epochs",
    "min_steps": "use --epochs and --initial_epochs",
    "default_root_dir": "use --run_dir",
    "fast_dev_run": "use --max_generations 1 with few --proposals",
    "logger": "use --wandb",
    "callbacks": "callbacks can be given in Python alone",
}


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: what stands behind the program's name; `sys.argv`'s if None.

    Returns:
        The exit code: 0, 2 after an error that was told in one line, 130 after Ctrl-C, 143 where a SIGTERM ended a training.
    """
    try:
        return _run(sys.argv[1:] if args is None else list(args))
    except LemonadeError as error:
        sys.stderr.write(f"error: {_harmless(' '.join(str(error).split()))}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:  # --help and --print_config; Lightning turns Ctrl-C into exit(1)
        if isinstance(stop.__context__, KeyboardInterrupt):
            return 130
        if type(stop).__name__ == "SIGTERMException":  # Lightning's; its import would take seconds
            sys.stderr.write("error: stopped by SIGTERM\n")
            return 143
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _run(args: list[str], polish: str | None = None) -> int:
    """Runs a command; `polish` is the time for which a run is polished in place of being searched."""
    if args[:1] in (["resume"], ["polish"]) and len(args) > 1 and not args[1].startswith("-"):
        from lightning_lemonade.recorded import recorded_command  # noqa: PLC0415

        more, polish = (args[2:], None) if args[0] == "resume" else _without_time(args[2:])
        with recorded_command(Path(args[1]), more) as config:
            return _run(["search", "--config", str(config), *more, "--run_dir", args[1]], polish)
    search, show = Parser(description="Searches a Pareto front of networks."), Parser(description="Shows what a search found.")
    resume = Parser(description="Goes on with a search as it was started on the command line; takes the flags of search, too.")
    polisher = Parser(description="Trains a run's front on for --max_time DD:HH:MM:SS; takes the flags of search, too.")
    for reader in (show, resume, polisher):
        reader.add_argument("run", type=str, help="run directory")
    polisher.add_argument("--max_time", type=str, help="for how long")
    show.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    if args[:1] == ["search"]:  # Lightning's import takes seconds, and only a search needs it
        _prepare_search(search, args)
    parser = Parser(prog="lightning-lemonade", description="Multi-objective neural architecture search with inherited weights.")
    commands = parser.add_subcommands(required=True, dest="command")
    commands.add_subcommand("search", search, help="search a Pareto front of networks")
    commands.add_subcommand("resume", resume, help="go on with an interrupted search")
    commands.add_subcommand("polish", polisher, help="train the front of a run on")
    commands.add_subcommand("show", show, help="show a run")
    settings = parser.parse(args)
    if settings.command == "show":
        _show(settings.show.run, as_json=settings.show.json)
    elif settings.command == "resume":
        raise ConfigurationError("give the run directory first: lightning-lemonade resume RUN, and then flags")
    elif settings.command == "polish":
        raise ConfigurationError("give the run directory first: lightning-lemonade polish RUN --max_time DD:HH:MM:SS, and then other flags")
    else:
        if settings.search.tasks is not None and settings.search.data != search.get_defaults().data:
            raise ConfigurationError("data and tasks are both given: several data modules by name are tasks, one is data; give one of both")
        if settings.search.dry_run and _is_follower():
            return 0
        command = json.loads(search.dump(settings.search, format="json"))
        command = {name: value for name, value in command.items() if name not in _NOT_RECORDED}
        _search(_instantiated(parser, settings).search, command, polish)
    return 0


def _without_time(args: Sequence[str]) -> tuple[list[str], str]:
    """Returns arguments without `--max_time`, and its value: a polishing's own, which isn't the search's.

    Raises:
        ConfigurationError: if it isn't there.
    """
    left, times, following = list[str](), list[str](), iter(args)
    for arg in following:
        name, given, value = arg.partition("=")
        if name == "--max_time":
            times.append(value if given else next(following, ""))
        else:
            left.append(arg)
    if not times:
        raise ConfigurationError("polish needs --max_time: for how long the front is trained on, for instance 00:00:30:00 for half an hour")
    return left, times[-1]


def _instantiated(parser: Parser, settings: Namespace) -> Namespace:
    try:
        return cast(Namespace, parser.instantiate(settings))
    except LemonadeError:
        raise
    except Exception as error:  # whatever a user's class raises
        if "Training" in str(error).partition("Errors:")[0]:  # whose checks jsonargparse wraps
            raise ConfigurationError(f"training can't be used: {first_cause(str(error))}") from error
        if cause := executor_cause(str(error)):
            raise ConfigurationError(f"executor can't be used: {cause}") from error
        raise ConfigurationError(f"the data module can't be made: {type(error).__name__}: {first_cause(str(error))}") from error


def _prepare_search(parser: Parser, args: Sequence[str]) -> None:
    """Adds a search's flags."""
    import pytorch_lightning as pl  # noqa: PLC0415

    import lightning_lemonade.datamodules  # noqa: F401, PLC0415  (so that their short names are known)
    from lightning_lemonade.trainer import RESERVED, LemonadeTrainer  # noqa: PLC0415

    own = _own_names(LemonadeTrainer)
    reserved = set(RESERVED)
    parser.reserved = {name: _INSTEAD.get(name, why) for name, why in RESERVED.items() if name not in own - _NOT_FLAGS}
    refuse_reserved((arg[2:].split("=")[0].split(".")[0] for arg in args if arg.startswith("--")), parser.reserved)
    if os.getcwd() not in sys.path:  # a console script can't import the user's own data module otherwise
        sys.path.append(os.getcwd())
    parser.add_argument("--config", action=ConfigFile, help="YAML file of these arguments")
    added = parser.add_class_arguments(LemonadeTrainer, skip=set(_NOT_FLAGS | (reserved - own)), instantiate=False)
    parser.add_class_arguments(pl.Trainer, skip=reserved | own | set(added), instantiate=False)
    named, _ = found = named_data_classes(args)
    data, tasks = (data_module_base(names) for names in found)
    default = _DEFAULT_DATA if data is pl.LightningDataModule else named[0]  # a default must be of the type
    tasks = types.GenericAlias(dict, (str, tasks)) | None
    help_text = "the data module: a class's name or path, and --data.NAME VALUE for its arguments"
    parser.add_argument("--data", type=data, default={"class_path": default}, help=help_text)
    tasks_help = "several data modules by name, in a configuration file: architectures are searched for all of them; instead of --data"
    parser.add_argument("--tasks", type=tasks, default=None, help=tasks_help)
    dry_run_help = "measure a few training steps, tell what would run where, how long and with how much memory, and end; write nothing"
    parser.add_argument("--dry_run", action="store_true", help=dry_run_help)
    parser.add_argument("--wandb", choices=["offline", "online", "disabled"], help="log the population to Weights & Biases")


def _is_follower() -> bool:
    """Returns whether a launcher, torchrun or srun, started this process beside the one of rank 0."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"


def _own_names(trainer: "type[LemonadeTrainer]") -> set[str]:
    parameters = inspect.signature(trainer).parameters.values()
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}


def _search(settings: Namespace, command: Mapping[str, Any], polish: str | None) -> None:
    import pytorch_lightning as pl  # noqa: PLC0415
    from pytorch_lightning.utilities.exceptions import SIGTERMException  # noqa: PLC0415

    from lightning_lemonade.callback import SearchCallback, SearchInfo  # noqa: PLC0415
    from lightning_lemonade.callbacks import SearchProgressBar, WandbPopulationLogger  # noqa: PLC0415
    from lightning_lemonade.trainer import LemonadeTrainer  # noqa: PLC0415

    defaults = {p.name: p.default for p in inspect.signature(pl.Trainer).parameters.values()}
    own = _own_names(LemonadeTrainer)
    values = {key: value for key, value in vars(settings).items() if key not in {"config", "data", "dry_run", "tasks", "wandb"}}
    given = {key: value for key, value in values.items() if key in own or value != defaults.get(key)}
    data = settings.data if settings.tasks is None else settings.tasks
    if settings.dry_run:
        sys.stdout.write(f"{LemonadeTrainer(**given).plan(data)}\n")
        return
    ends: list[tuple[dict[str, Any], Path]] = []

    class Keeper(SearchCallback):
        """Keeps what there is to print: it's read while the history is open, and printed below the progress bar."""

        def on_search_start(self, search: SearchInfo) -> None:
            sys.stderr.write(f"run directory: {search.run_dir}; if interrupted, go on with: lightning-lemonade resume {search.run_dir}\n")

        def on_search_end(self, search: SearchInfo) -> None:
            ends.append((run_summary(search), search.run_dir))

        def on_search_exception(self, search: SearchInfo, exception: BaseException) -> None:
            if isinstance(exception, KeyboardInterrupt | SIGTERMException):
                sys.stderr.write(f"interrupted; go on with: lightning-lemonade resume {search.run_dir}\n")

    callbacks: list[SearchCallback] = [Keeper(), SearchProgressBar()]
    if settings.wandb is not None:
        callbacks.append(WandbPopulationLogger(mode=settings.wandb))
    trainer = LemonadeTrainer(callbacks=callbacks, **given)
    trainer.described["command"] = dict(command)
    trainer.search(data) if polish is None else trainer.polish(data, max_time=polish)
    for summary, run_dir in ends:  # one; none where this isn't rank 0
        _print_run(summary, run_dir)


def open_run(run: Path) -> "SearchInfo":
    """Reads a run directory.

    Args:
        run: the directory.

    Raises:
        HistoryError: there is no run.
    """
    from lightning_lemonade.callback import SearchInfo  # noqa: PLC0415
    from lightning_lemonade.history import History  # noqa: PLC0415

    history = History.open(run)
    return SearchInfo(run, history.objectives, history.config, history.bounds, history.config.get("max_generations"), history)


def _show(run: str, *, as_json: bool) -> None:
    search = open_run(Path(run))
    history = cast("History", search.history)
    status, reason, disk = history.status, history.stop_reason, history.disk_use()
    if as_json:
        summary = run_summary(search) | {"status": status, "stop_reason": reason, "disk": disk}
        sys.stdout.write(json.dumps(_finite(summary), allow_nan=False) + "\n")
        return
    _print_run(run_summary(search), search.run_dir)
    sys.stdout.write(f"disk: {disk['total'] / 2**20:,.1f} MiB, of which {disk['weights'] / 2**20:,.1f} are weights\n")
    if status != "finished":
        from lightning_lemonade.history import owner_of  # noqa: PLC0415

        owner, runs = owner_of(search.run_dir) or ("", False)
        if status == "running":
            status, reason = ("running", f"by {owner}") if runs else ("interrupted", owner and f"when {owner} ended")
        sys.stdout.write(f"status: {_harmless(f'{status} {reason}'.strip())}\n")


def run_summary(search: "SearchInfo") -> dict[str, Any]:
    """Returns what `show --json` prints, as JSON values. Objectives go by their key (`name` or `name/task`)."""
    from lightning_lemonade.records import PHASES  # noqa: PLC0415

    generations, predictions = search.history.generations(), search.history.predictions()
    return {
        "objectives": [{"name": o.key, "unit": o.unit, "stage": o.stage} for o in search.objectives],
        "front": [_candidate(c) for c in search.history.front()],
        "hypervolume": [g.hypervolume for g in generations],
        "bounds": {key: list(pair) for key, pair in search.bounds.items()},
        "candidates": {name: sum(getattr(g, name) for g in generations) for name in ("proposed", "evaluated", "failed")},
        "seconds": {phase: sum(g.seconds.get(phase, 0.0) for g in generations) for phase in PHASES},
        "total_epochs": generations[-1].total_epochs if generations else 0,
        "predictions": None if predictions is None else asdict(predictions),
    }


def _candidate(candidate: "CandidateRecord") -> dict[str, Any]:
    names = ("id", "parent", "generation", "start_error", "test_error", "epochs", "cumulative_epochs", "hash")
    return {
        **{name: getattr(candidate, name) for name in names},
        "objectives": dict(candidate.objectives),
        "mutations": [dict(m) for m in candidate.mutations],
        "tasks": {name: asdict(task) for name, task in candidate.tasks.items()},
    }


def _finite(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """Puts null in place of numbers that JSON doesn't have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _print_run(summary: Mapping[str, Any], run_dir: Path) -> None:
    console = Console(soft_wrap=True)
    table = Table(title="Pareto front")
    keys = [o["name"] for o in summary["objectives"]]
    tasks = list(summary["front"][0]["tasks"]) if summary["front"] else [""]
    titles = ["validation error" if key == "error" else key for key in keys]
    tests = [f"test error/{task}" if task else "test error" if "error" in keys else "test" for task in tasks]
    for title in ("id", "parent", *titles, *tests, "epochs"):
        table.add_column(Text(_harmless(title)), justify="right")
    for row in sorted(summary["front"], key=lambda row: [row["objectives"].get(key, math.inf) for key in keys]):
        values = [_text(row["objectives"].get(key)) for key in keys]
        tested = [_text(row["tasks"][task]["test_error"]) for task in tasks]
        table.add_row(str(row["id"]), _text(row["parent"]), *values, *tested, str(row["cumulative_epochs"]))
    console.print(table)
    hypervolume = summary["hypervolume"]
    console.print(f"hypervolume: {_text(hypervolume[-1] if hypervolume else None)} after {len(hypervolume)} generations")
    console.print("seconds: " + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in summary["seconds"].items()))
    if predictions := summary["predictions"]:
        off = [f"{_harmless(key)} off by {_text(distance)} on average" for key, distance in predictions["errors"].items()]
        off += [] if predictions["seconds"] is None else [f"seconds by {predictions['seconds']:.0%} in the middle"]
        console.print(f"predictions for {predictions['children']} children: {', '.join(off)}", markup=False, highlight=False)
    console.print(_harmless(f"run directory: {run_dir}"), markup=False, highlight=False)


def _harmless(text: str) -> str:
    """Returns a text from a run directory without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
