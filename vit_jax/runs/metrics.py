"""Metrics of a run as files: metrics.jsonl, metrics.csv and, where installed, TensorBoard."""

import csv
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict


class Row(TypedDict):
    """One event; every further key is a scalar."""

    step: int
    epoch: float
    split: str


class MetricWriter:
    """Appends each row to metrics.jsonl and metrics.csv and to TensorBoard's event file.

    A run that goes on after a step first drops the rows that lie beyond it, and those of the test;
    with `evaluation_due` also those of that step's evaluation, which is made again.
    """

    def __init__(self, folder: Path, resume_after: int | None = None, evaluation_due: bool = False):
        self.jsonl = folder / "metrics.jsonl"
        self.csv = folder / "metrics.csv"
        rows = read_rows(folder) if resume_after is not None else []
        rows = [
            row for row in rows if row["step"] <= (resume_after or 0) and row["split"] != "test"
        ]
        if evaluation_due:
            rows = [row for row in rows if (row["step"], row["split"]) != (resume_after, "eval")]
        self.columns: list[str] = list(dict.fromkeys(key for row in rows for key in row))
        _replace(self.jsonl, "".join(json.dumps(row) + "\n" for row in rows))
        self._write_csv(rows)
        self._tensorboard = None
        if importlib.util.find_spec("tensorboardX"):
            purge = None if resume_after is None else resume_after + 1
            self._tensorboard = _summary_writer(folder / "tensorboard", purge)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row: step, epoch, split and scalars."""
        with open(self.jsonl, "a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if new := [key for key in row if key not in self.columns]:
            self.columns += new
            self._write_csv(read_rows(self.jsonl.parent))
        else:
            with open(self.csv, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        if self._tensorboard:
            for key, value in row.items():
                if key not in Row.__annotations__:
                    self._tensorboard.add_scalar(f"{row['split']}/{key}", value, row["step"])

    def close(self) -> None:
        """Flush what TensorBoard's writer still holds."""
        if self._tensorboard:
            self._tensorboard.close()

    def _write_csv(self, rows: list[dict[str, Any]]) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        _replace(self.csv, table.getvalue())


def _summary_writer(folder: Path, purge_step: int | None) -> Any:
    # tensorboardX imports PyTorch where it finds it, for tensors, which are not written here: that
    # would cost seconds at every start, and hundreds of megabytes.
    hides = "torch" not in sys.modules
    if hides:
        sys.modules["torch"] = None  # pyrefly: ignore[unsupported-operation]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hides:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=purge_step)


def _replace(path: Path, text: str) -> None:
    """Write beside, then rename: a kill in between costs no row."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="") as file:
        file.write(text)
    os.replace(temporary, path)


def read_rows(
    folder: Path, keep: Callable[[dict[str, Any]], bool] = lambda row: True
) -> list[dict[str, Any]]:
    """The rows of a run folder's metrics.jsonl, without lines that a kill or a disk has damaged."""
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and row.keys() >= Row.__annotations__.keys():
            rows.append(row)
    return [row for row in rows if keep(row)]
