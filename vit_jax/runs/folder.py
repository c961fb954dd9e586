"""The folder a run writes to."""

import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what to do."""


class RunFolder:
    """Files of one run; the folder is made when it does not exist."""

    silent = False
    """Whether what is written is for nobody."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "log.txt").touch()
        except OSError as error:
            raise RunError(
                f"the run folder {self.path} cannot be written ({error.strerror}): choose another "
                "with --workdir"
            ) from error

    @classmethod
    def numbered(cls, parent: str | Path, name: str) -> "RunFolder":
        """A fresh folder: parent/name-1, or the next number that is free."""
        for number in itertools.count(1):
            path = Path(parent) / f"{name}-{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError:
                pass  # said by the constructor
            return cls(path)
        raise AssertionError("unreachable: count() does not end")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        with open(self.path / "log.txt", "a") as file:
            file.write(line + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file as a whole: a reader sees the old content or the new one."""
        temporary = self.path / f".{name}.tmp"
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave an empty file of this name
        os.replace(temporary, self.path / name)

    def write_json(self, name: str, content: Any) -> None:
        """Write a file as JSON, as a whole."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")


class SilentFolder(RunFolder):
    """The folder of a run for a process that does not lead: it reads there, and writes elsewhere.

    Nobody reads what it writes. Checkpoints alone are written by all processes together.
    """

    silent = True

    def __init__(self, shared: str | Path):
        self.shared = Path(shared).expanduser()
        self._temporary = tempfile.TemporaryDirectory(prefix="vit_jax_")
        super().__init__(self._temporary.name)
        # What decides how the run goes on has to look alike to all.
        for name in ("config.json", "summary.json"):
            if (self.shared / name).exists():
                shutil.copy(self.shared / name, self.path)

    @property
    def checkpoints(self) -> Path:
        return self.shared / "checkpoints"


def is_run_folder(path: Path) -> bool:
    """Whether train.py has left a config and checkpoints there."""
    return (path / "config.json").exists() and (path / "checkpoints").is_dir()
