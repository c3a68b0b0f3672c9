"""Front, Candidate and load(): the trained networks that a search found."""

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import fx

from lightning_lemonade.errors import HistoryError, LemonadeError, MutationError, SpecError
from lightning_lemonade.graph import GraphSpec, with_outputs
from lightning_lemonade.history import History
from lightning_lemonade.history.values import text
from lightning_lemonade.morphisms import State, network_with
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from lightning_lemonade.batches import BatchFormat
    from lightning_lemonade.module import LemonadeModule

Format = Literal["onnx", "pt2", "folder"]
EXAMPLE_BATCH = 2
LINEAGE = ("id", "parent", "generation")
ERRORS = ("start_error", "test_error")
COSTS = ("epochs", "cumulative_epochs", "hash")


def load(run_dir: str | Path) -> "Front":
    """Loads the front of a run directory; runs no pickle, imports no class that the run names, and writes nothing.

    Args:
        run_dir: what `LemonadeTrainer.search` wrote; the search may still run.

    Raises:
        HistoryError: if it isn't a run directory, or is damaged.
    """
    return Front(History.open(Path(run_dir)))


class Candidate:
    """A trained network of a search, of one of its tasks: the first one's, and `of_task` gives the others'.

    Args:
        record: what the history says of it.
        history: where its weights are.
        task: whose weights, outputs and errors count; by default the search's first.

    Attributes:
        record: what the history says of it.
        task: the task's name; empty where a search has one.
    """

    def __init__(self, record: CandidateRecord, history: History, task: str | None = None) -> None:
        self.record = record
        self.task = history.tasks[0] if task is None else task
        self._history = history

    def of_task(self, task: str) -> "Candidate":
        """Returns the same candidate with another task's weights, outputs and errors.

        Raises:
            LemonadeError: if the search has no such task.
        """
        if task not in self._history.tasks:
            known = ", ".join(filter(None, self._history.tasks)) or "one, without a name"
            raise LemonadeError(f"{self._history.run_dir} has no task {task!r}; its tasks: {known}")
        return Candidate(self.record, self._history, task)

    @property
    def id(self) -> int:
        """Its number in the search."""
        return self.record.id

    @property
    def parent(self) -> int | None:
        """Its parent's id; None for a starting network."""
        return self.record.parent

    @property
    def generation(self) -> int:
        """The generation it was made in; 0 for a starting network."""
        return self.record.generation

    @cached_property
    def spec(self) -> GraphSpec:
        """Its architecture, with as many outputs as the task has.

        Raises:
            HistoryError: if it can't have that many, since the run directory is damaged.
        """
        outputs = self._facts.get("outputs")
        try:
            return self.record.spec if outputs is None else with_outputs(self.record.spec, outputs)
        except SpecError as error:
            raise HistoryError(f"candidate {self.id} in {self._history.run_dir} has no {outputs} outputs for its task: {error}") from error

    @property
    def class_names(self) -> list[str] | None:
        """The names of its outputs, in order, where the data module told them."""
        names = self._facts.get("class_names")
        return None if names is None else [text(name) for name in names]

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of validation after training, by the names under which the module logs them."""
        return self.record.tasks[self.task].metrics if self.task in self.record.tasks else {}

    @property
    def _facts(self) -> Mapping[str, Any]:
        """What the run says of the task."""
        facts: Mapping[str, Any] = self._history.config.get("tasks", {}).get(self.task, {})
        return facts

    @property
    def objectives(self) -> Mapping[str, float]:
        """Value by objective key."""
        return self.record.objectives

    @property
    def start_error(self) -> float | None:
        """Validation error (or the task's first trained objective) with inherited weights, before training."""
        return self.record.tasks[self.task].start_error if self.task in self.record.tasks else None

    @property
    def test_error(self) -> float | None:
        """Error (or the task's first trained objective) on the test split; None until measured."""
        return self.record.tasks[self.task].test_error if self.task in self.record.tasks else None

    @property
    def epochs(self) -> int:
        """Epochs of its own training."""
        return self.record.epochs

    @property
    def cumulative_epochs(self) -> int:
        """The same with those of the ancestors whose training it inherited."""
        return self.record.cumulative_epochs

    @property
    def mutations(self) -> tuple[Mapping[str, Any], ...]:
        """What was done to the parent, as JSON values, in order."""
        return self.record.mutations

    @property
    def hash(self) -> str:
        """Its structural hash, with the outputs of the task."""
        return self.record.hash if self.spec is self.record.spec else self.spec.structural_hash

    @cached_property
    def network(self) -> fx.GraphModule:
        """The network with its trained weights, on the CPU, in eval mode; built once, at the first access.

        It maps (batch, *spec.input_shape) to (batch, *spec.output_shape).

        Raises:
            HistoryError: if the weights are missing or damaged.
        """
        return self._build()

    @cached_property
    def module(self) -> "LemonadeModule":
        """The network as a LightningModule, to train or test it further; built once, at the first access.

        Raises:
            HistoryError: if the weights are missing or damaged.
        """
        from lightning_lemonade.module import LemonadeModule, Training  # noqa: PLC0415 (Lightning takes seconds to import; most readers don't need it)

        with torch.random.fork_rng(devices=[]):  # the weights that it draws are replaced
            module = LemonadeModule(self.spec, Training(channels_last=False))  # a user's view() and safetensors want it so
        module.network.load_state_dict(self._build().state_dict())
        return module

    def confusion_matrix(
        self, datamodule: "pl.LightningDataModule", split: Literal["val", "test"] = "test", *, batch_format: "BatchFormat" = None
    ) -> pd.DataFrame:
        """Counts a classifier's answers: a row for each true class, a column for each answer.

        Args:
            datamodule: of the task; it is prepared, set up and torn down.
            split: whose samples are counted.
            batch_format: where a batch holds samples and targets, as for the search.

        Returns:
            Counts, with the classes' names (or numbers) as index and columns.

        Raises:
            HistoryError: if the weights are missing or damaged.
            DataError: if the data module has no such split, or its samples don't fit.
        """
        from lightning_lemonade.evaluation.confusion import confusion_matrix  # noqa: PLC0415 (imports Lightning)

        return confusion_matrix(self.network, datamodule, split, self.class_names, batch_format)

    def export(self, path: str | Path, format: Format | None = None) -> Path:  # noqa: A002 (the command line's word)
        """Writes the network, with its recorded weights, for use without this package.

        Args:
            path: the file, or the folder. What is there already is overwritten.
            format: `onnx`, `pt2` (`torch.export`), both with a batch of any size, or `folder` (spec.json, weights.safetensors and
                candidate.json); by default by the suffix: .onnx, .pt2, or none for a folder.

        Returns:
            The path.

        Raises:
            LemonadeError: if the format is unknown or can't express the network, a package is missing, or the path can't be written.
            HistoryError: if the weights are missing or damaged.
        """
        path = Path(path)
        kind = format or {".onnx": "onnx", ".pt2": "pt2", "": "folder"}.get(path.suffix.lower(), path.suffix)
        if kind not in get_args(Format):
            known = ", ".join(get_args(Format))
            raise LemonadeError(f"can't export to {path}: unknown format {kind!r}. End the path in .onnx or .pt2, or give format=: {known}")
        network = self._build()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            {"onnx": _export_onnx, "pt2": _export_pt2, "folder": self._export_folder}[kind](network, path)
        except OSError as error:
            raise LemonadeError(f"can't export to {path}: {error}. Give a path that can be written") from error
        return path

    def _build(self) -> fx.GraphModule:
        """Builds the network afresh, in eval mode."""
        state: State = self._history.weights(self.id, self.task)
        try:
            return network_with(self.spec, state).eval()
        except MutationError as error:
            raise HistoryError(f"the weights of candidate {self.id} in {self._history.run_dir} don't fit its spec: {error}") from error

    def _export_folder(self, network: fx.GraphModule, path: Path) -> None:
        path.mkdir(exist_ok=True)
        facts = {name: getattr(self, name) for name in (*LINEAGE, "objectives", *ERRORS, *COSTS, "mutations")}
        facts |= {
            "task": self.task,
            "class_names": self.class_names,
            "parameters": self.spec.parameter_count,
            "multiply_adds": self.spec.macs,
        }
        facts["units"] = {objective.key: objective.unit for objective in self._history.objectives}
        (path / "spec.json").write_text(self.spec.to_json(indent=2) + "\n", encoding="utf-8")
        (path / "candidate.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        save_file(network.state_dict(), path / "weights.safetensors")

    def __repr__(self) -> str:
        """Returns its id and its values."""
        values = ", ".join(f"{key}={value:.6g}" for key, value in self.objectives.items())
        return f"Candidate({self.id}: {values})"


class Front:
    """The non-dominated candidates of a search, as they are when this is made.

    `front[7]` is the candidate whose id is 7, as in the table and on the command line; iterating goes by the first spec objective, if the
    search has one, else by id.

    Args:
        history: of the search.

    Attributes:
        run_dir: the run directory.
        objectives: in order.
        bounds: the hypervolume's (low, high) by objective key.
        history: the finished generations.
    """

    def __init__(self, history: History) -> None:
        self.run_dir = history.run_dir
        self.objectives: Sequence[ObjectiveRecord] = history.objectives
        self.bounds = history.bounds
        self.history: list[GenerationRecord] = history.generations()
        self._tasks = history.tasks
        cheap = next((objective.key for objective in self.objectives if objective.stage == "spec"), None)
        records = sorted(history.front(), key=lambda record: (0.0 if cheap is None else record.objectives[cheap], record.id))
        self._candidates = {record.id: Candidate(record, history) for record in records}

    def __len__(self) -> int:
        """Returns the number of candidates."""
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        """Yields the candidates, by the first spec objective."""
        return iter(self._candidates.values())

    def __getitem__(self, candidate_id: int) -> Candidate:
        """Returns the candidate of an id (not the one at a place).

        Raises:
            LemonadeError: if the front has none of this id.
        """
        try:
            return self._candidates[candidate_id]
        except (KeyError, TypeError):
            ids = ", ".join(map(str, sorted(self.ids))) or "none: it is empty"
            raise LemonadeError(f"the front of {self.run_dir} has no candidate with the id {candidate_id!r}; its ids are {ids}") from None

    @property
    def ids(self) -> list[int]:
        """The candidates' ids, in the order of iteration."""
        return list(self._candidates)

    @property
    def hypervolume(self) -> float:
        """The front's hypervolume, in [0, 1]; 0 before the first generation is recorded."""
        return self.history[-1].hypervolume if self.history else 0.0

    def to_pandas(self) -> pd.DataFrame:
        """Returns a row for each candidate: lineage, objectives (a column each), errors before training and in test, cost, hash.

        Where a search has several tasks, their errors have a column each: `test_error/TASK`.
        """
        keys = [objective.key for objective in self.objectives]
        errors = {f"{name}/{task}" if task else name: (name, task) for task in self._tasks for name in ERRORS}
        columns = [*LINEAGE, *keys, *errors, *COSTS]
        rows = [
            [*_values(c, LINEAGE), *map(c.objectives.get, keys)]
            + [getattr(c.of_task(task), name) for name, task in errors.values()]
            + _values(c, COSTS)
            for c in self
        ]
        types = {LINEAGE.index("parent"): "Int64", **dict.fromkeys(range(len(LINEAGE) + len(keys), len(columns) - len(COSTS)), "float64")}
        series = [  # by place, since an objective may be called as another column is
            pd.Series([row[i] for row in rows], name=column, dtype=types.get(i)) for i, column in enumerate(columns)
        ]
        return pd.concat(series, axis=1)

    def best(self, objective: str, /, *, limits: Mapping[str, float] | None = None, **bounds: float) -> Candidate:
        """Returns the candidate with the smallest value of an objective among those within bounds.

        Args:
            objective: key of the objective, for instance `error`.
            limits: largest allowed value by objective key, for keys that can't be keywords (`error/task`).
            **bounds: the same as keywords: `front.best("error", params=5e5)`.

        Raises:
            LemonadeError: if an objective is unknown, or no candidate is within the bounds.
        """
        bounds = {**(limits or {}), **bounds}
        known = [o.key for o in self.objectives]
        for key in [objective, *bounds]:
            if key not in known:
                raise LemonadeError(f"unknown objective {key!r}; the objectives of {self.run_dir} are {', '.join(known)}")
        if not self._candidates:
            raise LemonadeError(f"the front of {self.run_dir} is empty: no network was evaluated yet")
        within = [c for c in self if all(c.objectives[key] <= bound for key, bound in bounds.items())]
        if not within:
            asked = " and ".join(f"{key} <= {bound:g}" for key, bound in bounds.items())
            least = ", ".join(f"{key} {min(c.objectives[key] for c in self):g}" for key in bounds)
            raise LemonadeError(f"no candidate of the front has {asked}; the smallest values are: {least}. Raise a bound")
        return min(within, key=lambda c: c.objectives[objective])

    def __repr__(self) -> str:
        """Returns a compact table."""
        title = f"Front of {len(self)} candidates, hypervolume {self.hypervolume:.4f} ({self.run_dir})"
        if not self._candidates:
            return title
        frame = self.to_pandas().drop(columns=["hash"])
        return f"{title}\n{frame.to_string(index=False, na_rep='-', float_format=lambda value: f'{value:.6g}')}"


def _values(candidate: Candidate, names: Sequence[str]) -> list[object]:
    return [getattr(candidate, name) for name in names]


def _example(network: fx.GraphModule) -> tuple[torch.Tensor]:
    """Returns a batch to trace with; of 2, because torch.export takes a size of 1 for a constant."""
    spec = cast(GraphSpec, network.meta["spec"])
    return (torch.zeros(EXAMPLE_BATCH, *spec.input_shape),)


def _dynamic_batch() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _export_onnx(network: fx.GraphModule, path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise LemonadeError(f"exporting to ONNX needs {' and '.join(missing)}: pip install 'lightning-lemonade[export]'")
    try:
        torch.onnx.export(
            network,
            _example(network),
            path,
            dynamo=True,
            dynamic_shapes=_dynamic_batch(),
            input_names=["input"],
            output_names=["output"],
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise LemonadeError(f"ONNX can't express this network: {error}. The formats pt2 and folder can") from error


def _export_pt2(network: fx.GraphModule, path: Path) -> None:
    torch.export.save(torch.export.export(network, _example(network), dynamic_shapes=_dynamic_batch()), path)
