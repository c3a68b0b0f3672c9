"""WandbPopulationLogger: one Weights & Biases run per search, with front, hypervolume and lineage."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.errors import ConfigurationError
from lightning_lemonade.records import CandidateRecord, GenerationRecord

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]
Row = list[Any]
Table = tuple[list[str | int], list[Row]]

_log = logging.getLogger(__name__)


class WandbPopulationLogger(SearchCallback):
    """Logs a search to a Weights & Biases run of its own; a run that is already active stays as it is.

    Per generation (which is the horizontal axis): `hypervolume`, `front_size`, `best/<objective>` over the front, `proposed`, `accepted`,
    `evaluated`, `failed`, `total_epochs`, `seconds`. Every few generations and at the end: the table `population` (every candidate so far,
    with its lineage), the table `front`, and `pareto`, the front's error against its first objective that needs no training. In the end the
    tables hold the test errors, and the summary holds the last values and `test_error`: that of the front's member with the lowest
    *validation* error, so that the test split chooses nothing.

    A resumed search gets a new run, in the same W&B group (the run directory's name), which repeats the earlier generations: what counts
    is the search's own history. A failure of W&B never stops a search: it is one warning, after which this logger is silent.

    Args:
        project: the W&B project.
        name: the run's name; None: the run directory's.
        mode: `online`, `offline` or `disabled`; None: what W&B's own settings say (`WANDB_MODE`, `wandb offline`).
        tags: the run's tags.
        log_tables_every: generations from one set of tables to the next. W&B stores every table as an artifact, so choose it large.

    Raises:
        ConfigurationError: if an argument has no meaning.
    """

    def __init__(
        self,
        project: str = "lightning-lemonade",
        name: str | None = None,
        mode: Mode | None = None,
        tags: Sequence[str] = (),
        log_tables_every: int = 10,
    ) -> None:
        if mode is not None and mode not in get_args(Mode):
            raise ConfigurationError(f"mode={mode!r}: expected one of {', '.join(get_args(Mode))}, or None")
        if log_tables_every < 1:
            raise ConfigurationError(f"log_tables_every={log_tables_every}: expected at least 1")
        self._project, self._name, self._mode, self._tags = project, name, mode, tuple(tags)
        self._log_tables_every = log_tables_every
        self._run: wandb.Run | None = None

    def on_search_start(self, search: SearchInfo) -> None:
        """Starts the run."""
        self._start(search)

    def on_search_resume(self, search: SearchInfo) -> None:
        """Starts a new run that repeats what the history holds."""
        self._start(search)
        for record in search.history.generations():
            self._log_values(search, record)

    def on_generation_end(self, search: SearchInfo, record: GenerationRecord) -> None:
        """Logs the generation."""
        self._log_values(search, record)
        if record.generation % self._log_tables_every == 0:
            self._log_tables(search, record.generation)

    def on_search_end(self, search: SearchInfo) -> None:
        """Logs the final tables and the summary, and finishes the run."""
        generations = search.history.generations()
        self._log_tables(search, generations[-1].generation if generations else 0)
        if generations and self._run is not None:
            summary = _outcome(search, generations[-1]) | _test_error(search)
            with self._guarded() as run:
                run.summary.update(summary)
        self._finish(exit_code=0)

    def on_search_exception(self, search: SearchInfo, exception: BaseException) -> None:
        """Marks the run as failed."""
        self._finish(exit_code=1)

    def _start(self, search: SearchInfo) -> None:
        """Starts a run of its own."""
        import wandb  # noqa: PLC0415 (its import is slow)

        self._run = None
        with _warning() as failed:
            self._run = wandb.init(
                project=self._project,
                name=self._name or search.run_dir.name,
                group=search.run_dir.name,
                dir=search.run_dir,
                config=dict(search.config),
                tags=self._tags,
                mode=self._mode,
                reinit="create_new",
            )
            self._run.define_metric("generation")
            self._run.define_metric("*", step_metric="generation")
        if failed:
            self._run = None

    def _log_values(self, search: SearchInfo, record: GenerationRecord) -> None:
        """Logs a generation's numbers."""
        if self._run is None:
            return
        counts = ("proposed", "accepted", "evaluated", "failed", "total_epochs")
        values = {name: getattr(record, name) for name in counts} | {"seconds": sum(record.seconds.values())}
        values |= {"generation": record.generation} | _outcome(search, record)
        with self._guarded() as run:
            run.log(values)

    def _log_tables(self, search: SearchInfo, generation: int) -> None:
        """Logs the population, the front and its picture."""
        if self._run is None:
            return
        import wandb  # noqa: PLC0415 (its import is slow)

        keys = [objective.key for objective in search.objectives]
        everyone, members = _table(search.history.candidates(), keys), _table(search.history.front(), keys)
        axes = _axes(search)
        with self._guarded() as run:
            front = wandb.Table(*members)
            values = {"generation": generation, "population": wandb.Table(*everyone), "front": front}
            run.log(values | ({"pareto": wandb.plot.scatter(front, *axes, title="Pareto front")} if axes else {}))

    def _finish(self, exit_code: int) -> None:
        """Ends the run."""
        if self._run is not None:
            with self._guarded() as run:
                run.finish(exit_code=exit_code)
        self._run = None

    @contextmanager
    def _guarded(self) -> "Iterator[wandb.Run]":
        """Yields the run, to be used for calls of W&B alone; their failure switches this logger off."""
        assert self._run is not None
        with _warning() as failed:
            yield self._run
        if failed:
            self._run = None


@contextmanager
def _warning() -> Iterator[list[Exception]]:
    """Turns a failure of W&B (its own exceptions, files, sockets) into a warning; yields where to look for it. Other exceptions pass."""
    failed: list[Exception] = []
    try:
        yield failed
    except Exception as error:
        # W&B raises exceptions of private modules too, for instance `MailboxClosedError` when its process is dead.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("wandb."):
            raise
        failed.append(error)
        _log.warning("Weights & Biases failed, and this search is logged there no longer: %s: %s", type(error).__name__, error)


def _outcome(search: SearchInfo, record: GenerationRecord) -> dict[str, float]:
    """Returns the hypervolume, the front's size and its best value of each objective."""
    members = [search.history.candidate(member).objectives for member in record.front]
    outcome: dict[str, float] = {"hypervolume": record.hypervolume, "front_size": len(record.front)}
    for objective in search.objectives:
        values = [values[objective.key] for values in members if objective.key in values]
        if values:
            outcome[f"best/{objective.key}"] = min(values)
    return outcome


def _trained(search: SearchInfo) -> str | None:
    """Returns the key of the first objective that needs training."""
    return next((objective.key for objective in search.objectives if objective.stage == "trained"), None)


def _test_error(search: SearchInfo) -> dict[str, float]:
    """Returns the test error of the front's member with the lowest validation error, if it was measured."""
    key = _trained(search)
    members = [member for member in search.history.front() if key in member.objectives]
    if key is None or not members:
        return {}
    best = min(members, key=lambda member: member.objectives[key])
    task = key.partition("/")[2]
    error = best.tasks[task].test_error if task in best.tasks else None
    return {} if error is None else {f"test_error/{task}" if task else "test_error": error}


def _axes(search: SearchInfo) -> tuple[str, str] | None:
    """Returns the columns of the Pareto plot: the first cheap objective, and the first that needs training."""
    cheap = next((objective.key for objective in search.objectives if objective.stage != "trained"), None)
    trained = _trained(search)
    return None if cheap is None or trained is None else (cheap, trained)


def _table(candidates: Sequence[CandidateRecord], keys: Sequence[str]) -> Table:
    """Returns the names of the columns, and a row for each candidate; what isn't known (yet) is None."""
    columns: list[str | int] = ["id", "parent", "generation", "mutations", "state", "failure", *keys]
    tasks = list(dict.fromkeys(task for candidate in candidates for task in candidate.tasks)) or [""]
    columns += [f"{name}/{task}" if task else name for task in tasks for name in ("start_error", "test_error")]
    columns += ["epochs", "cumulative_epochs", "hash", "in_front"]
    return columns, [_row(candidate, keys, tasks) for candidate in candidates]


def _row(candidate: CandidateRecord, keys: Sequence[str], tasks: Sequence[str]) -> Row:
    """Returns a candidate's row."""
    failure = candidate.failure and f"{candidate.failure.kind}: {candidate.failure.text}"
    mutations = ", ".join(_mutation_text(mutation) for mutation in candidate.mutations)
    lineage = [candidate.id, candidate.parent, candidate.generation, mutations, candidate.state, failure]
    found = [candidate.tasks.get(task) for task in tasks]
    errors = [error for result in found for error in ((result.start_error, result.test_error) if result else (None, None))]
    training = [candidate.epochs, candidate.cumulative_epochs]
    return [*lineage, *(candidate.objectives.get(key) for key in keys), *errors, *training, candidate.hash, candidate.in_front]


def _mutation_text(mutation: Mapping[str, Any]) -> str:
    """Returns a mutation's JSON values as a line.

    >>> _mutation_text({"kind": "widen", "node": ["n3", "n7"], "factor": 2})
    'widen(node=n3+n7, factor=2)'
    """
    arguments = {name: value for name, value in mutation.items() if name != "kind"}
    shown = {name: "+".join(map(str, value)) if isinstance(value, list | tuple) else value for name, value in arguments.items()}
    return f"{mutation.get('kind', '')}({', '.join(f'{name}={value}' for name, value in shown.items())})"
