"""The commands about data: `vit-jax data COMMAND …`."""

import sys
from pathlib import Path
from typing import Literal

import tyro

from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.splits import USUAL

IN_MEMORY = ("digits", "cifar10", "cifar100", "arrays")
"""Sets whose images have a size of their own."""
DEFAULT_SIZE = 224


def main(argv: list[str]) -> int:
    """Look at data sets; see `vit-jax data --help`."""
    return tyro.extras.subcommand_cli_from_dict(
        {"check": check}, prog="vit-jax data", args=argv, use_underscores=True
    )


def check(
    root: str | None = None,
    /,
    name: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    json: Path | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    image_column: str | None = None,
    label_column: str | None = None,
    image_path: str = "{}",
) -> int:
    """Look at a data set as a training run would: counts, sizes, damaged and doubtful files.

    Exits with 1 if a training run would fail, and says why at the end.

    Args:
      root: a folder of images or an archive of one, a table (.csv, .tsv, .jsonl) or a folder of
        tables, arrays (.npz, or a folder of .npy), or a set that Hugging Face `datasets` saved.
      name: the kind of data where the root does not tell it, or a set such as digits or cifar10.
      image_size: pixels on a side, or height and width. Default: 224 for encoded images.
      json: also write all findings, with every name, to this file.
      on_bad_image: error: unreadable files are reasons to fail; skip: they are left out.
      image_column: of a table, where it has no usual name.
      label_column: likewise.
      image_path: of a table's images, with {} for what the column holds: train/{}.jpg.
    """
    from vit_jax.data.check import check_data
    from vit_jax.data.check_report import report_text

    if root is None and name is None:
        raise DataError(
            "name the data: a folder of images, a table, arrays, or --name such as digits"
        )
    name = name or kind_of(Path(root or "").expanduser())
    if image_size is None and name not in IN_MEMORY and not name.startswith("tfds:"):
        image_size = DEFAULT_SIZE
    config = DataConfig(
        name=name,
        root=root,
        image_size=image_size,
        on_bad_image=on_bad_image,
        image_column=image_column,
        label_column=label_column,
        image_path=image_path,
        train_split="train",
        eval_split="auto",
        test_split="auto",
    )
    waiting = "Reading the images …" if sys.stderr.isatty() else ""
    print(waiting, end="\r" if waiting else "", file=sys.stderr, flush=True)
    report = check_data(config)
    print(" " * len(waiting), end="\r" if waiting else "", file=sys.stderr, flush=True)
    print(report_text(report))
    if json is not None:
        try:
            json.write_text(report.to_json())
        except OSError as error:
            raise DataError(f"--json {json}: cannot be written ({error.strerror})") from error
    return 0 if report.can_train else 1


def where(data: str) -> DataConfig:
    """All of a data set, by the name or the path of it."""
    path = Path(data).expanduser()
    name, root = (kind_of(path), data) if path.exists() else (data, None)
    return DataConfig(name, root, train_split="train", eval_split="auto", test_split="auto")


def kind_of(root: Path) -> str:
    """The `data.name` of what lies at a path."""
    kinds = {".csv": "csv", ".tsv": "csv", ".jsonl": "csv", ".npz": "arrays", ".npy": "arrays"}
    if not root.is_dir():
        return kinds.get(root.suffix.lower(), "folder")
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
        return "huggingface"  # as `datasets` writes them
    files = [path for path in root.iterdir() if path.is_file()]
    if any(path.suffix.lower() == ".npy" for path in files):
        return "arrays"
    names = {*USUAL["train"], "labels"}
    tables = (path for path in files if path.stem.lower() in names)
    return "csv" if any(kinds.get(path.suffix.lower()) == "csv" for path in tables) else "folder"
