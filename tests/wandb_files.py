"""What an offline run of Weights & Biases left on disk: its history, summary, configuration and tables.

Format: `run-*.wandb` is a LevelDB log (7-byte header, 32 KiB blocks, chunks of crc 4, length 2, type 1) of `Record` protobufs.
"""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

FILE_HEADER, BLOCK, CHUNK_HEADER = 7, 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def run_dirs(folder: Path) -> list[Path]:
    """The directories of all offline runs below `folder`, the oldest first."""
    return sorted(folder.glob("**/wandb/offline-run-*"), key=lambda path: path.stat().st_ctime_ns)


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """The logged rows in order, without W&B's own `_timestamp` and the like, and without empty ones."""
    rows = [_values(record.history.item) for record in _records(run_dir) if record.WhichOneof("record_type") == "history"]
    return [row for row in ({key: value for key, value in row.items() if not key.startswith("_")} for row in rows) if row]


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The summary: from `files/wandb-summary.json`, or from the log where W&B (0.31, offline) didn't write that file."""
    path = run_dir / "files" / "wandb-summary.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    return _values(item for record in _records(run_dir) for item in record.summary.update)


def read_config(run_dir: Path) -> dict[str, Any]:
    """The configuration, without W&B's own `_wandb`."""
    items = [item for record in _records(run_dir) for item in (*record.run.config.update, *record.config.update)]
    return {key: value for key, value in _values(items).items() if not key.startswith("_")}


def read_tables(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """For each key, the last table logged under it, as rows by column. The log names the files below `files/`."""
    tables = {}
    for row in read_history(run_dir):
        for key, value in row.items():
            if isinstance(value, dict) and value.get("_type") == "table-file":
                table = json.loads((run_dir / "files" / value["path"]).read_text())
                tables[key] = [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
    return tables


def read_exit_code(run_dir: Path) -> int | None:
    """The exit code; None if the run was never finished."""
    codes = [record.exit.exit_code for record in _records(run_dir) if record.WhichOneof("record_type") == "exit"]
    return codes[-1] if codes else None


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Key-value items of protobufs as a nested dictionary; later ones win."""
    values: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        inner = values
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return values


def _records(run_dir: Path, patience: float = 5.0) -> list[Any]:
    """The records, once the last says that the run ended: `finish()` may return some milliseconds before W&B's process writes them."""
    deadline = time.monotonic() + patience
    while True:
        records = [_record(data) for path in run_dir.glob("*.wandb") for data in _log_entries(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.02)


def _record(data: bytes) -> Any:
    record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # re-exported by protobuf's version
    record.ParseFromString(data)
    return record


def _log_entries(data: bytes) -> Iterator[bytes]:
    assert not data or data[:4] == b":W&B"
    at, entry = FILE_HEADER, b""
    while at + CHUNK_HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < CHUNK_HEADER:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + CHUNK_HEADER + length > len(data):
            return  # still being written
        assert kind in {FULL, FIRST, MIDDLE, LAST}
        entry += data[at + CHUNK_HEADER : at + CHUNK_HEADER + length]
        at += CHUNK_HEADER + length
        if kind in {FULL, LAST}:
            yield entry
            entry = b""
