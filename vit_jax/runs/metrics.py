"""Metrics of a run as files: metrics.jsonl, metrics.csv and, where installed, TensorBoard."""

import contextlib
import csv
import importlib.util
import io
import json
import os
import sys
import time
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
            self._tensorboard = _Events(folder / "tensorboard", purge)

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
            scalars = {key: row[key] for key in row if key not in Row.__annotations__}
            self._tensorboard.write(row["step"], row["split"], scalars)

    def close(self) -> None:
        """Close TensorBoard's file; every row is in it already."""
        if self._tensorboard:
            with contextlib.suppress(OSError):  # the disk may be full: that was said where it hurt
                self._tensorboard.close()

    def _write_csv(self, rows: list[dict[str, Any]]) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        _replace(self.csv, table.getvalue())


class _Events:
    """TensorBoard's event file, written where it is asked for.

    tensorboardX's own SummaryWriter hands events to a thread through a short queue: where the disk
    is full the thread dies, and whoever writes next waits for ever.
    """

    def __init__(self, folder: Path, purge_step: int | None):
        """Events from `purge_step` on that an earlier file holds are not shown any more."""
        # tensorboardX imports PyTorch where it finds it, for tensors, which are not written here:
        # that would cost seconds at every start, and hundreds of megabytes.
        hides = "torch" not in sys.modules
        if hides:
            sys.modules["torch"] = None  # pyrefly: ignore[unsupported-operation]
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.summary import scalar

            # What is in it is made when it is imported, so no type checker knows of it.
            proto: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        finally:
            if hides:
                del sys.modules["torch"]
        folder.mkdir(exist_ok=True)
        self._event, self._scalar = proto.Event, scalar
        self._writer = EventsWriter(str(folder / "events"))
        if purge_step is not None:
            start = proto.SessionLog(status=proto.SessionLog.START)
            self._writer.write_event(proto.Event(step=purge_step, file_version="brain.Event:2"))
            self._writer.write_event(proto.Event(step=purge_step, session_log=start))
        self._writer.flush()

    def write(self, step: int, split: str, scalars: dict[str, float]) -> None:
        """Append scalars of a step, each under split/name."""
        for name, value in scalars.items():
            summary = self._scalar(f"{split}/{name}", value)
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


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
