"""Images named in a table, a .csv, .tsv or .jsonl file with a row for each, and labels as text.

Nothing is ever written beside the table.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data.encoded import Files, FileSource, contents_digest, pixels_of
from vit_jax.data.labels import classes_of, numbered
from vit_jax.data.source import DataConfig, DataError, digest
from vit_jax.data.splits import USUAL, parse_split, usual_name

IMAGE_COLUMNS = ("path", "image", "file", "filename", "id")
LABEL_COLUMNS = ("label", "class", "target", "category")
DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
"""By suffix; of several, the one that is most frequent among the names of the columns."""
SUFFIXES = (*DELIMITERS, ".jsonl")
CHECKED_ROWS = 100_000
"""Tables with more rows are opened without a look at every file."""
LAYOUT = (
    "a table is a .csv, .tsv or .jsonl file with a column of paths and one of labels, or a folder "
    "with train.csv, val.csv and test.csv"
)


@dataclasses.dataclass(frozen=True)
class TableFiles(Files):
    """Image files named by the rows of a table; paths are relative to its folder, or absolute."""

    table: str
    lines: np.ndarray
    """int32 [n], of the rows in the table, from 1."""

    def open(self, index: int) -> BufferedIOBase:
        try:
            return super().open(index)
        except OSError as error:
            where = f"{error.strerror}; {self.table}, line {self.lines[index]}"
            raise OSError(error.errno, where) from error

    def take(self, indices: np.ndarray) -> "TableFiles":
        return dataclasses.replace(self, paths=self.paths[indices], lines=self.lines[indices])


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a table says about the images of one split, in its order."""

    encoded: TableFiles
    labels: list[str]
    """As written."""

    def where(self, index: int) -> str:
        """The place of an example in the table, for messages."""
        return f"{self.encoded.table}, line {self.encoded.lines[index]}"


def table_source(config: DataConfig, split: str) -> FileSource:
    """A whole split of the images that the table `config.root` names, in its order.

    That every file is there is checked here for tables of up to `CHECKED_ROWS` rows, unless bad
    images are to be skipped; otherwise a missing one shows when it is its turn.

    Raises:
      DataError: the table, a row of it or a field is not as it should be; rows go by their lines.
    """
    rows = _rows(config, split)
    train_split = parse_split(config.train_split)[0]
    train = rows if usual_name(train_split) == usual_name(split) else _rows(config, train_split)
    class_names = classes_of(train.labels, train.where)
    labels = numbered(rows.labels, class_names, rows.where)
    if config.on_bad_image == "error":
        _check_files(rows)
    pixels = pixels_of(config, train.encoded)
    paths = rows.encoded.paths.tolist()
    contents = contents_digest(rows.encoded)
    fingerprint = digest("table", paths, class_names, labels.tobytes(), contents, pixels)
    return FileSource(rows.encoded, labels, class_names, fingerprint, pixels)


def table_splits(config: DataConfig) -> list[str]:
    """The splits of the table, by their usual names; "train" alone where it has no such column.

    Raises:
      DataError: there is no such table, or a row of it cannot be read.
    """
    tables = _tables(config)
    if None not in tables:
        return [split for split in tables if split is not None]
    table = tables[None]
    columns, records = _read(table)
    column = _column_named(columns, "split")
    if column is None:
        return ["train"]
    return list(dict.fromkeys(_split_of(table, *record, column) for record in records))


def column_of(
    columns: Sequence[str], wanted: str | None, usual: Sequence[str], field: str, where: str
) -> str:
    """The column that a config names, or the first that goes by a usual name, in any case.

    Raises:
      DataError: there is none.
    """
    for name in usual if wanted is None else (wanted,):
        column = _column_named(columns, name)
        if column is not None:
            return column
    asked = ", ".join(usual[:-1]) + f" or {usual[-1]}" if wanted is None else repr(wanted)
    raise DataError(
        f"{where} has no column {asked}; its columns are {', '.join(map(repr, columns))}: set "
        f"data.{field} to one of them"
    )


def _column_named(columns: Sequence[str], name: str) -> str | None:
    if name in columns:
        return name
    return next((column for column in columns if column.lower() == name.lower()), None)


def _rows(config: DataConfig, split: str) -> Rows:
    """The rows of a split, before their labels are numbered."""
    tables = _tables(config)
    wanted = usual_name(split)
    table = tables.get(wanted) or tables.get(None)
    if table is None:
        raise _no_split(config, split, [name for name in tables if name])
    columns, records = _read(table)
    image = column_of(columns, config.image_column, IMAGE_COLUMNS, "image_column", str(table))
    label = column_of(columns, config.label_column, LABEL_COLUMNS, "label_column", str(table))
    split_column = _column_named(columns, "split") if None in tables else None
    only = "train" if None in tables else wanted
    lines, paths, labels = [], [], []
    there: dict[Any, None] = {}
    for line, record in records:
        own = only if split_column is None else _split_of(table, line, record, split_column)
        there[own] = None
        if own == wanted:
            lines.append(line)
            paths.append(_path_of(config, table, line, record, image))
            labels.append(_text_of(table, line, record, label))
    if not lines:
        raise _no_split(config, split, there) if there else DataError(f"{table} has no rows")
    files = TableFiles(str(table.parent), np.array(paths), str(table), np.array(lines, np.int32))
    return Rows(files, labels)


def _no_split(config: DataConfig, split: str, there: Iterable[str]) -> DataError:
    names = ", ".join(map(repr, there))
    return DataError(f"split {split!r} of {config.root}: there is {names}; {LAYOUT}")


def _tables(config: DataConfig) -> dict[str | None, Path]:
    """The table of every split, by its usual name; None stands for one table of all splits."""
    if config.root is None:
        raise DataError(f"data.name='csv' needs data.root, the table: {LAYOUT}")
    root = Path(config.root).expanduser()
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(f"data.root={config.root!r} has another ending: {LAYOUT}")
        return {None: root}
    if not root.is_dir():
        raise DataError(f"data.root={config.root!r}: there is no such file or folder; {LAYOUT}")
    tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in SUFFIXES]
    found: dict[str | None, Path] = {}
    for split in USUAL:
        named = [path for path in tables if usual_name(path.stem) == split]
        if len(named) > 1:
            raise DataError(f"{named[0]} and {named[1]} are names of one split; keep one")
        if named:
            found[split] = named[0]
    alone = [path for path in tables if path.stem.lower() == "labels"]
    if not found and len(alone) != 1:
        names = ", ".join(path.name for path in tables) or "no table"
        raise DataError(f"{root} holds {names}; {LAYOUT}, or with labels.csv alone")
    return found or {None: alone[0]}


def _check_files(rows: Rows) -> None:
    files = rows.encoded
    if len(files) > CHECKED_ROWS:
        print(f"{files.table}: {len(files):,} rows; missing files will show as they are read")
        return
    for index in range(len(files)):
        if not os.path.isfile(files.name(index)):
            raise DataError(f"{rows.where(index)}: there is no file {files.name(index)}")


def _path_of(config: DataConfig, table: Path, line: int, record: dict, column: str) -> bytes:
    """The path that a row means, as the file system has it."""
    value = record.get(column)
    if value is None or not str(value).strip():
        raise DataError(f"{table}, line {line}: the path is missing (column {column!r})")
    try:
        path = os.fsencode(config.image_path.format(value))
    except (ValueError, LookupError, AttributeError) as error:
        raise DataError(
            f"{table}, line {line}: data.image_path={config.image_path!r} cannot be filled with "
            f"{value!r} ({error}): write {{}} where it goes, such as train/{{}}.jpg"
        ) from error
    if "{" not in config.image_path or b"\0" in path:
        raise DataError(
            f"{table}, line {line}: {value!r} makes no path with data.image_path="
            f"{config.image_path!r}: write {{}} where it goes, such as train/{{}}.jpg"
        )
    return path


def _text_of(table: Path, line: int, record: dict, column: str) -> str:
    """A label or split as written, without the space around it."""
    value = record.get(column)
    if value is None or not str(value).strip():
        raise DataError(f"{table}, line {line}: the {column} is missing")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(
            f"{table}, line {line}: {column} {value!r} should be text or a whole number"
        )
    return str(value).strip()


def _split_of(table: Path, line: int, record: dict, column: str) -> str:
    return usual_name(_text_of(table, line, record, column))


def _read(table: Path) -> tuple[list[str], Iterable[tuple[int, dict[str, Any]]]]:
    """The columns of a table, and its rows by column with the lines they begin in."""
    if table.suffix.lower() == ".jsonl":
        columns = dict.fromkeys(key for _, row in _json_rows(table) for key in row)
        return list(columns), _json_rows(table)
    rows = _csv_rows(table, DELIMITERS[table.suffix.lower()])
    line, columns = next(rows, (1, []))
    columns = [column.strip() for column in columns]
    if not any(columns):
        raise DataError(f"{table}, line {line}: the names of the columns are missing")
    if twice := [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]:
        raise DataError(f"{table}, line {line}: two columns are called {twice[0]!r}: rename one")
    return columns, _by_column(table, columns, rows)


def _by_column(
    table: Path, columns: list[str], rows: Iterable[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in rows:
        if len(row) != len(columns):
            raise DataError(
                f"{table}, line {line}: {len(row)} fields, but there are {len(columns)} columns: "
                "quote fields that hold the separator"
            )
        yield line, dict(zip(columns, row, strict=True))


def _csv_rows(table: Path, delimiters: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, the names of the columns first."""
    before = 0
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            delimiter = max(delimiters, key=first.count)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for row in reader:
                # A quoted field may go over several lines.
                line, before = before + 1, reader.line_num
                if row:
                    yield line, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(table, before + 1, error) from error


def _json_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    line = 0
    try:
        with open(table, encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError('it should be an object, such as {"path": …, "label": …}')
                yield line, row
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(table, line, error) from error


def _unreadable(table: Path, line: int, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(f"{table} cannot be read ({error.reason}): save it as UTF-8")
    return DataError(f"{table}, line {line}: cannot be read ({error})")
