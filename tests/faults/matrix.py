"""The fault matrix as a table: `python tests/faults/matrix.py` writes docs/faults.md.

A test of this folder says with `@pytest.mark.fault(done, happens)` what it does to the program and
what the program does; its name begins with its row: `test_r8_…`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
TABLE = FOLDER.parents[1] / "docs" / "faults.md"

GROUPS = {
    "R": "Checkpoints, signals, machines",
    "D": "Data",
    "W": "Weights",
    "C": "Configs and commands",
}
FIRST = {"R": 29, "D": 20, "W": 9, "C": 7}
"""The number of rows of each group."""
LATER = {"R5", "R10", "R13", "R28", "R29", "D15", "D20", "W8", "C6", "C7"}
"""Rows that need no test in a first release."""

HEAD = """\
# Faults

What goes wrong, what is done to the program in a test, and what the program does. Each line is a
test in `tests/faults/`. Where a fault is one of processes, signals, memory or disks, the test
starts real processes, sends real signals and sets real limits; where a disk has to fail in a way
that cannot be had so, the system's answer is put in its place. Rows that take a minute or more (R1,
R19, R24, R28, R29) run with `-m long`. `python tests/faults/matrix.py` writes this page from the
tests.

What is not promised: equality to the last bit holds on the same devices; on another number of them
sums are taken in another order, and losses agree within 1e-5 (R19). All of it was tested on CPUs,
and several processes (R24) on one machine. A checkpoint is verified when it is restored: what is
written is hashed in memory and not read back, so two bad writes in a row cost both of the two
checkpoints kept; `keep_checkpoints` says how many bad ones a run survives. Where a file system has
no locks, a run of another machine counts as alive until its lock file is removed by hand.

"""


class Fault(NamedTuple):
    """A test of a row."""

    row: str
    done: str
    happens: str
    test: str


def faults(folder: Path = FOLDER) -> Iterator[Fault]:
    """The tests that carry the mark, read without running anything."""
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if not (isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("fault")):
                    continue
                done, happens = (ast.literal_eval(argument) for argument in mark.args)
                rows = re.match(r"test((?:_[rdwc]\d+)+)_", node.name)
                if rows is None:
                    raise ValueError(f"{path.name}: {node.name} should begin with its row")
                for row in rows[1].upper().split("_")[1:]:
                    yield Fault(row, done, happens, f"{path.name}::{node.name}")


def needed_rows() -> list[str]:
    """The rows that have to have a test."""
    rows = [f"{group}{number + 1}" for group, last in FIRST.items() for number in range(last)]
    return [row for row in rows if row not in LATER]


def table(found: list[Fault]) -> str:
    """docs/faults.md."""
    parts = [HEAD]
    for group, title in GROUPS.items():
        lines = [f"## {title}\n", "| row | done | happens | test |", "| --- | --- | --- | --- |"]
        of_group = [fault for fault in found if fault.row.startswith(group)]
        for fault in sorted(of_group, key=lambda fault: int(fault.row[1:])):
            lines.append(f"| {fault.row} | {fault.done} | {fault.happens} | `{fault.test}` |")
        parts.append("\n".join(lines) + "\n\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(list(faults())))
