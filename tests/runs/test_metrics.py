"""Metrics rows: the same in metrics.jsonl, metrics.csv and TensorBoard's event files."""

import csv
import errno
import json
import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vit_jax.runs.metrics import MetricWriter, read_rows

# Values exact in float32, which is what TensorBoard keeps.
TRAIN_1 = {"step": 1, "epoch": 0.5, "split": "train", "loss": 2.5, "accuracy": 0.125}
TRAIN_2 = {"step": 2, "epoch": 1.0, "split": "train", "loss": 1.75, "accuracy": 0.25}
EVAL_2 = {"step": 2, "epoch": 1.0, "split": "eval", "loss": 1.5, "loss_ema": 1.25}
TRAIN_3 = {"step": 3, "epoch": 1.5, "split": "train", "loss": 0.5, "accuracy": 0.75}
TEST_3 = {"step": 3, "epoch": 1.5, "split": "test", "loss": 0.625, "accuracy": 0.5}
ROWS = [TRAIN_1, TRAIN_2, EVAL_2, TRAIN_3, TEST_3]


def write(folder, rows, resume_after=None):
    writer = MetricWriter(folder, resume_after)
    for row in rows:
        writer.write(row)
    writer.close()


def csv_rows(folder):
    """The rows of metrics.csv, with numbers as numbers and without the empty cells."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in rows)  # no ragged line
    return [
        {
            key: value if key == "split" else (int(value) if key == "step" else float(value))
            for key, value in row.items()
            if value
        }
        for row in rows
    ]


def events(folder):
    """All events of the TensorBoard files, oldest file first."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content, start = path.read_bytes(), 0
        while start < len(content):  # u64 length, u32 checksum, the event, u32 checksum
            (length,) = struct.unpack_from("<Q", content, start)
            found.append(Event.FromString(content[start + 12 : start + 12 + length]))
            start += length + 16
    return found


def scalars(folder):
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def expected_scalars(rows):
    return [
        (f"{row['split']}/{key}", row["step"], value)
        for row in rows
        for key, value in row.items()
        if key not in ("step", "epoch", "split")
    ]


def test_the_three_kinds_of_file_hold_the_same(tmp_path):
    write(tmp_path, ROWS)
    assert read_rows(tmp_path) == ROWS
    assert [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()] == ROWS
    assert csv_rows(tmp_path) == ROWS
    assert scalars(tmp_path) == expected_scalars(ROWS)


def test_every_row_is_on_disk_at_once(tmp_path):
    writer = MetricWriter(tmp_path)
    try:
        for number, row in enumerate(ROWS, start=1):
            writer.write(row)
            assert read_rows(tmp_path) == csv_rows(tmp_path) == ROWS[:number]
    finally:
        writer.close()


def test_columns_that_come_later_are_added_to_earlier_rows(tmp_path):
    write(tmp_path, [TRAIN_1, EVAL_2, TRAIN_3])
    first, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert first == "step,epoch,split,loss,accuracy,loss_ema"
    assert lines == ["1,0.5,train,2.5,0.125,", "2,1.0,eval,1.5,,1.25", "3,1.5,train,0.5,0.75,"]


def test_a_fresh_writer_starts_empty(tmp_path):
    write(tmp_path, ROWS)
    write(tmp_path, [TRAIN_1])
    assert read_rows(tmp_path) == csv_rows(tmp_path) == [TRAIN_1]


def test_resuming_drops_what_lies_beyond_the_step_and_the_test(tmp_path):
    write(tmp_path, [*ROWS, {**TEST_3, "step": 2}])
    # Event files are named by the second; an older name keeps the two apart in a fast test.
    (old,) = (tmp_path / "tensorboard").iterdir()
    old.rename(old.with_name("events.out.tfevents.0000000001.before"))
    again = {**TRAIN_3, "loss": 0.375}
    write(tmp_path, [again], resume_after=2)
    assert read_rows(tmp_path) == csv_rows(tmp_path) == [TRAIN_1, TRAIN_2, EVAL_2, again]

    # TensorBoard's files are append-only: a START event tells readers to drop steps from 3 on.
    late = [event for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert [event.step for event in late] == [3]
    assert scalars(tmp_path)[-2:] == expected_scalars([again])


def test_resuming_keeps_columns_of_rows_before(tmp_path):
    write(tmp_path, [TRAIN_1, EVAL_2])
    write(tmp_path, [{**TRAIN_3, "extra": 1.0}], resume_after=2)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == "step,epoch,split,loss,accuracy,loss_ema,extra"
    assert csv_rows(tmp_path) == [TRAIN_1, EVAL_2, {**TRAIN_3, "extra": 1.0}]


@pytest.mark.parametrize("kept", [1, 10, 40])
def test_a_line_cut_short_is_left_out_and_then_gone(tmp_path, kept):
    write(tmp_path, [TRAIN_1, TRAIN_2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps(EVAL_2)[:kept])
    assert read_rows(tmp_path) == [TRAIN_1, TRAIN_2]
    write(tmp_path, [TRAIN_3], resume_after=2)
    assert read_rows(tmp_path) == csv_rows(tmp_path) == [TRAIN_1, TRAIN_2, TRAIN_3]


def test_rows_can_be_chosen(tmp_path):
    write(tmp_path, ROWS)
    assert read_rows(tmp_path, keep=lambda row: row["split"] == "eval") == [EVAL_2]


def test_a_folder_without_metrics_has_no_rows(tmp_path):
    assert read_rows(tmp_path) == []


def test_without_tensorboardx_the_other_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write(tmp_path, ROWS)
    assert read_rows(tmp_path) == csv_rows(tmp_path) == ROWS
    assert not (tmp_path / "tensorboard").exists()


def test_a_disk_that_takes_no_more_is_said_and_nobody_waits(tmp_path, monkeypatch):
    """tensorboardX's own writer would die in a thread, and the next row wait for it for ever."""
    writer = MetricWriter(tmp_path)
    writer.write(ROWS[0])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, "write_event", full)
    for row in ROWS[1:]:
        with pytest.raises(OSError, match="No space left"):
            writer.write(row)
    close = EventsWriter.close

    def closed(self):
        close(self)
        full()

    monkeypatch.setattr(EventsWriter, "close", closed)
    writer.close()
